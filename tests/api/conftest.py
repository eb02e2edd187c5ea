# SPDX-License-Identifier: Apache-2.0
"""The sites of the daemon's tests."""

from daemon.conftest import hosts, running, site

__all__ = ["hosts", "running", "site"]
