# SPDX-License-Identifier: Apache-2.0
"""What we write for BIRD, and read of it: BIRD itself says whether it takes the files."""

import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limpet.announce import bird_config, bird_state
from limpet.announce.control import BirdError, Line, ask
from limpet.announce.folder import Folder
from limpet.announce.password import password
from limpet.core.announcement import Announced
from limpet.core.errors import ConfigError
from limpet.core.model import Bgp, Peer, Speaker

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
PEERS = st.lists(
    st.builds(
        Peer,
        name=NAMES,
        address=st.sampled_from(("10.0.0.1", "10.0.0.2", "2001:db8::1", "fe80::1%eth0")).map(
            ip_address
        ),
        asn=st.integers(1, 4_294_967_294),
        bfd=st.booleans(),
    ),
    max_size=4,
    unique_by=(lambda peer: peer.name, lambda peer: peer.address),
)
ROUTES = st.lists(
    st.builds(
        Announced,
        st.ip_addresses().filter(lambda a: a.is_global and not a.is_multicast),
        st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)), max_size=3).map(tuple),
        st.none() | st.integers(0, 4_294_967_295),
        st.integers(0, 10),
    ),
    max_size=5,
    unique_by=lambda route: route.address,
)
SECRETS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"'))


def accepted(folder: Path, peers: str, routes: str) -> str:
    """What BIRD complains of; empty if it takes them."""
    (folder / "bird.conf").write_text(peers)
    (folder / "routes.conf").write_text(routes)
    argv = ["/usr/sbin/bird", "-p", "-c", str(folder / "bird.conf")]
    return subprocess.run(argv, capture_output=True, text=True).stderr


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PEERS, ROUTES, SECRETS.filter(lambda text: 1 <= len(text) <= 80))
def test_bird_takes_whatever_we_write(
    tmp_path: Path, peers: list[Peer], routes: list[Announced], secret: str
) -> None:
    bgp = Bgp(Speaker.BIRD, 64_501, peers=tuple(peers))
    secrets = {peer.name: secret for peer in peers}
    text = bird_config.peers(bgp, secrets, f"{tmp_path}/routes.conf", f"{tmp_path}/bird.log")
    assert accepted(tmp_path, text, bird_config.routes(bgp, routes)) == ""


@given(NAMES, NAMES)
def test_peers_with_other_names_are_called_otherwise(one: str, other: str) -> None:
    peers = [Peer(name, ip_address("10.0.0.1"), 1) for name in (one, other)]
    called = [bird_config.protocol(peer) for peer in peers]
    assert (called[0] == called[1]) == (one == other)
    assert len(called[0]) <= 62


SAID = """2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     21:40:51.152
1006-
1002-p_r4       BGP        ---        up     2026-11-23 21:40:51  Established
1006-  BGP state:          Established
     Neighbor address: 10.0.0.254
   Channel ipv4
     State:          UP
1002-p_r6       BGP        ---        start  21:40:51.981  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 2001:db8:1::254
     Last error:       Socket: Connection refused"""


def lines(text: str) -> list[Line]:
    found, code = [], 0
    for line in text.splitlines():
        if line[:4].isdigit():
            code, line = int(line[:4]), line[5:]
        found.append(Line(code, line))
    return found


def test_state_of_every_peer_is_read_and_a_missing_one_is_down() -> None:
    peers = {f"p_{name}": Peer(name, ip_address("10.0.0.1"), 1) for name in ("r4", "r6", "r9")}
    up, down, missing = bird_state.peer_states(lines(SAID), peers)
    assert (up.is_up, up.state, up.error) == (True, "Established", "")
    assert (down.is_up, down.state, down.error) == (False, "Active", "Socket: Connection refused")
    assert (missing.is_up, missing.error) == (False, "BIRD does not have it")


def test_bird_that_is_not_there_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(BirdError, match=f"does not answer on {tmp_path}/ctl: No such file"):
        ask(tmp_path / "ctl", "show status")


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"salt\n", 0o640, "is open to others"),
        (b"\n", 0o600, "does not hold a password of 1 to 80"),
        (b'sa"lt', 0o600, "does not hold a password of 1 to 80"),
        (b"one\ntwo", 0o600, "does not hold a password of 1 to 80"),
        (b"x" * 81, 0o600, "does not hold a password of 1 to 80"),
        (b"s\xe4lz", 0o600, "is not plain ASCII"),
        (None, 0o600, "cannot be read: No such file"),
    ],
)
def test_password_that_cannot_be_had_is_refused(
    tmp_path: Path, content: bytes | None, mode: int, why: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=why):
        password(Peer("r1", ip_address("10.0.0.1"), 1, str(path)))


def test_password_is_the_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("some salt\n")
    path.chmod(0o600)
    assert password(Peer("r1", ip_address("10.0.0.1"), 1, str(path))) == "some salt"


def test_one_process_at_a_time_is_the_speaker_of_a_folder(tmp_path: Path) -> None:
    import os

    files = Folder(tmp_path)
    assert files.owner() is None
    fd = files.lock()
    assert fd is not None
    assert files.owner() == os.getpid()
    assert files.lock() is None
    os.close(fd)
    assert files.owner() is None
