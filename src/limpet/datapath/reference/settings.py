# SPDX-License-Identifier: Apache-2.0
"""struct settings as plain Python values: the same switches that the kernel's program has as
constants.
"""

from dataclasses import dataclass

import numpy as np

from limpet.datapath.reference.packet import Words


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
    queries_per_jiffy_16: int
    queries_burst: int
    client_queries_burst: int
    outer_source4: bytes
    outer_source6: bytes
    icmp_source4: bytes
    icmp_source6: bytes
    redirect_always: bool
    is_member: bool
    hash_only: bool


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
        queries_per_jiffy_16=int(record["queries_per_jiffy_16"]),
        queries_burst=int(record["queries_burst"]),
        client_queries_burst=int(record["client_queries_burst"]),
        outer_source4=record["outer_source4"].tobytes(),
        outer_source6=record["outer_source6"].tobytes(),
        icmp_source4=record["icmp_source4"].tobytes(),
        icmp_source6=record["icmp_source6"].tobytes(),
        redirect_always=bool(record["redirect_always"]),
        is_member=bool(record["is_member"]),
        hash_only=bool(record["hash_only"]),
    )
