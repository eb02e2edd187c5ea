# SPDX-License-Identifier: Apache-2.0
"""The director's process: it plans what the kernel should hold, and keeps it that way."""
