# SPDX-License-Identifier: Apache-2.0
"""Changes to a running lab: backends come, go and are re-weighted; hosts die and come back.

A change of the desired state is a new topology, of which the directors are told (`desired`). If
they refuse, files, state and network stay. Where the daemon of a director that stands alone does
not run, its file waits for the next start, as on a real machine.

A host that is killed loses what a machine loses with its power: processes, and all that limpet had
in its kernel. `daemon_only` kills just limpet's process, and the kernel goes on forwarding.
"""

from pydantic import JsonValue, ValidationError

from limpet.core.errors import Conflict, NotFound
from limpet.lab import delaying, impairment, namespace, state
from limpet.lab.desired import desire
from limpet.lab.forwarding import Forwarding
from limpet.lab.network import Network, netns_of
from limpet.lab.operations import start_programs, start_service
from limpet.lab.service import HAS_SERVICE, lose_power, remove_host
from limpet.lab.state import State
from limpet.lab.topology import OWNERS, Host, Role, Topology


def add(lab: str, name: str, *, pop: str = "", pooled: bool = True) -> Host:
    """A new backend host in the pool; or back into it, if it was removed with its host kept.

    With `pooled=False` a new host stays out of the pool, as `remove(keep_host=True)` leaves one:
    start what it serves, then add it once more. Without `pop` it stands in the first one.
    """
    with state.locked(lab):
        now = state.read(lab)
        known = next((host for host in now.topology.host if host.name == name), None)
        if known is None:
            return _add_host(now, name, pop, pooled=pooled)
        if known.role is not Role.BACKEND or known.pooled:
            raise Conflict(f"host '{name}' is in lab '{lab}' already")
        host = known.model_copy(update={"pooled": True})
        desire(now, now.topology.with_host(host))
        return host


def weight(lab: str, name: str, value: int) -> Host:
    with state.locked(lab):
        now = state.read(lab)
        host = _pooled_backend(now, name)
        if not 0 <= value <= 65_535:
            raise Conflict(f"weight {value} does not work: use 0 to 65535")
        host = host.model_copy(update={"weight": value})
        desire(now, now.topology.with_host(host))
        return host


def director(lab: str, **options: JsonValue) -> None:
    """Change keys of the [director] table; most are constants of a program, which is replaced."""
    with state.locked(lab):
        now = state.read(lab)
        changed = {**now.topology.director, **options}
        desire(now, now.topology.model_copy(update={"director": changed}))


def pool(lab: str, **options: JsonValue) -> None:
    """Change keys of the [[pool]] table: policy, health, what happens when a backend is down."""
    with state.locked(lab):
        now = state.read(lab)
        changed = {**now.topology.pool, **options}
        desire(now, now.topology.model_copy(update={"pool": changed}))


def remove(lab: str, name: str, *, keep_host: bool) -> None:
    """Out of the pool, and unless it is kept, its host out of the lab."""
    with state.locked(lab):
        now = state.read(lab)
        host = now.topology.find(name)
        if host.pooled or keep_host:
            host = _pooled_backend(now, name)
            gone = host.model_copy(update={"pooled": False})
            now = desire(now, now.topology.with_host(gone))
        if not keep_host:
            _remove_host(now, host)


def kill(lab: str, name: str, *, daemon_only: bool) -> None:
    with state.locked(lab):
        now = state.read(lab)
        host = now.topology.find(name)
        if daemon_only:
            _kill_daemon(now, host)
            return
        namespace.kill_processes(netns_of(lab, host))
        Network(lab, now.topology).take_down(host)
        if host.role in HAS_SERVICE:
            lose_power(netns_of(lab, host))
        state.save(now.changed(killed=now.killed | {name}))


def start(lab: str, name: str) -> None:
    """Bring back what was killed, and wait until it forwards. Fine if all of it runs."""
    with state.locked(lab):
        now = state.read(lab)
        host = now.topology.find(name)
        if name in now.killed:
            now = now.changed(killed=now.killed - {name})
            now = _boot(now, host)
            state.save(now)
        now = start_programs(now, host)
        if host.role in HAS_SERVICE:
            process = now.processes.get(name)
            if process is None or not process.is_alive():
                now = start_service(now, host)
            Forwarding(now, [host]).wait()


# --- Steps --------------------------------------------------------------------------------------


def _boot(now: State, host: Host) -> State:
    """The host's links, addresses and routes again, and its neighbours aware of it."""
    wires = now.topology.wires_of(host)
    if host.role not in OWNERS:
        for router in (wire.near.host for wire in wires):
            if router in now.killed:
                raise Conflict(
                    f"host '{host.name}' has no link while '{router}' is down; start that first"
                )
    network = Network(now.lab, now.topology)
    network.configure(host)
    impairment.apply(now, now)  # what was cut stays cut, and what was slow is slow
    now = delaying.apply(now, now)
    cut = impairment.cut_wires(now.topology, now.impairments)
    network.wait_links(
        wire
        for wire in wires
        if wire not in cut and not any(end.host in now.killed for end in wire.ends())
    )
    return now


def _add_host(now: State, name: str, pop: str, *, pooled: bool) -> Host:
    host = next_backend(now, name, pop).model_copy(update={"pooled": False})
    topology = now.topology.with_host(host)
    # Remembered first, so that a number is not given out again even if this fails.
    used = {
        segment.name: place
        for segment in topology.segment
        if (place := topology.number_on(host, segment)) and host in topology.hosts_on(segment)
    }
    now = now.changed(numbers_used={**now.numbers_used, **used})
    state.save(now)
    try:
        started = _start_backend(now, topology, host)
        if pooled:
            host = host.model_copy(update={"pooled": True})
            desire(started, topology.with_host(host))
        else:
            state.save(started)
    except BaseException:
        remove_host(netns_of(now.lab, host))
        state.save(now)
        raise
    return host


def next_backend(now: State, name: str, pop: str = "") -> Host:
    """A backend on the segment of the PoP's director, with numbers that nobody ever had."""
    topology, used = now.topology, now.numbers_used
    pops = [each.name for each in topology.pop]
    if pop and pop not in pops:
        raise NotFound(f"there is no pop '{pop}' in this lab; there are {', '.join(pops)}")
    director = topology.director_of(pop or pops[0])
    segment, backbone = topology.segment_of(director), topology.backbone
    try:
        return Host(
            name=name,
            role=Role.BACKEND,
            pop=director.pop,
            segment=segment.name,
            number=used[segment.name] + 1,
            backbone=None if backbone is None else used[backbone] + 1,
        )
    except ValidationError as error:
        raise Conflict(
            f"host name '{name}' does not work: use a letter, then up to 14 letters a-z, digits "
            "and hyphens"
        ) from error


def _start_backend(now: State, topology: Topology, host: Host) -> State:
    network = Network(now.lab, topology)
    network.attach(host)
    network.configure(host)
    network.wait_links(topology.wires_of(host))
    now = start_service(now.changed(topology=topology), host)
    Forwarding(now, [host]).wait()
    return now


def _pooled_backend(now: State, name: str) -> Host:
    host = now.topology.find(name)
    if host.role is not Role.BACKEND:
        raise Conflict(f"host '{name}' is a {host.role}, not a backend")
    if not host.pooled:
        raise Conflict(f"backend '{name}' is out of the pool; `limpet lab add {name}` puts it back")
    return host


def _remove_host(now: State, host: Host) -> None:
    process = now.processes.get(host.name)
    if process is not None:
        process.kill()
    remove_host(netns_of(now.lab, host))
    processes = {name: each for name, each in now.processes.items() if name != host.name}
    state.save(
        now.changed(
            topology=now.topology.without_host(host.name),
            processes=processes,
            killed=now.killed - {host.name},
        )
    )


def _kill_daemon(now: State, host: Host) -> None:
    if host.role not in HAS_SERVICE:
        raise Conflict(
            f"no limpet process runs on a {host.role}; kill the whole host '{host.name}'"
        )
    process = now.processes.get(host.name)
    if process is not None:
        process.kill()
