# SPDX-License-Identifier: Apache-2.0
"""Directors of one cluster run the same generation of the same tables, whoever was asked."""

import time
from concurrent.futures import ThreadPoolExecutor

from cluster.member import SHARED, WAIT_S, WITH_THIRD, Member, settled

PORTS = range(20_000, 20_040)
LOOKS_S = 2.0  # in which a director looks several times whether a drain is over
TIMEOUTS = "timeouts = { udp_s = 4 }"


def test_what_one_applies_both_forward_by(pair: tuple[Member, Member]) -> None:
    one, two = pair
    said = one.apply(SHARED)
    assert "+ VIP web4" in said
    assert "revision 1, in effect here" in said
    settled(one, two, revision=1)
    one.takes_over()
    by_one = one.forwarded(PORTS)
    assert set(by_one.values()) == {"b1"} or set(by_one.values()) == {"b2"}  # one client
    two.takes_over()
    assert two.forwarded(PORTS) == by_one
    two.apply(WITH_THIRD)
    settled(one, two, revision=2)
    assert one.shares() == two.shares()
    assert set(one.shares()) == {"b1", "b2", "b3"}
    assert two.forwarded(PORTS) == by_one, "a session stays while the pool changes"
    one.takes_over()
    assert one.forwarded(PORTS) == by_one


def test_a_drain_ends_when_nobody_is_left_on_any_director(pair: tuple[Member, Member]) -> None:
    one, two = pair
    one.apply(SHARED + TIMEOUTS)
    settled(one, two, revision=1)
    two.takes_over()
    backend = next(iter(set(two.forwarded(PORTS).values())))
    with two.in_use(PORTS):
        one.drain(backend)
        settled(one, two, revision=2)
        assert two.drains().keys() == {backend}
        assert one.shares()[backend] == two.shares()[backend] == 0
        time.sleep(LOOKS_S)
        draining = one.drains()[backend]["state"]
        assert draining == "draining", "the other director has a session there"
    one.wait_for(lambda: one.drains()[backend]["state"] == "drained", wait_s=WAIT_S)
    # A revision is kept just after it is in effect.
    one.wait_for(lambda: [row["revision"] for row in one.get("/v1/history")] == [3, 2, 1])
    assert two.get("/v1/history") == one.get("/v1/history")


def test_pop_list_shows_at_a_glance_who_is_not_like_the_rest(pair: tuple[Member, Member]) -> None:
    one, two = pair
    one.apply(SHARED)
    settled(one, two, revision=1)
    one.wait_for(lambda: "!" not in one.cli("pop", "list"), wait_s=WAIT_S)
    two.kill()
    one.wait_for(lambda: not one.of(two)["reachable"], wait_s=WAIT_S)
    one.apply(WITH_THIRD)
    settled(one, revision=2)
    said = one.cli("pop", "list")
    assert f"!   {two.name}" in said
    assert "not reachable" in said
    assert f"generation {one.generation() - 1}, not {one.generation()}" in said
    two.start()  # it comes late, and catches up
    settled(one, two, revision=2)
    assert two.shares() == one.shares()
    # That it has loaded what the other told is reported a moment later.
    two.wait_for(lambda: "!" not in two.cli("pop", "list"), wait_s=WAIT_S)


def test_changes_by_two_at_once_are_both_made(pair: tuple[Member, Member]) -> None:
    one, two = pair
    one.apply(SHARED)
    settled(one, two, revision=1)
    with ThreadPoolExecutor(2) as pool:
        for weight in (3, 5):
            said = [
                pool.submit(
                    each.api.put, f"/v1/pools/web/backends/{name}/weight", {"weight": weight}
                )
                for each, name in ((one, "b1"), (two, "b2"))
            ]
            assert all(each.result()["in_effect"] for each in said)
    settled(one, two, revision=5)
    assert {row["weight"] for row in two.get("/v1/intents")["weights"]} == {5}
    assert two.apply(SHARED, "--if-revision", "4", status=4).count("revision 5")
