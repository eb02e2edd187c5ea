# SPDX-License-Identifier: Apache-2.0
"""Outbound: this machine's own way to a backend, for health checks and resets.

A packet with SO_MARK = mark | id of the backend travels to it as packets of clients do, whatever
its destination is. For that there is a device of our own, a veth pair, with the tc program on its
way out, and a rule that routes everything with the mark to it. So nothing depends on where VIPs are
routed to, no neighbour has to answer for a VIP, and no other packet of the machine meets the
program. What the program has encapsulated, it sends straight to the next hop; if that is not known,
to the other end of the pair, where the kernel routes it.

Device, rule and table are named by the mark, so they are found again after a crash: `put` makes
what is missing, and swaps the program without a gap. The program's pin names the device for
`remove`, which needs no configuration. Packets flow while no process runs.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6

import numpy as np
from pyroute2 import IPRoute, NetlinkError

from limpet.core.errors import Conflict, DatapathError
from limpet.core.model import BACKENDS_MAX, Director
from limpet.datapath import abi, bpf, elf

OBJECT = Path(__file__).with_name("outbound.bpf.o")
PROGRAM, COUNTERS = "outbound", "counters"
PREFIX, PEER_PREFIX = "lp-out-", "lp-in-"  # and the mark in hexadecimal, without its low 12 bits
IDS_BITS = 12
RULE_PRIORITY = 20_715  # behind the kernel's own and an operator's, before the main table
RTN_UNICAST, SCOPE_LINK = 1, 253
CLSACT, EGRESS = 0xFFFFFFF1, 0xFFFFFFF3
IFF_UP, IFF_NOARP = 0x01, 0x80
MTU, OUTER_MAX = int(abi.Limit.OUTBOUND_MTU), 40
NET = Path("/proc/sys/net")
PEER_SWITCHES = {"ipv4/conf/{}/forwarding": "1", "ipv4/conf/{}/rp_filter": "0"}
NO_LINK_LOCAL = {"ipv6/conf/{}/addr_gen_mode": "1"}
PEER_SWITCHES6 = {"ipv6/conf/{}/forwarding": "1"}


def device(mark: int) -> str:
    """Name of the device through which packets with this mark leave."""
    return f"{PREFIX}{mark >> IDS_BITS:x}"


def _peer(mark: int) -> str:
    return f"{PEER_PREFIX}{mark >> IDS_BITS:x}"


def _mark(device: str) -> int:
    return int(device.removeprefix(PREFIX), 16) << IDS_BITS


def _folder(pins: Path) -> Path:
    return pins / "outbound"


def _devices(pins: Path) -> list[str]:
    return sorted(path.name for path in _folder(pins).glob(f"{PREFIX}*"))


@contextmanager
def _step(step: str, *fine: int) -> Iterator[None]:
    """Name the step in errors; codes in `fine` are none."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in fine:
            raise DatapathError(step, error.code, str(error)) from error


# --- Put ---------------------------------------------------------------------------------------


def put(director: Director, pins: Path) -> None:
    """Make the way as this director has it; idempotent. `pins` holds the director's maps."""
    _folder(pins).mkdir(parents=True, exist_ok=True)
    name = device(director.mark)
    loaded = _load(director, pins)
    try:
        with IPRoute() as link:
            index = _put_device(link, director.mark, is_known=(_folder(pins) / name).exists())
            _repin(loaded.program_fd(PROGRAM), _folder(pins) / name)
            _attach(link, index, loaded.program_fd(PROGRAM))
            for family in _families():
                _put_route(link, family, director.mark, index)
    finally:
        loaded.close()
    for other in _devices(pins):
        if other != name:  # the mark was another one before
            _remove(pins, other)


def _load(director: Director, pins: Path) -> elf.Object:
    loaded = elf.Object(OBJECT)
    backends = bpf.get(pins / "maps" / "backends")
    try:
        settings = np.zeros((), abi.OUTBOUND_SETTINGS)
        settings["mark"] = director.mark
        settings["outer_source4"][:] = list(director.source4.network_address.packed)
        settings["outer_source6"][:] = list(director.source6.network_address.packed)
        loaded.set_constants(settings.tobytes())
        loaded.reuse("backends", backends)
        _reuse_counters(loaded, pins)
        loaded.load()
        _repin(loaded.map_fd("outbound_counters"), _folder(pins) / COUNTERS)
    except BaseException:
        loaded.close()
        raise
    finally:
        os.close(backends)
    return loaded


def _reuse_counters(loaded: elf.Object, pins: Path) -> None:
    """Counters go on, unless another version of limpet counts other things."""
    with _counters(pins) as fd:
        if fd is not None and _value_size(fd) == abi.OUTBOUND_COUNTERS.itemsize:
            loaded.reuse("outbound_counters", fd)


def _repin(fd: int, path: Path) -> None:
    fresh = path.with_name(f"new_{path.name}")
    fresh.unlink(missing_ok=True)  # left by a crash
    bpf.pin(fd, fresh)
    fresh.rename(path)


def _put_device(link: IPRoute, mark: int, *, is_known: bool) -> int:
    """Index of the device, made if it is not there."""
    name, peer = device(mark), _peer(mark)
    found = link.link_lookup(ifname=name)
    if found and not is_known and not link.link_lookup(ifname=peer):
        raise Conflict(f"there is an interface {name} already, and it is not limpet's; rename it")
    if not found:
        with _step(f"make the interface {name}"):
            link.link("add", ifname=name, kind="veth", peer={"ifname": peer})
        found = link.link_lookup(ifname=name)
    index, other = int(found[0]), int(link.link_lookup(ifname=peer)[0])
    _switch(NO_LINK_LOCAL, name, peer)
    address = link.get_links(index)[0].get_attr("IFLA_ADDRESS")
    # The same address at both ends: the other takes frames that nobody has addressed to it.
    _set_up(link, other, IFLA_ADDRESS=address, IFLA_MTU=MTU + OUTER_MAX)
    _set_up(link, index, IFLA_MTU=MTU)
    _switch(PEER_SWITCHES, peer)
    _switch(PEER_SWITCHES6, peer)
    return index


def _set_up(link: IPRoute, index: int, **wanted: object) -> None:
    """Attributes, no ARP, up. What is so already is left alone: every change is an event."""
    found = link.get_links(index)[0]
    is_up = found["flags"] & (IFF_UP | IFF_NOARP) == IFF_UP | IFF_NOARP
    if is_up and all(found.get_attr(name) == value for name, value in wanted.items()):
        return
    with _step(f"set up the interface {found.get_attr('IFLA_IFNAME')}"):
        link.link("set", index=index, arp=False, **wanted)
        link.link("set", index=index, state="up")


def _switch(settings: dict[str, str], *interfaces: str) -> None:
    for interface in interfaces:
        for key, value in settings.items():
            path = NET / key.format(interface)
            if not path.exists():  # a kernel without IPv6
                continue
            try:
                path.write_text(value)
            except OSError as error:
                raise DatapathError(f"write {path}", error.errno or 0, str(error)) from error


def _attach(link: IPRoute, index: int, program: int) -> None:
    """The interface is ours, so what is on its way out is, too; replaced in one step."""
    with _step("add the qdisc clsact", errno.EEXIST):
        link.tc("add", "clsact", index=index)
    with _step("attach the tc filter"):
        link.tc(
            "replace-filter",
            "bpf",
            index=index,
            handle=1,
            fd=program,
            name="limpet-outbound",
            parent=EGRESS,
            prio=1,
            direct_action=True,
        )


def _families() -> tuple[int, ...]:
    has_ipv6 = (NET / "ipv6").exists()
    return (AF_INET, AF_INET6) if has_ipv6 else (AF_INET,)


def _put_route(link: IPRoute, family: int, mark: int, index: int) -> None:
    with _step("route packets with the mark", errno.EEXIST):
        link.route(
            "add",
            family=family,
            dst="default",
            oif=index,
            table=mark >> IDS_BITS,
            type=RTN_UNICAST,
            scope=SCOPE_LINK if family == AF_INET else 0,
        )
    with _step("add the rule for the mark", errno.EEXIST):
        link.rule("add", family=family, **_rule(mark))


def _rule(mark: int) -> dict[str, int]:
    return {
        "table": mark >> IDS_BITS,
        "priority": RULE_PRIORITY,
        "fwmark": mark,
        "fwmask": 0xFFFF_FFFF ^ (BACKENDS_MAX - 1),
    }


# --- Look, remove ------------------------------------------------------------------------------


@contextmanager
def _counters(pins: Path) -> Iterator[int | None]:
    path = _folder(pins) / COUNTERS
    if not path.exists():
        yield None
        return
    fd = bpf.get(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _value_size(fd: int) -> int:
    return bpf.map_info(fd).value_size


def read_counters(pins: Path) -> dict[str, int]:
    """Packets by what became of them, by the names of enum outbound; zeros before the first."""
    totals = np.zeros(len(abi.Outbound), np.uint64)
    with _counters(pins) as fd:
        if fd is not None and _value_size(fd) == abi.OUTBOUND_COUNTERS.itemsize:
            data = bpf.map_lookup(fd, 0, _value_size(fd) * bpf.possible_cpus())
            totals = np.frombuffer(data, "<u8").reshape(-1, len(totals)).sum(axis=0)
    return {outcome.name.lower(): int(totals[outcome]) for outcome in abi.Outbound}


def remove(pins: Path) -> None:
    """Take away what `put` made, whatever the mark was. Fine if nothing is there."""
    for name in _devices(pins):
        _remove(pins, name)
    (_folder(pins) / COUNTERS).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        _folder(pins).rmdir()


def _remove(pins: Path, name: str) -> None:
    mark = _mark(name)
    with IPRoute() as link:
        for family in _families():
            with _step("remove the rule for the mark", errno.ENOENT):
                link.rule("del", family=family, **_rule(mark))
        for index in link.link_lookup(ifname=name):  # its peer, filter and routes go with it
            with _step(f"remove the interface {name}", errno.ENODEV):
                link.link("del", index=index)
    (_folder(pins) / name).unlink(missing_ok=True)
