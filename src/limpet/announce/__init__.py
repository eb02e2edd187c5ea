# SPDX-License-Identifier: Apache-2.0
"""How routers are told of the VIPs: a BIRD of our own, or routes in a table of the kernel."""
