# SPDX-License-Identifier: Apache-2.0
"""What happens to sessions on their way: BGP moves clients as directors, pool or store change.

One scenario each, on a stage of several PoPs. A change "in a shift" is made after the routers were
told and before their kernels send elsewhere. Sessions are those of the lab, and those of real
programs; both sides are asked, as in `stage`. Every scenario leaves the lab as it was.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from types import ModuleType

from pydantic import JsonValue

from limpet.lab import changes, programs, shifting, source, state
from limpet.lab.apps import mqtt, postgresql, ssh
from limpet.lab.apps.application import ApplicationServer, ApplicationSession
from limpet.lab.desired import desire
from limpet.lab.impairment import Impairment
from limpet.lab.sessions import HeldSessions
from limpet.lab.topology import Host, Role, Topology

from . import outcomes
from .conftest import Report
from .observe import PORT, figures
from .stage import AGAIN_PER_S, HEALTH, Stage

SESSIONS = 200
IS_WHOLE = bool(os.environ.get("SOAK"))
WORKING = 200 if IS_WHOLE else 12  # sessions of real programs
WORK_PAUSE_S = 0.4 if IS_WHOLE else 0.1  # between two exchanges of each
OPEN_PAUSE_S = 0.05  # from one that is opened to the next
FLAPS, FLAP_S = 20, 0.2
PROGRAMS = (postgresql, ssh, mqtt)
CLIENTS = ("client1", "client2")
HELD_BY = "client2"
HOME, AWAY = "fra", "par"
DIRECTOR, INGRESS = "fra-d1", "fra-r"
STORES = ("store1", "store2", "store3")
REMOVED, DRAINED = "fra-b2", "par-b1"
ADDED = {"fra-b4": "fra", "par-b4": "par"}
BEGIN_S, SETTLE_S = 60.0, 60.0
EXCHANGES = 5  # more of every program's session, after all is done


def many_pops(name: str, affinity: str = "client", **pool: JsonValue) -> Topology:
    """A built-in topology with health checks, and more addresses of clients."""
    plain = source.load(name).model_dump()
    for number, client_name in enumerate(CLIENTS, start=1):
        client = next(host for host in plain["host"] if host["name"] == client_name)
        client |= {
            "sources": 2_048,
            "sources4": f"10.{number}.8.0/21",
            "sources6": f"2001:db8:{number}:800::/53",
        }
    vips = [vip | {"affinity": affinity} for vip in plain["vip"]]
    changed = {"vip": vips, "pool": {"health": HEALTH, **pool}}
    return Topology.model_validate({**plain, **changed})


@dataclass
class Journey:
    """A stage, the affinity of the VIPs that are used, and real programs if there are to be any."""

    stage: Stage
    affinity: str = "client"
    servers: list[ApplicationServer] = field(default_factory=list)
    folder: Path | None = None

    @property
    def lab(self) -> str:
        return self.stage.lab

    @property
    def vips(self) -> list[str]:
        return self.stage.vips

    # --- Programs -------------------------------------------------------------------------------

    @contextmanager
    def programs(self) -> Iterator[None]:
        """Real programs on every backend, over the body."""
        with tempfile.TemporaryDirectory(prefix="limpet-test-") as folder:
            self.folder = Path(folder)
            try:
                for backend in list(self.stage.servers):
                    self.install(backend)
                yield
            finally:
                for server in self.servers:
                    server.close()
                self.servers.clear()
                self.folder = None

    def install(self, backend: str) -> None:
        if self.folder is not None:
            for program in PROGRAMS:
                self.servers.append(program.Server(self.lab, backend, self.folder))

    def uninstall(self, backend: str) -> None:
        for server in [each for each in self.servers if each.backend == backend]:
            server.close()
            self.servers.remove(server)

    @contextmanager
    def working(self) -> Iterator[list[ApplicationSession]]:
        """Sessions of programs, clients and VIPs in turn, from an address each; else none."""
        sessions: list[ApplicationSession] = []
        try:
            if self.folder is not None:
                for program, client, vip, source in self._wanted():
                    options = {"source": source, "pause_s": WORK_PAUSE_S}
                    sessions.append(program.Session(self.lab, client, vip, self.folder, **options))
                    time.sleep(OPEN_PAUSE_S)
            self.stage.until(
                lambda: all(s.account.exchanges or s.account.broken for s in sessions),
                BEGIN_S,
                lambda: [s.account for s in sessions if not s.account.exchanges][:3],
            )
            broken = [s.account for s in sessions if s.account.broken]
            assert broken == [], broken[:5]
            yield sessions
        finally:
            for session in sessions:
                session.close()

    def _wanted(self) -> Iterator[tuple[ModuleType, str, str, str]]:
        topology, skip = state.read(self.lab).topology, self.stage.fresh(WORKING)
        turns = list(product(CLIENTS, self.vips, PROGRAMS))
        for number in range(WORKING):
            again, turn = divmod(number, len(turns))
            client, vip, program = turns[turn]
            every = topology.addresses(topology.find(client))
            own = [each for each in every if each.version == ip_address(vip).version]
            place = skip + again * len(PROGRAMS) + turn % len(PROGRAMS)
            yield program, client, vip, str(own[place])

    # --- Sessions -------------------------------------------------------------------------------

    def survives(
        self, what: str, act: Callable[["Journey", ExitStack], None], report: Report
    ) -> None:
        """Do it with sessions open; none may break. What it leaves to undo is undone meanwhile."""
        options = {"skip": self.stage.fresh(SESSIONS), "again": AGAIN_PER_S}
        with (
            HeldSessions(self.lab, HELD_BY, SESSIONS, PORT, self.vips, **options) as held,
            self.working() as working,
            self.told(what, held, working, report),
        ):
            opened = held.wait_open()
            assert (opened["broken"], opened["alive"]) == ([], SESSIONS)
            self.go_through(act, held, working)

    def go_through(
        self,
        act: Callable[["Journey", ExitStack], None],
        held: HeldSessions,
        working: list[ApplicationSession],
    ) -> None:
        may_stray = (REMOVED,) if self.affinity == "client" else (*self.stage.servers, *ADDED)
        with ExitStack() as undone:
            if act in PREPARED:
                self.prepare_pool(undone)
            newest_may_go = self.affinity == "flow" and act in LOSSES
            with self.stage.all_stay(held, may_stray, newest_may_go=newest_may_go):
                act(self, undone)
            self.work_goes_on(working)
        # Taken back under the same sessions; those who were added know nobody any more.
        after = held.settle()
        assert (after["broken"], after["alive"]) == ([], SESSIONS)
        self.stage.agree(after["rows"])
        self.work_goes_on(working)

    def work_goes_on(self, working: list[ApplicationSession]) -> None:
        wanted = [(each, each.account.exchanges + EXCHANGES) for each in working]
        deadline = time.monotonic() + SETTLE_S

        def is_over(each: ApplicationSession, number: int) -> bool:
            each.notice_silence()
            return bool(each.account.broken) or each.account.exchanges >= number

        while not all(is_over(*each) for each in wanted) and time.monotonic() < deadline:
            time.sleep(0.05)
        broken = [each.account for each in working if each.account.broken]
        assert broken == [], broken[:5]
        assert all(is_over(*each) for each in wanted)

    @contextmanager
    def told(
        self, what: str, held: HeldSessions, working: list[ApplicationSession], report: Report
    ) -> Iterator[None]:
        """What became of the sessions is a line of the table, however the body ends."""
        try:
            yield
        except Exception:
            for director in state.read(self.lab).topology.hosts(Role.DIRECTOR):
                report(f"{what}: {director.name}: {figures(self.lab, director.name)}")
            raise
        finally:
            seen = held.report()
            gaps = [int(row["longest_gap_ms"]) for row in seen.get("rows", [])]
            accounts = [each.account for each in working]
            broken = len(seen.get("broken", [])) + sum(bool(each.broken) for each in accounts)
            outcomes.RESULTS.append(outcomes.Outcome(what, gaps, accounts, broken))
            report(outcomes.RESULTS[-1].line())

    # --- Acts -----------------------------------------------------------------------------------

    def shift(self, pop: str) -> None:
        for client in CLIENTS:
            shifting.shift(self.lab, client, pop)

    def begin_shift(self, pop: str) -> None:
        """Routers are told, and nobody waits; `shift` does afterwards."""
        now = state.read(self.lab)
        for client in CLIENTS:
            router = shifting.provider(now, client).model_copy(update={"prefers": pop})
            programs.prefer(self.lab, now.topology, router)

    def pops(self) -> set[str]:
        return {each.path.pop for client in CLIENTS for each in shifting.path(self.lab, client, "")}

    def wait_at(self, pop: str) -> None:
        self.stage.until(lambda: self.pops() == {pop}, 30.0, self.pops)

    def kill(self, undone: ExitStack, host: str, *, daemon_only: bool = False) -> None:
        changes.kill(self.lab, host, daemon_only=daemon_only)
        undone.callback(changes.start, self.lab, host)

    def cut(self, undone: ExitStack, a: str, b: str) -> None:
        shifting.impair(self.lab, Impairment(a=a, b=b, cut=True))
        undone.callback(shifting.impair, self.lab, Impairment(a=a, b=b))

    def prepare_pool(self, undone: ExitStack) -> None:
        """Machines that are about to join; they serve, and are not in the pool."""
        for name, pop in ADDED.items():
            changes.add(self.lab, name, pop=pop, pooled=False)
            undone.callback(changes.remove, self.lab, name, keep_host=False)
            undone.enter_context(self.stage.serving(name))
            self.install(name)
            undone.callback(self.uninstall, name)

    def change_pool(self, undone: ExitStack) -> None:
        """Two added and one removed, all in one revision."""
        undone.callback(self._pooled, {REMOVED: True, **dict.fromkeys(ADDED, False)})
        self._pooled({REMOVED: False, **dict.fromkeys(ADDED, True)})

    def _pooled(self, wanted: dict[str, bool]) -> None:
        with state.locked(self.lab):
            now = state.read(self.lab)
            topology = now.topology
            for name, pooled in wanted.items():
                host: Host = topology.find(name)
                topology = topology.with_host(host.model_copy(update={"pooled": pooled}))
            desire(now, topology)

    def drain(self, undone: ExitStack) -> None:
        self.stage.limpet("backend", "drain", DRAINED)
        undone.callback(self.stage.limpet, "backend", "undrain", DRAINED)


# --- Scenarios ----------------------------------------------------------------------------------


def shift_and_back(way: Journey, undone: ExitStack) -> None:
    del undone
    way.shift(AWAY)
    time.sleep(1)
    way.shift(HOME)


def flaps(way: Journey, undone: ExitStack) -> None:
    del undone
    found = shifting.flap(way.lab, HELD_BY, FLAP_S, FLAPS * FLAP_S)
    assert found.asked == FLAPS
    assert found.seen > FLAPS / 2


def everything_at_once(way: Journey, undone: ExitStack) -> None:
    undone.callback(way.shift, HOME)
    way.begin_shift(AWAY)
    way.change_pool(undone)
    way.drain(undone)
    way.shift(AWAY)


def loss_of_director(way: Journey, undone: ExitStack) -> None:
    undone.callback(way.wait_at, HOME)
    way.kill(undone, DIRECTOR)
    way.wait_at(AWAY)


def loss_of_ingress(way: Journey, undone: ExitStack) -> None:
    """Between border router and director; the PoP's backends still answer through that router."""
    undone.callback(way.wait_at, HOME)
    way.cut(undone, DIRECTOR, INGRESS)
    way.wait_at(AWAY)


def daemon_killed_in_shift(way: Journey, undone: ExitStack) -> None:
    undone.callback(way.shift, HOME)
    way.begin_shift(AWAY)
    way.kill(undone, DIRECTOR, daemon_only=True)
    way.shift(AWAY)


def director_killed_in_shift(way: Journey, undone: ExitStack) -> None:
    undone.callback(way.shift, HOME)
    way.begin_shift(AWAY)
    way.kill(undone, DIRECTOR)
    way.shift(AWAY)


def store_node_lost_in_shift(way: Journey, undone: ExitStack) -> None:
    undone.callback(way.shift, HOME)
    way.begin_shift(AWAY)
    way.kill(undone, STORES[0])
    way.shift(AWAY)


def store_parted_in_shift(way: Journey, undone: ExitStack) -> None:
    """Two of three nodes see nobody: there is no majority."""
    undone.callback(way.shift, HOME)
    way.begin_shift(AWAY)
    for node in STORES[:2]:
        way.cut(undone, "backbone", node)
    way.shift(AWAY)


SCENARIOS = {
    each.__name__: each
    for each in (
        shift_and_back,
        flaps,
        everything_at_once,
        loss_of_director,
        loss_of_ingress,
        daemon_killed_in_shift,
        director_killed_in_shift,
        store_node_lost_in_shift,
        store_parted_in_shift,
    )
}

# Of each connection a session of its own, it alone knew those that began a moment ago.
LOSSES = (loss_of_director, director_killed_in_shift)

# Programs ask themselves whether they listen yet: a closed port answers with a RST.
PREPARED = (everything_at_once,)
