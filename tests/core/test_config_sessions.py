# SPDX-License-Identifier: Apache-2.0
"""Keys about sessions, checks, proxies, hooks and the API: understood, or refused with a remedy."""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.config import parse
from limpet.core.errors import ConfigError, Problem
from limpet.core.health_checks import target
from limpet.core.model import (
    Affinity,
    ApiListen,
    CheckKind,
    CheckPath,
    Desired,
    Director,
    DrainRule,
    HealthCheck,
    Hooks,
    MegaProxy,
    OnDown,
    Policy,
    Pool,
    Timeouts,
)


@dataclass(frozen=True)
class Text:
    """A configuration with one pool and two VIPs; each field adds lines to one table."""

    top: str = ""  # tables of their own
    director: str = ""
    pool: str = ""
    health: str = ""
    vip: str = ""  # web: TCP, 443
    udp: str = ""  # dns: UDP, 53

    def __str__(self) -> str:
        health = f"[pool.health]\n{self.health}\n" if self.health else ""
        return (
            f'[director]\nname = "d1"\ninterfaces = ["eth0"]\n{self.director}\n{self.top}\n'
            '[[backend]]\nname = "b1"\naddress = "10.0.0.1"\n'
            f'[[pool]]\nname = "web"\nbackends = {{ b1 = 1 }}\n{self.pool}\n{health}'
            '[[pool]]\nname = "dns"\nbackends = { b1 = 1 }\n'
            '[[vip]]\nname = "web"\naddress = "192.0.2.1"\nprotocol = "tcp"\nport = 443\n'
            f'pool = "web"\n{self.vip}\n'
            '[[vip]]\nname = "dns"\naddress = "192.0.2.1"\nprotocol = "udp"\nport = 53\n'
            f'pool = "dns"\n{self.udp}\n'
        )


TCP = 'kind = "tcp"'


def test_left_out_keys_are_as_the_model_says() -> None:
    desired = parse(str(Text()))
    assert desired.pools[0] == Pool("web", {"b1": 1})
    assert desired.director == Director("d1", ("eth0",))
    assert (desired.mega_proxy, desired.hooks, desired.api) == (MegaProxy(), Hooks(), ApiListen())
    assert desired.vips[0].timeouts == Timeouts()
    assert parse(str(Text(health=TCP))).pools[0].health == HealthCheck()


def test_every_key_is_understood() -> None:
    text = Text(
        top=(
            '[api]\nlisten = "192.0.2.9:8443"\ncertificate = "/c"\nkey = "/k"\ntokens = "/t"\n'
            '[hooks]\ncommand = ["/bin/x", ""]\nwebhook = "http://[::1]:8/y"\ntimeout_s = 3\n'
            "[mega_proxy]\nflows = 5\nshare = 2.5\nport_ranges = 512\n"
            'prefixes = ["198.51.100.0/24", "2001:db8:7::/48"]\n'
            "[director.timeouts]\ntcp_opening_s = 7\nudp_s = 8"
        ),
        director="sessions_max = 2_000\nmark = 0x10_000",
        pool=(
            'policy = "round-robin"\nreassign = "hash"\ndrain = "flows"\nslow_start_s = 9\n'
            'hold_s = 0\non_down = "hold"\nfail_open = true'
        ),
        health=(
            'kind = "https"\npath = "direct"\nvip = "web"\nport = 81\ninterval_s = 5\n'
            'timeout_s = 0.5\nrise = 1\nfall = 4\nhttp_path = "/a?b"\nhttp_host = "x.net"\n'
            'http_status = [200, 200]\nhttp_body = "ok"\nverify = true'
        ),
        vip=(
            'affinity = "client+ports"\nprefix = 24\nport_ranges = 8\n'
            "[vip.timeouts]\ntcp_established_s = 604_800\nudp_s = 1"
        ),
    )
    desired = parse(str(text))
    assert desired.api == ApiListen("192.0.2.9:8443", "/c", "/k", "/t")
    assert desired.hooks == Hooks(("/bin/x", ""), "http://[::1]:8/y", 3)
    prefixes = (ip_network("198.51.100.0/24"), ip_network("2001:db8:7::/48"))
    assert desired.mega_proxy == MegaProxy(5, 2.5, 512, prefixes)
    assert (desired.director.sessions_max, desired.director.mark) == (2_000, 0x10_000)
    check = HealthCheck(
        CheckKind.HTTPS, CheckPath.DIRECT, "web", 81, 5, 0.5, 1, 4,
        "/a?b", "x.net", (200, 200), "ok", True,
    )  # fmt: skip
    assert desired.pools[0] == Pool(
        "web", {"b1": 1}, Policy.ROUND_ROBIN, Policy.HASH, DrainRule.FLOWS, 9, check, 0,
        OnDown.HOLD, True,
    )  # fmt: skip
    web, dns = desired.vips
    assert (web.affinity, web.prefix, web.port_ranges) == (Affinity.CLIENT_PORTS, 24, 8)
    assert web.timeouts == Timeouts(604_800, 7, 240, 1)
    assert dns.timeouts == Timeouts(1_800, 7, 240, 8)


def problem(text: Text) -> tuple[str, str, str]:
    """Place, reason and remedy of the one problem."""
    with pytest.raises(ConfigError) as caught:
        parse(str(text))
    (found,) = caught.value.problems
    return found.where.partition(": ")[2], found.why, found.mend


COMMAND = 'kind = "command"\ncommand = ["/bin/true"]'
API = '[api]\nlisten = "192.0.2.9:8443"\n'
CASES: list[tuple[str, Text, str, str, str]] = [
    # Pools.
    ("policy", Text(pool='policy = "random"'), "[[pool]] 'web' policy", "is not known", "'hash'"),
    ("drain", Text(pool="drain = 1"), "drain", "1 is not known", "'sessions' or 'flows'"),
    ("on_down", Text(pool='on_down = "x"'), "on_down", "not known", "'hold', 'reset' or 'rehash'"),
    ("slow", Text(pool="slow_start_s = -1"), "slow_start_s", "-1 is out of", "from 0 to 86400"),
    ("hold", Text(pool="hold_s = 604_801"), "hold_s", "604801 is out", "from 0 to 604800"),
    ("fail", Text(pool="fail_open = 1"), "fail_open", "1 is neither true nor", "true or false"),
    (
        "health", Text(pool="health = 1"),
        "[[pool]] 'web' health", "1 is not a table", "[pool.health]",
    ),
    # Checks.
    ("unknown", Text(health="risen = 1"), "health.risen", "unknown key", "did you mean 'rise'?"),
    (
        "kind", Text(health='kind = "udp"'),
        "[[pool]] 'web' health.kind", "not known", "'tcp', 'tls'",
    ),
    ("rise", Text(health="rise = 0"), "health.rise", "0 is out of range", "from 1 to 100"),
    ("interval", Text(health="interval_s = 0"), "interval_s", "out of range", "from 0.1 to 3600"),
    ("nan", Text(health="interval_s = nan"), "interval_s", "nan is not a number", "0.1 to 3600"),
    ("words", Text(health='fall = "3"'), "health.fall", "is not a whole number", "1 to 100"),
    (
        "longer", Text(health="timeout_s = 3"),
        "health.timeout_s", "longer than the interval", "most 2",
    ),
    ("path", Text(health='kind = "http"\nhttp_path = "x"'), "http_path", "not a path", '"/health"'),
    ("host", Text(health='kind = "tls"\nhttp_host = "a b"'), "http_host", "not a host", "address"),
    (
        "status", Text(health='kind = "http"\nhttp_status = [400, 200]'),
        "http_status", "range", "[200",
    ),
    (
        "one status", Text(health='kind = "http"\nhttp_status = 200'),
        "status", "200 is not a", "[200",
    ),
    ("body", Text(health=f'kind = "http"\nhttp_body = "{"x" * 1_025}"'), "body", "1025", "text"),
    ("argv", Text(health='kind = "command"\ncommand = "x"'), "command", "not a list", "{address}"),
    ("nobody", Text(health='kind = "command"'), "health.kind", "has no command", "/usr/local/bin"),
    ("no http", Text(health='http_body = "x"'), "health.http_body", "kind tcp does not", "'http'"),
    ("no tls", Text(health='kind = "http"\nverify = true'), "verify", "kind http does", "'tls'"),
    ("no argv", Text(health='command = ["x"]'), "health.command", "kind tcp", "'command'"),
    ("port 0", Text(health="port = 0"), "health.port", "0 is out of range", "from 1 to 65535"),
    ("no vip", Text(health='vip = "wep"'), "health.vip", "there is no VIP 'wep'", "mean 'web'?"),
    ("not mine", Text(health='vip = "dns"'), "health.vip", "belongs to pool 'dns'", "vips: web"),
    (
        "only UDP", Text(udp="", pool='[pool.health]\nkind = "tcp"\n[[pool]]\nname = "x"\n'
        "backends = { b1 = 1 }\n[[vip]]\n" 'name = "x"\naddress = "192.0.2.2"\nprotocol = "udp"\n'
        'port = 1\npool = "x"\n[[pool]]\nname = "y"\nbackends = { b1 = 1 }\n'
        "[pool.health]\nport = 9"),
        "[[pool]] 'y' health", "no VIP over TCP is served by pool 'y'", 'path = "direct"',
    ),
    (
        "UDP by name", Text(health='vip = "w2"', vip='[[vip]]\nname = "w2"\naddress = "192.0.2.3"\n'
        'protocol = "udp"\nport = 1\npool = "web"'),
        "health.vip", "VIP 'w2' is udp", "name a VIP over TCP",
    ),
    # VIPs.
    ("prefix 0", Text(vip="prefix = 0"), "[[vip]] 'web' prefix", "0 is out of", "from 1 to 128"),
    ("long", Text(vip="prefix = 33"), "prefix", "longer than an IPv4 address", "from 1 to 32"),
    ("flow", Text(vip='prefix = 9\naffinity = "flow"'), "prefix", "the whole address", "client"),
    ("ranges", Text(vip='port_ranges = 12\naffinity = "client+ports"'), "ranges", "12 is", "as 16"),
    ("one", Text(vip='port_ranges = 1\naffinity = "client+ports"'), "ranges", "1 is not", "from 2"),
    ("no ranges", Text(vip="port_ranges = 8"), "port_ranges", "client has no port", "client+ports"),
    ("time", Text(vip="timeouts = { udp_s = 0 }"), "timeouts.udp_s", "0 is out", "1 to 604800"),
    ("week", Text(vip="timeouts = { udp_s = 604_801 }"), "udp_s", "out of", "1 to 604800"),
    # The director.
    ("sessions", Text(director="sessions_max = 9"), "sessions_max", "9 is out", "from 1024 to"),
    ("mark", Text(director="mark = 0x6c69_0001"), "mark", "low 12 bits of 0x6c690001", "0x6c69"),
    ("mark 0", Text(director="mark = 0"), "[director] mark", "0x0 is out of range", "0x6c69"),
    # Mega-proxies.
    ("share", Text("[mega_proxy]\nshare = 101"), "[mega_proxy] share", "101 is out", "0 to 100"),
    ("powers", Text("[mega_proxy]\nport_ranges = 3"), "port_ranges", "3 is not a power", "from 2"),
    ("text", Text('[mega_proxy]\nprefixes = ["x"]'), "prefixes", "'x' is not a prefix", "198.51"),
    (
        "host", Text('[mega_proxy]\nprefixes = ["10.0.0.1/8"]'),
        "prefixes", "host bits", "10.0.0.0/8",
    ),
    ("all", Text('[mega_proxy]\nprefixes = ["::/0"]'), "prefixes", "everybody", "only"),
    (
        "mapped", Text('[mega_proxy]\nprefixes = ["::ffff:1.2.3.0/120"]'),
        "prefixes", "IPv4", "as one",
    ),
    (
        "twice", Text('[mega_proxy]\nprefixes = ["10.0.0.0/8", "10.0.0.0/8"]'),
        "prefixes", "twice", "",
    ),
    (
        "inside", Text('[mega_proxy]\nprefixes = ["10.9.0.0/16", "11.0.0.0/8", "10.0.0.0/8"]'),
        "[mega_proxy] prefixes", "10.0.0.0/8 contains 10.9.0.0/16", "leave 10.9.0.0/16 out",
    ),
    # Hooks and the API.
    ("url", Text('[hooks]\nwebhook = "ftp://x"'), "[hooks] webhook", "not a URL", "https://ops"),
    ("no host", Text('[hooks]\nwebhook = "https:///x"'), "webhook", "not a URL", "https://ops"),
    ("program", Text('[hooks]\ncommand = [""]'), "command", "has no name", "list the program"),
    ("hook", Text("[hooks]\ntimeout_s = 301"), "timeout_s", "301 is out of range", "0.1 to 300"),
    ("relative", Text(API + 'certificate = "c"'), "certificate", "not an absolute path", "/etc"),
    (
        "bare", Text(API + 'key = "/k"\ntokens = "/t"'),
        "[api] listen", "a certificate", "unix socket",
    ),
    ("keyless", Text(API + 'certificate = "/c"\ntokens = "/t"'), "listen", "the key of", "set key"),
    (
        "open", Text(API + 'certificate = "/c"\nkey = "/k"'),
        "listen", "file of tokens", "set tokens",
    ),
    ("idle", Text('[api]\nkey = "/k"'), "[api] key", "listen is not", "set listen"),
    (
        "same port", Text(f'{API}certificate = "/c"\nkey = "/k"\ntokens = "/t"\n'
        '[metrics]\nlisten = "192.0.2.9:8443"'),
        "[api] listen", "is where [metrics] listens", "another port",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "where", "why", "mend"), CASES)
def test_broken_one_is_explained(name: str, text: Text, where: str, why: str, mend: str) -> None:
    found = problem(text)
    assert where in found[0], found
    assert why in found[1], found
    assert mend in found[2], found


def test_check_of_a_vip_with_all_ports_needs_one() -> None:
    text = str(Text(health=TCP)).replace("port = 443", 'port = "all"')
    with pytest.raises(
        ConfigError, match=r"'web' health: the check has no port, and the VIP has all"
    ):
        parse(text)
    assert parse(text.replace(TCP, f"{TCP}\nport = 80")).pools[0].health


def test_direct_check_needs_no_vip_but_a_port() -> None:
    text = str(Text(health='path = "direct"')).replace('pool = "web"', 'pool = "dns"')
    with pytest.raises(ConfigError, match="is not there to take the port from"):
        parse(text)
    assert parse(text.replace('"direct"', '"direct"\nport = 80')).pools[0].health


def test_command_needs_neither() -> None:
    text = str(Text(health=COMMAND)).replace('pool = "web"', 'pool = "dns"')
    assert asked(parse(text)) == ("", None)


def asked(desired: Desired) -> tuple[str, int | None]:
    vip, port = target(desired, desired.pools[0])
    return (vip.name if vip else "", port)


def test_vip_that_is_asked_is_the_first_over_tcp_or_the_named_one() -> None:
    more = Text(
        health="rise = 1",
        vip='[[vip]]\nname = "alt"\naddress = "192.0.2.8"\nprotocol = "tcp"\n'
        'port = 80\npool = "web"',
    )
    assert asked(parse(str(more))) == ("web", 443)
    assert asked(parse(str(more).replace("rise = 1", 'vip = "alt"'))) == ("alt", 80)
    assert asked(parse(str(more).replace("rise = 1", "port = 9"))) == ("web", 9)


def test_misspelt_pool_of_a_vip_is_one_problem() -> None:
    text = str(Text(health=TCP)).replace('pool = "web"', 'pool = "wep"')
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(caught.value.problems) == 1


KEYS = {
    "pool": [
        "policy",
        "reassign",
        "drain",
        "slow_start_s",
        "hold_s",
        "on_down",
        "fail_open",
        "health",
    ],
    "health": list(HealthCheck.__dataclass_fields__),
    "vip": ["prefix", "port_ranges", "timeouts", "timeouts.udp_s", "affinity"],
    "director": ["sessions_max", "mark"],
    "mega_proxy": list(MegaProxy.__dataclass_fields__),
    "hooks": list(Hooks.__dataclass_fields__),
    "api": list(ApiListen.__dataclass_fields__),
}
values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-1, 70_000),
        st.floats(),
        st.sampled_from(["", "b1", "/x", "a b", "10.0.0.0/8", "http://x/", "\\u0000", "client"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=3,
)


@given(st.sampled_from([(t, key) for t, keys in KEYS.items() for key in keys]), values)
def test_any_value_of_any_key_is_understood_or_explained(
    place: tuple[str, str], value: Any
) -> None:
    """No value makes the parser itself fail."""
    table, key = place
    line = f"{key} = {as_toml(value)}"
    own = table in ("mega_proxy", "hooks", "api")
    text = Text(top=f"[{table}]\n{line}") if own else Text(**{table: line})
    assert all(problem.why and problem.mend for problem in problems_of(str(text)))


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
