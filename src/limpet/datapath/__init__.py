# SPDX-License-Identifier: Apache-2.0
"""The packet path: the kernel's, and a reference in plain Python that must agree with it."""
