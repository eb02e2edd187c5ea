# SPDX-License-Identifier: Apache-2.0
"""Ownership queries: from the pure core to packets between namespaces."""
