# SPDX-License-Identifier: Apache-2.0
"""The session directory: what directors tell each other of sessions that are not at their home."""
