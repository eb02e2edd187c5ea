# SPDX-License-Identifier: Apache-2.0
"""A configuration is understood as documented; a broken one is explained: line, reason, remedy."""

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.config import parse
from limpet.core.errors import ConfigError, Problem
from limpet.core.model import (
    Affinity,
    CheckKind,
    Encapsulation,
    HealthCheck,
    OnDown,
    Policy,
    Protocol,
    XdpMode,
)

EXAMPLE = (Path(__file__).parent / "example.toml").read_text()

# Line numbers count from the first line of this text.
GOOD = """\
[director]
name = "d1"
interfaces = ["eth0"]

[[backend]]
name = "b1"
address = "10.0.0.1"

[[backend]]
name = "b2"
address = "10.0.0.2"

[[pool]]
name = "web"
backends = { b1 = 1, b2 = 1 }

[[vip]]
name = "v1"
address = "192.0.2.1"
protocol = "tcp"
port = 443
pool = "web"
"""


@dataclass(frozen=True)
class Broken:
    """An edit of GOOD (old text -> new text), and what must be said about it."""

    name: str
    old: str
    new: str
    where: str  # "line: what"
    why: str
    mend: str

    @property
    def text(self) -> str:
        assert self.old in GOOD, "the edit does not apply"
        return GOOD.replace(self.old, self.new, 1)


LAST = 'pool = "web"\n'
TOP = "[director]\n"

BROKEN = [
    # The text.
    Broken("syntax", 'name = "b1"', 'name = "b1', "6: column 11", "not TOML", "correct the syntax"),
    Broken("key twice", LAST, LAST * 2, "23: column", "overwrite", "correct the syntax"),
    Broken("cut off", LAST, "pool = ", "22: end of file", "invalid value", "correct the syntax"),
    # Tables and keys.
    Broken(
        "no director", '[director]\nname = "d1"\ninterfaces = ["eth0"]', "", "1: [director]",
        "the table [director] is missing", 'name = "fra-d1", interfaces = ["eth0"]',
    ),
    Broken(
        "unknown table", "[[vip]]", "[[vips]]", "17: [vips]",
        "unknown table 'vips'", "did you mean 'vip'?",
    ),
    Broken(
        "unknown key", LAST, LAST + 'afinity = "flow"\n', "23: [[vip]] 'v1' afinity",
        "unknown key 'afinity'", "did you mean 'affinity'?",
    ),
    Broken(
        "unknown key without a neighbour", LAST, LAST + "zzz = 1\n", "23: [[vip]] 'v1' zzz",
        "unknown key 'zzz'", "known keys: name, address, protocol, port, pool, affinity",
    ),
    Broken(
        "unknown timeout", TOP, "[director.timeouts]\ntcp_s = 1\n[director]\n",
        "2: [director] timeouts.tcp_s", "unknown key 'tcp_s'", "tcp_established_s",
    ),
    Broken(
        "missing key", "port = 443\n", "", "17: [[vip]] 'v1'",
        "the key 'port' is missing", "write port = 443",
    ),
    Broken(
        "missing name", 'name = "web"\n', "", "13: [[pool]] #1",
        "the key 'name' is missing", 'write name = "web"',
    ),
    Broken(
        "one bracket", "[[pool]]", "[pool]", "13: [pool]",
        "is not a list of tables", "write [[pool]] on a line of its own",
    ),
    Broken(
        "two brackets", "[director]", "[[director]]", "1: [director]",
        "is not a table", "write [director] on a line of its own",
    ),
    Broken(
        "backends as a list", "{ b1 = 1, b2 = 1 }", '["b1", "b2"]', "15: [[pool]] 'web' backends",
        '["b1", "b2"] is not an inline table', "write backends = { b1 = 1, b2 = 1 }",
    ),
    # Values.
    Broken(
        "name with capitals", '"d1"', '"D1"', "2: [director] name",
        "'D1' is not a name", "use 1 to 63 of a-z",
    ),
    Broken(
        "name too long", '"v1"', f'"{"v" * 64}"', "18: [[vip]]",
        "is not a name", "use 1 to 63 of a-z",
    ),
    Broken("name is a number", '"d1"', "1", "2: [director] name", "1 is not a string", "a-z"),
    Broken(
        "address with a prefix", '"10.0.0.2"', '"10.0.0.2/24"', "11: [[backend]] 'b2' address",
        "'10.0.0.2/24' is not an IP address", "write an IPv4 or IPv6 address",
    ),
    Broken(
        "mapped address", '"10.0.0.2"', '"::ffff:10.0.0.2"', "11: [[backend]] 'b2' address",
        "is an IPv4 address", 'write "10.0.0.2"',
    ),
    Broken(
        "address with a zone", '"10.0.0.2"', '"fe80::2%eth0"', "11: [[backend]] 'b2' address",
        "has a zone", 'write it without: "fe80::2"',
    ),
    Broken("port 0", "443", "0", "21: [[vip]] 'v1' port", "0 is out of range", 'or "all"'),
    Broken("port 65536", "443", "65536", "21: [[vip]] 'v1' port", "65536 is out of range", "65535"),
    Broken("port word", "443", '"some"', "21: [[vip]] 'v1' port", '"some" is not a port', "all"),
    Broken("port true", "443", "true", "21: [[vip]] 'v1' port", "true is not a port", "all"),
    Broken(
        "protocol", '"tcp"', '"sctp"', "20: [[vip]] 'v1' protocol",
        '"sctp" is not known', "write 'tcp' or 'udp'",
    ),
    Broken(
        "encapsulation", LAST, LAST + '[[backend]]\nname="b3"\naddress="10.0.0.3"\n'
        'encapsulation="gre"\n', "26: [[backend]] 'b3' encapsulation",
        '"gre" is not known', "write 'ipip' or 'l2'",
    ),
    Broken(
        "weight true", "b1 = 1", "b1 = true", "15: [[pool]] 'web' backends.b1",
        "weight true is not a whole number", "from 0 to 65535",
    ),
    Broken(
        "weight with a fraction", "b1 = 1", "b1 = 1.5", "15: [[pool]] 'web' backends.b1",
        "weight 1.5 is not a whole number", "from 0 to 65535",
    ),
    Broken(
        "weight negative", "b2 = 1", "b2 = -1", "15: [[pool]] 'web' backends.b2",
        "weight -1 is out of range", "0 takes no new sessions",
    ),
    Broken(
        "weight too large", "b2 = 1", "b2 = 65536", "15: [[pool]] 'web' backends.b2",
        "weight 65536 is out of range", "from 0 to 65535",
    ),
    Broken(
        "no interface", '["eth0"]', "[]", "3: [director] interfaces",
        "[] is not a list of interface names", 'interfaces = ["eth0"]',
    ),
    Broken(
        "interface is no list", '["eth0"]', '"eth0"', "3: [director] interfaces",
        '"eth0" is not a list of interface names', 'interfaces = ["eth0"]',
    ),
    Broken(
        "interface name too long", '"eth0"', '"a-very-long-name"', "3: [director] interfaces",
        "has 16 bytes", "use the name that `ip link` shows",
    ),
    Broken(
        "interface name empty", '"eth0"', '""', "3: [director] interfaces",
        "'' is not an interface name", "use the name that `ip link` shows",
    ),
    Broken(
        "interface twice", '"eth0"', '"eth0", "eth0"', "3: [director] interfaces",
        "'eth0' is listed 2 times", "list it once",
    ),
    Broken(
        "source4 of another size", TOP, TOP + 'source4 = "100.64.0.0/10"\n',
        "2: [director] source4", "is a /10, not a /16", 'as "100.64.0.0/16"',
    ),
    Broken(
        "source4 with host bits", TOP, TOP + 'source4 = "100.64.1.0/16"\n',
        "2: [director] source4", "has host bits set", 'write "100.64.0.0/16"',
    ),
    Broken(
        "source4 of IPv6", TOP, TOP + 'source4 = "fd00::/16"\n',
        "2: [director] source4", "is of the wrong IP version", 'as "100.64.0.0/16"',
    ),
    Broken(
        "source6 of another size", TOP, TOP + 'source6 = "fd00::/64"\n',
        "2: [director] source6", "is a /64, not a /96", 'as "fd00:11be:7::/96"',
    ),
    Broken(
        "source6 is no prefix", TOP, TOP + 'source6 = "here"\n',
        "2: [director] source6", "'here' is not a prefix", 'as "fd00:11be:7::/96"',
    ),
    Broken(
        "slot key too short", TOP, TOP + 'slot_key = "0123"\n', "2: [director] slot_key",
        "4 characters that are not 32 hexadecimal digits", "openssl rand -hex 16",
    ),
    Broken(
        "flows_max too small", TOP, TOP + "flows_max = 10\n", "2: [director] flows_max",
        "10 is out of range", "write a whole number from 1024 to 67108864",
    ),
    Broken(
        "rate is a string", TOP, TOP + 'icmp_per_s = "many"\n', "2: [director] icmp_per_s",
        '"many" is not a whole number', "write a whole number from 0 to",
    ),
    Broken(
        "timeout 0", TOP, "[director.timeouts]\nudp_s = 0\n[director]\n",
        "2: [director] timeouts.udp_s", "0 is out of range", "from 1 to 604800",
    ),
    Broken(
        "log level", TOP, TOP + 'log_level = "loud"\n', "2: [director] log_level",
        '"loud" is not known', "'debug', 'info', 'warning' or 'error'",
    ),
    Broken(
        "metrics without a port", LAST, LAST + '[metrics]\nlisten = "127.0.0.1"\n',
        "24: [metrics] listen", "is not an address with a port", 'as "127.0.0.1:9464"',
    ),
    Broken(
        "metrics at a name", LAST, LAST + '[metrics]\nlisten = "localhost:80"\n',
        "24: [metrics] listen", "'localhost' is not an IP address", 'as "127.0.0.1:9464"',
    ),
    # What has to fit together.
    Broken(
        "unknown pool", LAST, 'pool = "wep"\n', "22: [[vip]] 'v1' pool",
        "there is no pool 'wep'", "did you mean 'web'? known pools: web",
    ),
    Broken(
        "unknown backend", "b2 = 1", "b9 = 1", "15: [[pool]] 'web' backends.b9",
        "there is no backend 'b9'", "known backends: b1, b2",
    ),
    Broken(
        "name twice", '"b2"', '"b1"', "10: [[backend]] 'b1' name",
        "the name 'b1' is taken by backend 1", "a name of its own",
    ),
    Broken(
        "backend address twice", '"10.0.0.2"', '"10.0.0.1"', "11: [[backend]] 'b2' address",
        "is the address of backend 'b1' too", "list a machine once",
    ),
    Broken(
        "VIP twice", LAST, LAST + '[[vip]]\nname = "v2"\naddress = "192.0.2.1"\n'
        'protocol = "tcp"\nport = 443\npool = "web"\n', "25: [[vip]] 'v2' address",
        "192.0.2.1 tcp port 443 is VIP 'v1' already", "use another address, protocol or port",
    ),
    Broken(
        "VIP is a backend", "192.0.2.1", "10.0.0.1", "19: [[vip]] 'v1' address",
        "is the address of backend 'b1'", "give the VIP an address of its own",
    ),
    Broken(
        "VIP is multicast", "192.0.2.1", "224.0.0.1", "19: [[vip]] 'v1' address",
        "224.0.0.1 is a multicast address", "use a unicast address",
    ),
    Broken(
        "VIP is unspecified", "192.0.2.1", "::", "19: [[vip]] 'v1' address",
        ":: is the unspecified address", "use a unicast address",
    ),
    Broken(
        "VIP is loopback", "192.0.2.1", "::1", "19: [[vip]] 'v1' address",
        "::1 is a loopback address", "use a unicast address",
    ),
    Broken(
        "backend is broadcast", "10.0.0.2", "255.255.255.255", "11: [[backend]] 'b2' address",
        "is the broadcast address", "use a unicast address",
    ),
    Broken(
        "source contains a VIP", "192.0.2.1", "100.64.3.4", "1: [director] source4",
        "contains 100.64.3.4, the address of VIP 'v1'", "use a prefix from which",
    ),
    Broken(
        "source contains a backend", "10.0.0.2", "fd00:11be:7::9", "1: [director] source6",
        "contains fd00:11be:7::9, the address of backend 'b2'", "use a prefix from which",
    ),
    Broken(
        "too many pools", '"eth0"]\n', '"eth0"]\npools_max = 1\n[[pool]]\nname = "p"\n'
        "backends = {}\n", "17: [[pool]] 'web'",
        "2 pools are more than the limit of 1", "raise pools_max in [director]",
    ),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_broken_configuration_is_explained(broken: Broken) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(broken.text, "test.toml")
    matching = [p for p in caught.value.problems if p.where.startswith(f"test.toml:{broken.where}")]
    assert matching, f"no problem at {broken.where!r} in:\n{caught.value}"
    assert any(broken.why in p.why and broken.mend in p.mend for p in matching), caught.value


def test_the_text_that_the_broken_ones_are_made_from_is_good() -> None:
    assert [vip.name for vip in parse(GOOD).vips] == ["v1"]


def test_every_problem_is_reported_in_the_order_of_lines() -> None:
    text = GOOD.replace("443", "0").replace("b1 = 1", "b1 = -1").replace('"d1"', '"D"')
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert [problem.where.split(":")[1] for problem in caught.value.problems] == ["2", "15", "21"]


def test_message_has_place_reason_and_remedy() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace("443", "0"), "/etc/limpet.toml")
    assert str(caught.value) == (
        "/etc/limpet.toml:21: [[vip]] 'v1' port: 0 is out of range\n"
        '    to mend: write a port from 1 to 65535, or "all"'
    )


@pytest.mark.parametrize(
    ("kind", "count", "limit"), [("backend", 4_096, 4_095), ("vip", 1_024, 1_023)]
)
def test_limits_are_held(kind: str, count: int, limit: int) -> None:
    def row(i: int) -> str:
        more = 'protocol = "tcp"\nport = 1\npool = "web"\n' if kind == "vip" else ""
        return f'[[{kind}]]\nname = "x{i}"\naddress = "2001:db8::{i + 1:x}"\n{more}'

    rows = [row(i) for i in range(count - GOOD.count(f"[[{kind}]]"))]
    with pytest.raises(ConfigError, match=f"{count} {kind}s are more than the limit of {limit}"):
        parse(GOOD + "".join(rows))
    parse(GOOD + "".join(rows[:-1]))


def test_example_means_what_it_says() -> None:
    desired = parse(EXAMPLE)
    director = desired.director
    assert (director.name, director.pop, director.interfaces) == ("fra-d1", "fra", ("eth0",))
    assert director.slot_key == bytes(range(16))
    assert (director.flows_max, director.timeouts.tcp_established_s) == (2_000_000, 86_400)
    assert desired.metrics_listen == "127.0.0.1:9464"
    assert [str(b.address) for b in desired.backends] == [
        "10.0.0.11",
        "2001:db8:1::12",
        "10.0.0.13",
    ]
    assert desired.backends[2].encapsulation is Encapsulation.L2
    assert desired.pools[0].weights == {"b1": 2, "b2": 1, "b3": 0}
    assert desired.hooks.command == ("/usr/local/bin/limpet-event",)
    assert (desired.mega_proxy.flows, desired.mega_proxy.prefixes) == (
        2_000,
        (ip_network("198.51.100.0/24"),),
    )
    pool = desired.pools[0]
    assert (pool.policy, pool.reassign) == (Policy.LEAST_SESSIONS, Policy.LEAST_SESSIONS)
    assert (pool.slow_start_s, pool.hold_s, pool.on_down) == (60, 10, OnDown.REHASH)
    assert pool.health == HealthCheck(
        CheckKind.HTTPS, interval_s=1, http_path="/health", http_host="www.example.net"
    )
    web, sensors = desired.vips
    assert web.timeouts == director.timeouts
    assert sensors.timeouts == replace(director.timeouts, udp_s=60)
    assert (web.address, web.protocol, web.port) == (ip_address("192.0.2.10"), Protocol.TCP, 443)
    assert (sensors.protocol, sensors.port, sensors.affinity) == (
        Protocol.UDP,
        None,
        Affinity.FLOW,
    )


def test_defaults_are_those_of_the_model() -> None:
    director = parse('[director]\nname = "d1"\ninterfaces = ["eth0"]\n').director
    assert director.source4 == ip_network("100.64.0.0/16")
    assert director.source6 == ip_network("fd00:11be:7::/96")
    assert (director.xdp, director.slot_key, director.pools_max) == (XdpMode.AUTO, b"", 64)


def test_pool_may_be_empty() -> None:
    text = GOOD.replace("{ b1 = 1, b2 = 1 }", "{}")
    assert parse(text).pools[0].weights == {}


def test_same_address_may_serve_several_ports_and_protocols() -> None:
    more = "".join(
        f'[[vip]]\nname = "n{i}"\naddress = "192.0.2.1"\nprotocol = "{protocol}"\n'
        f'port = {port}\npool = "web"\n'
        for i, (protocol, port) in enumerate([("udp", 443), ("tcp", 80), ("tcp", '"all"')])
    )
    assert len(parse(GOOD + more).vips) == 4


@given(st.text())
def test_any_text_is_understood_or_explained(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert all(problem.mend for problem in caught.value.problems)


values = st.recursive(
    st.one_of(st.booleans(), st.integers(-1, 70_000), st.floats(), st.sampled_from(["", "b1"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=3,
)
lines = st.sampled_from([line for line in GOOD.splitlines() if " = " in line])


@given(lines, values)
def test_any_value_of_any_key_is_understood_or_explained(line: str, value: object) -> None:
    """No value makes the parser itself fail, and the line is the one of the key."""
    key = line.split(" = ")[0]
    text = GOOD.replace(line, f"{key} = {as_toml(value)}", 1)
    number = GOOD.splitlines().index(line) + 1
    problems = problems_of(text)
    places = [int(problem.where.split(":")[1]) for problem in problems]
    # A name or a weight that is fine by itself can leave those without a partner who used it.
    assert not places or number in places or key in ("name", "backends")


def problems_of(text: str) -> list[Problem]:
    try:
        parse(text)
    except ConfigError as error:
        return error.problems
    return []


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return str(value).lower() if not isinstance(value, str) else f'"{value}"'
