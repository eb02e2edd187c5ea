# SPDX-License-Identifier: Apache-2.0
"""Who leads sees its cluster as it is: after an outage of the store it hears everybody first."""

from limpet.core.cluster import REACHABLE_S, Report, Seen, agreed_down
from limpet.core.footing import FIRM_S, Footing

DOWN = frozenset({("web", "b1")})


def seen(name: str, at: float) -> Seen:
    return Seen(Report(name, checked=frozenset({"web"}), down=DOWN), at)


def test_after_an_outage_nobody_leads_by_what_was_seen_before() -> None:
    footing, period = Footing("d1"), 0.25
    before = {"d1": seen("d1", 0.0), "d2": seen("d2", 0.0)}
    now = 0.0
    while now < FIRM_S:
        assert not footing.is_firm({name: seen(name, now) for name in before}, now)
        now += period
    assert footing.is_firm({name: seen(name, now) for name in before}, now)
    back = 60.0
    assert agreed_down(before, back) == frozenset(), "nobody is heard, so nobody is down: wrong"
    assert not footing.is_firm(before, back)
    alone = {"d1": seen("d1", back + 1), "d2": before["d2"]}
    assert not footing.is_firm(alone, back + 1), "its own report is the first that comes"
    both = {name: seen(name, back + 1 + FIRM_S) for name in before}
    assert footing.is_firm(both, back + 1 + FIRM_S)
    assert agreed_down(both, back + 1 + FIRM_S) == DOWN


def test_a_leader_whose_own_report_never_came_does_not_lead() -> None:
    footing = Footing("d1")
    assert not footing.is_firm({}, 100.0)
    others = {"d2": seen("d2", 100.0)}
    assert not footing.is_firm(others, 100.0 + REACHABLE_S)
