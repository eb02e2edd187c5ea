# SPDX-License-Identifier: Apache-2.0
"""Real stateful programs of Debian's, as servers on backends and as sessions of clients."""
