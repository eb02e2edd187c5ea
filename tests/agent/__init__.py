# SPDX-License-Identifier: Apache-2.0
"""The agent: its programs in the kernel, its set-up in namespaces, its commands."""
