# SPDX-License-Identifier: Apache-2.0
"""What is worth telling: what is new, newer, or would lapse; not the echo, nor what is outdated."""

import numpy as np
import pytest

from limpet.core import exception
from limpet.core.exception import RECORD, Flag, Records
from limpet.daemon.directory.worth import RENEW_MS, SKEW_MS, worth

NOW = 1_800_000_000_000
LASTS = 3_300_000
HERE, THERE = 1, 2
NOTHING = np.zeros(1, RECORD)


def record(seen: int, backend: int = 7, flags: int = 0, lasts: int = LASTS) -> Records:
    """Seen `seen` ms after NOW."""
    made = np.zeros(1, RECORD)
    made["key"]["vip"], made["key"]["kind"] = 3, 1
    made["time"], made["backend"], made["flags"] = NOW + seen, backend, flags
    made["expiry"], made["generation"], made["origin"] = NOW + seen + lasts, 1, HERE
    return made


def known(seen: int, backend: int = 7, flags: int = 0, lasts: int = LASTS) -> Records:
    made = record(seen, backend, flags, lasts)
    made["origin"] = THERE
    return made


def outcome(found: Records, before: Records, now: int = NOW, *, is_news: bool = False) -> str:
    judged = worth(found, before, now, is_news=is_news)
    assert len(judged.told) + judged.echoes + judged.outdated == 1
    if len(judged.told):
        assert exception.is_newer(judged.told, before).all(), "told, and overruled by what was"
        return "told"
    return "echo" if judged.echoes else "outdated"


def test_what_nobody_knows_is_told_as_it_is() -> None:
    found = record(-5_000)
    assert outcome(found, NOTHING) == "told"
    assert np.array_equal(worth(found, NOTHING, NOW, is_news=False).told, found)


def test_what_is_known_is_an_echo_until_it_would_last_much_longer() -> None:
    before = known(0)
    assert outcome(record(RENEW_MS), before, NOW + RENEW_MS) == "echo"
    assert outcome(record(RENEW_MS + 1), before, NOW + RENEW_MS + 1) == "told"


def test_who_was_not_seen_since_is_not_told_again() -> None:
    """Nothing would last longer; the entry lapses after the session could last have lived."""
    assert outcome(record(60_000), known(0), NOW + LASTS - 1_000) == "echo"


@pytest.mark.parametrize("idle_ms", [60_000, 1_800_000, 6 * 3_600_000, 7 * 86_400_000])
def test_no_entry_lapses_while_its_session_may_be_alive(idle_ms: int) -> None:
    """A session that is seen at any times, at most its idle limit apart, and scans."""
    lasts = idle_ms + 1_500_000
    random = np.random.default_rng(idle_ms)
    for _ in range(4):
        entry, seen = record(0, lasts=lasts), 0
        end = int(idle_ms * 3)
        step = 30_000 if idle_ms < 3_600_000 else 600_000
        next_seen = seen + int(random.uniform(0, idle_ms))
        for now in range(0, end, step):
            while next_seen <= now:
                seen, next_seen = next_seen, next_seen + int(random.uniform(0, idle_ms))
            if now - seen > idle_ms:
                continue
            found = record(seen, lasts=lasts)
            judged = worth(found, entry, NOW + now, is_news=False)
            if len(judged.told):
                entry = judged.told
            assert int(entry["expiry"][0]) >= NOW + seen + idle_ms, "lapsed before the session"


def test_last_seen_is_right_where_backends_differ() -> None:
    assert outcome(record(-1_000, backend=8), known(-2_000)) == "told"
    assert outcome(record(-2_000, backend=8), known(-1_000)) == "outdated"
    assert outcome(record(-1_000, backend=8), known(-1_000)) == "outdated"


def test_news_overrule_a_clock_that_is_a_little_ahead() -> None:
    before = known(SKEW_MS - 1)
    assert outcome(record(0, backend=8), before, is_news=True) == "told"
    assert outcome(record(0, backend=8), before, is_news=False) == "outdated"
    assert outcome(record(0, backend=8), known(SKEW_MS), is_news=True) == "outdated"


def test_what_lapsed_or_is_gone_is_not_known() -> None:
    lapsed = known(-LASTS - 1)
    assert outcome(record(0), lapsed) == "told"
    assert outcome(record(0, backend=8), lapsed) == "told"
    assert outcome(record(0), known(1, flags=Flag.GONE)) == "told"


def test_new_flags_are_told_and_a_question_once_asked_stays() -> None:
    """That a client is split is news; that flows may be elsewhere as well, and it is not taken
    back by somebody who does not see such flows."""
    assert outcome(record(0, flags=Flag.SPLIT), known(0)) == "told"
    assert outcome(record(0), known(0, flags=Flag.SPLIT)) == "told"
    assert outcome(record(0, flags=Flag.ASK), known(0)) == "told"
    assert outcome(record(0), known(0, flags=Flag.ASK)) == "echo"
    judged = worth(record(0, flags=Flag.SPLIT), known(0, flags=Flag.ASK), NOW, is_news=False)
    assert judged.told["flags"][0] == Flag.SPLIT | Flag.ASK


def test_what_is_told_again_never_shortens_what_is_known() -> None:
    """News of a session last for less than what a scan has told of it."""
    judged = worth(record(0, flags=Flag.SPLIT, lasts=1_000), known(0), NOW, is_news=True)
    assert judged.told["expiry"][0] == NOW + LASTS


def test_a_session_that_came_from_elsewhere_is_told_before_it_ends_there() -> None:
    """The director that told it has no entry of its own in its data path."""
    idle, lasts = 300_000, 1_800_000
    before = known(0, lasts=lasts)
    assert outcome(record(idle // 2, lasts=lasts), before, NOW + idle // 2) == "echo"
    later = idle // 2 + 30_000
    assert outcome(record(later, lasts=lasts), before, NOW + later) == "told"
    own = record(0, lasts=lasts)
    assert outcome(record(later, lasts=lasts), own, NOW + later) == "echo"
