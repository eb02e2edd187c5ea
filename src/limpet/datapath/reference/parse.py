# SPDX-License-Identifier: Apache-2.0
"""Bytes -> Packet.

`link` and `network` run before the packet is known to be for a VIP: what they cannot read is passed
to the kernel. `transport` runs after it: what it cannot read is dropped, by name. Every read goes
through Cursor.take, which ends the packet if it is shorter. Header checksums are not verified: the
receiver does that.
"""

from limpet.datapath.abi import Limit, Verdict
from limpet.datapath.reference.packet import Final, Kind, Packet, Words

VLAN = (0x8100, 0x88A8)
IP4, IP6 = 0x0800, 0x86DD
HOP_BY_HOP, ICMP4, TCP, UDP, FRAGMENT, ICMP6, DESTINATION_OPTIONS = 0, 1, 6, 17, 44, 58, 60
EXTENSIONS = (HOP_BY_HOP, FRAGMENT, DESTINATION_OPTIONS)
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ECHO_REQUEST = {4: 8, 6: 128}
# ICMP types that a flow's backend must hear of (RFC 792, RFC 4443).
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
IP4_HEADER, IP6_HEADER, TCP_HEADER, EIGHT = 20, 40, 20, 8


def number(data: bytes) -> int:
    """Bytes in network order as a number."""
    return int.from_bytes(data, "big")


class Cursor:
    """A place in a frame."""

    def __init__(self, frame: bytes, position: int = 0) -> None:
        self.frame, self.position = frame, position

    def take(self, length: int, otherwise: Verdict) -> bytes:
        """The next bytes; if the frame is shorter, `otherwise` is the verdict."""
        start, self.position = self.position, self.position + length
        if self.position > len(self.frame):
            raise Final(otherwise)
        return self.frame[start : self.position]

    def skip(self, length: int) -> None:
        """Move on; what lies there is not looked at."""
        self.position += length


def link(cursor: Cursor) -> Packet:
    """Ethernet header and up to two VLAN tags."""
    ethertype = number(cursor.take(14, Verdict.PASS_MALFORMED)[12:])
    tags: list[bytes] = []
    while ethertype in VLAN and len(tags) < Limit.VLAN_TAGS:
        tag = cursor.take(4, Verdict.PASS_MALFORMED)
        tags.append(ethertype.to_bytes(2, "big") + tag[:2])
        ethertype = number(tag[2:])
    return Packet(ethertype, tuple(tags))


def network(cursor: Cursor, p: Packet) -> None:
    """IP header, without IPv6 extension headers."""
    if p.ethertype == IP4:
        _ip4(cursor, p, Verdict.PASS_MALFORMED)
    elif p.ethertype == IP6:
        _ip6(cursor, p, Verdict.PASS_MALFORMED)
    else:
        raise Final(Verdict.NOT_IP)


def _ip4(cursor: Cursor, p: Packet, malformed: Verdict) -> None:
    header = cursor.take(IP4_HEADER, malformed)
    words = header[0] & 0xF
    if header[0] >> 4 != 4 or words < 5:
        raise Final(malformed)
    p.family = 4
    p.client, p.vip_address = _mapped(header[12:16]), _mapped(header[16:20])
    p.length, p.header_length = number(header[2:4]), words * 4
    p.protocol, p.hop_limit, p.traffic_class = header[9], header[8], header[1]
    fragment = number(header[6:8])
    more, offset = fragment & 0x2000, fragment & 0x1FFF
    if more or offset:
        p.is_fragment, p.datagram = True, number(header[4:6])
    if offset:
        p.kind = Kind.LATER_FRAGMENT
    cursor.skip(p.header_length - IP4_HEADER)  # options


def _mapped(address: bytes) -> Words:
    return 0, 0xFFFF << 32 | number(address)


def _ip6(cursor: Cursor, p: Packet, malformed: Verdict) -> None:
    header = cursor.take(IP6_HEADER, malformed)
    if header[0] >> 4 != 6:
        raise Final(malformed)
    p.family = 6
    p.client = number(header[8:16]), number(header[16:24])
    p.vip_address = number(header[24:32]), number(header[32:40])
    # 16 bits: what would be longer wraps round to less than a header, and so is malformed.
    p.length, p.header_length = number(header[4:6]) + IP6_HEADER & 0xFFFF, IP6_HEADER
    p.protocol, p.hop_limit = header[6], header[7]
    p.traffic_class = (header[0] << 4 | header[1] >> 4) & 0xFF


def transport(cursor: Cursor, p: Packet) -> None:
    """Everything behind the IP header, of a packet whose destination is a VIP address."""
    if p.length < p.header_length:
        raise Final(Verdict.DROP_MALFORMED)
    if p.family == 6:
        _extensions(cursor, p, Verdict.DROP_MALFORMED)
    if p.protocol == (ICMP4 if p.family == 4 else ICMP6):
        _icmp(cursor, p)
    elif p.protocol not in (TCP, UDP):
        raise Final(Verdict.NO_SERVICE)
    elif p.kind is Kind.LATER_FRAGMENT:
        if p.length < p.header_length:
            raise Final(Verdict.DROP_MALFORMED)
    else:
        (_tcp if p.protocol == TCP else _udp)(cursor, p)


def _extensions(cursor: Cursor, p: Packet, malformed: Verdict) -> None:
    """IPv6 extension headers; afterwards `p.protocol` is what follows them."""
    for _ in range(Limit.EXTENSION_HEADERS):
        if p.protocol not in EXTENSIONS or p.kind is Kind.LATER_FRAGMENT:
            return
        _extension(cursor, p, malformed)
    if p.protocol in EXTENSIONS:
        raise Final(malformed)


def _extension(cursor: Cursor, p: Packet, malformed: Verdict) -> None:
    header = cursor.take(EIGHT, malformed)
    p.header_length += EIGHT
    if p.protocol == FRAGMENT:
        offset, more = number(header[2:4]) & 0xFFF8, header[3] & 1
        p.datagram, p.is_fragment = number(header[4:8]), bool(offset or more)
        if offset:
            p.kind = Kind.LATER_FRAGMENT
    else:
        beyond = header[1] * 8  # its length, in 8 bytes beyond the first 8
        cursor.skip(beyond)
        p.header_length += beyond
    if p.header_length > Limit.HEADERS:
        raise Final(malformed)
    p.protocol = header[0]


def _tcp(cursor: Cursor, p: Packet) -> None:
    header = cursor.take(TCP_HEADER, Verdict.DROP_MALFORMED)
    if header[12] >> 4 < 5 or p.length < p.header_length + TCP_HEADER:
        raise Final(Verdict.DROP_MALFORMED)
    p.client_port, p.vip_port = number(header[0:2]), number(header[2:4])
    p.sequence, p.acknowledged = number(header[4:8]), number(header[8:12])
    flags = header[13]
    if flags & (FIN | RST):
        p.kind = Kind.LAST
    else:
        p.kind = Kind.FIRST if flags & (SYN | ACK) == SYN else Kind.EXISTING


def _udp(cursor: Cursor, p: Packet) -> None:
    header = cursor.take(EIGHT, Verdict.DROP_MALFORMED)
    if number(header[4:6]) < EIGHT or p.length < p.header_length + EIGHT:
        raise Final(Verdict.DROP_MALFORMED)
    p.client_port, p.vip_port = number(header[0:2]), number(header[2:4])
    p.kind = Kind.ANY


def _icmp(cursor: Cursor, p: Packet) -> None:
    if p.is_fragment:
        raise Final(Verdict.DROP_FRAGMENT)
    header = cursor.take(EIGHT, Verdict.DROP_MALFORMED)
    if p.length < p.header_length + EIGHT:
        raise Final(Verdict.DROP_MALFORMED)
    if header[0] in ERRORS[p.family]:
        _quote(cursor, p)
    elif header[0] == ECHO_REQUEST[p.family] and header[1] == 0:
        p.kind = Kind.ECHO_REQUEST
    else:
        raise Final(Verdict.DROP_ICMP_TYPE)


def _quote(cursor: Cursor, p: Packet) -> None:
    """What an ICMP error quotes went from the VIP to the client: turn it round to name the flow.

    Routers must quote 8 bytes beyond the IP header (RFC 792) and need not quote more.
    """
    quoted, unusable = Packet(p.ethertype), Verdict.DROP_ICMP_QUOTE
    (_ip4 if p.family == 4 else _ip6)(cursor, quoted, unusable)
    if p.family == 6:
        _extensions(cursor, quoted, unusable)
    if quoted.kind is Kind.LATER_FRAGMENT or quoted.protocol not in (TCP, UDP):
        raise Final(unusable)
    if quoted.client != p.vip_address:
        raise Final(unusable)
    ports = cursor.take(EIGHT, unusable)
    if p.length < p.header_length + EIGHT + quoted.header_length + EIGHT:
        raise Final(unusable)
    p.client, p.protocol, p.kind = quoted.vip_address, quoted.protocol, Kind.ICMP_ERROR
    p.vip_port, p.client_port = number(ports[0:2]), number(ports[2:4])
