# SPDX-License-Identifier: Apache-2.0
"""The configuration files of a lab's directors and agents, as text made from its topology.

They are files as an operator would write them, so that the lab shows a real set-up: read one in
/run/limpet/lab/<lab>/ and use it as a start for your own. Pure: writing and loading are elsewhere.
"""

import json
from dataclasses import dataclass
from ipaddress import ip_network

from pydantic import JsonValue

from limpet.core import config
from limpet.core.model import Address, Director
from limpet.lab.topology import (
    BACKBONE_INTERFACE,
    INTERFACE,
    ROUTER_NUMBER,
    Host,
    Pop,
    Role,
    Topology,
    Vip,
)

POOL = "lab"
CLUSTER, QUERY_PORT = "lab", 7117
METRICS = "127.0.0.1:9464"  # inside the director's namespace
DEFAULT = Director(name="default", interfaces=())


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member of a cluster needs to know, besides itself."""

    servers: tuple[str, ...]
    key_file: str


def pooled(topology: Topology) -> list[Host]:
    return [host for host in topology.hosts(Role.BACKEND) if host.pooled]


def check(topology: Topology) -> None:
    """Raises ConfigError for what a director would refuse, so before anything is made."""
    for host in topology.hosts(Role.DIRECTOR):
        text = director_file(host.name, host, topology, Membership(("nats://store:1",), "/key"))
        desired = config.parse(text, f"configuration of {host.name}")
        if topology.cluster is not None:
            config.parse_shared(shared_file(topology), desired)


def director_file(
    name: str, host: Host, topology: Topology, membership: Membership | None = None
) -> str:
    """Of a director alone: everything. Of a member of a cluster: what is its own."""
    director: dict[str, JsonValue] = {
        "name": name,
        "interfaces": [INTERFACE],
        "pop": host.pop,
        **topology.director,
        **_sources(topology.pop_of(host)),
    }
    tables = [_table("[director]", director), _table("[metrics]", {"listen": METRICS})]
    if topology.bgp is not None:
        tables += _bgp(host, topology)
    if topology.cluster is None:
        return "\n".join([*tables, shared_file(topology)])
    assert membership is not None
    cluster: dict[str, JsonValue] = {
        "name": CLUSTER,
        "servers": [*membership.servers],
        "listen": f"{topology.on_backbone(host)[0]}:{QUERY_PORT}",
        "key_file": membership.key_file,
        **topology.cluster,
    }
    return "\n".join([*tables, _table("[cluster]", cluster)])


def shared_file(topology: Topology) -> str:
    """What all directors serve."""
    backends = pooled(topology)
    tables = [_backend(host, topology) for host in backends]
    weights: dict[str, JsonValue] = {host.name: host.weight for host in backends}
    # An empty pool is written too: the VIPs stay, and their packets are counted as refused.
    tables.append(_table("[[pool]]", {"name": POOL, "backends": weights, **topology.pool}))
    tables += [
        _vip(number, vip, protocol)
        for number, vip in enumerate(topology.vip, 1)
        for protocol in ("tcp", "udp")
    ]
    if topology.internet is not None:
        for pop in topology.pop:
            tables.append(_table("[[pop]]", {"name": pop.name, "costs": {**pop.costs}}))
    for name, entries in (("mega_proxy", topology.mega_proxy), ("hooks", topology.hooks)):
        if entries:
            tables.append(_table(f"[{name}]", entries))
    return "\n".join(tables)


def _vip(number: int, vip: Vip, protocol: str) -> str:
    entry: dict[str, JsonValue] = {
        "name": f"vip{number}-{protocol}",
        "address": str(vip.address),
        "protocol": protocol,
        "port": vip.port,
        "pool": POOL,
        "affinity": vip.affinity,
        **vip.settings,
    }
    return _table("[[vip]]", entry)


def _bgp(host: Host, topology: Topology) -> list[str]:
    """The border router of its PoP is told, in a session of each family."""
    border, segment = topology.border_of(host.pop or ""), topology.segment_of(host)
    own: dict[str, JsonValue] = {
        "speaker": "bird",
        "asn": host.asn,
        "router_id": str(topology.interface4(host).ip),
        **(topology.bgp or {}),
    }
    peers = [segment.interface4(ROUTER_NUMBER).ip, segment.interface6(ROUTER_NUMBER).ip]
    return [_table("[bgp]", own)] + [
        _table(
            "[[bgp.peer]]",
            {
                "name": f"{border.name}-{peer.version}",
                "address": str(peer),
                "asn": border.asn,
                "bfd": True,
            },
        )
        for peer in peers
    ]


def _backend(host: Host, topology: Topology) -> str:
    entry: dict[str, JsonValue] = {
        "name": host.name,
        "address": str(topology.backend_address(host)),
        "encapsulation": host.encapsulation,
    }
    if topology.internet is not None:
        entry["pop"] = host.pop
    return _table("[[backend]]", entry)


def agent_file(name: str, host: Host, topology: Topology) -> str:
    entries: dict[str, JsonValue] = {
        "name": name,
        # Directors send over the backbone, where there is one.
        "interface": BACKBONE_INTERFACE if topology.backbone else INTERFACE,
        "directors": outer_sources(topology),
        "vips": [str(vip.address) for vip in topology.vip],
    }
    if not topology.exits:
        return _table("", entries)
    own = topology.pop_of(host)
    entries["directors"] = [*_sources(own).values()]
    others = [pop for pop in topology.pop if pop != own]
    return "\n".join([_table("", entries), *(_exit(pop, host, topology) for pop in others)])


def _exit(pop: Pop, host: Host, topology: Topology) -> str:
    """In the family by which the backend is reached."""
    address = topology.on_backbone(topology.director_of(pop.name))[host.reached_by == "ipv6"]
    entries: dict[str, JsonValue] = {
        "directors": [*_sources(pop).values()],
        "address": str(address),
    }
    return _table("[[exits]]", entries)


def exit_file(name: str, topology: Topology) -> str:
    """Of the agent on a director's machine, which takes replies of other PoPs' backends."""
    segment = topology.backbone_segment()
    assert segment is not None
    return _table(
        "",
        {
            "name": name,
            "interface": BACKBONE_INTERFACE,
            "backends": [str(segment.ipv4), str(segment.ipv6)],
            "vips": [str(vip.address) for vip in topology.vip],
        },
    )


def _sources(pop: Pop) -> dict[str, JsonValue]:
    found = {"source4": pop.source4, "source6": pop.source6}
    return {key: str(prefix) for key, prefix in found.items() if prefix is not None}


def outer_sources(topology: Topology) -> list[JsonValue]:
    """The prefixes from which the directors send what they encapsulate, IPv4 and IPv6."""
    common: dict[str, JsonValue] = {
        "source4": str(topology.director.get("source4", DEFAULT.source4)),
        "source6": str(topology.director.get("source6", DEFAULT.source6)),
    }
    each = [source for pop in topology.pop for source in (common | _sources(pop)).values()]
    return list(dict.fromkeys(map(str, each)))


def outer_source(topology: Topology, version: int) -> Address:
    """One address a director may send from."""
    prefixes = [ip_network(str(prefix)) for prefix in outer_sources(topology)]
    return next(prefix[-2] for prefix in prefixes if prefix.version == version)


def toml(value: JsonValue) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    # JSON's strings, numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _table(header: str, entries: dict[str, JsonValue]) -> str:
    lines = [f"{_key(key)} = {toml(value)}" for key, value in entries.items()]
    return "\n".join([*filter(None, [header]), *lines]) + "\n"
