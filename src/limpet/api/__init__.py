# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of a director on its unix socket, and the client that the commands use."""
