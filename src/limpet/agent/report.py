# SPDX-License-Identifier: Apache-2.0
"""Report: what an agent has in the kernel and what it counted, for people and programs.

Read from the kernel itself and from the state file, not from the process, which may not run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from limpet.agent import counters, egress, host, ingress, programs, state, way
from limpet.core.errors import NotFound
from limpet.core.model import Address
from limpet.datapath import abi, bpf


@dataclass(frozen=True, slots=True)
class Report:
    """One reading."""

    name: str
    interface: str
    mode: str
    ingress: bool  # the XDP program is attached
    egress: bool  # the MSS clamp is attached
    program: str  # the kernel's digest of the XDP program
    clamp: str  # and of the tc program
    vips: dict[Address, bool]  # VIP -> is an address of this machine
    directors: list[str]
    mss4: int
    mss6: int
    is_exit: bool
    exits: list[str]  # addresses by which replies may leave; none: directly
    way: list[str]  # what is missing of the way to them
    counters: dict[str, int]

    def problems(self) -> list[str]:
        """What should be there and is not; `limpet agent run` mends it."""
        wrong = (vip for vip, is_present in self.vips.items() if is_present == self.is_exit)
        is_not = "is" if self.is_exit else "is not"
        found = [f"{vip} {is_not} an address of this machine" for vip in wrong]
        if not self.ingress:
            found.append(f"no XDP program of this agent is on {self.interface}")
        if not self.egress and not self.is_exit:
            found.append(f"the MSS clamp is not on {self.interface}")
        return found + self.way

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "name": self.name,
            "interface": self.interface,
            "xdp": {"mode": self.mode, "attached": self.ingress, "program": self.program},
            "mss": {
                "attached": self.egress,
                "program": self.clamp,
                "ipv4": self.mss4,
                "ipv6": self.mss6,
            },
            "vips": [{"address": str(vip), "present": ok} for vip, ok in self.vips.items()],
            "directors": list(self.directors),
            "role": "exit" if self.is_exit else "backend",
            "exits": list(self.exits),
            "counters": dict(self.counters),
            "problems": list(self.problems()),
        }


def meaning(counter: str) -> tuple[str, str]:
    """What a counter counts, and how to take it: normal, watch or alarm."""
    return abi.MEANINGS["agent_verdict"][counter.upper()]


def read(name: str) -> Report:
    """Raises NotFound if this machine has no agent of that name."""
    known = state.load(name)
    pins = programs.folder(name)
    if known is None and pins.exists():
        raise NotFound(
            f"agent {name!r} is pinned in {pins}, but not by this network namespace: ask where it "
            f"runs (`limpet lab exec HOST -- limpet agent show {name}` in a lab)"
        )
    if known is None or not (pins / programs.COUNTERS).exists():
        raise NotFound(f"there is no agent {name!r} here: nothing is pinned in {pins}")
    addresses = host.present()
    return Report(
        name=name,
        interface=known.interface,
        mode=known.xdp.value if known.xdp else "none",
        ingress=ingress.attached_to(pins) == known.ifindex,
        egress=egress.is_attached(known.ifindex),
        program=_tag(pins / programs.INGRESS),
        clamp=_tag(pins / programs.EGRESS),
        vips={vip: vip in addresses for vip in known.vips},
        directors=known.directors,
        mss4=known.mss4,
        mss6=known.mss6,
        is_exit=known.is_exit,
        exits=known.exits,
        way=way.missing(name, known.vips) if known.exits else [],
        counters=_counters(pins / programs.COUNTERS),
    )


def _tag(pin: Path) -> str:
    fd = bpf.get(pin)
    try:
        return bpf.program_tag(fd)
    finally:
        os.close(fd)


def _counters(pin: Path) -> dict[str, int]:
    fd = bpf.get(pin)
    try:
        return counters.read(fd)
    finally:
        os.close(fd)
