# SPDX-License-Identifier: Apache-2.0
"""A small internet in network namespaces, to try limpet, or an application behind it."""
