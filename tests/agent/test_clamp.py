# SPDX-License-Identifier: Apache-2.0
"""Golden packets through the agent's tc program, in the kernel (BPF test run)."""

from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_RR, in4_chksum
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from limpet.agent import counters
from limpet.agent.programs import COUNTERS, Programs
from limpet.datapath import bpf

pytestmark = pytest.mark.kernel

LINK = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
FROM4 = LINK / IP(src="192.0.2.10", dst="198.51.100.5")
FROM6 = LINK / IPv6(src="2001:db8::10", dst="2001:db8:1::5")
LIMIT4, LIMIT6 = 1420, 1400  # MTU 1500, outer IPv6
NOP, END, SACK_OK, SCALE = ("NOP", None), ("EOL", None), ("SAckOK", b""), ("WScale", 7)
TIME = ("Timestamp", (1, 2))


@dataclass(frozen=True)
class Case:
    name: str
    packet: Packet
    result: Packet | None = None  # None: as it was


def segment(below: Packet, options: list[object], flags: str = "SA") -> Packet:
    return below.copy() / TCP(sport=443, dport=1025, seq=7, ack=9, flags=flags, options=options)


def lowered(
    name: str, before: list[object], after: list[object] | None = None, big: int = 1460
) -> Case:
    """A SYN-ACK over IPv4 whose MSS stands between `before` and `after`."""
    rest = after or []
    return Case(
        name,
        segment(FROM4, [*before, ("MSS", big), *rest]),
        segment(FROM4, [*before, ("MSS", LIMIT4), *rest]),
    )


def raw_options(data: bytes, payload: bytes = b"") -> Packet:
    """A SYN-ACK with these option bytes, whatever they mean, and a right checksum."""
    frame = Ether(bytes(segment(FROM4, [NOP] * len(data)) / payload))
    header = bytearray(bytes(frame[TCP]))
    header[16:18] = b"\0\0"
    header[20 : 20 + len(data)] = data
    header[16:18] = in4_chksum(6, frame[IP], bytes(header)).to_bytes(2, "big")
    return Raw(bytes(frame)[: -len(header)] + bytes(header))


def mss(value: int) -> bytes:
    return b"\x02\x04" + value.to_bytes(2, "big")


CASES = [
    lowered("first, alone", []),
    lowered("as Linux sends it", [], [SACK_OK, TIME, NOP, SCALE]),
    lowered("as Windows sends it", [], [NOP, SCALE, NOP, NOP, SACK_OK]),
    lowered("after one NOP: bytes in the other halves", [NOP], [NOP, NOP, NOP]),
    lowered("after two NOPs", [NOP, NOP], [NOP, NOP]),
    lowered("after window scale: odd", [SCALE], [NOP]),
    lowered("after SACK permitted", [SACK_OK], [NOP, NOP]),
    lowered("after timestamps", [NOP, NOP, TIME]),
    lowered("after everything", [SACK_OK, TIME, NOP, SCALE]),
    lowered("last of 40 bytes", [NOP] * 36),
    lowered("last, odd", [NOP] * 35, [NOP]),
    lowered("largest", [], big=65_535),
    lowered("one more than allowed", [], big=1421),
    Case("allowed", segment(FROM4, [("MSS", 1420)])),
    Case("small", segment(FROM4, [("MSS", 536)])),
    Case("no option", segment(FROM4, [])),
    Case("no MSS", segment(FROM4, [SACK_OK, TIME, NOP, SCALE])),
    Case("only NOPs", segment(FROM4, [NOP] * 40)),
    Case("behind the end of options", raw_options(b"\x00" + mss(1460) + b"\x00\x00\x00")),
    Case("behind an option without length", raw_options(b"\x03\x00" + mss(1460) + b"\0\0")),
    Case("behind an option of length 1", raw_options(b"\x03\x01" + mss(1460) + b"\0\0")),
    Case("behind an option beyond the header", raw_options(b"\x03\xff" + mss(1460) + b"\0\0")),
    Case("MSS of length 3", raw_options(b"\x02\x03\x05\xb4")),
    Case("MSS of length 5", raw_options(b"\x02\x05\x05\xb4\x00\x00\x00\x00")),
    Case("beyond the end of the header", raw_options(b"\x01\x01\x02\x04", b"\xff\xff")),
    Case("cut off by the end of the header", raw_options(b"\x01\x01\x02\x04")),
    Case(
        "the first of two counts",
        raw_options(mss(1460) + mss(1460)),
        raw_options(mss(1420) + mss(1460)),
    ),
    Case(
        "SYN",
        segment(FROM4, [("MSS", 1460)], "S"),
        segment(FROM4, [("MSS", LIMIT4)], "S"),
    ),
    Case(
        "SYN with ECN flags",
        segment(FROM4, [("MSS", 1460)], "SEC"),
        segment(FROM4, [("MSS", LIMIT4)], "SEC"),
    ),
    Case(
        "IPv6",
        segment(FROM6, [("MSS", 1440), SACK_OK, TIME, NOP, SCALE]),
        segment(FROM6, [("MSS", LIMIT6), SACK_OK, TIME, NOP, SCALE]),
    ),
    Case(
        "IPv6, odd",
        segment(FROM6, [NOP, ("MSS", 1440), SCALE]),
        segment(FROM6, [NOP, ("MSS", LIMIT6), SCALE]),
    ),
    Case("IPv6, allowed", segment(FROM6, [("MSS", 1400)])),
    Case("IPv6 extension header", segment(FROM6 / IPv6ExtHdrDestOpt(), [("MSS", 1440)])),
    Case(
        "data with the SYN (fast open)",
        segment(FROM4, [("MSS", 1460)]) / b"early data",
        segment(FROM4, [("MSS", LIMIT4)]) / b"early data",
    ),
    Case("other source", segment(LINK / IP(src="192.0.2.11"), [("MSS", 1460)])),
    Case("other source 6", segment(LINK / IPv6(src="2001:db8::11"), [("MSS", 1440)])),
    Case("to a VIP", segment(LINK / IP(src="10.0.0.11", dst="192.0.2.10"), [("MSS", 1460)])),
    Case("not SYN", segment(FROM4, [("MSS", 1460)], "A")),
    Case("UDP", FROM4 / UDP() / bytes(24)),
    Case("later fragment", LINK / IP(src="192.0.2.10", frag=5, proto=6) / Raw(b"\x02" * 40)),
    Case("not IP", LINK / ARP()),
    Case("TCP header cut off", Raw(bytes(segment(FROM4, []))[: 14 + 20 + 19])),
    Case("options cut off", Raw(bytes(segment(FROM4, [NOP, NOP, ("MSS", 1460)]))[:-3])),
]
for name, link in (("VLAN", LINK / Dot1Q(vlan=7)), ("tags", LINK / Dot1AD(vlan=9) / Dot1Q(vlan=7))):
    below = link / IP(src="192.0.2.10")
    CASES.append(Case(name, segment(below, [("MSS", 1460)]), segment(below, [("MSS", LIMIT4)])))
FULL = LINK / IP(src="192.0.2.10", options=[IPOption_RR(length=39, routers=["0.0.0.0"] * 9)])
CASES.append(
    Case(
        "longest headers",
        segment(FULL, [NOP] * 36 + [("MSS", 1460)]),
        segment(FULL, [NOP] * 36 + [("MSS", LIMIT4)]),
    )
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_segment_leaves_as_it_should(programs: Programs, case: Case) -> None:
    """The frame comes out as scapy would build it with the lower MSS, checksum included."""
    before = counters.read(programs._object.map_fd(COUNTERS))["mss_clamped"]
    run = bpf.run(programs.egress, bytes(case.packet))
    clamped = counters.read(programs._object.map_fd(COUNTERS))["mss_clamped"] - before
    wanted = case.result if case.result is not None else case.packet
    assert run.action == "unspec"
    assert Ether(run.packet).show2(dump=True) == Ether(bytes(wanted)).show2(dump=True)
    assert run.packet == bytes(wanted)
    assert clamped == (case.result is not None)
