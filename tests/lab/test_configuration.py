# SPDX-License-Identifier: Apache-2.0
"""The files that a lab writes for its directors and agents say what its topology says."""

import tomllib
from ipaddress import ip_address

import pytest
from pydantic import JsonValue

from limpet.core import config
from limpet.core.errors import ConfigError
from limpet.core.model import Affinity, Backend, Desired, Protocol
from limpet.lab import configuration
from limpet.lab.topology import Role, Topology

KEY = "00112233445566778899aabbccddeeff"


def desired(topology: Topology) -> Desired:
    (host,) = topology.hosts(Role.DIRECTOR)
    return config.parse(configuration.director_file("lab-fra-d1", host, topology))


def test_a_director_balances_every_port_of_the_vips_over_the_backends(one_pop: Topology) -> None:
    read = desired(one_pop)
    assert (read.director.name, read.director.pop) == ("lab-fra-d1", "fra")
    assert read.director.interfaces == ("eth0",)
    assert read.backends == (
        Backend("b1", ip_address("10.10.0.11")),
        Backend("b2", ip_address("10.10.0.12")),
        Backend("b3", ip_address("2001:db8:a::d")),
    )
    assert [pool.weights for pool in read.pools] == [{"b1": 1, "b2": 1, "b3": 1}]
    places = [(str(vip.address), vip.protocol, vip.port, vip.affinity) for vip in read.vips]
    assert places == [
        (address, protocol, None, Affinity.CLIENT)
        for address in ("192.0.2.10", "2001:db8:0:10::10")
        for protocol in Protocol
    ]
    assert {vip.pool for vip in read.vips} == {read.pools[0].name}


def test_a_removed_backend_is_in_neither_backends_nor_pool(one_pop: Topology) -> None:
    b2 = one_pop.find("b2").model_copy(update={"pooled": False})
    read = desired(one_pop.with_host(b2))
    assert [backend.name for backend in read.backends] == ["b1", "b3"]
    assert read.pools[0].weights == {"b1": 1, "b3": 1}


def test_director_keys_of_the_topology_reach_the_director(one_pop: Topology) -> None:
    settings = {"flows_max": 4096, "xdp": "generic", "timeouts": {"udp_s": 7}}
    read = desired(one_pop.model_copy(update={"director": settings}))
    assert read.director.flows_max == 4096
    assert read.director.xdp == "generic"
    assert read.director.timeouts.udp_s == 7


def test_a_slot_key_is_given_unless_there_is_one(one_pop: Topology) -> None:
    """A director that comes back from the dead has to find the same homes."""
    once = one_pop.with_slot_key(KEY)
    assert desired(once).director.slot_key == bytes.fromhex(KEY)
    assert once.with_slot_key("ff" * 16) == once


def test_director_keys_that_a_director_would_refuse_are_told_at_once(one_pop: Topology) -> None:
    wrong = one_pop.model_copy(update={"director": {"flows_maximum": 1}})
    with pytest.raises(ConfigError, match="flows_maximum"):
        configuration.check(wrong)


def test_an_agent_accepts_the_directors_and_has_the_vips(one_pop: Topology) -> None:
    moved = one_pop.model_copy(update={"director": {"source4": "100.65.0.0/16"}})
    host = moved.find("b1")
    assert tomllib.loads(configuration.agent_file("lab-b1", host, moved)) == {
        "name": "lab-b1",
        "interface": "eth0",
        "directors": ["100.65.0.0/16", "fd00:11be:7::/96"],
        "vips": ["192.0.2.10", "2001:db8:0:10::10"],
    }
    assert str(configuration.outer_source(moved, 4)).startswith("100.65.")


def test_any_string_is_written_as_toml_reads_it() -> None:
    value: JsonValue = {"a b": 'quote " back \\ line \n tab \t é \u0001', "plain": [1, 2.5, True]}
    assert tomllib.loads(f"v = {configuration.toml(value)}")["v"] == value


def test_tables_of_sessions_reach_the_director(one_pop: Topology) -> None:
    """Whatever keys the director has: policy, health, splits; the lab writes them as they are."""
    settings: dict[str, JsonValue] = {"prefix": 24, "timeouts": {"tcp_established_s": 5}}
    vips = [vip.model_copy(update={"settings": settings}) for vip in one_pop.vip[:1]]
    health: JsonValue = {"kind": "http", "port": 7_003}
    pool: dict[str, JsonValue] = {"policy": "least-sessions", "health": health}
    changed = {"vip": vips, "pool": pool, "mega_proxy": {"flows": 7}, "hooks": {"timeout_s": 3.0}}
    (host,) = one_pop.hosts(Role.DIRECTOR)
    text = configuration.director_file(
        "lab-fra-d1", host, one_pop.model_copy(update={"director": {}, **changed})
    )
    read = tomllib.loads(text)
    assert read["pool"][0]["policy"] == "least-sessions"
    assert read["pool"][0]["health"] == health
    assert read["pool"][0]["backends"] == {"b1": 1, "b2": 1, "b3": 1}
    assert [(v["prefix"], v["timeouts"]) for v in read["vip"]] == [(24, settings["timeouts"])] * 2
    assert (read["mega_proxy"], read["hooks"]) == ({"flows": 7}, {"timeout_s": 3.0})


@pytest.mark.parametrize(
    ("table", "key"), [("director", "pop"), ("pool", "backends"), ("vip.settings", "pool")]
)
def test_keys_that_the_lab_writes_itself_are_refused(
    one_pop: Topology, table: str, key: str
) -> None:
    changed: dict[str, object] = {table: {key: {}}}
    if table == "vip.settings":
        changed = {"vip": [{"address": "192.0.2.10", "settings": {key: "x"}}]}
    with pytest.raises(ValueError, match=f"{table}.{key} is set by the lab itself"):
        Topology.model_validate(one_pop.model_dump() | changed)
