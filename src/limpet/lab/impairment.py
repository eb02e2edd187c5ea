# SPDX-License-Identifier: Apache-2.0
"""Links that are cut, lossy or slow: which there are, and how the kernel is told of the first two.

Between A and B, each a host, a router, a segment or a PoP. Where one is on a link of its own to the
other (a host and its segment, two routers), a cut takes the link down, and both see that. Between
hosts on one segment, or PoPs on the backbone, frames are dropped in silence, as by a switch on the
way. The rules of a host are rendered from all impairments at once and replaced in one transaction.
Not here: what makes a link slow (`delaying`).
"""

import subprocess
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from limpet.core.errors import Conflict, LimpetError, NotFound, Unsupported
from limpet.lab import namespace
from limpet.lab.folder import netns_of
from limpet.lab.network import Network
from limpet.lab.topology import Segment, Topology, Wire

if TYPE_CHECKING:
    from limpet.lab.state import State

TABLE = "limpet_lab"
LOSS_STEPS = 1_000_000
DELAY_MAX_MS = 10_000
NFT_WAIT_S = 10.0


class Impairment(BaseModel):
    """What is wrong between two places of the lab."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: str
    b: str
    cut: bool = False
    loss_percent: float = Field(default=0.0, ge=0, le=100)
    delay_ms: float = Field(default=0.0, ge=0, le=DELAY_MAX_MS)  # each way

    def is_between(self, a: str, b: str) -> bool:
        return {self.a, self.b} == {a, b}

    @property
    def is_nothing(self) -> bool:
        return not self.drops and not self.delay_ms

    @property
    def drops(self) -> bool:
        return self.cut or bool(self.loss_percent)


@dataclass(frozen=True, slots=True)
class Groups:
    """Hosts on one segment, on the two sides of an impairment."""

    segment: Segment
    a: tuple[str, ...]
    b: tuple[str, ...]


def places(topology: Topology, a: str, b: str) -> list[Wire | Groups]:
    """What lies between A and B. Raises NotFound for an unknown one, Conflict if nothing does."""
    for name in (a, b):
        _check_known(topology, name)
    wires = [wire for wire in topology.wires() if _joins(wire, a, b) or _joins(wire, b, a)]
    if wires:
        return list(wires)
    found: list[Wire | Groups] = []
    for segment in topology.segment:
        sides = _sides(topology, segment, a, b)
        if segment.kind == "bridge" and all(sides):
            found.append(Groups(segment, *sides))
    if not found:
        raise Conflict(f"'{a}' and '{b}' have neither a link nor a segment in common")
    return found


def cut_wires(topology: Topology, impairments: tuple[Impairment, ...]) -> list[Wire]:
    return [
        place
        for each in impairments
        if each.cut
        for place in places(topology, each.a, each.b)
        if isinstance(place, Wire)
    ]


def apply(before: "State", now: "State") -> None:
    """Make the kernels of all hosts concerned do what `now` says, and no more what `before` did."""
    network = Network(now.lab, now.topology)
    was, cut = (cut_wires(each.topology, each.impairments) for each in (before, now))
    for wire in was:
        if wire not in cut:
            network.set_link(wire, is_up=True)
    for wire in cut:
        network.set_link(wire, is_up=False)
    scripts = rules(now.topology, now.impairments)
    for host in sorted({*rules(before.topology, before.impairments), *scripts}):
        _load(netns_of(now.lab, host), scripts.get(host, _nothing()))


def rules(topology: Topology, impairments: tuple[Impairment, ...]) -> dict[str, str]:
    """By host, a script for nft that replaces all of the lab's rules there."""
    lines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in (each for each in impairments if each.drops):
        for place in places(topology, each.a, each.b):
            if isinstance(place, Groups):
                _between(lines[topology.owner(place.segment).name], place, _verdict(each))
            elif each.loss_percent:
                _on_wire(lines, place, _verdict(each))
    return {host: _script(chains) for host, chains in lines.items()}


# --- Steps --------------------------------------------------------------------------------------


def _check_known(topology: Topology, name: str) -> None:
    known = [host.name for host in topology.host]
    known += [segment.name for segment in topology.segment]
    known += [pop.name for pop in topology.pop]
    if name not in known:
        raise NotFound(
            f"there is no '{name}' in this lab; there are {', '.join(dict.fromkeys(known))}"
        )


def _joins(wire: Wire, a: str, b: str) -> bool:
    """B's own link to A: to its segment, to the router of that, or to another router."""
    places = {wire.near.host} | ({wire.segment.name} if wire.segment else set())
    return wire.far.host == b and a in places


def _sides(
    topology: Topology, segment: Segment, a: str, b: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    hosts = topology.hosts_on(segment)
    sides = [tuple(host.name for host in hosts if name in (host.name, host.pop)) for name in (a, b)]
    for own, other in ((0, 1), (1, 0)):
        if (a, b)[own] == segment.name and not sides[own]:
            sides[own] = tuple(host.name for host in hosts if host.name not in sides[other])
    return sides[0], sides[1]


def _verdict(impairment: Impairment) -> str:
    if impairment.cut:
        return "drop"
    return (
        f"numgen random mod {LOSS_STEPS} < {round(impairment.loss_percent * LOSS_STEPS / 100)} drop"
    )


def _between(chains: dict[str, list[str]], groups: Groups, verdict: str) -> None:
    a, b = (f"{{ {', '.join(side)} }}" for side in (groups.a, groups.b))
    for here, there in ((a, b), (b, a)):
        chains["bridge forward"].append(f"iifname {here} oifname {there} {verdict}")


def _on_wire(lines: dict[str, dict[str, list[str]]], wire: Wire, verdict: str) -> None:
    if wire.segment is not None and wire.segment.kind == "bridge":
        port = wire.near.interface
        lines[wire.near.host]["bridge prerouting"].append(f"iifname {port} {verdict}")
        lines[wire.near.host]["bridge postrouting"].append(f"oifname {port} {verdict}")
        return
    for end in wire.ends():
        lines[end.host]["inet prerouting"].append(f"iifname {end.interface} {verdict}")


def _nothing() -> str:
    return "".join(
        f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in ("bridge", "inet")
    )


def _script(chains: dict[str, list[str]]) -> str:
    text = _nothing()
    for place, lines in chains.items():
        family, hook = place.split()
        body = "".join(f"    {line}\n" for line in lines)
        text += (
            f"table {family} {TABLE} {{\n  chain {hook} {{\n"
            f"    type filter hook {hook} priority 0; policy accept;\n{body}  }}\n}}\n"
        )
    return text


def _load(netns: str, script: str) -> None:
    with namespace.inside(netns):
        try:
            done = subprocess.run(
                ["nft", "-f", "-"], input=script, capture_output=True, text=True, timeout=NFT_WAIT_S
            )
        except FileNotFoundError as error:
            raise Unsupported("there is no nft on this machine: run tools/setup.sh") from error
    if done.returncode:
        raise LimpetError(f"nft in {netns} refused the rules: {done.stderr.strip()}")
