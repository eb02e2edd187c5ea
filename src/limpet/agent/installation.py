# SPDX-License-Identifier: Apache-2.0
"""Installation: everything that an agent has in the kernel, put there and taken away as one.

`apply` is the same path for the first start, a restart, an upgrade and a reload: it loads the
programs anew, and swaps them into attachments that are there. Order is make before break: an
address is there before packets for it are let in, and goes after. What cannot be loaded or attached
leaves things as they were; a first start that fails is undone.

No process is needed for packets to flow afterwards.
"""

import json

from limpet.agent import egress, host, ingress, interface, programs, state, way
from limpet.agent.config import AgentConfig, Config, ExitConfig
from limpet.agent.interface import Interface
from limpet.agent.mss import Limits, limits
from limpet.agent.programs import Programs, Replies
from limpet.agent.state import State
from limpet.core.errors import LimpetError, NotFound
from limpet.core.model import XdpMode
from limpet.datapath import bpf
from limpet.datapath.pins import make
from limpet.datapath.pins import remove as remove_pins


def apply(config: Config) -> State:
    """Make the kernel as the configuration says. The caller holds the lock of this name."""
    found = interface.find(config.interface)
    if isinstance(config, ExitConfig):
        host.check_forwarding(found.name, {vip.version for vip in config.vips})
    mtu, mss = _sizes(config, found)
    bpf.mount_bpffs()
    before = state.load(config.name)
    loaded = Programs(
        config,
        mss,
        programs.folder(config.name) / programs.COUNTERS,
        _replies(config, found, mtu, before),
    )
    try:
        if before and (before.interface, before.ifindex) != (found.name, found.index):
            _remove(before)
            before = None
        now = _planned(config, found, before)
        now.mtu, now.mss4, now.mss6 = mtu, mss.mss4, mss.mss6
        try:
            _install(config, found, now, loaded)
        except BaseException:
            if before is None:
                _remove(now)
            raise
    finally:
        loaded.close()
    return now


def _sizes(config: Config, found: Interface) -> tuple[int, Limits]:
    if isinstance(config, ExitConfig):
        return found.mtu, Limits(0, 0)
    mtu = config.mtu or found.mtu
    return mtu, limits(mtu, config.sources())


def _replies(config: Config, found: Interface, mtu: int, before: State | None) -> Replies:
    """Raises Unsupported if replies cannot leave as the configuration says."""
    if isinstance(config, ExitConfig) or not config.exits:
        return Replies()
    way.largest(config, mtu)
    is_known = before is not None and before.ways == _ways(config)
    known = programs.folder(config.name) if is_known else None
    return Replies(way.exits(config, found), known)


def _planned(config: Config, found: Interface, before: State | None) -> State:
    """The state as it will be, with all that will have been changed."""
    is_exit = isinstance(config, ExitConfig)
    vips = set() if is_exit else set(config.vips)
    ours = set(before.addresses) if before else set()
    settings = host.read_sysctls(host.wanted_sysctls(found.name, has_vips=not is_exit))
    return State(
        name=config.name,
        namespace=state.namespace(),
        interface=found.name,
        ifindex=found.index,
        xdp=before.xdp if before else None,
        made_qdisc=before.made_qdisc if before else False,
        addresses=sorted(
            ours | (vips - host.present()), key=lambda address: (address.version, int(address))
        ),
        sysctls=settings | (before.sysctls if before else {}),
        vips=list(config.vips),
        directors=[str(prefix) for prefix in config.sources()],
        is_exit=is_exit,
        exits=_exits(config),
        ways=_ways(config),
    )


def _exits(config: Config) -> list[str]:
    return [] if isinstance(config, ExitConfig) else [str(each.address) for each in config.exits]


def _ways(config: Config) -> str:
    """As long as this is the same, what the kernel knows of clients' ways means the same."""
    exits = _exits(config)
    return json.dumps([exits, [str(vip) for vip in config.vips]]) if exits else ""


def _install(config: Config, found: Interface, now: State, loaded: Programs) -> None:
    pins = programs.folder(config.name)
    state.save(now)
    host.write_sysctls(host.wanted_sysctls(found.name, has_vips=not now.is_exit))
    host.add(vip for vip in config.vips if vip in now.addresses)
    if now.is_exit:
        egress.detach(found.index, with_qdisc=now.made_qdisc)
    else:
        now.made_qdisc = egress.attach(found.index, loaded.egress) or now.made_qdisc
    state.save(now)
    make(pins)
    now.xdp = _attach(found, now, loaded, XdpMode(config.xdp))
    loaded.pin(pins)
    if isinstance(config, AgentConfig) and config.exits:
        way.put(now.name, loaded.reply, config.vips, way.largest(config, now.mtu))
    else:
        way.remove(now.name)
    kept = [] if now.is_exit else config.vips
    host.remove(address for address in now.addresses if address not in kept)
    now.addresses = [address for address in now.addresses if address in kept]
    state.save(now)


def _attach(found: Interface, now: State, loaded: Programs, wanted: XdpMode) -> XdpMode:
    """Swap the program in place, or attach it anew; the mode it runs in."""
    pins, before = programs.folder(now.name), now.xdp
    is_attached = before is not None and ingress.attached_to(pins) == found.index
    if before is not None and is_attached and wanted in (XdpMode.AUTO, before):
        ingress.replace(pins, loaded.ingress)
        return before
    # Two modes exclude each other, so here packets meet no program for a moment.
    ingress.detach(pins)
    try:
        return ingress.attach(pins, loaded.ingress, found, wanted)
    except LimpetError:
        if before is not None and is_attached:
            ingress.attach(pins, loaded.ingress, found, before)
        raise


def remove(name: str) -> None:
    """Take away all that the agent of this name has put there. The caller holds the lock."""
    known = state.load(name)
    pins = programs.folder(name)
    if known is None and not pins.exists():
        raise NotFound(f"there is no agent {name!r} here: nothing is pinned in {pins}")
    if known is not None:
        _remove(known)
    ingress.detach(pins)
    remove_pins(pins)
    state.forget(name)


def _remove(known: State) -> None:
    pins = programs.folder(known.name)
    way.remove(known.name)
    ingress.detach(pins)
    egress.detach(known.ifindex, with_qdisc=known.made_qdisc)
    host.remove(known.addresses)
    host.restore_sysctls(known.interface, known.sysctls)
    remove_pins(pins)
    state.forget(known.name)
