# SPDX-License-Identifier: Apache-2.0
"""The routers' BGP as configuration of BIRD 2, made from a topology.

Every router is an AS of its own and tells all it knows to all it is linked with, so the shortest
path wins; a provider prefers paths through the AS of the PoP that its clients are to reach, which
stands in a file of its own: a shift rewrites that and has BIRD read it again. All honour the
community of a graceful shutdown (RFC 8326). BFD finds out about a silent neighbour in 1 s.

Pure: text only. Not here: running it (`programs`), and where packets really go (`paths`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from limpet.core.model import Address
from limpet.lab.topology import Host, Role, Topology

LOCAL_PREFERENCE, PREFERRED, SHUTTING_DOWN = 100, 200, 0
HOLD_S = 9
NOBODY = "false"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A BGP session of a router."""

    name: str
    address: Address
    asn: int


def neighbours(topology: Topology, router: Host) -> Iterator[Neighbour]:
    """Of each family one with the router at the other end of each link, and with each director."""
    for wire in topology.wires_of(router):
        other = topology.find(wire.far.host if wire.near.host == router.name else wire.near.host)
        if wire.segment is None:
            interfaces = topology.link_interfaces(wire, other)
        elif other.role is Role.DIRECTOR:
            interfaces = (topology.interface4(other), topology.interface6(other))
        else:
            continue
        assert other.asn is not None
        for interface in interfaces:
            yield Neighbour(other.name, interface.ip, other.asn)


def router_file(topology: Topology, router: Host, preference: Path) -> str:
    """`preference` is the file that `preference_file` fills."""
    assert router.asn is not None
    own = [
        prefix
        for segment in topology.segments_of(router)
        for prefix in (
            segment.ipv4,
            segment.ipv6,
            *(
                each
                for host in topology.hosts_on(segment)
                for each in (host.sources4, host.sources6)
            ),
        )
        if prefix is not None
    ]
    lines = [_head(topology, router), f'include "{preference}";', _policy()]
    lines += [
        _static(version, [str(each) for each in own if each.version == version])
        for version in (4, 6)
    ]
    lines += [_session(each, router.asn) for each in neighbours(topology, router)]
    return "\n".join(lines)


def director_file(topology: Topology, director: Host) -> str:
    """A speaker that tells the border router of every VIP, whatever becomes of limpet."""
    assert director.asn is not None
    assert director.pop is not None
    border, segment = topology.border_of(director.pop), topology.segment_of(director)
    assert border.asn is not None
    vips = [vip.address for vip in topology.vip]
    lines = [
        _head(topology, director, learns=False),
        "function is_preferred() { return false; }",
        _policy(),
    ]
    for version, interface in ((4, segment.interface4(1)), (6, segment.interface6(1))):
        own = [f"{vip}/{vip.max_prefixlen}" for vip in vips if vip.version == version]
        neighbour = Neighbour(border.name, interface.ip, border.asn)
        lines += [_static(version, own), _session(neighbour, director.asn)]
    return "\n".join(lines)


def preference_file(topology: Topology, pop: str | None) -> str:
    """Which paths the router prefers: those through the border router of the PoP."""
    asn = None if pop is None else topology.border_of(pop).asn
    condition = NOBODY if asn is None else f"bgp_path ~ [ {asn} ]"
    return f"function is_preferred() {{ return {condition}; }}\n"


# --- Parts --------------------------------------------------------------------------------------


def _head(topology: Topology, host: Host, *, learns: bool = True) -> str:
    first = next(address for address in topology.addresses(host) if address.version == 4)
    kernel = [
        f"protocol kernel {{ ipv{version} {{ export where source = RTS_BGP; }}; }}"
        for version in (4, 6)
    ]
    return "\n".join(
        [
            f"# {host.name} of the lab's internet.",
            "log stderr { warning, error, fatal, bug };",
            f"router id {first};",
            "protocol device { scan time 10; }",
            "protocol bfd {",
            '  interface "*" { interval 200 ms; idle tx interval 1 s; multiplier 5; };',
            "}",
            *(kernel if learns else []),
        ]
    )


def _policy() -> str:
    return f"""\
filter inbound {{
  bgp_local_pref = {LOCAL_PREFERENCE};
  if is_preferred() then bgp_local_pref = {PREFERRED};
  if (65535, 0) ~ bgp_community then bgp_local_pref = {SHUTTING_DOWN};
  accept;
}}
filter outbound {{
  if source = RTS_BGP || source = RTS_STATIC then accept;
  reject;
}}"""


def _static(version: int, prefixes: list[str]) -> str:
    routes = "".join(f"  route {prefix} blackhole;\n" for prefix in prefixes)
    return f"protocol static own{version} {{\n  ipv{version};\n{routes}}}"


def _session(neighbour: Neighbour, asn: int) -> str:
    version = neighbour.address.version
    return f"""\
protocol bgp {neighbour.name.replace("-", "_")}_{version} {{
  local as {asn};
  neighbor {neighbour.address} as {neighbour.asn};
  hold time {HOLD_S};
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 4;
  bfd on;
  ipv{version} {{
    import table on;
    import filter inbound;
    export filter outbound;
    next hop self;
  }};
}}"""
