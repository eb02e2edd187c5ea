# SPDX-License-Identifier: Apache-2.0
"""Next hops: how a frame leaves for a backend, from the kernel's routes and neighbours.

The kernel decides: a route lookup names the egress interface and the gateway, its neighbour table
names the MAC. This module asks, keeps what it learnt until an event says that it is stale, and
makes sure that neighbours stay resolved: the XDP program sends past the kernel, which would
otherwise forget them as unused. Kernels that can (5.16) are told to keep an entry for ever
(NTF_EXT_MANAGED), others are asked to use it now and then (NTF_USE).

What cannot be sent by XDP (no answer from the neighbour, an egress that takes no redirected
frames) has interface 0: those packets go through the kernel, slower but never wrong.

Used by one thread. Not here: the events themselves (daemon/events.py).
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOENT
from ipaddress import ip_address
from typing import Any

import structlog
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import ndmsg

from limpet.core.model import Address, NextHop
from limpet.daemon.links import Links

UNKNOWN = bytes(6)
RTN_UNICAST = 1
MTU_MAX = 65_535
EXT_MANAGED = 1  # NTF_EXT_MANAGED
KEEP_AGAIN_S = 1.0
USABLE = (
    ndmsg.NUD_REACHABLE
    | ndmsg.NUD_STALE
    | ndmsg.NUD_DELAY
    | ndmsg.NUD_PROBE
    | ndmsg.NUD_PERMANENT
    | ndmsg.NUD_NOARP
)
Neighbour = tuple[int, Address]  # interface index, address on that link
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """What the kernel's route lookup says of an address."""

    ifindex: int
    gateway: Address | None  # None: the address itself is on the link
    mtu: int  # of the route; 0: that of the interface

    def neighbour(self, address: Address) -> Neighbour:
        return self.ifindex, self.gateway or address


class NextHops:
    """Routes and neighbours of the backends. `links` of the pass is set before resolving."""

    def __init__(self, netlink: IPRoute) -> None:
        self.netlink = netlink
        self._routes: dict[Address, Route | None] = {}
        self._macs: dict[Neighbour, bytes] = {}
        self._kept: dict[Neighbour, float] = {}  # neighbours to keep resolved: when last asked to
        self.again_at: float | None = None  # monotonic time at which another pass is due
        self._complained: set[tuple[Address, str]] = set()
        self._can_manage = True

    def forget_routes(self) -> None:
        """Routes, addresses or links changed: look routes up anew."""
        self._routes.clear()

    def resolve(
        self, addresses: Iterable[Address], links: Links, attached: frozenset[int]
    ) -> dict[Address, NextHop]:
        """Next hops of the addresses that have a route; `attached`: our interfaces' indexes."""
        wanted = sorted(addresses, key=lambda a: (a.version, int(a)))
        routes = {address: self._route(address) for address in wanted}
        neighbours = {route.neighbour(a) for a, route in routes.items() if route is not None}
        self._keep(neighbours)
        self._keep_again(self._read_neighbours())
        hops = {
            address: self._hop(address, route, links, attached)
            for address, route in routes.items()
            if route is not None
        }
        return {address: hop for address, hop in hops.items() if hop is not None}

    def is_on_link(self, address: Address) -> bool:
        """Whether an address resolved before is a neighbour itself."""
        route = self._routes.get(address)
        return route is not None and route.gateway is None

    def gateway(self, address: Address) -> Address | None:
        """The router on the way to an address resolved before."""
        route = self._routes.get(address)
        return route.gateway if route is not None else None

    def neighbours(self) -> frozenset[Neighbour]:
        """The neighbours that matter: events about others need no pass."""
        return frozenset(self._kept)

    def probe(self) -> None:
        """Ask anew for neighbours: those not known, and all where the kernel does not itself."""
        for neighbour in self._kept:
            if not self._can_manage or neighbour not in self._macs:
                self._use(neighbour)

    # --- Routes ---------------------------------------------------------------------------------

    def _route(self, address: Address) -> Route | None:
        if address not in self._routes:
            self._routes[address] = self._look_up(address)
        return self._routes[address]

    def _look_up(self, address: Address) -> Route | None:
        try:
            messages = list(self.netlink.route("get", dst=str(address)))
        except NetlinkError as error:
            self._complain(address, "no route to the backend", error=str(error))
            return None
        message = messages[0]
        if message["type"] != RTN_UNICAST:
            self._complain(address, "the route to the backend leads nowhere or to this machine")
            return None
        ifindex = message.get("RTA_OIF")
        if not ifindex:
            self._complain(address, "the route to the backend has no single interface")
            return None
        return Route(int(ifindex), _gateway(message), _route_mtu(message))

    # --- Neighbours -----------------------------------------------------------------------------

    def _keep(self, wanted: set[Neighbour]) -> None:
        for neighbour in wanted - self._kept.keys():
            self._start_keeping(neighbour)
        for neighbour in self._kept.keys() - wanted:
            self._stop_keeping(neighbour)

    def _keep_again(self, lost: set[Neighbour]) -> None:
        """Entries go with a flush or when a link goes down. Not at once again: asking is an event
        itself, and one that does not last must not keep us busy."""
        self.again_at = None
        for neighbour in lost:
            due = self._kept[neighbour] + KEEP_AGAIN_S
            if time.monotonic() >= due:
                self._start_keeping(neighbour)
            else:
                self.again_at = min(due, self.again_at or due)

    def _start_keeping(self, neighbour: Neighbour) -> None:
        self._kept[neighbour] = time.monotonic()
        if self._can_manage:
            try:
                self._neigh("replace", neighbour, state=ndmsg.NUD_NONE, NDA_FLAGS_EXT=EXT_MANAGED)
                return
            except NetlinkError as error:
                if error.code == EINVAL:  # a permanent entry, or a kernel before 5.16
                    self._can_manage = _is_permanent(self._read_one(neighbour))
        self._use(neighbour)

    def _stop_keeping(self, neighbour: Neighbour) -> None:
        del self._kept[neighbour]
        with contextlib.suppress(NetlinkError):  # gone with its interface
            if not _is_permanent(self._read_one(neighbour)):
                self._neigh("del", neighbour)

    def _use(self, neighbour: Neighbour) -> None:
        with contextlib.suppress(NetlinkError):  # the interface may be down
            self._neigh("replace", neighbour, state=ndmsg.NUD_NONE, flags=ndmsg.NTF_USE)

    def _neigh(self, command: str, neighbour: Neighbour, **fields: int) -> None:
        ifindex, address = neighbour
        self.netlink.neigh(command, ifindex=ifindex, dst=str(address), **fields)

    def _read_one(self, neighbour: Neighbour) -> int:
        """State of one entry, 0 if there is none."""
        ifindex, address = neighbour
        try:
            found = list(self.netlink.neigh("get", ifindex=ifindex, dst=str(address)))
        except NetlinkError as error:
            if error.code not in (ENOENT, EEXIST, EINVAL):
                raise
            return 0
        return int(found[0]["state"]) if found else 0

    def _read_neighbours(self) -> set[Neighbour]:
        """The whole table at once: one call, however many backends there are.

        Returns the neighbours that are not kept any more.
        """
        self._macs, lost = {}, set(self._kept)
        for message in self.netlink.get_neighbours():
            address = message.get("NDA_DST")
            neighbour = (int(message["ifindex"]), ip_address(address)) if address else None
            if neighbour is None or neighbour not in self._kept:
                continue
            state, mac = message["state"], message.get("NDA_LLADDR")
            is_managed = (message.get("NDA_FLAGS_EXT") or 0) & EXT_MANAGED
            if is_managed or not self._can_manage or _is_permanent(state):
                lost.discard(neighbour)
            if mac and state & USABLE:
                self._macs[neighbour] = bytes.fromhex(mac.replace(":", ""))
        return lost

    # --- Next hops ------------------------------------------------------------------------------

    def _hop(
        self, address: Address, route: Route, links: Links, attached: frozenset[int]
    ) -> NextHop | None:
        link = links.get(route.ifindex)
        if link is None:
            return None
        mtu = min(route.mtu or link.mtu, MTU_MAX)
        mac = self._macs.get(route.neighbour(address))
        if route.ifindex not in attached and not link.sends_frames:
            self._complain(
                address,
                "the egress interface takes no frames from XDP; packets go through the kernel",
                interface=link.name,
                kind=link.kind,
            )
        elif mac is not None and len(mac) == len(link.mac) == 6:
            return NextHop(route.ifindex, mac, link.mac, mtu)
        return NextHop(0, UNKNOWN, UNKNOWN, mtu)

    def _complain(self, address: Address, why: str, **more: object) -> None:
        """Once per address and reason: every pass comes here again."""
        if (address, why) not in self._complained:
            self._complained.add((address, why))
            log.warning(why, backend=str(address), **more)


def _is_permanent(state: int) -> bool:
    return bool(state & (ndmsg.NUD_PERMANENT | ndmsg.NUD_NOARP))


def _gateway(message: Any) -> Address | None:
    via = message.get("RTA_VIA")  # a gateway of the other family
    text = message.get("RTA_GATEWAY") or (via or {}).get("addr")
    return ip_address(text) if text else None


def _route_mtu(message: Any) -> int:
    metrics = message.get("RTA_METRICS")
    return int((metrics.get("RTAX_MTU") if metrics else None) or 0)
