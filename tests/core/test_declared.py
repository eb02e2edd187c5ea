# SPDX-License-Identifier: Apache-2.0
"""What a plan says of changes that no table of the kernel shows."""

from dataclasses import replace

from limpet.core.declared import declared
from limpet.core.model import Desired, Director, HealthCheck, Hooks, OnDown, Policy, Pool

CHECK = HealthCheck(interval_s=1.0)
POOL = Pool("web", {"b1": 1}, health=CHECK)
BEFORE = Desired(Director("fra1", ("eth0",), slot_key=bytes(16)), pools=(POOL,))


def with_pool(**changes: object) -> Desired:
    return replace(BEFORE, pools=(replace(POOL, **changes),))  # type: ignore[arg-type]


def test_the_same_file_changes_nothing() -> None:
    assert declared(BEFORE, BEFORE) == ()


def test_what_the_daemon_does_with_a_pool_is_named_with_both_values() -> None:
    after = with_pool(on_down=OnDown.REHASH, hold_s=5, health=replace(CHECK, interval_s=3.0))
    assert declared(BEFORE, after) == (
        "pool web: health interval_s 1.0 -> 3.0",
        "pool web: hold_s 30 -> 5",
        "pool web: on_down reset -> rehash",
    )


def test_a_check_that_comes_or_goes_is_said_so() -> None:
    none = with_pool(health=None)
    assert declared(BEFORE, none) == ("pool web: health as in the file -> none",)
    assert declared(none, BEFORE) == ("pool web: health none -> as in the file",)


def test_what_tables_show_is_left_to_them() -> None:
    assert declared(BEFORE, with_pool(weights={"b1": 7}, policy=Policy.ROUND_ROBIN)) == ()
    other = replace(BEFORE, pools=(POOL, replace(POOL, name="new")))
    assert declared(BEFORE, other) == ()


def test_secrets_are_named_and_not_shown() -> None:
    director = replace(BEFORE.director, slot_key=b"1" * 16)
    after = replace(BEFORE, director=director, hooks=Hooks(webhook="https://ops/?token=t0p"))
    assert declared(BEFORE, after) == ("director: slot_key changes", "hooks changes")


def test_a_key_that_the_file_leaves_to_the_daemon_is_no_change() -> None:
    left_out = replace(BEFORE, director=replace(BEFORE.director, slot_key=b""))
    assert declared(BEFORE, left_out) == ()


def test_limits_and_places_of_the_director_are_named() -> None:
    director = replace(BEFORE.director, interfaces=("eth0", "eth1"))
    after = replace(BEFORE, director=director, metrics_listen="127.0.0.1:9464")
    assert declared(BEFORE, after) == (
        "director: interfaces eth0 -> eth0 eth1",
        "metrics_listen none -> 127.0.0.1:9464",
    )
