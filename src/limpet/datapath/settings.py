# SPDX-License-Identifier: Apache-2.0
"""The director's configuration as the constants of its XDP program (struct settings).

Rates are per CPU, because each CPU has a token bucket of its own and none waits for another. Times
are counted in ticks of 2^tick_shift jiffies, about a quarter of a second at any HZ. Pure.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import numpy as np
from numpy.typing import NDArray

from limpet.core import hashing
from limpet.core.model import Cluster, Director, Protocol, Timeouts
from limpet.datapath.abi import SETTINGS, FlowWord, Life, Limit

WAYS = int(Limit.FLOW_WAYS)
SESSION_WAYS = int(Limit.SESSION_WAYS)
TICK_S = 0.25  # wanted; the real one is the nearest power of two of jiffies below
FRAGMENT_S = 60  # RFC 8200 section 4.5: how long reassembly may wait
LATE_S = 7 * 86_400  # that an expired flow, and an expired session, is remembered at most
LIVES = 1 << FlowWord.LIFE_BITS
NEVER = 0xFFFF_FFFF  # ticks; more than an age can be
BURST_S = 0.1  # of a rate limit
BUCKETS_MIN = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine that the program is loaded on."""

    hz: int
    slot_key: bytes  # 16 bytes
    flow_key: bytes  # 16 bytes
    icmp_source4: IPv4Address = field(default=IPv4Address(0))  # 0: answer from the VIP
    icmp_source6: IPv6Address = field(default=IPv6Address(0))
    redirect_always: bool = False
    cluster: Cluster = field(default_factory=Cluster)  # without a name: stands alone


def buckets(flows_max: int) -> int:
    """Buckets of a connection table: a power of two, with `flows_max` flows at most 5/8 full.

    Up to there no flow finds both its buckets full: docs/adr/0001-connection-table.md.
    """
    wanted = -(-flows_max * 8 // 5 // WAYS)
    return max(BUCKETS_MIN, 1 << int(wanted - 1).bit_length())


def session_buckets(sessions_max: int) -> int:
    """Buckets of a session table: a power of two, with `sessions_max` sessions at most half full.

    Up to there practically no session finds both full: docs/adr/0007-session-table.md.
    """
    wanted = -(-sessions_max * 2 // SESSION_WAYS)
    return max(BUCKETS_MIN, 1 << int(wanted - 1).bit_length())


def tick_shift(hz: int) -> int:
    """Jiffies of a tick, as a power of two."""
    return max(0, int(hz * TICK_S).bit_length() - 1)


def tick_s(hz: int) -> float:
    """Seconds of a tick."""
    return float(1 << tick_shift(hz)) / hz


def _ticks(seconds: float, hz: int) -> int:
    return round(seconds / tick_s(hz))


def encode_limits(times: Timeouts, protocol: Protocol, hz: int) -> NDArray[np.uint32]:
    """One row of idle_limits: idle ticks by Life, shape (8,)."""
    is_tcp = protocol is Protocol.TCP
    seconds = {
        Life.OPENING: times.tcp_opening_s,
        Life.ESTABLISHED: times.tcp_established_s,
        Life.DATAGRAM: times.udp_s,
        Life.CLOSING: times.tcp_closing_s,
        Life.FRAGMENT: FRAGMENT_S,
        Life.LATE: LATE_S,
        Life.SESSION: times.tcp_established_s if is_tcp else times.udp_s,
    }
    row = np.full(LIVES, NEVER, np.uint32)
    for life, value in seconds.items():
        row[life] = _ticks(value, hz)
    return row


def decode_limits(row: NDArray[np.uint32], hz: int) -> Timeouts:
    """The inverse: whole seconds, which ticks are fine enough to tell apart."""

    def seconds(life: Life) -> int:
        return round(int(row[life]) * tick_s(hz))

    return Timeouts(
        tcp_established_s=seconds(Life.ESTABLISHED),
        tcp_opening_s=seconds(Life.OPENING),
        tcp_closing_s=seconds(Life.CLOSING),
        udp_s=seconds(Life.DATAGRAM),
    )


def _rate(per_s: int, hz: int) -> tuple[int, int]:
    """(tokens per jiffy times 16, burst) of a rate; (0, 0) is no limit."""
    if not per_s:
        return 0, 0
    return max(1, per_s * 16 // hz), max(1, int(per_s * BURST_S))


def encode(director: Director, machine: Machine) -> np.ndarray[tuple[()], np.dtype[np.void]]:
    """SETTINGS record, shape ()."""
    record = np.zeros((), SETTINGS)
    record["slot_key"] = hashing.key_words(machine.slot_key)
    record["flow_key"] = hashing.key_words(machine.flow_key)
    record["bucket_mask"] = buckets(director.flows_max) - 1
    record["session_mask"] = session_buckets(director.sessions_max) - 1
    record["tick_shift"] = tick_shift(machine.hz)
    record["flows_per_jiffy_16"], record["flows_burst"] = _rate(
        director.new_flows_per_s, machine.hz
    )
    record["icmp_per_jiffy_16"], record["icmp_burst"] = _rate(director.icmp_per_s, machine.hz)
    record["outer_source4"][:] = list(director.source4.network_address.packed)
    record["outer_source6"][:] = list(director.source6.network_address.packed)
    record["icmp_source4"][:] = list(machine.icmp_source4.packed)
    record["icmp_source6"][:] = list(machine.icmp_source6.packed)
    record["redirect_always"] = machine.redirect_always
    record["hash_only"] = director.hash_only
    cluster = machine.cluster
    record["is_member"] = bool(cluster.name)
    record["queries_per_jiffy_16"], record["queries_burst"] = _rate(
        cluster.queries_per_s, machine.hz
    )
    record["client_queries_burst"] = cluster.client_queries
    return record
