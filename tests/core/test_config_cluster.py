# SPDX-License-Identifier: Apache-2.0
"""A member's own file and the shared document: each has its tables, and together they fit."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from limpet.core.config import parse, parse_shared
from limpet.core.errors import ConfigError
from limpet.core.model import Bgp, Peer, Pop, Prefer, Route, Speaker

OWN = """\
[director]
name = "fra-d1"
pop = "fra"
interfaces = ["eth0"]

[director.timeouts]
tcp_established_s = 77

[cluster]
name = "edge"
servers = ["nats://10.9.0.1:4222"]
listen = "10.9.0.11:7117"
key_file = "/etc/limpet/cluster.key"

[bgp]
speaker = "bird"
asn = 64512
router_id = "10.0.0.1"

[[bgp.peer]]
name = "r1"
address = "10.1.0.1"
asn = 64500
bfd = true
"""
SHARED = """\
[[pop]]
name = "fra"
costs = { par = 10 }

[[pop]]
name = "par"

[[backend]]
name = "b1"
address = "10.0.0.1"
pop = "fra"
sessions_max = 100

[[pool]]
name = "web"
backends = { b1 = 1 }
prefer = "near"

[[vip]]
name = "v1"
address = "192.0.2.1"
protocol = "tcp"
port = 443
pool = "web"

[vip.route]
communities = ["64500:100"]
med = 5
prepend = 2
"""

TWIN = 'bfd = true\n[[bgp.peer]]\nname = "r1"\naddress = "10.1.0.2"\nasn = 1'


def refused(own: str, shared: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_shared(shared or "", parse(own, "own.toml"), "shared.toml")
    return str(caught.value)


def test_a_member_has_its_own_part_of_its_file_and_the_rest_of_the_shared_document() -> None:
    local = parse(OWN)
    assert local.cluster.servers == ("nats://10.9.0.1:4222",)
    peer = Peer("r1", IPv4Address("10.1.0.1"), 64500, bfd=True)
    router = IPv4Address("10.0.0.1")
    assert local.bgp == Bgp(Speaker.BIRD, 64512, router, (peer,))
    whole = parse_shared(SHARED, local)
    assert replace(whole, backends=(), pools=(), vips=(), pops=()) == local
    assert whole.pops == (Pop("fra", {"par": 10}), Pop("par"))
    assert (whole.backends[0].pop, whole.backends[0].sessions_max) == ("fra", 100)
    assert whole.pools[0].prefer is Prefer.NEAR
    assert whole.vips[0].route == Route(((64500, 100),), 5, 2)
    assert whole.vips[0].timeouts.tcp_established_s == 77


def test_shared_tables_in_a_members_own_file_are_refused_with_the_way_out() -> None:
    said = refused(OWN + SHARED)
    assert "this director is a member of cluster 'edge'" in said
    assert "put it into a file of its own and `limpet apply` it" in said
    assert "[[vip]] does not belong here" in said


def test_own_tables_in_the_shared_document_are_refused() -> None:
    said = refused(OWN, '[director]\nname = "x"\n' + SHARED)
    assert "shared.toml:1: [director]: [director] does not belong here" in said
    assert "own file of each director" in said


def test_without_a_cluster_one_file_has_all_of_it() -> None:
    alone = OWN[: OWN.index("[cluster]")] + SHARED
    assert parse(alone).pops[0].name == "fra"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('listen = "10.9.0.11:7117"\n', "", "a member of a cluster needs listen"),
        ('key_file = "/etc/limpet/cluster.key"\n', "", "needs key_file"),
        ('"10.9.0.11:7117"', '"0.0.0.0:7117"', "no place to be asked at"),
        ('"10.9.0.11:7117"', '"[::]:7117"', "no place to be asked at"),
        ('pop = "fra"\n', "", "a member of a cluster stands in a PoP"),
        ('name = "edge"\n', "", "but the cluster has no name"),
        ("nats://10.9.0.1:4222", "http://10.9.0.1", "not the URL of a NATS server"),
        ("nats://10.9.0.1:4222", "nats://:4222", "not the URL of a NATS server"),
        ("asn = 64512", "asn = 0", "bird needs an AS number"),
        ('speaker = "bird"', 'speaker = "kernel"', "kernel only writes routes"),
        ('speaker = "bird"', 'speaker = ""', "without a speaker nobody is told"),
        ('router_id = "10.0.0.1"', 'router_id = "::1"', "is not an IPv4 address"),
        ('router_id = "10.0.0.1"', "table = 254", "a table of the kernel's own"),
        ('pop = "fra"\n', f'pop = "fra"\nslot_key = "{"0" * 32}"\n', "makes its slot key itself"),
        (
            "bfd = true",
            'bfd = true\n[[bgp.peer]]\nname = "r1"\naddress = "10.1.0.2"\nasn = 1',
            "r1",
        ),
    ],
)
def test_own_file_that_does_not_fit_together(old: str, new: str, said: str) -> None:
    assert old in OWN
    assert said in refused(OWN.replace(old, new, 1), SHARED)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('pop = "fra"\n', 'pop = "frb"\n', "did you mean 'fra'?"),
        ("par = 10", "parr = 10", "there is no pop 'parr'"),
        ("par = 10", "fra = 10", "fra is this PoP itself"),
        ("par = 10", "par = -1", "not a whole number from 0 to"),
        ('name = "par"', 'name = "fra"', "the name 'fra' is taken by pop 1"),
        ('pop = "fra"\n', "", "no backend of the pool stands in a PoP"),
        ('"64500:100"', '"64500"', "is not a community"),
        ('"64500:100"', '"64500:70000"', "has a part beyond 65535"),
        ("prepend = 2", "prepend = 11", "write a whole number from 0 to 10"),
    ],
)
def test_shared_document_that_does_not_fit_together(old: str, new: str, said: str) -> None:
    assert old in SHARED
    assert said in refused(OWN, SHARED.replace(old, new, 1))


def test_an_address_has_one_route() -> None:
    vip = SHARED[SHARED.index("[[vip]]") :].replace("v1", "v2").replace("443", "444")
    assert len(parse_shared(SHARED + vip, parse(OWN)).vips) == 2
    said = refused(OWN, SHARED + vip.replace("med = 5", "med = 6"))
    assert "192.0.2.1 is announced otherwise for VIP 'v1'" in said
