# SPDX-License-Identifier: Apache-2.0
"""Render: an image as text, the same for the operator's dump and for the expectations of tests.

One line per row, sorted by id, with names where the registry knows them and the ids of the kernel
maps beside them. Equal images give equal text. Slots are shown as the share of each backend and
the digest of the table: 65,536 lines would tell nobody anything.

    backend   1 b1 10.0.0.11 ipip via ifindex 4 02:00:00:00:00:01 mtu 1500
    pool      0 web generation 3 digest 5f0c…: b1 43691, b2 21845; policy hash, then least-sessions
    vip       1 web4 192.0.2.10 tcp 443 pool web affinity client /32
    proxy   198.51.100.0/24
"""

from limpet.core.model import Affinity, BackendRow, Image, NextHop, PoolRow, Standing, VipRow
from limpet.core.registry import Registry
from limpet.core.slots import shares

UNRESOLVED = bytes(6)


def render(image: Image, registry: Registry) -> str:
    """The image, one line per row; ends in a line feed unless it is empty."""
    lines = [_backend(row, registry) for row in image.backends]
    lines += [_pool(row, registry) for row in image.pools]
    lines += [_vip(row, registry) for row in image.vips]
    lines += [f"proxy   {network}" for network in image.proxies]
    return "".join(f"{line}\n" for line in lines)


def _backend(row: BackendRow, registry: Registry) -> str:
    name = registry.backend_names().get(row.id, "?")
    lingers = " lingering" if any(row.id == b.id for b in registry.lingering) else ""
    hop = _next_hop(row.next_hop)
    return f"backend {row.id:4d} {name} {row.address} {row.encapsulation} {hop}{lingers}"


def _next_hop(hop: NextHop | None) -> str:
    if hop is None:
        return "via kernel"
    mac = "unresolved" if hop.mac == UNRESOLVED else hop.mac.hex(":")
    return f"via ifindex {hop.ifindex} {mac} mtu {hop.mtu}"


def _pool(row: PoolRow, registry: Registry) -> str:
    name = registry.pool_names().get(row.id, "?")
    names = registry.backend_names()
    owners = ", ".join(
        f"{names.get(owner, f'#{owner}') if owner else 'nobody'} {count}"
        for owner, count in shares(row.slots).items()
    )
    left = "".join(f"; {names.get(i, f'#{i}')} {standing(bits)}" for i, bits in row.standing)
    return (
        f"pool    {row.id:4d} {name} generation {row.generation} digest {row.digest}: {owners}; "
        f"policy {row.policy}, then {row.reassign}{left}"
    )


def standing(bits: Standing) -> str:
    """In words: left-by-sessions reset."""
    return " ".join(str(bit.name).lower().replace("_", "-") for bit in Standing if bit in bits)


def _vip(row: VipRow, registry: Registry) -> str:
    name = registry.vip_names().get(row.id, "?")
    pool = registry.pool_names().get(row.pool, f"#{row.pool}")
    port = "all" if row.port is None else str(row.port)
    return (
        f"vip     {row.id:4d} {name} {row.address} {row.protocol} {port} pool {pool} "
        f"affinity {row.affinity}{_affinity(row)}"
    )


def _affinity(row: VipRow) -> str:
    """What the affinity needs beside its name."""
    prefix = "" if row.prefix is None else f" /{row.prefix}"
    if row.affinity is Affinity.CLIENT_PORTS:
        return f"{prefix} {row.port_ranges} ranges"
    if not row.split_flows and not row.looks_at_list:
        return prefix
    known = ", listed ones at once" if row.looks_at_list else ""
    return f"{prefix} split into {row.split_ranges} from {row.split_flows} flows{known}"
