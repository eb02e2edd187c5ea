# SPDX-License-Identifier: Apache-2.0
"""Links that are slow: which frames are delayed where, and the processes that do it.

On the way between two places every frame is delayed once in each direction, at the host that the
segment belongs to, or at one end of a link. Several delays on one way add up. Such a host has one
`relay`; it is replaced when something changes there, and ends when nothing is slow any more.
"""

import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.lab import folder, impairment
from limpet.lab.network import mac_of, netns_of
from limpet.lab.process import Process
from limpet.lab.programs import Program
from limpet.lab.relay import Hook, Way
from limpet.lab.topology import Host, Segment, Topology, Wire

if TYPE_CHECKING:
    from limpet.lab.impairment import Impairment
    from limpet.lab.state import State

END_WAIT_S = 3.0  # besides the delay itself

Place = tuple[str, str, bool]  # host, interface, whether frames leave by it


def hooks(topology: Topology, impairments: Iterable["Impairment"]) -> dict[str, tuple[Hook, ...]]:
    """By host, what its relay is to do."""
    found: dict[Place, list[Way]] = defaultdict(list)
    for each in impairments:
        if each.delay_ms:
            for place in impairment.places(topology, each.a, each.b):
                for where, way in _ways(topology, place, each.delay_ms):
                    found[where].append(way)
    by_host: dict[str, list[Hook]] = defaultdict(list)
    for (host, interface, leaves), ways in sorted(found.items()):
        by_host[host].append(Hook(interface=interface, leaves=leaves, ways=tuple(ways)))
    return {host: tuple(each) for host, each in by_host.items()}


def apply(before: "State", now: "State") -> "State":
    """Have the relays of all hosts concerned do what `now` says; the state with their processes."""
    was, wanted = (hooks(each.topology, each.impairments) for each in (before, now))
    processes = dict(now.processes)
    for name in sorted({*was, *wanted}):
        key = f"{name}/delay"
        running = processes.get(key)
        is_alive = running is not None and running.is_alive()
        if is_alive and was.get(name) == wanted.get(name):
            continue
        if running is not None:
            _end(running, was.get(name, ()))
            del processes[key]
        if name in wanted and name not in now.killed:
            host = now.topology.find(name)
            processes[key] = _relay(now.lab, host, wanted[name]).start()
    return now.changed(processes=processes)


# --- Steps --------------------------------------------------------------------------------------


def _ways(
    topology: Topology, place: "Wire | impairment.Groups", delay_ms: float
) -> Iterable[tuple[Place, Way]]:
    if isinstance(place, Wire):
        for leaves in (False, True):
            yield (place.near.host, place.near.interface, leaves), Way(delay_ms=delay_ms)
        return
    owner = topology.owner(place.segment).name
    for here, there in ((place.a, place.b), (place.b, place.a)):
        way = Way(delay_ms=delay_ms, peers=tuple(_macs(topology, place.segment, there)))
        for port in here:
            yield (owner, port, False), way


def _macs(topology: Topology, segment: Segment, hosts: tuple[str, ...]) -> Iterable[str]:
    for wire in topology.wires():
        if wire.segment == segment and wire.far.host in hosts:
            yield mac_of(topology, wire, wire.far)


def _relay(lab: str, host: Host, wanted: tuple[Hook, ...]) -> Program:
    file, ready = (folder.of(lab) / f"{host.name}.delay.{kind}" for kind in ("json", "ready"))
    return Program(
        key=f"{host.name}/delay",
        netns=netns_of(lab, host),
        argv=(sys.executable, "-m", "limpet.lab.relay", str(file), str(ready)),
        files=((file, json.dumps([hook.model_dump() for hook in wanted], indent=1)),),
        log=folder.of(lab) / f"{host.name}.delay.log",
        ready=ready,
    )


def _end(process: Process, known: tuple[Hook, ...]) -> None:
    """Frames that wait still come through."""
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    longest_s = sum(way.delay_ms for hook in known for way in hook.ways) / 1_000
    deadline = time.monotonic() + longest_s + END_WAIT_S
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
