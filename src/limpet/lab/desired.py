# SPDX-License-Identifier: Apache-2.0
"""The desired state of a lab, and how its directors are told of a change.

Directors that stand alone get a file each, and acknowledge it. A cluster gets one document, which
any running member takes; the members' own files are written too, and acknowledged where they
changed. If a change is refused, the old files, state and network stay.
"""

import secrets
import time
from pathlib import Path

from limpet.core.errors import Conflict, LimpetError
from limpet.lab import configuration, folder, programs, state
from limpet.lab.service import Service
from limpet.lab.state import State
from limpet.lab.topology import Host, Role, Topology

KEY_BYTES = 32
EFFECT_WAIT_S = 15.0
FIRST_WAIT_S = 30.0  # for the store's servers to find each other, and directors to find them


def desire(now: State, topology: Topology) -> State:
    """Make this the desired state: the directors' files, acknowledged; then the lab's own."""
    for host in topology.hosts(Role.DIRECTOR):
        _give_file(now, topology, host)
    if topology.cluster is not None:
        _apply(now, topology)
    now = now.changed(topology=topology)
    state.save(now)
    return now


def make_key(lab: str, topology: Topology) -> None:
    """The secret of the cluster, before its members start."""
    if topology.cluster is None:
        return
    path = Path(programs.membership(lab, topology).key_file)
    path.touch(mode=0o600)
    path.write_bytes(secrets.token_bytes(KEY_BYTES))


def first(now: State) -> None:
    """Give a new cluster its first document, as soon as a member can take it."""
    if now.topology.cluster is None:
        return
    deadline = time.monotonic() + FIRST_WAIT_S
    while True:
        try:
            _apply(now, now.topology)
            return
        except LimpetError:
            for host in now.topology.hosts(Role.DIRECTOR):
                if not _runs(now, host):
                    raise Service(now.lab, host).died() from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


# --- Steps --------------------------------------------------------------------------------------


def _give_file(now: State, topology: Topology, host: Host) -> None:
    service = Service(now.lab, host)
    if topology.cluster is not None and service.text(topology) == service.config.read_text():
        return
    if _runs(now, host):
        service.reload(topology)
    else:
        service.config.write_text(service.text(topology))


def _apply(now: State, topology: Topology) -> None:
    path = folder.of(now.lab) / "shared.toml"
    fresh = path.with_suffix(".new.toml")
    fresh.write_text(configuration.shared_file(topology))
    members = [host for host in topology.hosts(Role.DIRECTOR) if _runs(now, host)]
    listening = [host for host in members if Service(now.lab, host).is_listening()]
    if not listening:
        raise Conflict("no director runs that could take the change; `limpet lab start` one first")
    refusal: LimpetError | None = None
    for host in listening:
        try:
            revision = Service(now.lab, host).apply(fresh)
            fresh.replace(path)
            _wait_effect(now, listening, revision)
            return
        except LimpetError as error:
            refusal = error
    assert refusal is not None
    raise refusal


def _wait_effect(now: State, members: list[Host], revision: int) -> None:
    """Until all that run have it. While something is cut, one may not hear of it for long."""
    deadline = time.monotonic() + (EFFECT_WAIT_S if not now.impairments else 0.0)
    for host in members:
        while not Service(now.lab, host).runs(revision) and time.monotonic() < deadline:
            time.sleep(0.05)


def _runs(now: State, host: Host) -> bool:
    process = now.processes.get(host.name)
    return process is not None and process.is_alive()
