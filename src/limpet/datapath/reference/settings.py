# SPDX-License-Identifier: Apache-2.0
"""struct settings as plain Python values: the same switches that the kernel's program has as
constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from limpet.core.model import Protocol, Timeouts, VipRow
from limpet.datapath.abi import Life
from limpet.datapath.reference.packet import Words

FRAGMENT_S = 60
LATE_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Settings:
    """Fields as in bpf/abi.h."""

    slot_key: Words
    flow_key: Words
    bucket_mask: int
    session_mask: int
    tick_shift: int
    flows_per_jiffy_16: int
    flows_burst: int
    icmp_per_jiffy_16: int
    icmp_burst: int
    outer_source4: bytes
    outer_source6: bytes
    icmp_source4: bytes
    icmp_source6: bytes
    redirect_always: bool


def read(record: np.ndarray[tuple[()], np.dtype[np.void]]) -> Settings:
    """Settings from a SETTINGS record."""

    def words(name: str) -> Words:
        high, low = record[name].tolist()
        return high, low

    return Settings(
        slot_key=words("slot_key"),
        flow_key=words("flow_key"),
        bucket_mask=int(record["bucket_mask"]),
        session_mask=int(record["session_mask"]),
        tick_shift=int(record["tick_shift"]),
        flows_per_jiffy_16=int(record["flows_per_jiffy_16"]),
        flows_burst=int(record["flows_burst"]),
        icmp_per_jiffy_16=int(record["icmp_per_jiffy_16"]),
        icmp_burst=int(record["icmp_burst"]),
        outer_source4=record["outer_source4"].tobytes(),
        outer_source6=record["outer_source6"].tobytes(),
        icmp_source4=record["icmp_source4"].tobytes(),
        icmp_source6=record["icmp_source6"].tobytes(),
        redirect_always=bool(record["redirect_always"]),
    )


def idle_ticks(row: VipRow | None, tick_s: float) -> Mapping[Life, int]:
    """Idle limits of a VIP's entries by their lives; None: of fragments, which have no VIP."""
    times = Timeouts() if row is None else row.timeouts
    is_tcp = row is None or row.protocol is Protocol.TCP
    seconds = {
        Life.OPENING: times.tcp_opening_s,
        Life.ESTABLISHED: times.tcp_established_s,
        Life.DATAGRAM: times.udp_s,
        Life.CLOSING: times.tcp_closing_s,
        Life.FRAGMENT: FRAGMENT_S,
        Life.LATE: LATE_S,
        Life.SESSION: times.tcp_established_s if is_tcp else times.udp_s,
    }
    return {life: round(limit / tick_s) for life, limit in seconds.items()}
