# SPDX-License-Identifier: Apache-2.0
"""Topology files: what is read from them, and what is refused with which words."""

from importlib import resources

import pytest

from limpet.core.errors import ConfigError, Conflict, NotFound
from limpet.lab import source
from limpet.lab.topology import Host, Role, Topology

TEXT = (resources.files("limpet.lab") / "topologies" / "one-pop.toml").read_text()


def test_one_pop_has_the_hosts_that_its_users_count_on(one_pop: Topology) -> None:
    roles = {host.name: host.role for host in one_pop.host}
    assert roles == {
        "client1": Role.CLIENT,
        "client2": Role.CLIENT,
        "router": Role.ROUTER,
        "fra-d1": Role.DIRECTOR,
        "b1": Role.BACKEND,
        "b2": Role.BACKEND,
        "b3": Role.BACKEND,
    }
    assert [str(vip.address) for vip in one_pop.vip] == ["192.0.2.10", "2001:db8:0:10::10"]


def test_no_two_hosts_share_an_address(one_pop: Topology) -> None:
    every = [address for host in one_pop.host for address in one_pop.addresses(host)]
    assert len(every) == len(set(every))


def test_both_families_of_backend_addresses_are_used(one_pop: Topology) -> None:
    """So that both families are carried inside both."""
    backends = one_pop.hosts(Role.BACKEND)
    assert {one_pop.backend_address(host).version for host in backends} == {4, 6}


def test_hosts_without_a_number_get_the_lowest_free_ones() -> None:
    text = TEXT.replace("number = 11\n", "").replace("number = 12\n", "")
    topology = source.parse(text, "test")
    numbers = {host.name: host.number for host in topology.hosts(Role.BACKEND)}
    assert numbers == {"b1": 3, "b2": 4, "b3": 13}


def test_a_built_in_name_is_never_a_file() -> None:
    with pytest.raises(NotFound, match="no topology 'three-pops'; there are one-pop"):
        source.load("three-pops")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(NotFound, match=r"/nowhere/lab\.toml"):
        source.load("/nowhere/lab.toml")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('name = "one-pop"', "name = ", "Invalid value"),
        ('role = "router"', 'role = "switch"', "host.0.role"),
        ('role = "router"', 'role = "client"\nsegment = "fra"', "0 hosts of role router"),
        ('role = "backend"', 'role = "director"', "2 hosts of role director"),
        ('name = "b2"', 'name = "b1"', "host 'b1' appears 2 times"),
        ('name = "b2"', 'name = "a-much-too-long-name"', "host.5.name"),
        ("number = 12", "number = 11", "2 hosts of number 11"),
        ("number = 12", "number = 255", "no address of number 255"),
        ("number = 12", "number = 1", "greater than or equal to 2"),
        ('segment = "client1"', 'segment = "moon"', "there is no segment 'moon'"),
        ('segment = "client1"', 'segment = "client2"', "is a link: it needs exactly 1 host"),
        ('pop = "fra"', 'pop = "ams"', "there is no pop 'ams'"),
        ("sources = 512", "sources = 514", "sources4 has fewer than 513"),
        ('sources6 = "2001:db8:2:200::/55"', 'sources6 = "2001:db8:2:200::/56"', "511 /64"),
        ('sources4 = "10.2.4.0/23"', "", "'sources' above 1 needs"),
        ('address = "192.0.2.10"', 'address = "192.0.2.300"', "vip.0.address"),
        ('address = "192.0.2.10"', 'address = "2001:db8:0:10::10"', "appears 2 times"),
        ("flows_max = 40960", 'name = "mine"', "director.name is set by the lab itself"),
        ('kind = "bridge"', 'kind = "bridge"\nmtu = 900', "segment.2.mtu"),
        ('kind = "bridge"', 'kind = "bridge"\nvlan = 7', "segment.2.vlan"),
        ('ipv4 = "10.10.0.0/24"', 'ipv4 = "10.10.0.1/24"', "segment.2.ipv4"),
    ],
)
def test_a_wrong_topology_is_refused_with_its_place(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as refused:
        source.parse(TEXT.replace(old, new, 1), "mine.toml")
    assert "mine.toml" in str(refused.value)
    assert why in str(refused.value)


def test_a_change_that_does_not_fit_is_refused(one_pop: Topology) -> None:
    """An added host obeys the rules of the file."""
    taken = Host(name="b9", role=Role.BACKEND, pop="fra", segment="fra", number=11)
    with pytest.raises(Conflict, match="2 hosts of number 11"):
        one_pop.with_host(taken)


def test_hosts_can_be_added_replaced_and_taken_out(one_pop: Topology) -> None:
    new = Host(name="b4", role=Role.BACKEND, pop="fra", segment="fra", number=14)
    bigger = one_pop.with_host(new).with_host(new.model_copy(update={"weight": 5}))
    assert bigger.find("b4").weight == 5
    assert bigger.without_host("b4") == one_pop
    with pytest.raises(NotFound, match="no host 'b4' in this lab; there are router, client1"):
        one_pop.find("b4")
