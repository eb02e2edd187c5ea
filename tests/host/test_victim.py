# SPDX-License-Identifier: Apache-2.0
"""bpf/room.h chooses without branches who makes room; here the same in the plainest words."""

from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from host.library import U32, U64, Library
from limpet.datapath.abi import FlowWord, Life, Limit

TICKS = 1 << FlowWord.SEEN_BITS
OLDEST = TICKS - FlowWord.SKEW_TICKS - 1
NEVER = 0xFFFF_FFFF
EMPTY, EXPIRED, OPENING, CLOSING, NONE = range(5)
RANKS = {
    Life.OPENING: OPENING,
    Life.FRAGMENT: OPENING,
    Life.CLOSING: CLOSING,
    Life.ESTABLISHED: NONE,
    Life.DATAGRAM: NONE,
    Life.LATE: EXPIRED,
}
LIVES = [Life.EMPTY, *RANKS]  # that an entry may have
TICK = st.integers(0, TICKS - 1)
TIMEOUT = st.one_of(st.integers(0, 1_000), st.integers(0, OLDEST), st.just(NEVER))
TIMEOUTS = st.fixed_dictionaries(dict.fromkeys(RANKS, TIMEOUT))


@dataclass(frozen=True, slots=True)
class Entry:
    """A life, and how many ticks ago it was last heard of; less than 0: another CPU is ahead."""

    life: Life
    idle: int

    def word(self, now: int) -> int:
        if self.life is Life.EMPTY:
            return 0
        seen = (now - self.idle) % TICKS
        return self.life << FlowWord.LIFE_SHIFT | seen << FlowWord.SEEN_SHIFT | 5

    def rank(self, timeouts: dict[Life, int]) -> int:
        if self.life is Life.EMPTY:
            return EMPTY
        return EXPIRED if max(0, self.idle) > timeouts[self.life] else RANKS[self.life]


IDLE = st.one_of(
    st.integers(1 - FlowWord.SKEW_TICKS, 2_000), st.integers(1 - FlowWord.SKEW_TICKS, OLDEST)
)
ENTRY = st.builds(Entry, st.sampled_from(LIVES), IDLE)
BUCKET = st.lists(ENTRY, min_size=Limit.FLOW_WAYS, max_size=Limit.FLOW_WAYS)
LIVE = st.builds(Entry, st.sampled_from([Life.ESTABLISHED, Life.DATAGRAM]), st.integers(0, 100))


def choose(
    library: Library, bucket: list[Entry], timeouts: dict[Life, int], hashed: int, now: int
) -> tuple[int, int, int]:
    """(way, rank, free entries) that the data plane chooses."""
    ticks = (U32 * 8)(*(timeouts.get(Life(life), NEVER) for life in range(8)))
    out = (U32 * 3)()
    words = (U64 * 8)(*(entry.word(now) for entry in bucket))
    library.call.host_victim(words, ticks, hashed, now, out)
    way, rank, free = out
    return way, rank, free


@given(bucket=BUCKET, timeouts=TIMEOUTS, hashed=st.integers(0, (1 << 64) - 1), now=TICK)
def test_the_lowest_rank_makes_room_and_of_these_the_longest_idle(
    library: Library, bucket: list[Entry], timeouts: dict[Life, int], hashed: int, now: int
) -> None:
    way, rank, free = choose(library, bucket, timeouts, hashed, now)
    ranks = [entry.rank(timeouts) for entry in bucket]
    assert rank == min(ranks)
    assert free == sum(each <= EXPIRED for each in ranks)
    if rank not in (EMPTY, NONE):
        assert ranks[way] == rank
        same = [max(0, e.idle) for e, each in zip(bucket, ranks, strict=True) if each == rank]
        assert max(0, bucket[way].idle) == max(same)


@given(bucket=st.lists(LIVE, min_size=8, max_size=8), now=TICK)
def test_live_established_flow_never_makes_room(
    library: Library, bucket: list[Entry], now: int
) -> None:
    timeouts = dict.fromkeys(RANKS, 100)
    _, rank, free = choose(library, bucket, timeouts, 0, now)
    assert (rank, free) == (NONE, 0)


@given(idle=st.integers(1 - FlowWord.SKEW_TICKS, OLDEST), now=TICK)
@example(idle=-1, now=0)
@example(idle=0, now=0)
@example(idle=OLDEST, now=0)
def test_age_survives_the_wrap_of_ticks_and_clocks_that_differ(
    library: Library, idle: int, now: int
) -> None:
    word = Entry(Life.ESTABLISHED, idle).word(now)
    assert library.call.host_age(word, now) == max(0, idle)
