# SPDX-License-Identifier: Apache-2.0
"""Rows of the image as rows of kernel maps, and back. Pure; decode(encode(row)) == row."""

import numpy as np

from limpet.core import affinity, hashing
from limpet.core.model import (
    Address,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    NextHop,
    VipRow,
)
from limpet.datapath.abi import BACKEND, VIP
from limpet.datapath.abi import Encapsulation as Code

Record = np.ndarray[tuple[()], np.dtype[np.void]]  # of one row
AFFINITIES = list(Affinity)  # in the order of enum affinity


def mapped(address: Address) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The 16 byte form of an address."""
    high, low = hashing.words(address)
    return np.frombuffer((high << 64 | low).to_bytes(16, "big"), np.uint8)


def _code(row: BackendRow) -> Code:
    if row.encapsulation is Encapsulation.L2:
        return Code.L2
    return Code.IPIP4 if row.address.version == 4 else Code.IPIP6


def encode_backend(row: BackendRow) -> Record:
    """BACKEND record. The program needs `ifindex` and a MAC; without both it asks the kernel."""
    record = np.zeros((), BACKEND)
    record["address"] = mapped(row.address)
    record["encapsulation"] = _code(row)
    hop = row.next_hop
    if hop is not None:
        record["mtu"] = hop.mtu
        record["next_hop"] = np.frombuffer(hop.mac, np.uint8)
        record["source_mac"] = np.frombuffer(hop.source_mac, np.uint8)
        record["ifindex"] = hop.ifindex
    return record


def decode_backend(number: int, record: np.void) -> BackendRow | None:
    """The row of a BACKEND record, None if it is empty."""
    if record["encapsulation"] == Code.NONE:
        return None
    hop = None
    if record["ifindex"] or record["mtu"]:
        hop = NextHop(
            ifindex=int(record["ifindex"]),
            mac=record["next_hop"].tobytes(),
            source_mac=record["source_mac"].tobytes(),
            mtu=int(record["mtu"]),
        )
    words = np.frombuffer(record["address"].tobytes(), ">u8").tolist()
    is_l2 = record["encapsulation"] == Code.L2
    return BackendRow(
        id=BackendId(number),
        address=hashing.address(*words),
        encapsulation=Encapsulation.L2 if is_l2 else Encapsulation.IPIP,
        next_hop=hop,
    )


def encode_vip(row: VipRow) -> Record:
    """VIP record."""
    record = np.zeros((), VIP)
    record["affinity_mask"] = affinity.mask(row.affinity, row.address.version)
    record["pool"] = row.pool
    record["affinity"] = AFFINITIES.index(row.affinity)
    record["protocol"] = row.protocol.number
    record["family"] = row.address.version
    return record
