# SPDX-License-Identifier: Apache-2.0
"""bpf/parse.h reads from a frame what scapy wrote into it."""

from ipaddress import ip_address
from typing import Any

import pytest

from host.frames import CLIENT4, CLIENT6, CORPUS, VIP4, VIP6
from host.library import Library, Parsed
from limpet.core.hashing import words
from limpet.datapath.abi import Verdict
from limpet.datapath.reference.packet import Kind

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
V4 = {"family": 4, "client": words(ip_address(CLIENT4)), "vip_address": words(ip_address(VIP4))}
V6 = {"family": 6, "client": words(ip_address(CLIENT6)), "vip_address": words(ip_address(VIP6))}
TCP_PORTS = {"client_port": 1025, "vip_port": 443}
UDP_PORTS = {"client_port": 1025, "vip_port": 53}
SYN = {"protocol": TCP, "kind": Kind.FIRST, **TCP_PORTS}
DATAGRAM = {"protocol": UDP, "kind": Kind.ANY, **UDP_PORTS}
ERROR_TCP = {"protocol": TCP, "kind": Kind.ICMP_ERROR, **TCP_PORTS}
ERROR_UDP = {"protocol": UDP, "kind": Kind.ICMP_ERROR, **UDP_PORTS}
UNTAGGED = {"link_length": 14, "tags": ()}
FIRST_FRAGMENT = {"is_fragment": True, "datagram": 77}
LATER_FRAGMENT = {"is_fragment": True, "datagram": 77, "kind": Kind.LATER_FRAGMENT}

READ: dict[str, dict[str, Any]] = {
    "tcp over ipv4": {**V4, **SYN, **UNTAGGED, "length": 40, "header_length": 20, "hop_limit": 51},
    "tcp with payload": {**V4, "kind": Kind.EXISTING, **TCP_PORTS, "length": 340},
    "udp over ipv4": {**V4, **DATAGRAM, "length": 36, "is_fragment": False},
    "one tag": {**V4, **SYN, "link_length": 18, "tags": (bytes.fromhex("81006007"),)},
    "two tags": {
        **V6,
        **DATAGRAM,
        "link_length": 22,
        "tags": (bytes.fromhex("88a80007"), bytes.fromhex("81000009")),
    },
    "options": {**V4, **SYN, "header_length": 24},
    "all options": {**V4, **DATAGRAM, "header_length": 60},
    "first fragment": {**V4, **DATAGRAM, **FIRST_FRAGMENT},
    "later fragment": {**V4, **LATER_FRAGMENT, "protocol": UDP, "client_port": 0},
    "ping": {**V4, "kind": Kind.ECHO_REQUEST, "protocol": ICMP},
    "fragmentation needed": {**V4, **ERROR_TCP},
    "time exceeded": {**V4, **ERROR_UDP},
    "parameter problem": {**V4, **ERROR_TCP},
    "tcp over ipv6": {**V6, **SYN, "length": 60, "header_length": 40, "hop_limit": 51},
    "udp over ipv6": {**V6, **DATAGRAM, "length": 56},
    "hop-by-hop": {**V6, **SYN, "header_length": 48, "length": 68},
    "extensions": {**V6, **DATAGRAM, **FIRST_FRAGMENT, "header_length": 64},
    "many extensions": {**V6, **SYN, "header_length": 40 + 6 * 8},
    "later fragment over ipv6": {**V6, **LATER_FRAGMENT, "protocol": TCP, "vip_port": 0},
    "atomic fragment": {**V6, **SYN, "is_fragment": False, "header_length": 48},
    "ping over ipv6": {**V6, "kind": Kind.ECHO_REQUEST, "protocol": ICMP6},
    "packet too big": {**V6, **ERROR_TCP},
    "unreachable over ipv6": {**V6, **ERROR_UDP},
    "time exceeded over ipv6": {**V6, **ERROR_TCP},
    "error about extensions": {**V6, **ERROR_TCP},
}
REFUSED = {
    "arp": Verdict.NOT_IP,
    "three tags": Verdict.NOT_IP,
    "redirect": Verdict.DROP_ICMP_TYPE,
    "error about a stranger": Verdict.DROP_ICMP_QUOTE,
    "too many extensions": Verdict.DROP_MALFORMED,
    "other protocol": Verdict.NO_SERVICE,
}


@pytest.mark.parametrize("name", READ)
def test_parser_reads_what_was_written(library: Library, name: str) -> None:
    parsed = library.parse(bytes(CORPUS[name]))
    assert Verdict(parsed.verdict) is Verdict.CONTINUE
    got = {field: getattr(parsed, field) for field in READ[name]}
    if "kind" in got:
        got["kind"] = list(Kind)[parsed.kind]
    assert got == READ[name]


@pytest.mark.parametrize("name", REFUSED)
def test_parser_says_what_it_cannot_read(library: Library, name: str) -> None:
    assert Verdict(library.parse(bytes(CORPUS[name])).verdict) is REFUSED[name]


def test_every_frame_of_the_corpus_has_an_expectation() -> None:
    assert READ.keys() | REFUSED.keys() == CORPUS.keys()


def bytes_needed(parsed: Parsed, frame: bytes) -> int:
    """Where the last header ends that the parser has to see; of a quoted packet, 8 bytes more."""
    if list(Kind)[parsed.kind] is Kind.ICMP_ERROR:
        return len(frame) - (12 if parsed.protocol == TCP else 0)
    headers = parsed.link_length + parsed.header_length
    if list(Kind)[parsed.kind] is Kind.LATER_FRAGMENT:
        return headers
    return headers + (20 if parsed.protocol == TCP else 8)


@pytest.mark.parametrize("name", READ)
def test_frame_cut_anywhere_in_its_headers_is_not_read(library: Library, name: str) -> None:
    """A frame one byte short of what its headers need is refused, never guessed at."""
    frame = bytes(CORPUS[name])
    needed = bytes_needed(library.parse(frame), frame)
    lengths = [n for n in range(len(frame)) if not library.parse(frame[:n]).verdict]
    assert lengths == list(range(needed, len(frame)))
