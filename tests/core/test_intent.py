# SPDX-License-Identifier: Apache-2.0
"""Intents are values; what is written of them is read back, and nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.intent import (
    Drain,
    Intents,
    PopDrain,
    decode,
    encode,
    with_drain,
    with_pop_drain,
    with_weight,
    without_drain,
    without_pop_drain,
    without_weight,
)
from limpet.core.model import WEIGHT_MAX, AtDeadline, DrainRule

times = st.floats(0, 4e9)
names = st.text(min_size=1, max_size=5)


@st.composite
def intents(draw: st.DrawFn) -> Intents:
    drains = {
        name: Drain(
            name,
            draw(times),
            draw(st.text()),
            draw(st.none() | st.sampled_from(DrainRule)),
            draw(st.none() | times),
            draw(st.sampled_from(AtDeadline)),
            draw(st.none() | times),
        )
        for name in draw(st.sets(names, max_size=3))
    }
    weights = st.dictionaries(st.tuples(names, names), st.integers(0, WEIGHT_MAX), max_size=3)
    pops = {n: PopDrain(n, draw(times), draw(names)) for n in draw(st.sets(names, max_size=2))}
    return Intents(drains, draw(weights), pops)


@given(intents())
def test_what_is_written_is_read_back(these: Intents) -> None:
    assert decode(json.loads(json.dumps(encode(these)))) == these


@given(intents())
def test_equal_intents_give_equal_text(these: Intents) -> None:
    turned = Intents(
        dict(reversed(list(these.drains.items()))),
        dict(reversed(list(these.weights.items()))),
        dict(reversed(list(these.pop_drains.items()))),
    )
    assert json.dumps(encode(turned)) == json.dumps(encode(these))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
DRAIN = encode(Intents({"b": Drain("b", 1, "a")}))["drains"][0]
PATHS = [
    (),
    ("drains",),
    ("drains", 0),
    *(("drains", 0, key) for key in DRAIN),
    ("weights",),
    ("weights", 0),
    *(("weights", 0, key) for key in ("pool", "backend", "weight")),
    ("pop_drains",),
    ("pop_drains", 0),
    *(("pop_drains", 0, key) for key in ("pop", "began", "by")),
]


@given(st.sampled_from(PATHS), anything)
def test_anything_else_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    """With any part replaced it is read as what it says, or refused; never as something else."""
    whole: Any = encode(
        Intents({"b": Drain("b", 1, "ann")}, {("p", "b"): 2}, {"x": PopDrain("x", 1, "ann")})
    )
    if path:
        place = whole
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
    else:
        whole = value
    try:
        read = decode(whole)
    except ValueError:
        return
    assert encode(read) == whole


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"drains": {}}, "drains: not a list"),
        ({"more": []}, "not an object with the keys drains, weights"),
        ({"weights": [{"pool": "p", "backend": "b"}]}, "weight: not an object with the keys"),
        ({"weights": [{"pool": "p", "backend": "b", "weight": True}]}, "True is not a whole"),
        ({"weights": [{"pool": "p", "backend": "b", "weight": 65_536}]}, "from 0 to 65535"),
        ({"weights": [{"pool": "p", "backend": "b", "weight": 1}] * 2}, "weight: two for"),
        ({"drains": [{**DRAIN, "began": 10**400}]}, "is not a time"),
        ({"drains": [{**DRAIN, "rule": "none"}]}, "none"),
        ({"drains": [DRAIN, DRAIN]}, "drain: two for"),
        ({"pop_drains": [{"pop": "x", "began": 1, "by": "ann"}] * 2}, "pop_drain: two for"),
    ],
)
def test_refusal_says_what_is_wrong(edit: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode({**encode(Intents()), **edit})


def test_operations_make_new_values() -> None:
    first, second = Drain("b1", 1, "ann"), Drain("b1", 2, "bob")
    one = with_drain(with_drain(Intents(), first), Drain("b2", 1, "ann"))
    assert with_drain(one, second).drains["b1"] == second
    assert one.drains["b1"] == first
    assert without_drain(one, "b1").drains.keys() == {"b2"}
    assert without_drain(one, "b3") == one
    quiet = with_pop_drain(one, PopDrain("fra", 1, "ann"))
    assert "fra" in quiet.pop_drains
    assert without_pop_drain(quiet, "fra") == one == without_pop_drain(one, "par")
    heavy = with_weight(one, "web", "b1", 5)
    assert heavy.weights == {("web", "b1"): 5}
    assert with_weight(heavy, "web", "b1", 6).weights == {("web", "b1"): 6}
    assert without_weight(heavy, "web", "b1") == one
    assert without_weight(heavy, "api", "b1") == heavy
    with pytest.raises(ValueError, match="65536"):
        with_weight(one, "web", "b1", 65_536)
