# SPDX-License-Identifier: Apache-2.0
"""What can be done with a lab as a whole: build it, remove it, and say what it is.

`up` either ends with a lab that forwards or leaves nothing: whatever goes wrong, an interrupt
included, undoes everything. `down` trusts neither the state nor the namespaces alone, because
after a crash each may lack what the other has. Not here: changes to a running lab (`changes`).
"""

import contextlib
import secrets
import signal
from collections.abc import Iterator
from typing import Any

from limpet.core.errors import Conflict, LimpetError
from limpet.lab import configuration, desired, folder, namespace, programs, shifting, state
from limpet.lab.forwarding import Forwarding
from limpet.lab.network import Network, netns_of
from limpet.lab.service import HAS_SERVICE, Service, remove_host
from limpet.lab.state import State
from limpet.lab.topology import Host, Topology

SLOT_KEY_BYTES = 16
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(lab: str, topology: Topology) -> State:
    """Build the lab. Raises Conflict if it is there already, ConfigError if it cannot work."""
    topology = topology.with_slot_key(secrets.token_hex(SLOT_KEY_BYTES))
    configuration.check(topology)
    with state.locked(lab, create=True):
        if _is_up(lab):
            raise Conflict(f"lab '{lab}' is up already; `limpet lab down --lab {lab}` removes it")
        _remove_hosts(lab, _recorded(lab))  # leftovers of an `up` that crashed
        _check_free(lab, topology)
        with _undone_on_failure(lab):
            return _build(lab, topology)


def down(lab: str) -> list[str]:
    """Remove the lab, or what is left of it. Names of the namespaces that were removed."""
    with state.locked(lab, create=True), _uninterrupted():
        removed = _remove_hosts(lab, _recorded(lab) | _named(lab))
        state.forget(lab)
    return removed


def status(lab: str) -> dict[str, Any]:
    now = state.read(lab)
    topology = now.topology
    return {
        "lab": lab,
        "topology": topology.name,
        "hosts": [_host_status(now, host) for host in topology.host],
        "vips": [str(vip.address) for vip in topology.vip],
        "pops": [pop.name for pop in topology.pop],
    }


def start_programs(now: State, host: Host) -> State:
    """The state with what runs on the host besides limpet running, and remembered."""
    for program in programs.of(now.lab, now.topology, host):
        known = now.processes.get(program.key)
        if known is None or not known.is_alive():
            now = now.changed(processes={**now.processes, program.key: program.start()})
            state.save(now)
    return now


def start_service(now: State, host: Host) -> State:
    """The state with the daemon or agent of the host running, and remembered."""
    process = Service(now.lab, host).start(now.topology)
    now = now.changed(processes={**now.processes, host.name: process})
    state.save(now)
    return now


# --- Up -----------------------------------------------------------------------------------------


def _is_up(lab: str) -> bool:
    with contextlib.suppress(LimpetError):
        return state.read(lab).phase == "up"
    return False


def _check_free(lab: str, topology: Topology) -> None:
    """Before anything is made, so that undoing a failure never removes what others made."""
    names = [netns_of(lab, host) for host in topology.host]
    taken = [name for name in names if namespace.exists(name)]
    if taken:
        raise Conflict(
            f"namespaces {', '.join(taken)} exist, and no running lab knows them; "
            f"`limpet lab down --lab {lab}` removes them, or use another --name"
        )


def _build(lab: str, topology: Topology) -> State:
    numbers = {
        segment.name: max(
            (topology.number_on(host, segment) or 0 for host in topology.hosts_on(segment)),
            default=0,
        )
        for segment in topology.segment
    }
    now = State(lab=lab, phase="building", topology=topology, numbers_used=numbers)
    state.save(now)
    Network(lab, topology).build()
    desired.make_key(lab, topology)
    for host in topology.host:
        now = start_programs(now, host)
    services = [host for host in topology.host if host.role in HAS_SERVICE]
    for host in services:
        now = start_service(now, host)
    desired.first(now)
    Forwarding(now, services).wait()
    shifting.wait_preferred(now)
    now = now.changed(phase="up")
    state.save(now)
    return now


@contextlib.contextmanager
def _undone_on_failure(lab: str) -> Iterator[None]:
    """Remove everything when the body fails or the command is told to stop."""
    told: list[str] = []

    def stop(number: int, _frame: object) -> None:
        told.append(signal.Signals(number).name)
        raise KeyboardInterrupt(told[-1])

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
        if told:  # what is raised in a destructor is only printed
            raise KeyboardInterrupt(told[-1])
    except BaseException:
        with _uninterrupted():
            _remove_hosts(lab, _recorded(lab))
            state.forget(lab)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Clean up to the end, however often Ctrl-C is pressed."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- Down ---------------------------------------------------------------------------------------


def _remove_hosts(lab: str, names: set[str]) -> list[str]:
    """Processes, pins and namespaces of these names. Fine when nothing is there."""
    with contextlib.suppress(LimpetError):
        for process in state.read(lab).processes.values():
            process.kill()
    present = sorted(name for name in names if namespace.exists(name))
    for name in names:
        remove_host(name)
    return present


def _recorded(lab: str) -> set[str]:
    """Names of all hosts in the state, also of those that have lost, or never got, a namespace."""
    with contextlib.suppress(LimpetError):
        return {netns_of(lab, host) for host in state.read(lab).topology.host}
    return set()


def _named(lab: str) -> set[str]:
    """Namespaces named as this lab's, without those of another lab whose name begins like ours."""
    others = tuple(f"{other}-" for other in folder.labs() if other.startswith(f"{lab}-"))
    return {name for name in namespace.names(f"{lab}-") if not name.startswith(others)}


# --- Status -------------------------------------------------------------------------------------


def _host_status(now: State, host: Host) -> dict[str, Any]:
    addresses = [str(address) for address in now.topology.addresses(host)]
    entry: dict[str, Any] = {
        "name": host.name,
        "role": host.role,
        "pop": host.pop,
        "netns": netns_of(now.lab, host),
        "addresses": [*addresses],
        "state": "killed" if host.name in now.killed else "up",
    }
    if host.role in HAS_SERVICE:
        process = now.processes.get(host.name)
        entry["daemon"] = "up" if process is not None and process.is_alive() else "down"
    if host.role == "backend":
        entry["weight"] = host.weight
        entry["address"] = str(now.topology.backend_address(host))
        if not host.pooled:
            entry["state"] = "removed"
    return entry
