# SPDX-License-Identifier: Apache-2.0
"""Replies of a PoP that has withdrawn, where its upstream drops what it would not route there.

Transit routers filter strictly by reverse path: a packet from a PoP with a VIP as source passes
only while their own route to the VIP leads there. Sessions whose backends stand in that PoP come in
by the other one by then, and live on only if their replies leave by it as well.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from limpet.lab import folder, namespace, state
from limpet.lab.network import netns_of
from limpet.lab.topology import Topology

from .conftest import Report
from .stage import Stage, stage_of
from .test_two_pop import killed, pop_of, pops, said

pytestmark = pytest.mark.lab

SESSIONS = 100
# Replies in the instant in which the route turns, more on a busy machine; TCP sends them again.
# Without exits there are some hundreds: each session sends until it breaks.
UNDER_WAY_MAX = SESSIONS // 2
SOAK = bool(os.environ.get("SOAK"))
SOURCES = {
    "fra": {"source4": "100.64.0.0/16", "source6": "fd00:11be:64::/96"},
    "par": {"source4": "100.65.0.0/16", "source6": "fd00:11be:65::/96"},
}
UPSTREAMS = {"fra": "tr1", "par": "tr2"}
TABLE = "strict"
RULES = """
table inet strict {{
    chain incoming {{
        type filter hook prerouting priority 0;
        iifname "{border}" ip saddr {vip4} fib saddr . iif oif missing counter drop
        iifname "{border}" ip6 saddr {vip6} fib saddr . iif oif missing counter drop
    }}
}}
"""


def topology(*, exits: bool) -> Topology:
    plain = pops().model_dump()
    found = [pop | SOURCES[pop["name"]] for pop in plain["pop"]]
    return Topology.model_validate({**plain, "pop": found, "exits": exits})


def filter_strictly(stage: Stage) -> None:
    for pop, router in UPSTREAMS.items():
        vip4, vip6 = stage.vips
        rules = RULES.format(border=f"{pop}-r", vip4=vip4, vip6=vip6)
        with namespace.inside(folder.netns_of(stage.lab, router)):
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def filtered(stage: Stage, router: str) -> int:
    """Packets that the router has dropped."""
    with namespace.inside(folder.netns_of(stage.lab, router)):
        argv = ["nft", "list", "table", "inet", TABLE]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return sum(int(found) for found in re.findall(r"packets (\d+)", done.stdout))


@contextmanager
def drained(stage: Stage, pop: str) -> Iterator[None]:
    stage.limpet("pop", "drain", pop, "--wait")
    try:
        yield
    finally:
        stage.limpet("pop", "undrain", pop)


def counted(stage: Stage, backend: str) -> dict[str, int]:
    topology = state.read(stage.lab).topology
    name = netns_of(stage.lab, topology.find(backend))
    argv = [sys.executable, "-m", "limpet", "agent", "show", name, "--json"]
    with namespace.inside(name):
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout)["counters"]
    return found


def test_replies_leave_by_the_pop_that_their_clients_come_in_by(report: Report) -> None:
    """Each of these sessions is answered by an exit while its PoP is withdrawn, and none breaks."""
    with stage_of(topology(exits=True)) as stage:
        filter_strictly(stage)
        stage.until(lambda: pop_of(stage) == {"fra"})
        with stage.hold(SESSIONS) as held:
            before = counted(stage, "fra-b1")
            with stage.all_stay(held), drained(stage, "fra"):
                assert pop_of(stage) == {"par"}
                held.settle()
                after = counted(stage, "fra-b1")
            said(report, "PoP drained, strict filter", held)
            assert before["reply_exit"] < after["reply_exit"]
            assert not any(count for name, count in after.items() if "drop" in name)
            if SOAK:
                stage.until(lambda: pop_of(stage) == {"fra"})
                with stage.all_stay(held), killed(stage, "fra-r"):
                    stage.until(lambda: pop_of(stage) == {"par"})
                    held.settle()
                said(report, "border router killed, strict filter", held)
        assert max(filtered(stage, router) for router in UPSTREAMS.values()) <= UNDER_WAY_MAX


def test_without_exits_the_upstream_drops_replies(report: Report) -> None:
    """The control: else the test above would prove nothing."""
    with stage_of(topology(exits=False)) as stage:
        filter_strictly(stage)
        stage.until(lambda: pop_of(stage) == {"fra"})
        with stage.hold(SESSIONS, again=0) as held, drained(stage, "fra"):
            found = held.settle()
            said(report, "replies by own routes, strict filter", held)
            assert len(found["broken"]) > SESSIONS / 4
        assert filtered(stage, "tr1") > 2 * UNDER_WAY_MAX
