# SPDX-License-Identifier: Apache-2.0
"""Tests of the lab: its network, its commands, and limpet running in it."""
