# SPDX-License-Identifier: Apache-2.0
"""BGP shifts: which PoP a client's packets go to, changed at the router that it is linked to.

A shift has happened when the kernels on the way say so, for every VIP that somebody serves; what
BGP intends does not count. One that does not come about is taken back, and raises.
"""

import time
from dataclasses import dataclass

from limpet.core.errors import Conflict
from limpet.core.model import Address
from limpet.lab import delaying, impairment, programs, state
from limpet.lab.impairment import Impairment
from limpet.lab.paths import Destination, Path, destination, walk
from limpet.lab.state import State
from limpet.lab.topology import Host, Role

SHIFT_WAIT_S = 10.0
CONVERGENCE_WAIT_S = 30.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Flapping:
    """How often the path has changed, and how often it was to."""

    asked: int
    seen: int


def shift(lab: str, client: str, pop: str) -> float:
    """Seconds until all of the client's packets to VIPs go to the PoP. A VIP that no director gets
    packets to, seen from the client and from the PoP, is not waited for."""
    with state.locked(lab):
        return _shift(state.read(lab), client, pop)


def flap(lab: str, client: str, every_s: float, for_s: float) -> Flapping:
    """To the next PoP and back, again and again; in the end it is where it was."""
    with state.locked(lab):
        now = state.read(lab)
        router = provider(now, client)
        home = router.prefers or now.topology.pop[0].name
        other = next(pop.name for pop in now.topology.pop if pop.name != home)
        vips = _served(now, client, other)
        begun, asked, seen = time.monotonic(), 0, 0
        while (at := begun + asked * every_s) < begun + for_s:
            time.sleep(max(at - time.monotonic(), 0))
            target = other if asked % 2 == 0 else home
            _prefer(now, router, target)
            asked += 1
            seen += _is_there(now, client, target, begun + asked * every_s, vips)
        _shift(now, client, home)
    return Flapping(asked, seen)


def path(lab: str, client: str, vip: str, source: str = "") -> list[Destination]:
    """Where packets of the client to the VIP end; `vip` empty: of each VIP."""
    now = state.read(lab)
    host = _client(now, client)
    found = []
    for each in (entry.address for entry in now.topology.vip):
        if vip not in ("", str(each)):
            continue
        addresses = [a for a in now.topology.addresses(host) if a.version == each.version]
        chosen = [a for a in addresses if source in ("", str(a))]
        if chosen:
            found.append(destination(now, host, each, chosen[0]))
    if not found:
        raise Conflict(f"'{source or client}' speaks to no VIP '{vip}' of this lab")
    return found


def wait_there(lab: str, client: str, pop: str) -> float:
    """Seconds until all of the client's packets to VIPs go to the PoP, by whatever has happened."""
    now, begun = state.read(lab), time.monotonic()
    if not _is_there(now, client, pop, begun + SHIFT_WAIT_S):
        raise Conflict(f"packets of {client} do not come to {pop}: {_says(now, client)}")
    return time.monotonic() - begun


def impair(lab: str, wanted: Impairment) -> None:
    """In place of what was wrong between these two; with nothing wrong it is healed."""
    with state.locked(lab):
        _impair(state.read(lab), wanted)


def worsen(lab: str, a: str, b: str, **changed: object) -> None:
    """Besides what else is wrong between these two: `cut=True`, `loss_percent=1`, `delay_ms=0`."""
    with state.locked(lab):
        before = state.read(lab)
        known = [each for each in before.impairments if each.is_between(a, b)]
        fields = known[0].model_dump() if known else {"a": a, "b": b}
        _impair(before, Impairment.model_validate({**fields, **changed}))


def wait_preferred(now: State) -> None:
    """Until every client's packets go where its router prefers. Only with an internet."""
    if now.topology.internet is None or now.topology.may_announce_nothing():
        return
    for client in now.topology.hosts(Role.CLIENT):
        pop = provider(now, client.name).prefers
        deadline = time.monotonic() + CONVERGENCE_WAIT_S
        if pop is not None and not _is_there(now, client.name, pop, deadline):
            raise Conflict(f"BGP does not converge: {_says(now, client.name)}")


def provider(now: State, client: str) -> Host:
    """The router that the client is linked to."""
    host = _client(now, client)
    if now.topology.internet is None:
        raise Conflict(f"lab '{now.lab}' has one PoP; `limpet lab up two-pop` builds one with more")
    return now.topology.owner(now.topology.segment_of(host))


# --- Steps --------------------------------------------------------------------------------------


def _impair(before: State, wanted: Impairment) -> None:
    impairment.places(before.topology, wanted.a, wanted.b)
    others = [each for each in before.impairments if not each.is_between(wanted.a, wanted.b)]
    if wanted.is_nothing and len(others) == len(before.impairments):
        raise Conflict(f"nothing is wrong between '{wanted.a}' and '{wanted.b}'")
    kept = others if wanted.is_nothing else [*others, wanted]
    now = before.changed(impairments=tuple(kept))
    impairment.apply(before, now)
    state.save(delaying.apply(before, now))


def _client(now: State, name: str) -> Host:
    host = now.topology.find(name)
    if host.role is not Role.CLIENT:
        raise Conflict(f"host '{name}' is a {host.role}, not a client")
    return host


def _shift(now: State, client: str, pop: str) -> float:
    router, begun = provider(now, client), time.monotonic()
    if pop not in (known := [each.name for each in now.topology.pop]):
        raise Conflict(f"there is no pop '{pop}' in this lab; there are {', '.join(known)}")
    vips = _served(now, client, pop)
    then = _prefer(now, router, pop)
    if not _is_there(now, client, pop, begun + SHIFT_WAIT_S, vips):
        said = _says(now, client)
        _prefer(then, router, router.prefers)
        raise Conflict(
            f"packets of {client} do not come to {pop} within {SHIFT_WAIT_S:.0f} s: {said}; "
            "does it announce the VIPs? The preference is as before"
        )
    return time.monotonic() - begun


def _prefer(now: State, router: Host, pop: str | None) -> State:
    router = router.model_copy(update={"prefers": pop})
    now = now.changed(topology=now.topology.with_host(router))
    programs.prefer(now.lab, now.topology, router)
    state.save(now)
    return now


def _vips(now: State) -> list[Address]:
    return [entry.address for entry in now.topology.vip]


def _served(now: State, client: str, pop: str) -> list[Address]:
    """VIPs that some director gets packets to, from the client or from the PoP's border; all, if
    there is none."""
    ends = now.topology.find(client), now.topology.border_of(pop)
    served = [vip for vip in _vips(now) if any(not walk(now, end, vip).why for end in ends)]
    return served or _vips(now)


def _is_there(
    now: State, client: str, pop: str, deadline: float, vips: list[Address] | None = None
) -> bool:
    """Looks again and again until the deadline; without `vips` at all of them."""
    host = now.topology.find(client)
    for vip in _vips(now) if vips is None else vips:
        while walk(now, host, vip).pop != pop:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
    return True


def _says(now: State, client: str) -> str:
    host = now.topology.find(client)
    paths = {str(each.address): walk(now, host, each.address) for each in now.topology.vip}
    return "; ".join(f"{vip}: {_shown(path)}" for vip, path in paths.items())


def _shown(path: Path) -> str:
    return " - ".join(path.hops) + (f" ({path.why})" if path.why else "")
