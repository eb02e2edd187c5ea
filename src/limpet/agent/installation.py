# SPDX-License-Identifier: Apache-2.0
"""Installation: everything that an agent has in the kernel, put there and taken away as one.

`apply` is the same path for the first start, a restart, an upgrade and a reload: it loads the
programs anew, and swaps them into attachments that are there. Order is make before break: an
address is there before packets for it are let in, and goes after. What cannot be loaded or attached
leaves things as they were; a first start that fails is undone.

No process is needed for packets to flow afterwards.
"""

import shutil

from limpet.agent import egress, host, ingress, interface, programs, state
from limpet.agent.config import AgentConfig
from limpet.agent.interface import Interface
from limpet.agent.mss import limits
from limpet.agent.programs import Programs
from limpet.agent.state import State
from limpet.core.errors import LimpetError, NotFound
from limpet.core.model import XdpMode
from limpet.datapath import libbpf


def apply(config: AgentConfig) -> State:
    """Make the kernel as the configuration says. The caller holds the lock of this name."""
    found = interface.find(config.interface)
    mtu = config.mtu or found.mtu
    mss = limits(mtu, config.directors)
    libbpf.mount_bpffs()
    pins = programs.folder(config.name)
    loaded = Programs(config, mss, pins / programs.COUNTERS)
    try:
        before = state.load(config.name)
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


def _planned(config: AgentConfig, found: Interface, before: State | None) -> State:
    """The state as it will be, with all that will have been changed."""
    vips = set(config.vips)
    ours = set(before.addresses) if before else set()
    settings = host.read_sysctls(host.wanted_sysctls(found.name))
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
        directors=[str(prefix) for prefix in config.directors],
    )


def _install(config: AgentConfig, found: Interface, now: State, loaded: Programs) -> None:
    pins = programs.folder(config.name)
    state.save(now)
    host.write_sysctls(host.wanted_sysctls(found.name))
    host.add(vip for vip in config.vips if vip in now.addresses)
    now.made_qdisc = egress.attach(found.index, loaded.egress) or now.made_qdisc
    state.save(now)
    pins.mkdir(parents=True, exist_ok=True)
    now.xdp = _attach(found, now, loaded, XdpMode(config.xdp))
    loaded.pin(pins)
    leaving = [address for address in now.addresses if address not in config.vips]
    host.remove(leaving)
    now.addresses = [address for address in now.addresses if address in config.vips]
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
    shutil.rmtree(pins, ignore_errors=True)
    state.forget(name)


def _remove(known: State) -> None:
    pins = programs.folder(known.name)
    ingress.detach(pins)
    egress.detach(known.ifindex, with_qdisc=known.made_qdisc)
    host.remove(known.addresses)
    host.restore_sysctls(known.interface, known.sysctls)
    shutil.rmtree(pins, ignore_errors=True)
    state.forget(known.name)
