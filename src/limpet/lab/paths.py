# SPDX-License-Identifier: Apache-2.0
"""Which way packets to a VIP take now, asked of each host's own kernel.

From a client, hop by hop, the route that the kernel would use, until a director is reached; that is
asked where it would send the packet. So BGP's word is never taken for what really happens.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pyroute2 import IPRoute, NetlinkError

from limpet.api.client import Client
from limpet.api.places import places
from limpet.core.errors import LimpetError
from limpet.core.model import Address
from limpet.lab import namespace
from limpet.lab.network import mac_of, netns_of
from limpet.lab.state import State
from limpet.lab.topology import Host, Role, Topology

HOPS_MAX = 16


@dataclass(frozen=True, slots=True)
class Path:
    """The hosts that a packet passes, the client first. Empty `why`: a director is the last."""

    hops: tuple[str, ...]
    director: str = ""
    pop: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the packets of one client to one VIP end."""

    client: str
    vip: str
    path: Path
    backend: str = ""
    because: str = ""  # what the director gives as its reason, or why there is no backend

    def record(self) -> dict[str, object]:
        return {
            "client": self.client,
            "vip": self.vip,
            "hops": list(self.path.hops),
            "pop": self.path.pop,
            "director": self.path.director,
            "backend": self.backend,
            "why": self.path.why or self.because,
        }


def walk(now: State, first: Host, vip: Address) -> Path:
    """The path from a host to the director that gets what it sends to the VIP."""
    known = _neighbours(now.topology)
    hops, here = [first.name], first
    while len(hops) < HOPS_MAX:
        if here.role is Role.DIRECTOR:
            return Path(tuple(hops), here.name, here.pop or "")
        gateway = _gateway(netns_of(now.lab, here), vip)
        if gateway is None or gateway not in known:
            return Path(tuple(hops), why=f"{here.name} has no route to {vip}")
        here = now.topology.find(known[gateway])
        hops.append(here.name)
        if here.name in now.killed:
            return Path(tuple(hops), why=f"{here.name} is down")
    return Path(tuple(hops), why="the routes go round in a circle")


def destination(now: State, client: Host, vip: Address, source: Address) -> Destination:
    """As `walk`, and the backend that the director there sends the client's packets to."""
    path = walk(now, client, vip)
    if path.why:
        return Destination(str(source), str(vip), path)
    api = Client(places(netns_of(now.lab, now.topology.find(path.director))).socket)
    try:
        answer = api.get("/v1/where", client=source, vip=vip, protocol="tcp")
    except LimpetError as error:
        return Destination(str(source), str(vip), path, because=str(error))
    backend = answer["backend"] or answer["home"] or ""
    return Destination(str(source), str(vip), path, str(backend), str(answer["why"]))


def _gateway(netns: str, vip: Address) -> Address | None:
    with namespace.netlink(netns) as socket:
        return _ask(socket, vip)


def _ask(socket: IPRoute, vip: Address) -> Address | None:
    """None if the VIP cannot be reached, or is on a segment of the host."""
    try:
        (found,) = socket.route("get", dst=str(vip))
    except NetlinkError:
        return None
    gateway = found.get_attr("RTA_GATEWAY")
    return None if gateway is None else ip_address(gateway)


def _neighbours(topology: Topology) -> dict[Address, str]:
    """Whose an address is, also those that IPv6 makes out of MAC addresses."""
    known = {address: host.name for host in topology.host for address in topology.addresses(host)}
    for wire in topology.wires():
        for end in wire.ends():
            known[_link_local(mac_of(topology, wire, end))] = end.host
    return known


def _link_local(mac: str) -> IPv6Address:
    """RFC 4291, appendix A."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + interface)
