# SPDX-License-Identifier: Apache-2.0
"""Makes a topology real: namespaces, links, addresses and routes, without any limpet process.

Two steps, because a host that was killed comes back with its links but without addresses:
`attach` makes a host's namespace and its link to the router once, `configure` brings it up and may
be repeated. A veth pair is made inside the router's namespace, and its other end is put into the
host's at birth, so nothing ever appears in the machine's own namespace and labs cannot collide.

MAC addresses follow from the IPv4 address, so that a neighbour's memory is never wrong, and
captures are easy to read. The bridge has a fixed one: it would else change as ports come.
"""

import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from pyroute2 import IPRoute

from limpet.core.errors import LimpetError
from limpet.lab import folder, namespace, offload
from limpet.lab.topology import ROUTER_NUMBER, Host, Role, Segment, Topology

INTERFACE = "eth0"  # of every host but the router
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


class Network:
    """The namespaces of one lab. Holds no state: the kernel does."""

    def __init__(self, lab: str, topology: Topology) -> None:
        self.lab = lab
        self.topology = topology
        self.router = netns_of(lab, topology.router())

    def build(self) -> None:
        """Everything, from nothing. What a failure leaves is for the caller to remove."""
        self._create(self.topology.router())
        with namespace.netlink(self.router) as router:
            for segment in self.topology.segment:
                if segment.kind == "bridge":
                    _add_bridge(router, segment)
        hosts = [host for host in self.topology.host if host.role is not Role.ROUTER]
        for host in hosts:
            self.attach(host)
        self.configure(self.topology.router())
        for host in hosts:
            self.configure(host)
        self.wait_links(hosts)

    def attach(self, host: Host) -> None:
        """A new host: its namespace, and its link to the router."""
        self._create(host)
        segment = self.topology.segment_of(host)
        netns = netns_of(self.lab, host)
        mac = _mac(self.topology.interface4(host).ip)
        peer = {"ifname": INTERFACE, "net_ns_fd": netns, "mtu": segment.mtu, "address": mac}
        port = {"ifname": host.name, "kind": "veth", "mtu": segment.mtu, "peer": peer}
        if segment.kind == "link":
            port["address"] = _mac(segment.interface4(ROUTER_NUMBER).ip)
        with namespace.netlink(self.router) as router:
            router.link("add", **port)
            if segment.kind == "bridge":
                bridge = _index(router, _bridge_name(segment))
                router.link("set", index=_index(router, host.name), master=bridge)
            router.link("set", index=_index(router, host.name), state="up")
        offload.prepare(self.router, host.name, polls=True)
        offload.prepare(netns, INTERFACE, polls=False)

    def configure(self, host: Host) -> None:
        """Links up, addresses, routes: what a machine does when it boots."""
        netns = netns_of(self.lab, host)
        with namespace.netlink(netns) as socket:
            _up(socket, "lo")
            if host.role is Role.ROUTER:
                self._configure_router(socket)
            else:
                self._configure_host(socket, host)

    def wait_links(self, hosts: Iterable[Host]) -> None:
        """Until both ends of these hosts' links see the carrier.

        The kernel tells of it late, up to a second after a loss, and drops what is sent before.
        """
        with namespace.netlink(self.router) as router:
            for host in hosts:
                _wait_carrier(router, host.name)
                with namespace.netlink(netns_of(self.lab, host)) as socket:
                    _wait_carrier(socket, INTERFACE)

    def take_down(self, host: Host) -> None:
        """Every link of the host down and without addresses, as when it loses power."""
        with namespace.netlink(netns_of(self.lab, host)) as socket:
            for link in socket.get_links():
                socket.link("set", index=link["index"], state="down")
                socket.flush_addr(index=link["index"])

    # --- Steps ----------------------------------------------------------------------------------

    def _create(self, host: Host) -> None:
        netns = netns_of(self.lab, host)
        namespace.create(netns)
        settings = dict(SYSCTLS)
        if host.role in (Role.ROUTER, Role.DIRECTOR):
            settings |= FORWARDING
        if host.role is Role.BACKEND:
            settings |= QUIET_VIP
        namespace.sysctl(netns, settings)

    def _configure_router(self, socket: IPRoute) -> None:
        for host in self.topology.host:
            if host.role is not Role.ROUTER:
                _up(socket, host.name)
        for segment in self.topology.segment:
            name = _interface(self.topology, segment)
            _up(socket, name)
            _add_addresses(socket, name, segment, ROUTER_NUMBER)
        for host in self.topology.hosts(Role.CLIENT):
            for prefix in filter(None, (host.sources4, host.sources6)):
                self._route_to(socket, str(prefix), host)
        for director in self.topology.hosts(Role.DIRECTOR):
            for vip in self.topology.vip:
                self._route_to(socket, f"{vip.address}/{vip.address.max_prefixlen}", director)

    def _configure_host(self, socket: IPRoute, host: Host) -> None:
        segment = self.topology.segment_of(host)
        assert host.number is not None
        _up(socket, INTERFACE)
        _wait_carrier(socket, INTERFACE)
        _add_addresses(socket, INTERFACE, segment, host.number)
        loopback = _index(socket, "lo")
        for address in host.extra_sources():
            _add_address(socket, loopback, str(address), address.max_prefixlen)
        router4 = segment.interface4(ROUTER_NUMBER).ip
        router6 = segment.interface6(ROUTER_NUMBER).ip
        socket.route("replace", dst="0.0.0.0/0", gateway=str(router4))
        socket.route("replace", dst="::/0", gateway=str(router6))

    def _route_to(self, socket: IPRoute, prefix: str, host: Host) -> None:
        via = self.topology.interface6(host) if ":" in prefix else self.topology.interface4(host)
        socket.route("replace", dst=prefix, gateway=str(via.ip))


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
    index = _index(socket, interface)
    for address in (segment.interface4(number), segment.interface6(number)):
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
