# SPDX-License-Identifier: Apache-2.0
"""bpf/session.h and the reference keep a session in the same place, and end it at the same tick."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from host.library import U32, U64, Library
from limpet.core.model import Affinity
from limpet.datapath import settings as settings_of
from limpet.datapath.abi import Life, SessionLife, SessionWord
from limpet.datapath.reference.rows import Vip
from limpet.datapath.reference.sessions import Session, SessionTable, key_of
from limpet.datapath.reference.settings import read
from packets.world import USUAL, settings

WORD = st.integers(0, (1 << 64) - 1)
WORDS = st.tuples(WORD, WORD)
TICK = st.integers(0, (1 << 32) - 1)
RANGE = st.integers(0, 1 << 16)
SESSIONS = 8_192
LIMITS = {Life.OPENING: 10, Life.SESSION: 1_000}


def table(key: tuple[int, int] = (1, 2), buckets: int = 1) -> SessionTable:
    record: Any = settings(USUAL)
    record["flow_key"], record["session_mask"] = key, buckets - 1
    return SessionTable(read(record), lambda _, life: LIMITS[life])


@given(
    mask=WORDS,
    client=WORDS,
    key=WORDS,
    vip=st.integers(1, 1023),
    ports=RANGE,
    bits=st.integers(0, 22),
)
def test_a_session_has_the_same_two_buckets_in_c_and_in_python(
    library: Library,
    mask: tuple[int, int],
    client: tuple[int, int],
    key: tuple[int, int],
    vip: int,
    ports: int,
    bits: int,
) -> None:
    assert library.call.host_flow_key(*key, (1 << bits) - 1) == 0
    out = (U32 * 2)()
    library.call.host_session_places((U64 * 4)(*mask, *client), vip, ports, out)
    name = key_of(Vip(vip, 1, Affinity.CLIENT, mask), client, ports)
    assert tuple(out) == table(key, 1 << bits).places(name)


@given(
    life=st.sampled_from([SessionLife.OPENING, SessionLife.LIVE]),
    seen=TICK,
    idle=st.one_of(st.integers(-20, 1_100), st.integers(-(1 << 31) + 1, (1 << 31) - 1)),
)
def test_a_session_expires_at_the_same_tick_in_c_and_in_python(
    library: Library, life: SessionLife, seen: int, idle: int
) -> None:
    """Also when ticks wrap round, and when another CPU is ahead."""
    now = (seen + idle) % (1 << 32)
    ticks = (U32 * 8)(*(LIMITS.get(Life(i), 0) for i in range(8)))
    has_expired = library.call.host_session_has_expired(
        life << SessionWord.LIFE_SHIFT, seen, now, ticks
    )
    name = key_of(Vip(0, 1, Affinity.CLIENT, (0, 0)), (0, 0), 0)
    session = Session(name, 0, 0, False, 1, since=0, seen=seen, life=life)
    assert bool(has_expired) != table().is_live(session, now)
    assert bool(has_expired) == (idle > LIMITS[SESSION_LIMIT[life]])


SESSION_LIMIT = {SessionLife.OPENING: Life.OPENING, SessionLife.LIVE: Life.SESSION}


def test_up_to_half_of_the_table_practically_every_session_finds_a_place() -> None:
    """8,192 sessions in as many places twice over: 0.3 of them are expected to find none."""
    sessions = table(buckets=settings_of.session_buckets(SESSIONS))
    vip = Vip(1, 1, Affinity.CLIENT, ((1 << 64) - 1, (1 << 64) - 1))
    without = 0
    for client in range(SESSIONS):
        session, _ = sessions.begin(key_of(vip, (0, client), 0), 1, now=5)
        if session is None:
            without += 1
        else:
            sessions.opened(session)
    assert without <= SESSIONS // 2_000
