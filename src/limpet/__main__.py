# SPDX-License-Identifier: Apache-2.0
"""`python -m limpet` is the command `limpet`, for callers that know only their interpreter."""

from limpet.cli.main import main

if __name__ == "__main__":
    main()
