# SPDX-License-Identifier: Apache-2.0
"""Directors of one cluster, as daemons."""
