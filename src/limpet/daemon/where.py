# SPDX-License-Identifier: Apache-2.0
"""Where: to which backend a client's packets go, and by which rung of the ladder.

The ladder of the data plane, climbed with what its tables hold now: live flows of the client first,
then its live session, then the policy of the pool. Whose turn it is cannot be said beforehand, and
the freest only as of this moment. The same hash as the data plane's.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from limpet.api.interface import FlowQuery, Json, Question, SessionQuery
from limpet.core import affinity, hashing
from limpet.core.errors import Conflict, NotFound
from limpet.core.model import SLOT_BACKEND, Address, Affinity, Policy, Pool, PoolRow, Vip
from limpet.core.slots import inverses
from limpet.daemon import clients, view
from limpet.daemon.reconcile import Now
from limpet.datapath.abi import Limit
from limpet.datapath.kernel import Kernel

FLOWS_SHOWN = SESSIONS_SHOWN = 100


def where(now: Now, kernel: Kernel, question: Question) -> Json:
    """The answer. NotFound or Conflict say which part of the question does not fit."""
    client = _client(question)
    vip = _vip(now, question)
    if vip.address.version != client.version:
        raise Conflict(f"{client} cannot reach {vip.address}: not the same IP version")
    flows = _flows(now, kernel, vip, question)
    sessions = _sessions(now, kernel, vip, question)
    slot = _slot(now, vip, client, question, is_split=any(row["is_split"] for row in sessions))
    home = _home(now, vip, slot)
    asks_for_a_flow = question.client_port is not None
    found = _Found(now, kernel, vip, flows, sessions, home, asks_for_a_flow)
    rung, backend, why = _rung(found)
    return {
        "client": str(client),
        "vip": vip.name,
        "pool": vip.pool,
        "rung": rung,
        "backend": backend,
        "address": _address(now, backend),
        "why": why,
        "slot": slot,
        "home": home,
        "sessions": sessions,
        "flows": flows,
    }


@dataclass(frozen=True, slots=True)
class _Found:
    """What the ladder would find."""

    now: Now
    kernel: Kernel
    vip: Vip
    flows: list[Json]
    sessions: list[Json]  # live ones of the client, of the port if one was said
    home: str | None
    asks_for_a_flow: bool = False  # by its port; else for what the client will do next

    @property
    def pool(self) -> Pool:
        return next(pool for pool in self.now.desired.pools if pool.name == self.vip.pool)


def _rung(found: _Found) -> tuple[str, str | None, str]:
    """Rung, backend (None: it cannot be told beforehand) and why, for the next packet."""
    held = {flow["backend"] for flow in found.flows if found.asks_for_a_flow or _is_open(flow)}
    if held:
        backend = held.pop() if len(held) == 1 else None
        return "table", backend, "live flows are in the connection table"
    ties = {row["backend"] for row in found.sessions}
    if len(ties) > 1:
        return "session_new", None, "the client has sessions by ranges of its ports: say the port"
    moved = ""
    for backend in ties:
        standing = _standing(found, backend)
        if not standing:
            return "session_new", backend, "a live session of the client"
        moved = f"the client's session leaves {backend} ({standing}); "
    rung, backend, why = _chosen(found)
    return rung, backend, moved + why


def _is_open(flow: Json) -> bool:
    """After FIN or RST, the next that comes is another flow."""
    return bool(flow["life"] != "closing")


def _standing(found: _Found, backend: str) -> str:
    """Why new flows of its sessions leave a backend; empty if they do not."""
    each = found.now.effect.assessments.get((found.vip.pool, backend))
    known = found.now.registry.backends.get(backend)
    row = _pool_row(found.now, found.vip)
    if known is None or not dict(row.standing).get(known.id):
        return ""
    return "; ".join(each.reasons) if each and each.reasons else "it left the pool"


def _chosen(found: _Found) -> tuple[str, str | None, str]:
    """Where a new session goes, by the policy for clients that are not known."""
    policy, reassign = found.pool.policy, found.pool.reassign
    rung, backend, why = _by_policy(found, policy)
    if reassign is not policy:  # whose sessions have expired is remembered, but is not listed
        why += f" (of a client who was here before: by reassign, {reassign})"
    return rung, backend, why


def _by_policy(found: _Found, policy: Policy) -> tuple[str, str | None, str]:
    if policy is Policy.HASH:
        return "home_new", found.home, "a new session goes to the home of its slot"
    if policy is Policy.ROUND_ROBIN:
        return "round_robin", None, "a new session goes to the backend whose turn it is"
    return "freest", _freest(found), "a new session goes to the freest backend"


def _freest(found: _Found) -> str | None:
    """As the data plane chooses, where it looks at all members."""
    members = _pool_row(found.now, found.vip).members
    if not members or len(members) > Limit.CANDIDATES:
        return None
    loads = found.kernel.loads()
    weighs = {
        number: (int(loads[number]) + 1) * inverse
        for (number, _), inverse in zip(members, inverses(members), strict=True)
    }
    names = found.now.registry.backend_names()
    return names[min(weighs, key=lambda number: weighs[number])]


def _client(question: Question) -> Address:
    try:
        return ip_address(question.client)
    except ValueError:
        raise NotFound(f"client: {question.client!r} is not an IP address") from None


def _vip(now: Now, question: Question) -> Vip:
    named = [v for v in now.desired.vips if question.vip in (v.name, str(v.address))]
    if not named:
        view.vip_ids(now, question.vip)  # says which there are
        raise NotFound(f"VIP {question.vip!r} was removed")
    fitting = [
        v
        for v in named
        if question.protocol in (None, str(v.protocol))
        and (question.vip_port is None or v.port in (None, question.vip_port))
    ]
    exact = [v for v in fitting if v.port is not None and v.port == question.vip_port]
    fitting = exact or fitting
    if not fitting:
        served = ", ".join(f"{v.protocol} {v.port or 'all ports'}" for v in named)
        raise NotFound(f"{question.vip} does not serve that; it serves {served}")
    if len(fitting) > 1 and len({(v.pool, v.affinity) for v in fitting}) > 1:
        names = ", ".join(f"{v.name} ({v.protocol} {v.port or 'all ports'})" for v in fitting)
        raise Conflict(f"{question.vip} is several VIPs: {names}; say --protocol and --port")
    return fitting[0]


def _flows(now: Now, kernel: Kernel, vip: Vip, question: Question) -> list[Json]:
    """Live flows that the question means; several VIPs of one pool may serve one address."""
    name = vip.name if question.vip == vip.name else question.vip
    found = view.select(now, kernel, FlowQuery(vip=name, client=question.client))
    for key in ("client_port", "vip_port"):
        wanted = getattr(question, key)
        if wanted is not None:
            found = found[found[key] == wanted]
    if question.protocol is not None:
        numbers = {k.id for k in now.registry.vips.values() if str(k.protocol) == question.protocol}
        found = found[[int(number) in numbers for number in found["vip"]]]
    return view.flow_rows(now, found[:FLOWS_SHOWN])


def _sessions(now: Now, kernel: Kernel, vip: Vip, question: Question) -> list[Json]:
    """Live sessions that a flow of the question would look at."""
    query = SessionQuery(vip=vip.name, client=question.client)
    number = now.registry.vips[(vip.address, vip.protocol, vip.port)].id
    found = clients.select(now, kernel, query)
    found = found[found["vip"] == number]
    if question.client_port is not None:
        ranges = _ranges(now, vip)
        own = int(affinity.port_range(question.client_port, ranges))
        of_port = found[found["range"] == own]  # a range's session comes before the client's
        found = of_port if len(of_port) else found[found["range"] == 0]
    return clients.session_rows(now, found[:SESSIONS_SHOWN])


def _ranges(now: Now, vip: Vip) -> int:
    if vip.affinity is Affinity.CLIENT_PORTS:
        return vip.port_ranges
    return now.desired.mega_proxy.port_ranges


def _slot(now: Now, vip: Vip, client: Address, question: Question, *, is_split: bool) -> int | None:
    """None where the affinity needs ports that the question does not say."""
    client_port = question.client_port
    vip_port = vip.port if question.vip_port is None else question.vip_port
    by_ports = vip.affinity is Affinity.CLIENT_PORTS or is_split
    if vip.affinity is Affinity.FLOW and (client_port is None or vip_port is None):
        return None
    if by_ports and client_port is None:
        return None
    flow = affinity.Tuple(
        hashing.words(client), client_port or 0, vip.address, vip_port or 0, vip.protocol
    )
    key = hashing.key_words(now.machine.slot_key)
    ranges = _ranges(now, vip) if by_ports else 0
    return int(affinity.slots(vip.affinity, flow, key, bits=vip.prefix, port_ranges=ranges))


def _home(now: Now, vip: Vip, slot: int | None) -> str | None:
    if slot is None:
        return None
    owner = int(_pool_row(now, vip).slots[slot]) & SLOT_BACKEND
    return {int(i): name for i, name in now.registry.backend_names().items()}.get(owner)


def _pool_row(now: Now, vip: Vip) -> PoolRow:
    number = now.registry.pools[vip.pool]
    return next(row for row in now.image.pools if row.id == number)


def _address(now: Now, name: str | None) -> str | None:
    for number, known in now.registry.backend_names().items():
        if known == name:
            everyone = (*now.registry.backends.values(), *now.registry.lingering)
            return next((str(b.address) for b in everyone if b.id == number), None)
    return None
