# SPDX-License-Identifier: Apache-2.0
"""Packet cases: each a law in words, packets as layered expressions, and what must become of them.

Cases say nothing of how they are run; tests/datapath runs each on the reference and in the kernel.
"""
