# SPDX-License-Identifier: Apache-2.0
"""The pure heart: from configuration text to kernel image, without I/O, time or chance."""
