# SPDX-License-Identifier: Apache-2.0
"""The director's maps as user space knows them: names as in bpf/maps.h, records as in abi.py.

What each holds, who writes it and what happens when it is full stands in bpf/maps.h.
"""

import numpy as np

from limpet.datapath import abi

MAPPED: dict[str, np.dtype[np.void]] = {  # map name -> record; arrays that are mapped into memory
    "control": abi.CONTROL,
    "vip_addresses": abi.VIP_ADDRESS,
    "vip_services": abi.VIP_SERVICE,
    "vips": abi.VIP,
    "idle_limits": abi.IDLE_LIMITS,
    "pools": abi.POOL,
    "slot_tables": abi.SLOT_TABLE,
    "member_tables": abi.MEMBER_TABLE,
    "turn_tables": abi.TURN_TABLE,
    "turns": np.dtype([("count", "<u8")]),
    "loads": abi.LOADS,
    "backends": abi.BACKEND,
    "flows": abi.FLOW_BUCKET,
    "flow_clients": abi.FLOW_CLIENT,
    "sessions": abi.SESSION_BUCKET,
    "session_seen": abi.SESSION_TIMES,
}
PER_CPU = {
    "counters": abi.COUNTERS,
    "vip_stats": abi.VIP_STATS,
    "backend_stats": abi.BACKEND_STATS,
    "rates": abi.RATE,
    "askers": abi.RATE,
}
CALLED = {  # map name -> bytes of a value; reached by system calls only
    "proxies": 1,
    "resets": 0,
    "directory": abi.EXCEPTION.itemsize,
    "news": 0,
    "held": 0,
}
