# SPDX-License-Identifier: Apache-2.0
"""Makes a topology real: namespaces, links, addresses and routes, without any limpet process.

Two steps, because a host that was killed comes back with its links but without addresses:
`attach` makes a host's namespace and its wires once, `configure` brings it up and may be repeated.
A veth pair is made inside the router's namespace, and its other end is put into the host's at
birth, so nothing ever appears in the machine's own namespace and labs cannot collide.

Without an internet the router's routes to VIPs and clients are written here; with one, BGP does it.

MAC addresses follow from the IPv4 address, so that a neighbour's memory is never wrong, and
captures are easy to read. The bridge has a fixed one: it would else change as ports come.
"""

import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from pyroute2 import IPRoute

from limpet.core.errors import LimpetError
from limpet.lab import folder, namespace, offload
from limpet.lab.topology import (
    OWNERS,
    ROUTER_NUMBER,
    End,
    Host,
    Role,
    Segment,
    Topology,
    Wire,
)

LINK_WAIT_S = 5.0
NO_DAD = 0x02  # IFA_F_NODAD

SYSCTLS = {
    "ipv4.conf.all.rp_filter": "0",
    "ipv4.conf.default.rp_filter": "0",
    "ipv4.conf.all.accept_redirects": "0",
    "ipv4.conf.default.accept_redirects": "0",
    "ipv4.conf.all.send_redirects": "0",
    "ipv4.conf.default.send_redirects": "0",
    "ipv6.conf.default.accept_dad": "0",
    "ipv6.conf.default.accept_ra": "0",
    "ipv6.conf.default.accept_redirects": "0",
}
FORWARDING = {"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1"}
# A backend has the VIP too, and must not answer ARP for it on the shared segment.
QUIET_VIP = {"ipv4.conf.all.arp_ignore": "1", "ipv4.conf.all.arp_announce": "2"}


def netns_of(lab: str, host: Host) -> str:
    return folder.netns_of(lab, host.name)


def mac_of(topology: Topology, wire: Wire, end: End) -> str:
    host = topology.find(end.host)
    if wire.segment is None:
        return _mac(topology.link_interfaces(wire, host)[0].ip)
    number = ROUTER_NUMBER if end == wire.near else _number(topology, host, wire.segment)
    return _mac(wire.segment.interface4(number).ip)


class Network:
    """The namespaces of one lab. Holds no state: the kernel does."""

    def __init__(self, lab: str, topology: Topology) -> None:
        self.lab = lab
        self.topology = topology

    def build(self) -> None:
        """Everything, from nothing. What a failure leaves is for the caller to remove."""
        owners = [host for host in self.topology.host if host.role in OWNERS]
        for owner in owners:
            self._create(owner)
            with namespace.netlink(netns_of(self.lab, owner)) as socket:
                for segment in self.topology.segments_of(owner):
                    if segment.kind == "bridge":
                        _add_bridge(socket, segment)
        for wire in self.topology.wires():
            if wire.segment is None:
                self._connect(wire)
        hosts = [host for host in self.topology.host if host.role not in OWNERS]
        for host in hosts:
            self.attach(host)
        for host in (*owners, *hosts):
            self.configure(host)
        self.wait_links(self.topology.wires())

    def attach(self, host: Host) -> None:
        """A new host: its namespace, and its wires."""
        self._create(host)
        for wire in self.topology.wires_of(host):
            self._connect(wire)

    def configure(self, host: Host) -> None:
        """Links up, addresses, routes: what a machine does when it boots."""
        netns = netns_of(self.lab, host)
        with namespace.netlink(netns) as socket:
            _up(socket, "lo")
            if host.role in OWNERS:
                self._configure_owner(socket, host)
            else:
                self._configure_host(socket, host)

    def wait_links(self, wires: Iterable[Wire]) -> None:
        """Until both ends of these links see the carrier.

        The kernel tells of it late, up to a second after a loss, and drops what is sent before.
        """
        for end in (end for wire in wires for end in wire.ends()):
            with namespace.netlink(self._netns(end)) as socket:
                _wait_carrier(socket, end.interface)

    def take_down(self, host: Host) -> None:
        """Every link of the host down and without addresses, as when it loses power."""
        with namespace.netlink(netns_of(self.lab, host)) as socket:
            for link in socket.get_links():
                socket.link("set", index=link["index"], state="down")
                socket.flush_addr(index=link["index"])

    def set_link(self, wire: Wire, *, is_up: bool) -> None:
        """Pull the cable out of the near end, or put it back."""
        end, owner = wire.near, self.topology.find(wire.near.host)
        with namespace.netlink(self._netns(end)) as socket:
            state = "up" if is_up else "down"
            socket.link("set", index=_index(socket, end.interface), state=state)
            if is_up:  # going down took IPv6 addresses and routes
                self._address_port(socket, wire, owner)

    # --- Steps ----------------------------------------------------------------------------------

    def _netns(self, end: End) -> str:
        return folder.netns_of(self.lab, end.host)

    def _create(self, host: Host) -> None:
        netns = netns_of(self.lab, host)
        namespace.create(netns)
        settings = dict(SYSCTLS)
        if host.role in (Role.ROUTER, Role.DIRECTOR):
            settings |= FORWARDING
        if host.role is Role.BACKEND:
            settings |= QUIET_VIP
        namespace.sysctl(netns, settings)

    def _connect(self, wire: Wire) -> None:
        near, far = wire.ends()
        far_mac = mac_of(self.topology, wire, far)
        peer = {"ifname": far.interface, "net_ns_fd": self._netns(far), "mtu": wire.mtu}
        port = {"ifname": near.interface, "kind": "veth", "mtu": wire.mtu}
        segment = wire.segment
        if segment is None or segment.kind == "link":
            port["address"] = mac_of(self.topology, wire, near)
        with namespace.netlink(self._netns(near)) as socket:
            socket.link("add", **port, peer={**peer, "address": far_mac})
            index = _index(socket, near.interface)
            if segment is not None and segment.kind == "bridge":
                socket.link("set", index=index, master=_index(socket, _bridge_name(segment)))
            socket.link("set", index=index, state="up")
        offload.prepare(self._netns(near), near.interface, polls=True)
        offload.prepare(self._netns(far), far.interface, polls=segment is None)

    def _configure_owner(self, socket: IPRoute, owner: Host) -> None:
        for segment in self.topology.segments_of(owner):
            if segment.kind == "bridge":
                _up(socket, _bridge_name(segment))
                self._address_segment(socket, segment, owner)
        for wire in self.topology.wires_of(owner):
            _up(socket, wire.end_at(owner.name).interface)
            self._address_port(socket, wire, owner)
        if self.topology.internet is None:
            for director in self.topology.hosts(Role.DIRECTOR):
                for vip in self.topology.vip:
                    self._route_to(socket, f"{vip.address}/{vip.address.max_prefixlen}", director)

    def _address_port(self, socket: IPRoute, wire: Wire, owner: Host) -> None:
        """A port of a bridge has no address."""
        if wire.segment is None:
            for interface in self.topology.link_interfaces(wire, owner):
                _add_interface(socket, wire.end_at(owner.name).interface, interface)
        elif wire.segment.kind == "link":
            self._address_segment(socket, wire.segment, owner)

    def _address_segment(self, socket: IPRoute, segment: Segment, owner: Host) -> None:
        if owner.role is Role.ROUTER:
            _add_addresses(socket, _interface(self.topology, segment), segment, ROUTER_NUMBER)
            self._route_to_sources(socket, segment)

    def _route_to_sources(self, socket: IPRoute, segment: Segment) -> None:
        for host in self.topology.hosts_on(segment):
            for prefix in filter(None, (host.sources4, host.sources6)):
                self._route_to(socket, str(prefix), host)

    def _configure_host(self, socket: IPRoute, host: Host) -> None:
        for wire in self.topology.wires_of(host):
            assert wire.segment is not None
            _up(socket, wire.far.interface)
            _wait_carrier(socket, wire.far.interface)
            number = _number(self.topology, host, wire.segment)
            _add_addresses(socket, wire.far.interface, wire.segment, number)
        loopback = _index(socket, "lo")
        for address in host.extra_sources():
            _add_address(socket, loopback, str(address), address.max_prefixlen)
        segment = self.topology.segment_of(host)
        if segment.name != self.topology.backbone:
            router4 = segment.interface4(ROUTER_NUMBER).ip
            router6 = segment.interface6(ROUTER_NUMBER).ip
            socket.route("replace", dst="0.0.0.0/0", gateway=str(router4))
            socket.route("replace", dst="::/0", gateway=str(router6))
        if host.role is Role.BACKEND and self.topology.backbone is not None:
            self._route_to_directors(socket, host)

    def _route_to_directors(self, socket: IPRoute, backend: Host) -> None:
        """What a backend answers to the health checks of other PoPs, over the backbone."""
        for director in self.topology.hosts(Role.DIRECTOR):
            if director.segment == backend.segment:
                continue
            via4, via6 = self.topology.on_backbone(director)
            for to, via in (
                (self.topology.interface4(director).ip, via4),
                (self.topology.interface6(director).ip, via6),
            ):
                socket.route("replace", dst=f"{to}/{to.max_prefixlen}", gateway=str(via))

    def _route_to(self, socket: IPRoute, prefix: str, host: Host) -> None:
        via = self.topology.interface6(host) if ":" in prefix else self.topology.interface4(host)
        socket.route("replace", dst=prefix, gateway=str(via.ip))


def _number(topology: Topology, host: Host, segment: Segment) -> int:
    number = topology.number_on(host, segment)
    assert number is not None, f"topology was not numbered: {host.name}"
    return number


def _add_bridge(socket: IPRoute, segment: Segment) -> None:
    socket.link(
        "add",
        ifname=_bridge_name(segment),
        kind="bridge",
        address=_mac(segment.interface4(ROUTER_NUMBER).ip),
        mtu=segment.mtu,
        br_forward_delay=0,
        br_mcast_snooping=0,  # no querier here: it would drop neighbour solicitations
    )


def _add_addresses(socket: IPRoute, interface: str, segment: Segment, number: int) -> None:
    for address in (segment.interface4(number), segment.interface6(number)):
        _add_interface(socket, interface, address)


def _add_interface(socket: IPRoute, interface: str, address: IPv4Interface | IPv6Interface) -> None:
    index = _index(socket, interface)
    _add_address(socket, index, str(address.ip), address.network.prefixlen)


def _add_address(socket: IPRoute, index: int, address: str, prefixlen: int) -> None:
    flags = {"flags": NO_DAD} if ":" in address else {}
    socket.addr("replace", index=index, address=address, prefixlen=prefixlen, **flags)


def _bridge_name(segment: Segment) -> str:
    return f"br-{segment.name}"


def _interface(topology: Topology, segment: Segment) -> str:
    """The router's interface on the segment: the bridge, or the port of the only host."""
    if segment.kind == "bridge":
        return _bridge_name(segment)
    return topology.hosts_on(segment)[0].name


def _mac(address: IPv4Address) -> str:
    return "02:00:" + ":".join(f"{byte:02x}" for byte in address.packed)


def _index(socket: IPRoute, interface: str) -> int:
    indexes = socket.link_lookup(ifname=interface)
    assert indexes, f"no interface {interface}"
    return int(indexes[0])


def _up(socket: IPRoute, interface: str) -> None:
    socket.link("set", index=_index(socket, interface), state="up")


def _wait_carrier(socket: IPRoute, interface: str) -> None:
    """Until both ends are up: the kernel refuses or forgets IPv6 routes before."""
    deadline = time.monotonic() + LINK_WAIT_S
    while True:
        (link,) = socket.get_links(_index(socket, interface))
        if link.get_attr("IFLA_OPERSTATE") == "UP":
            return
        if time.monotonic() > deadline:
            raise LimpetError(f"{interface} has no carrier after {LINK_WAIT_S:.0f} s")
        time.sleep(0.002)
