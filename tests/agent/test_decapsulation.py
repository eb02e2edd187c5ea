# SPDX-License-Identifier: Apache-2.0
"""Golden packets through the agent's XDP program, in the kernel (BPF test run)."""

from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from limpet.agent import counters
from limpet.agent.programs import COUNTERS, Programs
from limpet.datapath import bpf

pytestmark = pytest.mark.kernel

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
DIRECTOR4, DIRECTOR6 = "100.64.200.7", "fd00:11be:7::1234:5678"
STRANGER4, STRANGER6 = "100.65.0.1", "fd00:11be:8::1"
BACKEND4, BACKEND6 = "10.0.0.11", "2001:db8:a::11"
VIP4, VIP6 = "192.0.2.10", "2001:db8::10"
CLIENT4, CLIENT6 = "198.51.100.5", "2001:db8:1::5"

OUTER4 = IP(src=DIRECTOR4, dst=BACKEND4, flags="DF")
OUTER6 = IPv6(src=DIRECTOR6, dst=BACKEND6, fl=0xBEEF)
INNER4 = IP(src=CLIENT4, dst=VIP4, ttl=51) / TCP(sport=1025, dport=443, flags="S") / b"hello"
INNER6 = IPv6(src=CLIENT6, dst=VIP6, hlim=51) / UDP(sport=1025, dport=53) / b"question"
ROUTE = [IPOption_RR(length=11, routers=["0.0.0.0", "0.0.0.0"])]  # record route
FULL = [IPOption_RR(length=39, routers=["0.0.0.0"] * 9)]  # the longest header there is


@dataclass(frozen=True)
class Case:
    """A packet, what becomes of it, and the counter that says so."""

    name: str
    packet: Packet
    verdict: str
    result: Packet | None = None  # None: dropped; passed packets come out as they went in


def decapsulated(name: str, packet: Packet, result: Packet) -> Case:
    return Case(name, packet, "decapsulated", result)


def passed(name: str, packet: Packet) -> Case:
    return Case(name, packet, "pass", packet)


def cut(packet: Packet, length: int) -> Packet:
    return Raw(bytes(packet)[:length])


def patched(packet: Packet, at: int, value: bytes) -> Packet:
    data = bytearray(bytes(packet))
    data[at : at + len(value)] = value
    return Raw(bytes(data))


ERROR4 = (
    IP(src="203.0.113.1", dst=VIP4)
    / ICMP(type=3, code=4, nexthopmtu=1400)
    / IP(src=VIP4, dst=CLIENT4)
    / UDP(sport=53, dport=1025)
)
ERROR6 = (
    IPv6(src="2001:db8:f::1", dst=VIP6)
    / ICMPv6PacketTooBig(mtu=1400)
    / IPv6(src=VIP6, dst=CLIENT6)
    / UDP(sport=53, dport=1025)
)
FRAGMENT4 = IP(src=CLIENT4, dst=VIP4, frag=100, proto=17) / Raw(b"rest of a datagram")
FRAGMENT6 = (
    IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrFragment(offset=100, nh=17) / Raw(b"rest of a datagram")
)
OPTIONED = IP(src=CLIENT4, dst=VIP4, options=ROUTE) / UDP(dport=53)
TAG = Dot1Q(vlan=7, prio=3)
TAGS = Dot1AD(vlan=9) / Dot1Q(vlan=7)

CASES = [
    decapsulated("4 in 4", LINK / OUTER4 / INNER4, LINK / INNER4),
    decapsulated("6 in 4", LINK / OUTER4 / INNER6, LINK / INNER6),
    decapsulated("4 in 6", LINK / OUTER6 / INNER4, LINK / INNER4),
    decapsulated("6 in 6", LINK / OUTER6 / INNER6, LINK / INNER6),
    decapsulated("4 in 4, VLAN", LINK / TAG / OUTER4 / INNER4, LINK / TAG / INNER4),
    decapsulated("6 in 4, VLAN", LINK / TAG / OUTER4 / INNER6, LINK / TAG / INNER6),
    decapsulated("4 in 6, two tags", LINK / TAGS / OUTER6 / INNER4, LINK / TAGS / INNER4),
    # 22 bytes of link header move over 20: source and target overlap.
    decapsulated("6 in 4, two tags", LINK / TAGS / OUTER4 / INNER6, LINK / TAGS / INNER6),
    decapsulated(
        "outer options",
        LINK / IP(src=DIRECTOR4, dst=BACKEND4, options=FULL) / INNER4,
        LINK / INNER4,
    ),
    decapsulated("inner options", LINK / OUTER4 / OPTIONED, LINK / OPTIONED),
    decapsulated("first address of a prefix", LINK / IP(src="100.64.0.0") / INNER4, LINK / INNER4),
    decapsulated("last address", LINK / IP(src="100.64.255.255") / INNER4, LINK / INNER4),
    decapsulated("later fragment 4", LINK / OUTER4 / FRAGMENT4, LINK / FRAGMENT4),
    decapsulated("later fragment 6", LINK / OUTER6 / FRAGMENT6, LINK / FRAGMENT6),
    decapsulated("ICMP error 4", LINK / OUTER4 / ERROR4, LINK / ERROR4),
    decapsulated("ICMP error 6", LINK / OUTER6 / ERROR6, LINK / ERROR6),
    passed("not encapsulated", LINK / INNER4),
    passed("not encapsulated 6", LINK / INNER6),
    passed("not IP", LINK / ARP()),
    passed("short of Ethernet's type", cut(LINK / TAGS / OUTER4, 19)),
    passed("foreign tunnel 4 in 4", LINK / OUTER4 / IP(src=CLIENT4, dst="192.0.2.11") / UDP()),
    passed("foreign tunnel 6 in 6", LINK / OUTER6 / IPv6(src=CLIENT6, dst="2001:db8::11") / UDP()),
    passed("foreign tunnel of a stranger", LINK / IP(src=STRANGER4) / IP(dst="192.0.2.11") / UDP()),
    passed("other outer protocol", LINK / IP(src=DIRECTOR4, proto=47) / INNER4),
    passed("outer fragment", LINK / IP(src=DIRECTOR4, flags="MF") / INNER4),
    passed("outer later fragment", LINK / IP(src=DIRECTOR4, frag=8, proto=4) / Raw(bytes(INNER4))),
    passed("outer extension header", LINK / OUTER6 / IPv6ExtHdrDestOpt() / INNER4),
    passed("stranger, inner cut off", cut(LINK / IP(src=STRANGER4) / INNER4, 14 + 20 + 19)),
    passed("outer header cut off", cut(LINK / OUTER4 / INNER4, 14 + 19)),
    passed("outer IPv6 header cut off", cut(LINK / OUTER6 / INNER4, 14 + 39)),
    passed("outer version wrong", patched(LINK / OUTER4 / INNER4, 14, b"\x55")),
    passed("outer header length wrong", patched(LINK / OUTER4 / INNER4, 14, b"\x44")),
    Case("source 4 in 4", LINK / IP(src=STRANGER4) / INNER4, "drop_source"),
    Case("source 6 in 4", LINK / IP(src="100.63.255.255") / INNER6, "drop_source"),
    Case("source 4 in 6", LINK / IPv6(src=STRANGER6) / INNER4, "drop_source"),
    Case("source 6 in 6", LINK / IPv6(src="fd00:11be:6::1") / INNER6, "drop_source"),
    Case("source mapped", LINK / IPv6(src="::ffff:100.65.0.1") / INNER6, "drop_source"),
    Case("inner 4 cut off", cut(LINK / OUTER4 / INNER4, 14 + 20 + 19), "drop_malformed"),
    Case("inner 6 cut off", cut(LINK / OUTER6 / INNER6, 14 + 40 + 39), "drop_malformed"),
    Case("nothing inside", LINK / IP(src=DIRECTOR4, proto=4), "drop_malformed"),
    Case("4 where 6 is said", LINK / IP(src=DIRECTOR4, proto=41) / INNER4, "drop_malformed"),
    Case("6 where 4 is said", LINK / IPv6(src=DIRECTOR6, nh=4) / INNER6, "drop_malformed"),
    Case("payload cut off", cut(LINK / OUTER4 / INNER4, 14 + 20 + 20 + 19), "drop_malformed"),
    Case(
        "inner longer than outer",
        LINK / OUTER4 / IP(src=CLIENT4, dst=VIP4, len=200) / UDP(),
        "drop_malformed",
    ),
    Case(
        "inner shorter than its header",
        LINK / OUTER4 / IP(src=CLIENT4, dst=VIP4, len=19) / UDP(),
        "drop_malformed",
    ),
    Case(
        "inner IPv6 longer than outer",
        LINK / OUTER6 / IPv6(src=CLIENT6, dst=VIP6, plen=500) / UDP(),
        "drop_malformed",
    ),
]


def counted(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def check(programs: Programs, case: Case) -> None:
    before = counters.read(programs._object.map_fd(COUNTERS))
    run = bpf.run(programs.ingress, bytes(case.packet))
    after = counters.read(programs._object.map_fd(COUNTERS))
    assert counted(before, after) == {case.verdict: 1}
    if case.result is None:
        assert run.action == "drop"
    else:
        assert run.action == "pass"
        # Layer by layer, so that a failure can be read.
        got, wanted = type(LINK)(run.packet), type(LINK)(bytes(case.result))
        assert got.show2(dump=True) == wanted.show2(dump=True)
        assert run.packet == bytes(case.result)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_packet_meets_its_verdict(programs: Programs, case: Case) -> None:
    check(programs, case)


NOT_ECT, ECT1, ECT0, CE = range(4)
# RFC 6040, figure 4: rows are the inner field, columns the outer one; None is a drop.
JOINED: dict[int, dict[int, int | None]] = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: None},
    ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}
DSCP = 0x88
PATHS = ["4 in 4", "6 in 4", "4 in 6", "6 in 6"]


def outer(path: str, ecn: int) -> Packet:
    if path.endswith("4"):
        return IP(src=DIRECTOR4, dst=BACKEND4, tos=ecn)
    return IPv6(src=DIRECTOR6, dst=BACKEND6, tc=ecn)


def inner(path: str, ecn: int) -> Packet:
    if path.startswith("4"):
        return IP(src=CLIENT4, dst=VIP4, tos=DSCP | ecn) / UDP() / b"payload"
    return IPv6(src=CLIENT6, dst=VIP6, tc=DSCP | ecn, fl=0xABCDE) / UDP() / b"payload"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("inside", JOINED)
@pytest.mark.parametrize("outside", [NOT_ECT, ECT1, ECT0, CE])
def test_congestion_field_is_joined(
    programs: Programs, path: str, inside: int, outside: int
) -> None:
    """The inner header comes out with the field of RFC 6040, its DSCP, and a right checksum."""
    joined = JOINED[inside][outside]
    packet = LINK / outer(path, outside) / inner(path, inside)
    if joined is None:
        check(programs, Case("ecn", packet, "drop_ecn"))
    else:
        check(programs, decapsulated("ecn", packet, LINK / inner(path, joined)))


def test_padding_of_a_short_frame_stays_behind_the_packet(programs: Programs) -> None:
    """Ethernet pads to 60 bytes; the kernel cuts the padding off by the inner length."""
    bare, padding = IP(src=CLIENT4, dst=VIP4), b"\0" * 6
    packet = Raw(bytes(LINK / OUTER4 / bare) + padding)
    check(programs, decapsulated("padding", packet, Raw(bytes(LINK / bare) + padding)))
