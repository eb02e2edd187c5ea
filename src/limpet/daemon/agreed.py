# SPDX-License-Identifier: Apache-2.0
"""Agreed: the agreement that a member of a cluster runs, with the version that names it.

As bytes it lies in the state file, so that a director starts with the store out of reach, and means
the same by the ids in its kernel as everybody else.
"""

from dataclasses import dataclass
from typing import ClassVar

from limpet.core import agreement as agreement_of
from limpet.core.agreement import Agreement
from limpet.core.cluster import Version

GENERATION_BYTES = 8


@dataclass(frozen=True, slots=True)
class Agreed:
    """One agreement, its version, and its bytes."""

    KEPT: ClassVar[str] = "agreement"  # its name in the state file

    version: Version
    agreement: Agreement
    data: bytes

    def encode(self) -> bytes:
        return self.version.generation.to_bytes(GENERATION_BYTES, "big") + self.data


def of(agreement: Agreement, generation: int) -> Agreed:
    data = agreement_of.encode(agreement)
    return Agreed(Version(generation, agreement_of.digest(data)), agreement, data)


def read(version: Version, data: bytes) -> Agreed:
    """What the store has. Raises ValueError if it is damaged, or another one."""
    if agreement_of.digest(data) != version.digest:
        raise ValueError(f"agreement of generation {version.generation}: not what its name says")
    return Agreed(version, agreement_of.decode(data), data)


def decode(kept: bytes) -> Agreed:
    """What `encode` has made. Raises ValueError for anything else."""
    generation, data = int.from_bytes(kept[:GENERATION_BYTES], "big"), kept[GENERATION_BYTES:]
    return read(Version(generation, agreement_of.digest(data)), data)
