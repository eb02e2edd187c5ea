# SPDX-License-Identifier: Apache-2.0
"""What the director knows of a packet once it is parsed, and how a packet's way ends early.

Addresses are pairs of 64-bit words of the 16 byte form (IPv4 as ::ffff:a.b.c.d), so that everything
between parse and encap has one path for both families.
"""

from dataclasses import dataclass
from enum import Enum, auto

from limpet.datapath.abi import Verdict

Words = tuple[int, int]


class Kind(Enum):
    """What a packet is to its flow."""

    FIRST = auto()  # TCP SYN
    ANY = auto()  # UDP: may be the first packet of a flow or not
    EXISTING = auto()  # TCP without SYN
    LAST = auto()  # TCP FIN or RST
    LATER_FRAGMENT = auto()  # no ports
    ECHO_REQUEST = auto()
    ICMP_ERROR = auto()  # client, ports and protocol are those of the flow that the quote names


class Final(Exception):  # noqa: N818 - not an error: most of the world's packets are not for a VIP
    """The verdict is known: no later step looks at the packet."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


@dataclass(slots=True)
class Packet:
    """One packet. Numbers are as on the wire, in host order."""

    ethertype: int
    tags: tuple[bytes, ...] = ()  # TPID and TCI of each VLAN tag, outermost first
    family: int = 0  # 4 or 6
    client: Words = (0, 0)
    vip_address: Words = (0, 0)
    protocol: int = 0
    kind: Kind = Kind.FIRST
    client_port: int = 0
    vip_port: int = 0
    is_fragment: bool = False  # first or later
    datagram: int = 0  # identification, if it is a fragment
    length: int = 0  # bytes from the IP header on, as it says itself
    header_length: int = 0  # bytes from the IP header to the transport header
    hop_limit: int = 0
    traffic_class: int = 0
    sequence: int = 0  # of TCP
    acknowledged: int = 0

    @property
    def link_length(self) -> int:
        """Bytes before the IP header."""
        return 14 + 4 * len(self.tags)
