# SPDX-License-Identifier: Apache-2.0
"""Way: how replies come to the program that decides by which PoP they leave.

A device of our own, a veth pair, with the program on its way out, and rules that route to it what
this machine sends with a VIP as source. A filter on the interface itself would come too late: where
the router of the default route is dead, its neighbour entry fails first, and packets end there. So
nothing of the operator's routes is changed, and without the rules all is as before.

The device forwards, which the look-up of routes in the program asks for; the machine need not. Its
MTU is what fits both ways: encapsulated to an exit, and plain to the default route. Both routes
have a gateway that nobody is, so that one neighbour entry serves for all clients.

Everything is named by the agent's name, so it is found again after a crash: `put` makes what is
missing, and swaps the program without a gap. Packets flow while no process runs.
"""

import errno
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import collapse_addresses, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6

from pyroute2 import IPRoute, NetlinkError

from limpet.agent.config import MTU_MIN6, AgentConfig, Prefix
from limpet.agent.interface import Interface
from limpet.agent.mss import OUTER4, OUTER6
from limpet.core.errors import DatapathError, Unsupported
from limpet.core.model import Address

NAME = "limpet-reply"  # of the tc filter
PREFIX, PEER_PREFIX = "lp-re-", "lp-rp-"  # and 8 hexadecimal digits of the agent's name
RULE_PRIORITY = 20_716  # behind the kernel's own and an operator's, before the main table
GATEWAYS: dict[int, str] = {AF_INET: "192.0.0.8", AF_INET6: "fe80::1"}  # RFC 7600; never asked for
FAMILIES = {4: AF_INET, 6: AF_INET6}
TABLE_MIN = 0x4000_0000
CLSACT, EGRESS = 0xFFFFFFF1, 0xFFFFFFF3
ONLINK = 4  # RTNH_F_ONLINK
SWITCHES = {
    "ipv6/conf/{}/addr_gen_mode": "1",
    "ipv4/conf/{}/forwarding": "1",
    "ipv6/conf/{}/forwarding": "1",
}
NET = Path("/proc/sys/net")


def device(name: str) -> str:
    return PREFIX + _digest(name).hex()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=4).digest()


def table(name: str) -> int:
    return int.from_bytes(_digest(name), "big") % TABLE_MIN + TABLE_MIN


@contextmanager
def _step(step: str, *fine: int) -> Iterator[None]:
    """Name the step in errors; codes in `fine` are none."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in fine:
            raise DatapathError(step, error.code, str(error)) from error


# --- What is needed for it ----------------------------------------------------------------------


def exits(config: AgentConfig, found: Interface) -> tuple[tuple[Address, Address], ...]:
    """Each exit, and the address of this interface from which it is sent to.

    Raises Unsupported if the interface has none of its family.
    """
    return tuple((each.address, _own(found, each.address.version)) for each in config.exits)


def _own(found: Interface, version: int) -> Address:
    own = next((each for each in found.addresses if each.version == version), None)
    if own is None:
        raise Unsupported(
            f"{found.name} has no IPv{version} address from which an exit could be sent to; give "
            "the exit's address in the other family, or the interface one"
        )
    return own


def largest(config: AgentConfig, mtu: int) -> int:
    """MTU of the device, when the path to directors and exits carries `mtu` bytes."""
    outer = OUTER6 if any(each.address.version == 6 for each in config.exits) else OUTER4
    with IPRoute() as link:
        defaults = [int(each.get_attr("RTA_OIF") or 0) for each in link.get_default_routes()]
        plain = [int(link.get_links(each)[0].get_attr("IFLA_MTU")) for each in defaults if each]
    size = min([mtu - outer, *plain])
    if size < MTU_MIN6 and any(vip.version == 6 for vip in config.vips):
        raise Unsupported(
            f"replies to an exit have {size} bytes of room, and IPv6 needs {MTU_MIN6}: "
            "raise the MTU between this machine and its exits, or leave the exits out"
        )
    return size


# --- Put, look, remove --------------------------------------------------------------------------


def put(name: str, program: int, vips: Iterable[Address], mtu: int) -> None:
    """Make the way for these VIPs; idempotent."""
    wanted = list(vips)
    with IPRoute() as link:
        index = _put_device(link, name, mtu)
        with _step("add the qdisc clsact", errno.EEXIST):
            link.tc("add", "clsact", index=index)
        with _step("attach the tc filter"):
            link.tc(
                "replace-filter",
                "bpf",
                index=index,
                handle=1,
                fd=program,
                name=NAME,
                parent=EGRESS,
                prio=1,
                direct_action=True,
            )
        for version, family in FAMILIES.items():
            sources = [ip_network(vip) for vip in wanted if vip.version == version]
            if sources:
                _put_route(link, family, name, index)
            _put_rules(link, family, name, set(_collapsed(sources)))


def _collapsed(sources: list[Prefix]) -> Iterator[Prefix]:
    return collapse_addresses(sources)  # type: ignore[type-var]  # of one family each


def _put_device(link: IPRoute, name: str, mtu: int) -> int:
    own, peer = device(name), PEER_PREFIX + _digest(name).hex()
    if not link.link_lookup(ifname=own):
        with _step(f"make the interface {own}"):
            link.link("add", ifname=own, kind="veth", peer={"ifname": peer})
    index = int(link.link_lookup(ifname=own)[0])
    for key, value in SWITCHES.items():
        _write(NET / key.format(own), value)
    _write(NET / f"ipv6/conf/{peer}/addr_gen_mode", "1")
    with _step(f"set up the interface {own}"):
        for each in (int(link.link_lookup(ifname=peer)[0]), index):
            link.link("set", index=each, arp=False, mtu=mtu)
            link.link("set", index=each, state="up")
    return index


def _write(path: Path, value: str) -> None:
    try:
        if path.exists():  # else a kernel without IPv6
            path.write_text(value)
    except OSError as error:
        raise DatapathError(f"write {path}", error.errno or 0, str(error)) from error


def _put_route(link: IPRoute, family: int, name: str, index: int) -> None:
    with _step("route replies"):
        link.route(
            "replace",
            family=family,
            dst="default",
            gateway=GATEWAYS[family],
            oif=index,
            table=table(name),
            flags=ONLINK,
        )


def _put_rules(link: IPRoute, family: int, name: str, wanted: set[Prefix]) -> None:
    present = set(_rules(link, family, name))
    for prefix in wanted - present:
        with _step("add a rule for replies", errno.EEXIST):
            link.rule("add", family=family, **_rule(name, prefix))
    for prefix in present - wanted:
        with _step("remove a rule for replies", errno.ENOENT):
            link.rule("del", family=family, **_rule(name, prefix))


def _rule(name: str, prefix: Prefix) -> dict[str, object]:
    return {
        "table": table(name),
        "priority": RULE_PRIORITY,
        "iifname": "lo",  # what this machine sends itself
        "src": str(prefix.network_address),
        "src_len": prefix.prefixlen,
    }


def _rules(link: IPRoute, family: int, name: str) -> Iterator[Prefix]:
    for rule in link.get_rules(family=family):
        if rule.get_attr("FRA_TABLE") == table(name):
            yield ip_network((rule.get_attr("FRA_SRC"), rule["src_len"]))


def missing(name: str, vips: Iterable[Address]) -> list[str]:
    """What of the way for these VIPs is not there."""
    wanted = list(vips)
    with IPRoute() as link:
        found = [] if link.link_lookup(ifname=device(name)) else [f"no interface {device(name)}"]
        for version, family in FAMILIES.items():
            present = list(_rules(link, family, name))
            found += [
                f"no rule routes replies of {vip} to {device(name)}"
                for vip in wanted
                if vip.version == version and not any(vip in prefix for prefix in present)
            ]
    return found


def remove(name: str) -> None:
    """Take it away. Fine if nothing is there."""
    with IPRoute() as link:
        for family in FAMILIES.values():
            _put_rules(link, family, name, set())
        for index in link.link_lookup(ifname=device(name)):  # peer, filter, routes go with it
            with _step(f"remove the interface {device(name)}", errno.ENODEV):
                link.link("del", index=index)
