# SPDX-License-Identifier: Apache-2.0
"""Kernel matrix: runs tests on stock Debian kernels, in a machine emulated by qemu.

    python -m tools.kernels [--kernel 6.1] [--kernel 6.12] [-- PYTEST ARGUMENTS]

`provision` brings kernels and tools, `guest` boots one kernel and runs pytest in it, `report` tells
what ran where. The kernels are Debian's own packages, because they are what users run. They are
unpacked below ~/.cache and never installed. See docs/operate/kernels.md.
"""
