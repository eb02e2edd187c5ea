# SPDX-License-Identifier: Apache-2.0
"""ICMP that the director itself sends: echo replies, "fragmentation needed" / "packet too big", and
"time exceeded" (RFC 792, RFC 1191, RFC 4443). All leave by the interface that the packet came from;
the caller limits their rate. An error about an error, or about a fragment without ports, is never
sent.
"""

from limpet.datapath.abi import Verdict
from limpet.datapath.reference.checksum import checksum, replaced
from limpet.datapath.reference.encap import OUTER_HOP_LIMIT, ip4_header, ip6_header, link_header
from limpet.datapath.reference.packet import Kind, Packet, Words
from limpet.datapath.reference.parse import ECHO_REQUEST, ICMP4, ICMP6, IP4_HEADER
from limpet.datapath.reference.settings import Settings

ECHO_REPLY = {4: 0, 6: 129}
ICMP_HEADER = 8
# How much of the packet an error quotes at most: as much as fits in 576 bytes (RFC 1812, section
# 4.3.2.3) or 1280 (RFC 4443, section 2.4). Always whole words.
QUOTE_MAX = {4: 548, 6: 1232}
# (type, code)
TOO_BIG = {4: (3, 4), 6: (2, 0)}
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}


def _packed(p: Packet, address: Words) -> bytes:
    whole = b"".join(word.to_bytes(8, "big") for word in address)
    return whole[12:] if p.family == 4 else whole


def echo_reply(frame: bytes, p: Packet) -> bytes:
    """The request turned round. Its checksum is updated, so one that was wrong stays wrong."""
    packet = bytearray(frame[p.link_length :])
    if p.family == 4:
        packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
        before = int.from_bytes(packet[8:10], "big")
        packet[8] = OUTER_HOP_LIMIT
        _replace(packet, 10, before, int.from_bytes(packet[8:10], "big"))
    else:
        packet[8:24], packet[24:40] = packet[24:40], packet[8:24]
        packet[7] = OUTER_HOP_LIMIT
    request, reply = ECHO_REQUEST[p.family], ECHO_REPLY[p.family]
    packet[p.header_length] = reply
    at = p.header_length + 2
    _replace(packet, at, request << 8, reply << 8)
    if packet[at : at + 2] == bytes(2):  # the same number, but over zeros only ffff is valid
        packet[at : at + 2] = b"\xff\xff"
    return frame[6:12] + frame[0:6] + frame[12 : p.link_length] + bytes(packet)


def _replace(packet: bytearray, at: int, before: int, after: int) -> None:
    """Update the checksum at `at` for a word that changed."""
    check = int.from_bytes(packet[at : at + 2], "big")
    packet[at : at + 2] = replaced(check, before, after).to_bytes(2, "big")


def may_be_told(p: Packet) -> bool:
    """Whether an error about this packet may be sent (RFC 1122 section 3.2.2)."""
    return p.kind not in (Kind.ICMP_ERROR, Kind.LATER_FRAGMENT)


def error(settings: Settings, frame: bytes, p: Packet, mtu: int | None) -> bytes:
    """The sender is told what would have fitted; `None`: that the hop limit was used up."""
    code = (TIME_EXCEEDED if mtu is None else TOO_BIG)[p.family]
    size = min(p.length, QUOTE_MAX[p.family]) & ~3
    quote = frame[p.link_length : p.link_length + size]
    icmp = bytes(code) + bytes(2) + (mtu or 0).to_bytes(4, "big") + quote
    destination = _packed(p, p.client)
    own = settings.icmp_source4 if p.family == 4 else settings.icmp_source6
    source = own if any(own) else _packed(p, p.vip_address)
    header = link_header(p, frame[6:12], frame[0:6], p.ethertype)
    if p.family == 4:
        outer = ip4_header(IP4_HEADER + len(icmp), ICMP4, source + destination)
        return header + outer + _with_checksum(icmp, b"")
    pseudo = source + destination + len(icmp).to_bytes(4, "big") + bytes((0, 0, 0, ICMP6))
    outer = ip6_header(len(icmp), ICMP6, source + destination)
    return header + outer + _with_checksum(icmp, pseudo)


def _with_checksum(icmp: bytes, pseudo: bytes) -> bytes:
    return icmp[:2] + checksum(pseudo + icmp).to_bytes(2, "big") + icmp[4:]


def verdict_untold(verdict: Verdict) -> Verdict:
    """The verdict of a packet that should be answered with an error, where none may be sent."""
    return Verdict.DROP_TOO_BIG if verdict is Verdict.TOO_BIG else Verdict.DROP_HOP_LIMIT
