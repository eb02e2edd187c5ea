# SPDX-License-Identifier: Apache-2.0
"""The agent: what a backend runs so that packets from directors reach its application."""
