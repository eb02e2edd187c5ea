# SPDX-License-Identifier: Apache-2.0
"""Ownership queries: asking other directors whose a flow is, and answering them."""
