# SPDX-License-Identifier: Apache-2.0
"""The plain headers of bpf/, compiled for this machine and compared with Python."""
