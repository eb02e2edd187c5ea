# SPDX-License-Identifier: Apache-2.0
"""Rows of the image as rows of kernel maps, and back. Pure; decode(encode(row)) == row."""

from dataclasses import dataclass

import numpy as np

from limpet.core import affinity, hashing
from limpet.core.model import (
    Address,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    NextHop,
    Policy,
    PoolId,
    PoolRow,
    Protocol,
    Standing,
    Timeouts,
    VipId,
    VipRow,
)
from limpet.core.slots import inverses
from limpet.datapath.abi import BACKEND, MEMBER_TABLE, VIP
from limpet.datapath.abi import Encapsulation as Code

Record = np.ndarray[tuple[()], np.dtype[np.void]]  # of one row
AFFINITIES = list(Affinity)  # in the order of enum affinity
POLICIES = list(Policy)  # in the order of enum policy


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
    record["has_standing"] = row.has_standing
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
        has_standing=bool(record["has_standing"]),
    )


def encode_vip(row: VipRow) -> Record:
    """VIP record."""
    record = np.zeros((), VIP)
    record["affinity_mask"] = affinity.mask(row.affinity, row.address.version, row.prefix)
    record["pool"] = row.pool
    record["affinity"] = AFFINITIES.index(row.affinity)
    record["protocol"] = row.protocol.number
    record["family"] = row.address.version
    record["range_shift"] = affinity.shift(row.port_ranges)
    record["split_flows"] = row.split_flows
    record["split_shift"] = affinity.shift(row.split_ranges)
    record["looks_at_list"] = row.looks_at_list
    return record


@dataclass(frozen=True, slots=True)
class Service:
    """What a VIP record does not say: where its packets arrive, and its timeouts."""

    address: Address
    protocol: Protocol
    port: int | None
    timeouts: Timeouts


def decode_vip(number: int, record: np.void, service: Service) -> VipRow:
    """The row of a VIP record."""
    kind = AFFINITIES[int(record["affinity"])]
    high, low = (int(word) for word in record["affinity_mask"])
    family = service.address.version
    return VipRow(
        id=VipId(number),
        address=service.address,
        protocol=service.protocol,
        port=service.port,
        pool=PoolId(int(record["pool"])),
        affinity=kind,
        prefix=None if kind is Affinity.FLOW else affinity.mask_prefix((high, low), family),
        port_ranges=_ranges(record["range_shift"]),
        split_flows=int(record["split_flows"]),
        split_ranges=_ranges(record["split_shift"]),
        looks_at_list=bool(record["looks_at_list"]),
        timeouts=service.timeouts,
    )


def _ranges(shift: int) -> int:
    return int(1 << affinity.PORT_BITS >> int(shift))


def encode_members(row: PoolRow) -> Record:
    """MEMBER_TABLE record."""
    record = np.zeros((), MEMBER_TABLE)
    record["count"] = len(row.members)
    record["policy"], record["reassign"] = POLICIES.index(row.policy), POLICIES.index(row.reassign)
    members = record["members"][: len(row.members)]
    members["backend"] = [backend for backend, _ in row.members]
    members["weight"] = [weight for _, weight in row.members]
    members["inverse"] = inverses(row.members)
    for backend, standing in row.standing:
        record["standing"][backend] = standing
    return record


def decode_members(
    record: np.void,
) -> tuple[tuple[tuple[BackendId, int], ...], tuple[tuple[BackendId, Standing], ...]]:
    """Members with their weights, and the standings that are not 0."""
    members = record["members"][: int(record["count"])]
    weights = zip(members["backend"].tolist(), members["weight"].tolist(), strict=True)
    standing = record["standing"]
    return (
        tuple((BackendId(backend), weight) for backend, weight in weights),
        tuple((BackendId(int(i)), Standing(int(standing[i]))) for i in np.flatnonzero(standing)),
    )
