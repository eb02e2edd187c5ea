# SPDX-License-Identifier: Apache-2.0
"""What an agent's configuration file may say, and what is answered when it says something else."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.agent import config, mss
from limpet.agent.programs import address_bytes, source_key
from limpet.core.errors import ConfigError

GOOD = {
    "name": '"b1"',
    "interface": '"eth0"',
    "directors": '["100.64.0.0/16", "fd00:11be:7::/96"]',
    "vips": '["192.0.2.10", "2001:db8::10"]',
}


def text(**changes: str | None) -> str:
    """The good file with changes; None leaves a key out."""
    return "\n".join(f"{k} = {v}" for k, v in {**GOOD, **changes}.items() if v is not None)


def test_a_good_file_is_read() -> None:
    found = config.parse(text(xdp='"generic"', mtu="1400"))
    assert isinstance(found, config.AgentConfig)
    assert found.directors == [ip_network("100.64.0.0/16"), ip_network("fd00:11be:7::/96")]
    assert found.vips == [ip_address("192.0.2.10"), ip_address("2001:db8::10")]
    assert (found.xdp, found.mtu) == ("generic", 1400)


def test_what_is_left_out_has_a_default() -> None:
    found = config.parse(text())
    assert isinstance(found, config.AgentConfig)
    assert (found.xdp, found.mtu) == ("auto", None)


BAD = [
    ({"name": None}, "agent.toml:1: name: the key is missing", 'write name = "b1"'),
    ({"name": '"B1"'}, "agent.toml:1: name: 'B1' is not a name", "use 1 to 63"),
    ({"name": "7"}, "agent.toml:1: name: 7 is not a string", "use 1 to 63"),
    ({"interface": None}, "interface: the key is missing", 'write interface = "eth0"'),
    ({"interface": '"a/b"'}, "agent.toml:2: interface: 'a/b' is not an interface", "ip link"),
    ({"interface": '"sixteen-letters-"'}, "has more than 15 bytes", "ip link"),
    ({"interface": '["eth0"]'}, 'agent.toml:2: interface: ["eth0"] is not a string', "ip link"),
    ({"directors": None}, "directors: the key is missing", "write directors = ["),
    ({"directors": "[]"}, "agent.toml:3: directors: the list is empty", "write directors = ["),
    ({"directors": '"100.64.0.0/16"'}, "does not fit here", "write directors = ["),
    ({"directors": '["100.64.0.0/33"]'}, "'100.64.0.0/33' is not a prefix", "source4"),
    ({"directors": '["100.64.0.1/16"]'}, "has host bits set", 'write "100.64.0.0/16"'),
    ({"directors": '["0.0.0.0/0"]'}, "'0.0.0.0/0' lets everybody send", "source4"),
    ({"directors": "[64]"}, "64 is not a string", "source4"),
    ({"directors": '["10.0.0.0/8", "10.0.0.0/8"]'}, "is listed 2 times", "list it once"),
    ({"vips": "[]"}, "agent.toml:4: vips: the list is empty", "write vips = ["),
    ({"vips": '["192.0.2"]'}, "'192.0.2' is not an IP address", "write an IPv4 or IPv6"),
    ({"vips": '["127.0.0.1"]'}, "127.0.0.1 cannot be a VIP", "clients connect to"),
    ({"vips": '["ff02::1"]'}, "ff02::1 cannot be a VIP", "clients connect to"),
    ({"vips": '["::ffff:192.0.2.10"]'}, "is an IPv4 address", 'write "192.0.2.10"'),
    ({"vips": '["192.0.2.1", "192.0.2.1"]'}, "192.0.2.1 is listed 2 times", "list it once"),
    ({"xdp": '"offload"'}, 'agent.toml:5: xdp: "offload" does not fit', 'write xdp = "auto"'),
    ({"mtu": "575"}, "agent.toml:5: mtu: 575 does not fit here", "write mtu = 1500"),
    ({"mtu": "65536"}, "65536 does not fit here", "write mtu = 1500"),
    ({"mtu": '"1500"'}, '"1500" does not fit here', "write mtu = 1500"),
    ({"mtu": "true"}, "true does not fit here", "write mtu = 1500"),
    ({"mtu": "1279"}, "an mtu of 1279 is too small for IPv6", "write at least 1280"),
    ({"speed": "1"}, "agent.toml:5: speed: unknown key", "the keys are name, interface"),
    ({"[director]": None, "director": "{}"}, "director: unknown key", "the keys are name"),
]


@pytest.mark.parametrize(("changes", "why", "mend"), BAD)
def test_a_bad_file_is_refused(changes: dict[str, str | None], why: str, mend: str) -> None:
    """Where, what is wrong, and how to mend it."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text(**changes))
    (problem,) = caught.value.problems
    assert why in f"{problem.where}: {problem.why}"
    assert mend in problem.mend


ELSEWHERE = '["100.65.0.0/16"]'
BAD_EXITS = [
    ({"address": '"10.0.2.2"'}, "agent.toml:5: exits.directors: the key is missing", "[[exits]]"),
    ({"directors": ELSEWHERE}, "exits.address: the key is missing", "[[exits]]"),
    ({"directors": ELSEWHERE, "address": '"x"'}, "exits.address: 'x' is not an IP", "write an"),
    ({"directors": ELSEWHERE, "address": '"::1"'}, "::1 cannot be an exit", "of that PoP"),
    ({"directors": ELSEWHERE, "address": '"192.0.2.10"'}, "192.0.2.10 is a VIP", "backbone"),
    ({"directors": '["100.64.0.0/16"]', "address": '"10.0.2.2"'}, "more than one list", "own"),
    ({"directors": ELSEWHERE, "address": '"10.0.2.2"', "x": "1"}, "exits.x: unknown", "directors"),
]


@pytest.mark.parametrize(("exit", "why", "mend"), BAD_EXITS)
def test_a_bad_exit_is_refused(exit: dict[str, str], why: str, mend: str) -> None:
    lines = "\n".join(f"{key} = {value}" for key, value in exit.items())
    with pytest.raises(ConfigError) as caught:
        config.parse(f"{text()}\n[[exits]]\n{lines}")
    (problem,) = caught.value.problems
    assert why in f"{problem.where}: {problem.why}"
    assert mend in problem.mend


def test_exits_are_numbered_as_they_are_listed() -> None:
    more = f'[[exits]]\ndirectors = {ELSEWHERE}\naddress = "10.0.2.2"'
    found = config.parse(f"{text()}\n{more}").sources()
    assert found[ip_network("100.64.0.0/16")] == 0
    assert found[ip_network("100.65.0.0/16")] == 1


def test_backends_make_an_exit() -> None:
    found = config.parse(text(directors=None, backends='["10.0.1.0/24"]'))
    assert isinstance(found, config.ExitConfig)
    with pytest.raises(ConfigError, match="directors: it does not go with backends"):
        config.parse(text(backends='["10.0.1.0/24"]'))
    with pytest.raises(ConfigError, match="backends: the list is empty"):
        config.parse(text(directors=None, backends="[]"))


def test_too_many_exits() -> None:
    row = '[[exits]]\ndirectors = ["10.{}.0.0/16"]\naddress = "10.0.2.2"\n'
    with pytest.raises(ConfigError, match="more than 8 entries"):
        config.parse(text() + "\n" + "".join(row.format(number) for number in range(9)))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text(name='"B1"', vips="[]", mtu="1"))
    assert [p.where for p in caught.value.problems] == [
        "agent.toml:1: name",
        "agent.toml:4: vips",
        "agent.toml:5: mtu",
    ]


def test_broken_syntax_has_a_line() -> None:
    with pytest.raises(ConfigError, match=r"agent.toml:5: column 7.*not TOML"):
        config.parse(text(mtu="= 3"))


def test_too_many_vips() -> None:
    many = ", ".join(f'"10.0.{n // 256}.{n % 256}"' for n in range(1_025))
    with pytest.raises(ConfigError, match="more than 1024 entries"):
        config.parse(text(vips=f"[{many}]"))


@pytest.mark.parametrize(
    ("directors", "limits"),
    [
        (["100.64.0.0/16"], mss.Limits(1440, 1420)),
        (["fd00::/96"], mss.Limits(1420, 1400)),
        (["100.64.0.0/16", "fd00::/96"], mss.Limits(1420, 1400)),
    ],
)
def test_segments_leave_room_for_the_outer_header(directors: list[str], limits: mss.Limits) -> None:
    """1500 bytes less 20 or 40 outside, less 40 or 60 inside."""
    assert mss.limits(1500, [ip_network(prefix) for prefix in directors]) == limits


@given(st.ip_addresses(v=4), st.integers(1, 32))
def test_ipv4_prefixes_are_keys_of_mapped_addresses(address: object, bits: int) -> None:
    prefix = ip_network(f"{address}/{bits}", strict=False)
    key = source_key(prefix)
    assert int.from_bytes(key[:4], "little") == 96 + bits
    assert key[4:] == address_bytes(ip_address(f"::ffff:{prefix.network_address}"))
