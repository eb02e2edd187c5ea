# SPDX-License-Identifier: Apache-2.0
"""The director's maps as user space knows them: names as in bpf/maps.h, records as in abi.py.

What each holds, who writes it and what happens when it is full stands in bpf/maps.h.
"""

from limpet.datapath import abi

MAPPED = {  # map name -> record; arrays that are mapped into memory
    "control": abi.CONTROL,
    "vip_addresses": abi.VIP_ADDRESS,
    "vip_services": abi.VIP_SERVICE,
    "vips": abi.VIP,
    "pools": abi.POOL,
    "slot_tables": abi.SLOT_TABLE,
    "backends": abi.BACKEND,
    "flows": abi.FLOW_BUCKET,
    "flow_clients": abi.FLOW_CLIENT,
}
PER_CPU = {
    "counters": abi.COUNTERS,
    "vip_stats": abi.VIP_STATS,
    "backend_stats": abi.BACKEND_STATS,
    "rates": abi.RATE,
}
