# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each prints a table; none is a test."""
