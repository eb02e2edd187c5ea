# SPDX-License-Identifier: Apache-2.0
"""The configuration files of a lab's directors and agents, as text made from its topology.

They are files as an operator would write them, so that the lab shows a real set-up: read one in
/run/limpet/lab/<lab>/ and use it as a start for your own. Pure: writing and loading are elsewhere.
"""

import json
from ipaddress import ip_network

from pydantic import JsonValue

from limpet.core import config
from limpet.core.model import Address, Director
from limpet.lab.network import INTERFACE
from limpet.lab.topology import Host, Role, Topology

POOL = "lab"
METRICS = "127.0.0.1:9464"  # inside the director's namespace
DEFAULT = Director(name="default", interfaces=())


def pooled(topology: Topology) -> list[Host]:
    return [host for host in topology.hosts(Role.BACKEND) if host.pooled]


def check(topology: Topology) -> None:
    """Raises ConfigError for what a director would refuse, so before anything is made."""
    for host in topology.hosts(Role.DIRECTOR):
        text = director_file(host.name, host, topology)
        config.parse(text, f"configuration of {host.name}")


def director_file(name: str, host: Host, topology: Topology) -> str:
    director: dict[str, JsonValue] = {
        "name": name,
        "interfaces": [INTERFACE],
        "pop": host.pop,
        **topology.director,
    }
    backends = pooled(topology)
    tables = [_table("[director]", director), _table("[metrics]", {"listen": METRICS})]
    tables += [_backend(host, topology) for host in backends]
    weights: dict[str, JsonValue] = {host.name: host.weight for host in backends}
    # An empty pool is written too: the VIPs stay, and their packets are counted as refused.
    tables.append(_table("[[pool]]", {"name": POOL, "backends": weights, **topology.pool}))
    for number, vip in enumerate(topology.vip, 1):
        for protocol in ("tcp", "udp"):
            entry: dict[str, JsonValue] = {
                "name": f"vip{number}-{protocol}",
                "address": str(vip.address),
                "protocol": protocol,
                "port": vip.port,
                "pool": POOL,
                "affinity": vip.affinity,
                **vip.settings,
            }
            tables.append(_table("[[vip]]", entry))
    for name, entries in (("mega_proxy", topology.mega_proxy), ("hooks", topology.hooks)):
        if entries:
            tables.append(_table(f"[{name}]", entries))
    return "\n".join(tables)


def _backend(host: Host, topology: Topology) -> str:
    entry: dict[str, JsonValue] = {
        "name": host.name,
        "address": str(topology.backend_address(host)),
        "encapsulation": host.encapsulation,
    }
    return _table("[[backend]]", entry)


def agent_file(name: str, topology: Topology) -> str:
    return _table(
        "",
        {
            "name": name,
            "interface": INTERFACE,
            "directors": outer_sources(topology),
            "vips": [str(vip.address) for vip in topology.vip],
        },
    )


def outer_sources(topology: Topology) -> list[JsonValue]:
    """The prefixes from which the directors send what they encapsulate, IPv4 and IPv6."""
    return [
        str(topology.director.get("source4", DEFAULT.source4)),
        str(topology.director.get("source6", DEFAULT.source6)),
    ]


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
