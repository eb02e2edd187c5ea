# SPDX-License-Identifier: Apache-2.0
"""Where: to which backend a client's packets go, and by which rung of the ladder.

Live flows of the client in the connection table come first, because the data plane looks there
first; a new flow goes to the home of its slot. The same hash as the data plane's.
"""

from ipaddress import ip_address

from limpet.api.interface import FlowQuery, Json, Question
from limpet.core import affinity, hashing
from limpet.core.errors import Conflict, NotFound
from limpet.core.model import Address, Affinity, Vip
from limpet.daemon import view
from limpet.daemon.reconcile import Now
from limpet.datapath.kernel import Kernel

FLOWS_SHOWN = 100


def where(now: Now, kernel: Kernel, question: Question) -> Json:
    """The answer. NotFound or Conflict say which part of the question does not fit."""
    client = _client(question)
    vip = _vip(now, question)
    if vip.address.version != client.version:
        raise Conflict(f"{client} cannot reach {vip.address}: not the same IP version")
    flows = _flows(now, kernel, vip, question)
    slot = _slot(now, vip, client, question)
    home = _home(now, vip, slot)
    held = {flow["backend"] for flow in flows}
    backend = next(iter(held)) if len(held) == 1 else None if held else home
    return {
        "client": str(client),
        "vip": vip.name,
        "pool": vip.pool,
        "rung": "table" if flows else "home",
        "backend": backend,
        "address": _address(now, backend),
        "slot": slot,
        "home": home,
        "flows": flows,
    }


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


def _slot(now: Now, vip: Vip, client: Address, question: Question) -> int | None:
    """None where the affinity needs ports that the question does not say."""
    client_port = question.client_port
    vip_port = vip.port if question.vip_port is None else question.vip_port
    if vip.affinity is Affinity.FLOW and (client_port is None or vip_port is None):
        return None
    flow = affinity.Tuple(
        hashing.words(client), client_port or 0, vip.address, vip_port or 0, vip.protocol
    )
    key = hashing.key_words(now.machine.slot_key)
    return int(affinity.slots(vip.affinity, flow, key))


def _home(now: Now, vip: Vip, slot: int | None) -> str | None:
    if slot is None:
        return None
    number = now.registry.pools[vip.pool]
    row = next(row for row in now.image.pools if row.id == number)
    owner = int(row.slots[slot])
    return {int(i): name for i, name in now.registry.backend_names().items()}.get(owner)


def _address(now: Now, name: str | None) -> str | None:
    for number, known in now.registry.backend_names().items():
        if known == name:
            everyone = (*now.registry.backends.values(), *now.registry.lingering)
            return next((str(b.address) for b in everyone if b.id == number), None)
    return None
