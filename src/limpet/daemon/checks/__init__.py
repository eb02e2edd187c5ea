# SPDX-License-Identifier: Apache-2.0
"""Checks: asking every backend, all the time, whether it is up. docs/concepts/health.md."""
