# SPDX-License-Identifier: Apache-2.0
"""Topologies with an internet: what the files say, what is refused, and what is made of them."""

import subprocess
from importlib import resources
from pathlib import Path

import pytest

from limpet.core.errors import ConfigError, Conflict, NotFound
from limpet.lab import configuration, delaying, impairment, internet, source
from limpet.lab.impairment import Groups, Impairment
from limpet.lab.relay import Hook, Station, Way
from limpet.lab.topology import Role, Topology, Wire

TEXT = (resources.files("limpet.lab") / "topologies" / "two-pop.toml").read_text()
NAMES = ("two-pop", "three-pop")


@pytest.fixture(scope="module")
def two_pop() -> Topology:
    return source.load("two-pop")


@pytest.mark.parametrize("name", NAMES)
def test_no_two_hosts_share_an_address(name: str) -> None:
    topology = source.load(name)
    every = [address for host in topology.host for address in topology.addresses(host)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", NAMES)
def test_each_pop_has_a_director_a_border_router_and_three_backends(name: str) -> None:
    topology = source.load(name)
    for pop in topology.pop:
        assert topology.director_of(pop.name).name == f"{pop.name}-d1"
        assert topology.border_of(pop.name).name == f"{pop.name}-r"
        backends = [host for host in topology.hosts(Role.BACKEND) if host.pop == pop.name]
        assert len(backends) == 3
        assert {topology.backend_address(host).version for host in backends} == {4, 6}


@pytest.mark.parametrize("name", NAMES)
def test_directors_would_take_their_files(name: str) -> None:
    configuration.check(source.load(name))


@pytest.mark.parametrize("name", NAMES)
def test_bird_would_take_every_routers_file(name: str, tmp_path: Path) -> None:
    topology = source.load(name)
    preference, path = tmp_path / "preference.conf", tmp_path / "bird.conf"
    for router in topology.hosts(Role.ROUTER):
        preference.write_text(internet.preference_file(topology, router.prefers))
        path.write_text(internet.router_file(topology, router, preference))
        subprocess.run(["bird", "-p", "-c", str(path)], check=True, capture_output=True)


def test_both_ends_of_a_session_agree_on_it(two_pop: Topology) -> None:
    """Each router's neighbour is a router or director that has that address and AS number."""
    for router in two_pop.hosts(Role.ROUTER):
        for each in internet.neighbours(two_pop, router):
            other = two_pop.find(each.name)
            assert each.address in two_pop.addresses(other)
            assert each.asn == other.asn


def test_a_director_without_a_speaker_gets_one_of_the_labs(
    two_pop: Topology, tmp_path: Path
) -> None:
    text = internet.director_file(two_pop, two_pop.find("par-d1"))
    (tmp_path / "bird.conf").write_text(text)
    subprocess.run(["bird", "-p", "-c", str(tmp_path / "bird.conf")], check=True)
    assert "192.0.2.10/32" in text
    assert "neighbor 10.20.0.1 as 65102" in text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("asn = 65001\n", "", "host 'isp1' speaks BGP: give it an 'asn'"),
        ("asn = 65201\n", "", "host 'fra-d1' speaks BGP: give it an 'asn'"),
        ('["isp1", "tr1"]', '["isp1", "tr9"]', "there is no host 'tr9' of role router"),
        ('prefers = "fra"', 'prefers = "ams"', "there is no pop 'ams' to prefer"),
        ('router = "fra-r"', 'router = "store1"', "segment 'fra': 'router' has to be one of"),
        ('router = "fra-r"\n', "", "segment 'fra': 'router' has to be one of"),
        ('backbone = "backbone"\n', "", "segment 'backbone'"),
        ('name = "par-d1"\nrole = "director"', 'name = "par-d1"\nrole = "backend"', "pop 'par': 0"),
        ("backbone = 2571", "backbone = 2570", "segment 'backbone': 2 hosts of number 2570"),
        ("[cluster]", '[cluster]\nname = "mine"', "cluster.name is set by the lab itself"),
        ("[bgp]", "[bgp]\nasn = 7", "bgp.asn is set by the lab itself"),
    ],
)
def test_a_wrong_topology_is_refused_with_its_place(old: str, new: str, why: str) -> None:
    text = TEXT.replace("backbone = 2572", "backbone = 2570") if "2570" in new else TEXT
    assert old in text
    with pytest.raises(ConfigError) as refused:
        source.parse(text.replace(old, new, 1), "mine.toml")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("a", "b", "link"),
    [
        ("tr2", "par-r", "tr2/par-r"),
        ("par-r", "tr2", "tr2/par-r"),
        ("store1", "backbone", "backbone/store1"),
        ("fra-d1", "fra-r", "fra-r/fra-d1"),
        ("fra", "fra-d1", "fra-r/fra-d1"),
        ("client1", "isp1", "isp1/client1"),
    ],
)
def test_who_has_a_link_of_its_own_loses_that(two_pop: Topology, a: str, b: str, link: str) -> None:
    (wire,) = impairment.places(two_pop, a, b)
    assert isinstance(wire, Wire)
    assert f"{wire.near.host}/{wire.far.host}" == link


def test_pops_are_two_groups_of_hosts_on_the_backbone(two_pop: Topology) -> None:
    (groups,) = impairment.places(two_pop, "fra", "par")
    assert isinstance(groups, Groups)
    assert set(groups.a) == {"fra-d1", "fra-b1", "fra-b2", "fra-b3", "store1"}
    assert set(groups.b) == {"par-d1", "par-b1", "par-b2", "par-b3", "store2"}


def test_a_pop_and_the_backbone_are_it_and_everybody_else(two_pop: Topology) -> None:
    (groups,) = impairment.places(two_pop, "fra", "backbone")
    assert isinstance(groups, Groups)
    hosts = {host.name for host in two_pop.hosts_on(groups.segment)}
    assert set(groups.b) == hosts - set(groups.a)


def test_rules_of_all_impairments_are_those_of_each(two_pop: Topology) -> None:
    every = (
        Impairment(a="fra", b="store2", cut=True),
        Impairment(a="fra-d1", b="par-b1", loss_percent=1),
        Impairment(a="tr1", b="fra-r", loss_percent=0.5),
    )
    rules = impairment.rules(two_pop, every)
    assert set(rules) == {"backbone", "tr1", "fra-r"}
    assert "iifname { store2 } oifname" in rules["backbone"]
    assert "numgen random mod 1000000 < 10000 drop" in rules["backbone"]
    assert "iifname tr1 numgen random mod 1000000 < 5000 drop" in rules["fra-r"]


def test_places_that_nothing_joins_are_refused(two_pop: Topology) -> None:
    with pytest.raises(Conflict, match="have neither a link nor a segment in common"):
        impairment.places(two_pop, "client1", "fra-b1")
    with pytest.raises(NotFound, match="there is no 'ams' in this lab"):
        impairment.places(two_pop, "fra", "ams")


def test_delays_of_a_link_stand_at_one_end_and_those_of_a_segment_at_its_owner(
    two_pop: Topology,
) -> None:
    every = (
        Impairment(a="tr1", b="fra-r", delay_ms=20),
        Impairment(a="fra", b="par", delay_ms=10),
        Impairment(a="fra-d1", b="par-b1", delay_ms=5, loss_percent=1),
        Impairment(a="fra", b="store2", cut=True),
    )
    found = delaying.hooks(two_pop, every)
    assert sorted(found) == ["backbone", "tr1"]
    assert [(h.interface, h.leaves, [w.delay_ms for w in h.ways]) for h in found["tr1"]] == [
        ("fra-r", False, [20]),
        ("fra-r", True, [20]),
    ]
    ports = {hook.interface: hook for hook in found["backbone"]}
    stores = {host.name for host in two_pop.hosts(Role.STORE) if host.pop in ("fra", "par")}
    inside = {f"{pop}-{host}" for pop in ("fra", "par") for host in ("d1", "b1", "b2", "b3")}
    assert set(ports) == inside | stores
    assert not any(hook.leaves for hook in ports.values())
    assert [(w.delay_ms, len(w.peers)) for w in ports["fra-d1"].ways] == [(10, 5), (5, 1)]
    assert ports["fra-d1"].ways[1].peers[0] in ports["fra-d1"].ways[0].peers
    assert [w.delay_ms for w in ports["fra-b1"].ways] == [10]


def test_delays_of_several_ways_add_up() -> None:
    near, far = "02:00:0a:0a:00:02", "02:00:0a:0a:00:03"
    ways = (Way(delay_ms=10, peers=(near, far)), Way(delay_ms=5, peers=(near,)), Way(delay_ms=1))
    station = Station(Hook(interface="eth0", leaves=False, ways=ways), "delay0")
    frames = [bytes.fromhex(mac.replace(":", "")) + bytes(8) for mac in (near, far)]
    delays = [station.delay_s(frame) for frame in (*frames, bytes(14))]
    assert delays == pytest.approx([0.016, 0.011, 0.001])
