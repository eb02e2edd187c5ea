# SPDX-License-Identifier: Apache-2.0
"""An operator reads what is wrong, as long as it is."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from limpet.core.cluster import Head, Report, Seen, Version
from limpet.daemon.cluster import symptoms as symptoms_of
from limpet.daemon.cluster.catchup import Catchup
from limpet.daemon.cluster.sight import Sight
from limpet.daemon.cluster.symptoms import Symptoms
from limpet.daemon.unixtime import CLOCK
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Connection

SIX, SEVEN = Version(6, "a"), Version(7, "b")


@dataclass
class Place:
    """Director d1, with d2 and d3 beside it."""

    store: EmbeddedStore
    sight: Sight
    catchup: Catchup
    symptoms: Symptoms

    def sees(self, name: str, version: Version, *, ago_s: float = 0.0) -> None:
        seen = Seen(Report(name, current=version), time.monotonic() - ago_s)
        self.sight.reports[name] = seen


@pytest.fixture
def place(tmp_path: Path) -> Place:
    store = EmbeddedStore(tmp_path / "cluster.db")
    sight = Sight(store, lambda: None)
    catchup = Catchup(store, sight, "d1")
    catchup.is_behind = False
    found = Place(store, sight, catchup, Symptoms(store, sight, catchup, "d1"))
    sight.head = Head(1, "", bytes(16), current=SEVEN)
    for name in ("d1", "d2", "d3"):
        found.sees(name, SEVEN)
    return found


def test_nothing_is_wrong_where_nothing_is(place: Place) -> None:
    place.symptoms.look()
    assert place.symptoms.of_this() == place.symptoms.of_others() == ()


def test_the_store_this_director_and_its_clock_are_symptoms(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.symptoms.is_cut_off = place.catchup.is_behind = True
    place.catchup.missing = ("d2", "d3")
    place.symptoms.refusal, place.symptoms.planning = "an old head", "no plan"
    place.symptoms.note_late(7, ("d2", "d3"))
    place.sight.skews["d2"] = -33.0
    monkeypatch.setattr(CLOCK, "off_s", 3_600.0)
    assert place.symptoms.of_this() == (
        "the store does not hear this director: it is sure of no slot",
        "what d2, d3 told of sessions is not loaded yet",
        "the wall clock jumped by 3600 s, and is not followed: "
        "set it right, or if it is right now, start the daemon again",
        "the clock differs by -33 s from that of d2: set them by NTP",
        "an old head",
        "no plan",
        "generation 7 did not wait for d2, d3: its time was up",
    )
    place.store._state = Connection(False, 0.0, error="disk full")
    assert "the store cannot be reached: disk full" in place.symptoms.of_this()


def test_others_that_differ_for_longer_than_a_change_takes_are_symptoms(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sees("d2", SIX)
    place.sees("d3", SEVEN, ago_s=60)
    place.symptoms.look()
    assert place.symptoms.differing() == {"d2", "d3"}
    assert place.symptoms.of_others() == (), "that passes by itself"
    monkeypatch.setattr(symptoms_of, "LASTS_S", 0.0)
    assert place.symptoms.of_others() == (
        "director d2 runs generation 6, not 7",
        "director d3 is not reachable (limpet director remove: it is gone for good)",
    )
    place.sees("d2", SEVEN)
    place.symptoms.look()
    assert len(place.symptoms.of_others()) == 1
    place.symptoms.is_cut_off = True
    assert place.symptoms.of_others() == (), "who is cut off sees nobody, and says that instead"


def test_another_generation_of_the_same_number_is_told(place: Place) -> None:
    place.sees("d2", replace(SEVEN, digest="c"))
    assert place.symptoms.differing() == {"d2"}
    assert place.symptoms._of_other("d2") == "director d2 runs another generation 7"
