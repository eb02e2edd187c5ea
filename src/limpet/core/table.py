# SPDX-License-Identifier: Apache-2.0
"""Table: what all tables of the configuration file have in common.

Strict: nothing is converted, `"5"` is no number. Closed: an unknown key is an error, since a
misspelt one must not be ignored. Frozen, as everything that was read.
"""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """Base of all tables: strict, and closed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
