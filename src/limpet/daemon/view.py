# SPDX-License-Identifier: Apache-2.0
"""View: what a director is and does, as the JSON that API and commands show. Reads, never writes.

Keys are the words of the product, units last; rates are of the last second. A value that does not
apply is null. docs/operate/director.md lists the keys.
"""

import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limpet.api.interface import FlowPage, FlowQuery, Json
from limpet.core import hashing
from limpet.core.effective import intent
from limpet.core.errors import NotFound
from limpet.core.model import SLOTS, Affinity, BackendRow, Pool, PoolRow, Vip
from limpet.core.registry import KnownBackend, Registry
from limpet.core.slots import shares
from limpet.daemon import condition
from limpet.daemon.links import by_name
from limpet.daemon.reconcile import Now
from limpet.daemon.sampler import Population, Rates
from limpet.datapath import settings
from limpet.datapath.abi import MEANINGS, Life
from limpet.datapath.counters import Counters
from limpet.datapath.flows import Wanted
from limpet.datapath.kernel import Kernel

BATCH = 4_096
LIVES = {int(life): life.name.lower() for life in Life}
REMOVED: Json = {
    "state": "lingering",
    "intent": "active",
    "health": "unchecked",
    "why_no_new_sessions": ["removed from the file; its row stays while flows name it"],
}
KINDS = {"verdicts": "verdict", "rungs": "rung", "events": "event"}


class Occupied(Protocol):
    """A census of one of the tables."""

    @property
    def total(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def lives(self) -> dict[str, int]: ...


def attachments(now: Now) -> list[Json]:
    """The interfaces that the file names, and how the program runs there."""
    known = by_name(now.links)
    found = []
    for name in now.desired.director.interfaces:
        link = known.get(name)
        found.append(
            {
                "interface": name,
                "ifindex": link.index if link else None,
                "mode": link.xdp if link else "",
                "state": "missing" if link is None else "up" if link.is_up else "down",
            }
        )
    return found


def occupancy(census: Occupied) -> Json:
    """The connection table or the session table as a whole."""
    used = sum(census.lives.values())
    return {
        "live": census.total,
        "entries": census.entries,
        "used": used,
        "used_percent": round(100 * used / census.entries, 2),
        "by_life": census.lives,
    }


def vips(now: Now, there: Population, rates: Rates) -> list[Json]:
    """VIPs in the order of the file."""
    return [_vip(vip, now.registry, there, rates) for vip in now.desired.vips]


def _vip(vip: Vip, registry: Registry, there: Population, rates: Rates) -> Json:
    number = registry.vips[(vip.address, vip.protocol, vip.port)].id
    stats = rates.after.vips[number]
    is_flow = vip.affinity is Affinity.FLOW
    return {
        "name": vip.name,
        "id": number,
        "address": str(vip.address),
        "protocol": str(vip.protocol),
        "port": vip.port,
        "pool": vip.pool,
        "affinity": str(vip.affinity),
        "sessions": int((there.flows if is_flow else there.sessions).vips[number]),
        "sessions_created": int(stats["sessions"]),
        "flows": int(there.flows.vips[number]),
        "flows_created": int(stats["flows"]),
        "packets": int(stats["packets"]),
        "bytes": int(stats["bytes"]),
        "dropped": int(stats["dropped"]),
        "packets_per_s": round(rates.per_s("vips", number, "packets"), 1),
        "bits_per_s": round(8 * rates.per_s("vips", number, "bytes"), 1),
    }


def pools(now: Now) -> list[Json]:
    """Pools in the order of the file."""
    rows = {row.id: row for row in now.image.pools}
    found = []
    for pool in now.desired.pools:
        row = rows[now.registry.pools[pool.name]]
        found.append(
            {
                "name": pool.name,
                "id": row.id,
                "generation": row.generation,
                "digest": row.digest,
                "policy": str(pool.policy),
                "reassign": str(pool.reassign),
                "vips": [vip.name for vip in now.desired.vips if vip.pool == pool.name],
                "backends": _members(row, pool, now),
            }
        )
    return found


def _members(row: PoolRow, pool: Pool, now: Now) -> list[Json]:
    """`weight` is what people want, by command or else by the file; `effective_weight` is what
    intent, health and slow start leave of it."""
    owned = shares(row.slots)
    found = []
    for name in pool.weights:
        slots = owned.get(now.registry.backends[name].id, 0)
        each = now.effect.assessments[(pool.name, name)]
        found.append(
            {
                "name": name,
                "weight": each.full_weight,
                "effective_weight": each.weight,
                "slots": slots,
                "share_percent": round(100 * slots / SLOTS, 3),
                "why": list(each.reasons),
            }
        )
    return found


def backends(now: Now, there: Population, rates: Rates) -> list[Json]:
    """Backends in the order of the file, then those that linger for their flows."""
    rows = {row.id: row for row in now.image.backends}
    members: dict[str, list[Json]] = {}
    for pool in pools(now):
        for member in pool["backends"]:
            share = {key: value for key, value in member.items() if key != "name"}
            members.setdefault(member["name"], []).append({"pool": pool["name"], **share})
    known = [now.registry.backends[backend.name] for backend in now.desired.backends]
    found = []
    for backend in (*known, *now.registry.lingering):
        is_active = backend.name in now.registry.backends and backend in known
        found.append(
            {
                **_backend(backend, there, rates),
                **(_wanted(now, backend.name) if is_active else REMOVED),
                "pools": members.get(backend.name, []) if is_active else [],
                "next_hop": _next_hop(now, rows.get(backend.id)),
            }
        )
    return found


def _wanted(now: Now, name: str) -> Json:
    effect = now.effect
    return {
        "state": "active",
        "intent": intent(effect.intents, name),
        "health": condition.measured(effect, now.desired, name),
        "why_no_new_sessions": condition.why_no_new_sessions(effect, name),
    }


def _backend(backend: KnownBackend, there: Population, rates: Rates) -> Json:
    stats = rates.after.backends[backend.id]
    return {
        "name": backend.name,
        "id": backend.id,
        "address": str(backend.address),
        "encapsulation": str(backend.encapsulation),
        "sessions": int(there.loads[backend.id]),
        "sessions_created": int(stats["sessions"]),
        "flows": int(there.flows.backends[backend.id]),
        "flows_created": int(stats["flows"]),
        "packets": int(stats["packets"]),
        "bytes": int(stats["bytes"]),
        "packets_per_s": round(rates.per_s("backends", backend.id, "packets"), 1),
        "bits_per_s": round(8 * rates.per_s("backends", backend.id, "bytes"), 1),
    }


def _next_hop(now: Now, row: BackendRow | None) -> Json:
    if row is None or row.next_hop is None:
        return {"state": "no route", "interface": None, "mac": None, "mtu": None, "gateway": None}
    hop, gateway = row.next_hop, now.gateways.get(row.address)
    link = now.links.get(hop.ifindex)
    return {
        "state": "resolved" if hop.ifindex else "via kernel",
        "interface": link.name if link else None,
        "mac": hop.mac.hex(":") if hop.ifindex else None,
        "mtu": hop.mtu,
        "gateway": str(gateway) if gateway else None,
    }


def counters(read: Counters) -> Json:
    """Verdicts, rungs and events with what each means and what to feel about it."""
    return {
        kind: [
            {
                "name": name,
                "value": value,
                "meaning": MEANINGS[section][name.upper()][0],
                "severity": MEANINGS[section][name.upper()][1],
            }
            for name, value in getattr(read, kind).items()
        ]
        for kind, section in KINDS.items()
    }


# --- Flows -------------------------------------------------------------------------------------


def flow_page(now: Now, kernel: Kernel, query: FlowQuery) -> FlowPage:
    """Flows that match, decoded by numpy; text is made in batches, while it is sent."""
    found = select(now, kernel, query)
    shown = found[: query.limit] if query.limit else found
    return FlowPage(len(found), _batches(now, shown))


def select(now: Now, kernel: Kernel, query: FlowQuery) -> NDArray[np.void]:
    """FLOW records of a query; NotFound for names that nobody has."""
    client = None
    if query.client:
        try:
            client = hashing.words(ip_address(query.client))
        except ValueError as error:
            raise NotFound(f"client: {error}") from None
    vips = vip_ids(now, query.vip) if query.vip else [None]
    backend = backend_id(now, query.backend) if query.backend else None
    table, tick = kernel.flows(), kernel.tick()
    parts = [table.decode(tick, Wanted(vip, backend, client)) for vip in vips]
    return np.concatenate(parts)


def vip_ids(now: Now, text: str) -> list[int | None]:
    """Ids of the VIP of that name, or of all at that address."""
    everyone = (*now.registry.vips.values(), *now.registry.known_vips)
    found: list[int | None] = [v.id for v in everyone if text in (v.name, str(v.address))]
    if not found:
        names = ", ".join(vip.name for vip in now.desired.vips) or "none"
        raise NotFound(f"there is no VIP {text!r}; VIPs: {names}")
    return found


def backend_id(now: Now, text: str) -> int:
    """Id of the backend of that name or address."""
    names = now.registry.backend_names()
    known = (*now.registry.backends.values(), *now.registry.lingering)
    for backend in (*known, *now.registry.known_backends):
        if text in (names[backend.id], str(backend.address)):
            return backend.id
    have = ", ".join(sorted(now.registry.backends)) or "none"
    raise NotFound(f"there is no backend {text!r}; backends: {have}")


def _batches(now: Now, flows: NDArray[np.void]) -> Iterator[str]:
    for start in range(0, len(flows), BATCH):
        yield flow_lines(now, flows[start : start + BATCH])


def flow_rows(now: Now, flows: NDArray[np.void]) -> list[Json]:
    """FLOW records as JSON."""
    return [json.loads(line) for line in flow_lines(now, flows).splitlines()]


def flow_lines(now: Now, flows: NDArray[np.void]) -> str:
    """FLOW records as JSON, one a line. Put together by hand: five times as fast as json.dumps,
    which matters for a million."""
    vips = Quoted({int(i): name for i, name in now.registry.vip_names().items()})
    backends = Quoted({int(i): name for i, name in now.registry.backend_names().items()})
    tick_s = settings.tick_s(now.machine.hz)
    columns = [flows[name].tolist() for name in flows.dtype.names or ()]
    return "".join(
        f'{{"client": "{address_text(high, low)}", "client_port": {client_port}, '
        f'"vip": {vips[vip]}, "vip_port": {vip_port}, "backend": {backends[backend]}, '
        f'"life": "{LIVES[life]}", "idle_s": {idle * tick_s:.1f}}}\n'
        for high, low, client_port, vip_port, vip, backend, life, idle in zip(*columns, strict=True)
    )


class Quoted(dict[int, str]):
    """Names as JSON strings, by id; an id without a name is "#id"."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__({number: json.dumps(name) for number, name in names.items()})

    def __missing__(self, number: int) -> str:
        return f'"#{number}"'


def address_text(high: int, low: int) -> str:
    """Address words as text; faster than ipaddress."""
    if high == 0 and low >> 32 == 0xFFFF:
        return socket.inet_ntoa((low & 0xFFFF_FFFF).to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, (high << 64 | low).to_bytes(16, "big"))
