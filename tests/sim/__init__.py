# SPDX-License-Identifier: Apache-2.0
"""The simulator: that it finds what is broken, and that nothing is."""
