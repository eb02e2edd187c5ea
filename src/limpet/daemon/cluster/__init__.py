# SPDX-License-Identifier: Apache-2.0
"""A director among others: what it sees of them, tells them, and brings about with them."""
