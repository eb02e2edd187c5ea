# SPDX-License-Identifier: Apache-2.0
"""Generators and builders for developers; nothing here is part of the package."""
