# SPDX-License-Identifier: Apache-2.0
"""Kernel: routes to the VIPs in a routing table of their own, for a speaker that we do not run.

The operator's BIRD or FRR imports that table (docs/operate/bgp.md has configurations). Nothing on
this machine looks a route up there, so a blackhole route says "announce this" and does nothing
else. A kernel route has no communities: what it says is in its metric, 100 or, while the PoP is
draining, 65,535.

Ours are known by table and protocol number: no other route is touched or reported.
"""

import errno
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from limpet.announce.observed import Exported, Observed
from limpet.core.announcement import GRACEFUL_SHUTDOWN, Announced
from limpet.core.errors import LimpetError
from limpet.core.model import Address, Bgp

PROTOCOL = 108  # of our routes; no other program's in /etc/iproute2/rt_protos
METRIC, LEAVING_METRIC = 100, 65_535
KIND = "blackhole"


class KernelError(LimpetError):
    """The kernel refuses a route."""


class KernelTable:
    """The routes of one director. One thread uses it."""

    mode = "kernel"

    def __init__(self) -> None:
        self._table = Bgp().table

    def put(self, bgp: Bgp, routes: tuple[Announced, ...]) -> bool:
        """Have these routes in the table, and no other of ours. False if it was so already."""
        self._table = bgp.table
        wanted = {(each.address, _metric(each)) for each in routes}
        with IPRoute() as netlink:
            there = _read(netlink, bgp.table)
            for address, metric in sorted(wanted - there, key=str):  # first what comes
                _change(netlink, "add", bgp.table, address, metric)
            for address, metric in sorted(there - wanted, key=str):
                _change(netlink, "del", bgp.table, address, metric)
        return wanted != there

    def observe(self) -> Observed:
        """What is in the table. Who reads it is not known here."""
        with IPRoute() as netlink:
            there = _read(netlink, self._table)
        to = f"table {self._table}"
        found: dict[Address, tuple[Exported, ...]] = {}
        for address, metric in sorted(there, key=str):
            is_leaving = metric == LEAVING_METRIC
            found[address] = (Exported(to, (GRACEFUL_SHUTDOWN,) if is_leaving else ()),)
        return Observed(found)

    def inherited(self) -> frozenset[Address]:
        """What is there already."""
        return self.observe().announced


def withdraw(table: int) -> None:
    """Take all our routes out of a table."""
    KernelTable().put(Bgp(table=table), ())


def _metric(route: Announced) -> int:
    return LEAVING_METRIC if route.is_leaving else METRIC


def _read(netlink: IPRoute, table: int) -> set[tuple[Address, int]]:
    found = set()
    for family in (AF_INET, AF_INET6):
        for message in netlink.get_routes(family=family, table=table):
            if message["proto"] == PROTOCOL and message.get("RTA_TABLE") == table:
                address = ip_address(message.get("RTA_DST"))
                found.add((address, int(message.get("RTA_PRIORITY") or 0)))
    return found


def _change(netlink: IPRoute, command: str, table: int, address: Address, metric: int) -> None:
    try:
        netlink.route(
            command,
            dst=f"{address}/{address.max_prefixlen}",
            family=AF_INET if address.version == 4 else AF_INET6,
            table=table,
            type=KIND,
            proto=PROTOCOL,
            priority=metric,
        )
    except NetlinkError as error:
        if error.code not in (errno.EEXIST, errno.ESRCH):
            what = f"route {command} {address} in table {table}"
            raise KernelError(f"{what}: {errno.errorcode.get(error.code, error.code)}") from error
