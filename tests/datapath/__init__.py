# SPDX-License-Identifier: Apache-2.0
"""The packet path, on the reference and in the kernel."""
