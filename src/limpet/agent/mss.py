# SPDX-License-Identifier: Apache-2.0
"""MSS: the largest TCP segment that a client may send, so that it still fits when encapsulated.

The path from director to backend carries packets of `mtu` bytes. Of these the outer header takes 20
or 40, depending on the family of this backend's address: IPv6 is assumed as soon as a director may
send from IPv6. The inner IP and TCP headers without options take 40 (IPv4) or 60 (IPv6); options
count as data (RFC 6691). Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from limpet.agent.config import Prefix

OUTER4, OUTER6 = 20, 40
INNER4, INNER6 = 20 + 20, 40 + 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest MSS announced over IPv4 and over IPv6."""

    mss4: int
    mss6: int


def limits(mtu: int, directors: Iterable[Prefix]) -> Limits:
    outer = OUTER6 if any(prefix.version == 6 for prefix in directors) else OUTER4
    return Limits(mtu - outer - INNER4, mtu - outer - INNER6)
