# SPDX-License-Identifier: Apache-2.0
"""limpet: a Layer-4 anycast load balancer that never loses a session."""

__version__ = "0.1.0"
