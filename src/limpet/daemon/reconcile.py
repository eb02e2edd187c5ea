# SPDX-License-Identifier: Apache-2.0
"""Reconcile: one pass from what is desired to what the kernel holds. Nothing else writes it.

A pass reads the facts (links, routes, neighbours, health, on a full pass also which backends live
flows and sessions name), weighs them with file and intents, plans, and writes the difference to
what it observes. The first pass after a start, a reload, a drain, a backend that fell ill and the
repair of drift are the same pass.

The order is what makes it safe. All that can be refused is refused before anything is written.
Intents and registry are on the disk before the kernel does anything by them. Maps are filled before
the program is attached for the first time; on a restart it is attached already, and swapped.

Used by one thread; `now` is a value that others may read at any time. Not here: when a pass runs
(daemon/pacing.py), and what commands make of intents (daemon/intents.py).
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog

from limpet.api.interface import Json
from limpet.api.problem import Stale
from limpet.core.agreement import Agreement
from limpet.core.diff import Changes, diff
from limpet.core.errors import DatapathError, LimpetError
from limpet.core.health import Health
from limpet.core.intent import Intents
from limpet.core.local_table import LocalTable, Surroundings, member
from limpet.core.model import (
    Address,
    BackendId,
    Desired,
    Encapsulation,
    Image,
    NextHop,
    PoolId,
)
from limpet.core.plan import addresses, agree, image, plan
from limpet.core.registry import Registry, VipKey
from limpet.core.summary import Summary, summary
from limpet.daemon import admission, attaching, condition, recollection
from limpet.daemon import effect as effects
from limpet.daemon import links as links_of
from limpet.daemon.agreed import Agreed
from limpet.daemon.answer import told
from limpet.daemon.effect import Effect, Key
from limpet.daemon.intents import Change
from limpet.daemon.links import Links
from limpet.daemon.nexthop import UNKNOWN, NextHops
from limpet.datapath import clock, outbound, settings
from limpet.datapath.kernel import Kernel
from limpet.datapath.settings import Machine
from limpet.store.revisions import Revision
from limpet.store.state import State

KEY_BYTES = 16
RESOLVE_WAIT_S = 0.5  # at start, for neighbours to answer: until then packets take the slow way
RESOLVE_POLL_S = 0.02
TO_HOOKS = {"drained"}  # events that the operator's hooks are told
ChangeOf = Callable[[Desired, Intents], Change]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Now:
    """What the last good pass reached. Read by everybody, replaced as a whole."""

    desired: Desired
    registry: Registry
    image: Image
    machine: Machine
    links: Links
    gateways: Mapping[Address, Address | None]
    missing: tuple[str, ...]  # wanted interfaces that do not exist
    flow_buckets: int
    effect: Effect
    tables: Mapping[PoolId, LocalTable] = field(default_factory=dict)  # of a member


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did."""

    summary: Summary
    writes: int  # rows put or removed
    program_loaded: bool
    duration_s: float
    revision: int = 0  # of the intents that are in effect
    events: tuple[Json, ...] = ()  # what happened, for those who listen


class Reconciler:
    """One director's desired state, and its kernel."""

    def __init__(
        self,
        kernel: Kernel,
        state: State,
        next_hops: NextHops,
        pins: Path,
    ) -> None:
        self._kernel, self._state, self._pins = kernel, state, pins
        self.next_hops = next_hops
        self.health: Callable[[], Mapping[Key, Health]] = dict  # of the checks, when they run
        self._registry = state.load()
        self._intents = state.intents()
        self._flow_key = state.secret("flow_key", KEY_BYTES)
        self._loaded: bytes | None = None  # constants of the program
        self.loading = threading.Lock()  # not while the sweeper of before runs
        self._outbound: object = None  # what the way of our own packets was made for
        self.outbound_error = ""
        self.health_changes: Counter[Key] = Counter()
        self.file_digest = ""  # of the configuration file; goes into the history
        self.split_flows: Mapping[VipKey, int] = {}  # where it is not the number in the file
        self.agreed: Agreed | None = None  # of a member of a cluster: what all of them run
        self.reached: Callable[[], None] = lambda: None  # after each pass, in its thread
        self.around: Callable[[], Surroundings] = Surroundings  # and what else it sees
        self.in_use: tuple[int, frozenset[int]] = (
            0,
            frozenset(),
        )  # generation, ids at the last look
        self.now: Now | None = None

    @property
    def until(self) -> float | None:
        """When what is in effect changes by itself, Unix time."""
        return None if self.now is None else self.now.effect.until

    def complete(self, desired: Desired) -> Desired:
        """With the slot key that was made on the first start, where the file has none."""
        if self.agreed is not None:
            key = self.agreed.agreement.slot_key
            return replace(desired, director=replace(desired.director, slot_key=key))
        if desired.director.slot_key:
            return desired
        key = self._state.secret("slot_key", KEY_BYTES)
        return replace(desired, director=replace(desired.director, slot_key=key))

    def check(self, desired: Desired) -> None:
        """Raises Conflict for what cannot be brought into the kernel that is there."""
        sizes = self._kernel.adopted()
        if sizes is None:
            return
        if self.now is not None:
            admission.check_live(self.now.desired, desired)
        admission.check_room(desired, sizes)

    def start(self, desired: Desired) -> Outcome:
        """The first pass: adopts what is there, and gives neighbours a moment to answer."""
        desired = self.complete(desired)
        admission.check_adopted(self._kernel, self._registry, desired, self._state.path)
        links = links_of.read(self.next_hops.netlink)
        admission.check_interfaces(desired, links)
        wanted = addresses(desired, self._registry)
        deadline = time.monotonic() + RESOLVE_WAIT_S
        while time.monotonic() < deadline:
            hops = self.next_hops.resolve(wanted, links, _attached(desired, links))
            if all(hop.ifindex for hop in hops.values()):
                break
            time.sleep(RESOLVE_POLL_S)
        return self.run(desired, prune=False)

    def preview(self, desired: Desired) -> Summary:
        """What a pass would change, without changing anything."""
        desired = self.complete(desired)
        registry, wanted = self.planned(desired, self._wanted()[1])
        return summary(self._kernel.observe(), wanted, self._registry, registry)

    def planned(self, desired: Desired, intents: Intents) -> tuple[Registry, Image]:
        """Registry and image with these intents, without changing anything."""
        self.check(desired)
        links = links_of.read(self.next_hops.netlink)
        admission.check_interfaces(desired, links)
        hops = self._hops(desired, links)
        effect = self._effect(desired, (0, intents))
        if self.agreed is None:
            return plan(desired, self._registry, hops, None, effect.assessments, self.split_flows)
        registry, weights = agree(desired, self._registry, None, effect.assessments)
        agreement = replace(self.agreed.agreement, registry=registry, weights=weights)
        return registry, self._image(desired, agreement, effect, hops)[0]

    def recall(self, agreed: Agreed) -> None:
        """At start, before the first pass: run what was agreed on."""
        self.agreed, self._registry = agreed, agreed.agreement.registry

    def adopt(self, agreed: Agreed, desired: Desired) -> Outcome:
        """A pass that brings what was agreed on into the kernel.

        Raises, and goes on with what was agreed before, if that cannot be done here. If the kernel
        cannot follow, it is kept all the same, and passes go on trying.
        """
        before, ids = self.agreed, self._registry
        self.agreed, self._registry = agreed, agreed.agreement.registry
        try:
            self.check(self.complete(desired))
            self._state.keep(agreed.KEPT, agreed.encode())
            return self.run(desired, prune=False)
        except DatapathError:
            raise
        except LimpetError:
            self.agreed, self._registry = before, ids
            raise

    def beginnings(self) -> tuple[bytes, Intents]:
        """Slot key and intents of a director that stood alone, for the cluster that it begins."""
        return self._state.secret("slot_key", KEY_BYTES), self._state.intents()[1]

    @property
    def registry(self) -> Registry:
        return self._registry

    def _wanted(self) -> tuple[int, Intents]:
        """Revision and intents that are in effect."""
        if self.agreed is None:
            return self._intents
        return self.agreed.agreement.revision, self.agreed.agreement.intents

    def _image(
        self,
        desired: Desired,
        agreement: Agreement,
        effect: Effect,
        hops: Mapping[Address, NextHop],
    ) -> tuple[Image, Mapping[PoolId, LocalTable]]:
        """Of a member: the image by an agreement, and the tables of its own in it."""
        tables = member(desired, agreement, effect.assessments, self.around())
        registry, found = agreement.registry, effect.assessments
        return image(desired, registry, tables, found, hops, self.split_flows), tables

    def history(self, limit: int) -> list[Revision]:
        """The last revisions of the intents, the current one first."""
        return self._state.history(limit)

    def revision(self, number: int) -> Revision:
        """One of them; NotFound if it is not kept."""
        return self._state.revision(number)

    def change(self, of: ChangeOf, who: str, if_revision: int | None) -> Outcome:
        """A pass with changed intents. When it returns they are on the disk and in the kernel.

        Raises, and changes nothing, if the change is refused or the intents have moved on. If the
        kernel cannot follow, the change is kept all the same, and passes go on trying.
        """
        assert self.now is not None, "start comes first"
        revision, intents = self._intents = self._state.intents()
        if if_revision is not None and if_revision != revision:
            raise Stale(if_revision, revision)
        change = of(self.now.desired, intents)
        if change.intents == intents:
            return self.run(self.now.desired, prune=False)
        self.planned(self.now.desired, change.intents)  # what cannot be is not kept either
        events = tuple(told(event) for event in change.events)
        told_to_hooks = [event for event in events if event["kind"] in TO_HOOKS]
        revision = self._state.put_intents(
            change.intents, revision, who, change.what, self.file_digest, time.time(), told_to_hooks
        )
        self._intents = revision, change.intents
        log.info("intents changed", revision=revision, by=who, what=change.what)
        outcome = self.run(self.now.desired, prune=False)
        return replace(outcome, events=(*events, *outcome.events))

    def run(self, desired: Desired, *, prune: bool) -> Outcome:
        """One pass. Raises before it has written anything if `desired` cannot be done.

        `prune`: let go of removed backends that no live flow or session names. Only where the slot
        tables were the same in the pass before: else a flow may yet begin that the scan has missed.
        """
        began = time.monotonic()
        desired = self.complete(desired)
        self.check(desired)
        links = links_of.read(self.next_hops.netlink)
        admission.check_interfaces(desired, links)
        hops = self._hops(desired, links)
        effect = self._effect(desired, self._wanted())
        referenced = self._referenced() if prune and self._is_same(desired, effect) else None
        if self.agreed is None:
            registry, wanted = plan(
                desired, self._registry, hops, referenced, effect.assessments, self.split_flows
            )
            tables: Mapping[PoolId, LocalTable] = {}
        else:
            self._note_in_use(referenced)
            registry = self.agreed.agreement.registry
            wanted, tables = self._image(desired, self.agreed.agreement, effect, hops)
        machine = self._machine(desired, links)
        loaded = self._load(desired, machine)
        before = self._kernel.observe()
        said = summary(before, wanted, self._registry, registry)
        self._save(registry)
        changes = diff(before, wanted)
        self._kernel.apply(changes)
        attaching.attach(self._kernel, desired, links)
        self._put_outbound(desired, is_again=prune)
        events = self._changed_health(effect)
        if (events or prune) and effect.health:
            recollection.keep(self._state.path.parent, effect.health)
        reached = self._reached(desired, wanted, machine, effects.applied(effect, time.time()))
        self.now = replace(reached, tables=tables)
        self.reached()
        duration_s = time.monotonic() - began
        return Outcome(said, _count(changes), loaded, duration_s, effect.revision, events)

    # --- Facts ----------------------------------------------------------------------------------

    def _hops(self, desired: Desired, links: Links) -> dict[Address, NextHop]:
        wanted = addresses(desired, self._registry)
        hops = self.next_hops.resolve(wanted, links, _attached(desired, links))
        for backend in desired.backends:
            is_l2 = backend.encapsulation is Encapsulation.L2
            hop = hops.get(backend.address)
            if is_l2 and hop is not None and not self.next_hops.is_on_link(backend.address):
                # Sent to a router, the packet would come straight back to us.
                hops[backend.address] = NextHop(0, UNKNOWN, UNKNOWN, hop.mtu)
                log.error(
                    "backend with encapsulation l2 is behind a router, not on our segment; its "
                    "packets are dropped",
                    backend=backend.name,
                )
        return hops

    def _effect(self, desired: Desired, intents: tuple[int, Intents]) -> Effect:
        before = None if self.now is None else self.now.effect
        return effects.weigh(before, desired, intents, self.health(), time.time())

    def _changed_health(self, effect: Effect) -> tuple[Json, ...]:
        if self.now is None:
            return ()
        events = tuple(condition.changes(self.now.effect.health, effect))
        return events

    def _is_same(self, desired: Desired, effect: Effect) -> bool:
        """Whether the pass before planned by the same."""
        now = self.now
        return (
            now is not None
            and now.registry is self._registry
            and now.desired == desired
            and now.effect.assessments == effect.assessments
        )

    def _note_in_use(self, referenced: frozenset[BackendId] | None) -> None:
        if referenced is not None and self.agreed is not None:
            lingering = {each.id for each in self._registry.lingering}
            self.in_use = self.agreed.version.generation, frozenset(referenced & lingering)

    def _referenced(self) -> frozenset[BackendId] | None:
        if not self._registry.lingering or self._loaded is None:
            return frozenset()
        tick = self._kernel.tick()
        named = set(self._kernel.flows().backends(tick))
        named |= set(np.flatnonzero(self._kernel.sessions().census(tick).backends).tolist())
        named |= self._kernel.directory().backends()
        return frozenset(BackendId(number) for number in named)

    def _machine(self, desired: Desired, links: Links) -> Machine:
        director = desired.director
        icmp4, icmp6 = links_of.sources(self.next_hops.netlink, links, director.interfaces)
        ours = [link for link in links.values() if link.name in director.interfaces]
        return Machine(
            hz=clock.hz(),
            slot_key=director.slot_key,
            flow_key=self._flow_key,
            icmp_source4=icmp4,
            icmp_source6=icmp6,
            # XDP_TX on a veth reaches only a peer with an XDP program of its own.
            redirect_always=any(link.kind == "veth" for link in ours),
            cluster=desired.cluster,
        )

    # --- Writes ---------------------------------------------------------------------------------

    def _load(self, desired: Desired, machine: Machine) -> bool:
        wanted = settings.encode(desired.director, machine)
        if self._loaded == wanted.tobytes():
            return False
        with self.loading:
            self._kernel.load(wanted)
        self._loaded = wanted.tobytes()
        log.info("program loaded", tag=self._kernel.program_tag())
        return True

    def _put_outbound(self, desired: Desired, *, is_again: bool) -> None:
        """The way of our own packets to backends. Without it there are no resets, and checks learn
        nothing; clients do not need it."""
        director = desired.director
        wanted = (director.mark, director.source4, director.source6)
        if wanted == self._outbound and not is_again:
            return
        try:
            outbound.put(director, self._pins)
            self._outbound, self.outbound_error = wanted, ""
        except LimpetError as error:
            if not self.outbound_error:
                log.error("no way for our own packets to backends", why=str(error))
            self._outbound, self.outbound_error = None, str(error)

    def _save(self, registry: Registry) -> None:
        if registry != self._registry:
            self._state.save(registry)
        self._registry = registry

    def _reached(self, desired: Desired, wanted: Image, machine: Machine, effect: Effect) -> Now:
        links = links_of.read(self.next_hops.netlink)
        known = links_of.by_name(links)
        sizes = self._kernel.adopted()
        return Now(
            desired=desired,
            registry=self._registry,
            image=wanted,
            machine=machine,
            links=links,
            gateways={row.address: self.next_hops.gateway(row.address) for row in wanted.backends},
            missing=tuple(name for name in desired.director.interfaces if name not in known),
            flow_buckets=sizes.buckets if sizes else 0,
            effect=effect,
        )


def _attached(desired: Desired, links: Links) -> frozenset[int]:
    return frozenset(i.index for i in links.values() if i.name in desired.director.interfaces)


def _count(changes: Changes) -> int:
    rows = (changes.backends_put, changes.pools_put, changes.pools_removed)
    count = sum(map(len, rows)) + len(changes.backends_removed)
    return count + sum(len(whole) for whole in (changes.vips, changes.proxies) if whole is not None)
