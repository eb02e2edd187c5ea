# SPDX-License-Identifier: Apache-2.0
"""Metrics: what a director counts, for Prometheus."""
