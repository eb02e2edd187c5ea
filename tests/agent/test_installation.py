# SPDX-License-Identifier: Apache-2.0
"""The agent on a machine: ordinary sockets get what directors send, and nothing is left behind."""

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.namespaces import (
    BACKEND4,
    BACKEND6,
    VIP4,
    VIP6,
    WAIT_S,
    Director,
    Pair,
    ask,
    ask_once,
    calling,
    listening,
    until,
)
from limpet.agent import egress, ingress, installation, interface, mss, programs, report, state
from limpet.agent.config import AgentConfig
from limpet.core.errors import Conflict, LimpetError, NotFound, Unsupported
from limpet.core.model import XdpMode
from limpet.datapath import bpf
from limpet.lab import namespace

pytestmark = pytest.mark.kernel

DIRECTORS = ["100.64.0.0/16", "fd00:11be:7::/96"]
QUICK_S = 0.3  # to see that nothing comes
SYSCTLS = ("all/rp_filter", "eth0/rp_filter", "all/arp_ignore", "all/arp_announce")


def configuration(pair: Pair, **more: object) -> AgentConfig:
    values = {"name": pair.name, "interface": "eth0", "directors": DIRECTORS, "vips": [VIP4, VIP6]}
    return AgentConfig.model_validate({**values, **more})


def apply(pair: Pair, **more: object) -> state.State:
    with pair.inside(pair.backend):
        return installation.apply(configuration(pair, **more))


def remove(pair: Pair) -> None:
    with pair.inside(pair.backend):
        installation.remove(pair.name)


def show(pair: Pair) -> report.Report:
    with pair.inside(pair.backend):
        return report.read(pair.name)


@pytest.fixture
def clean(pair: Pair) -> Iterator[Pair]:
    """The pair; an agent that a test left there is removed."""
    yield pair
    with pair.inside(pair.backend), contextlib.suppress(NotFound):
        installation.remove(pair.name)


@pytest.fixture(params=["native", "generic"])
def installed(clean: Pair, request: pytest.FixtureRequest) -> Pair:
    now = apply(clean, xdp=request.param)
    assert now.xdp == request.param
    return clean


@pytest.mark.parametrize("vip", [VIP4, VIP6])
@pytest.mark.parametrize("outer", [4, 6])
def test_datagrams_reach_a_socket_on_the_vip(installed: Pair, vip: str, outer: int) -> None:
    with listening(installed, vip, socket.SOCK_DGRAM) as server, Director(installed, outer):
        assert ask_once(installed, server, vip)
    found = show(installed)
    assert found.counters["decapsulated"] == 1
    assert not found.problems()


@pytest.mark.parametrize("outer", [4, 6])
def test_strangers_are_not_heard(installed: Pair, outer: int) -> None:
    source = "100.65.0.1" if outer == 4 else "fd00:11be:8::1"
    with listening(installed, VIP4, socket.SOCK_DGRAM) as server:
        server.settimeout(QUICK_S)
        with Director(installed, outer, source):
            with pytest.raises(TimeoutError):
                ask_once(installed, server, VIP4)
            until(lambda: show(installed).counters["drop_source"] == 1)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_jumbo_frames_are_taken(clean: Pair, mode: str) -> None:
    """A frame in several buffers: without frags the kernel would refuse the program."""
    clean.resize(9_000)
    apply(clean, xdp=mode)
    data = os.urandom(8_000)
    with (
        listening(clean, VIP6, socket.SOCK_DGRAM) as server,
        Director(clean, 4),
        calling(clean, VIP6, socket.SOCK_DGRAM) as client,
    ):
        client.connect((VIP6, 7))
        client.send(data)
        assert server.recv(9_000) == data
    assert show(clean).counters["decapsulated"] == 1


def exchange(pair: Pair, server: socket.socket, vip: str, size: int) -> tuple[int, bool]:
    """Send `size` bytes and get them back over TCP: (client's segment size, all came through)."""
    data = os.urandom(size)

    def echo() -> None:
        talk, _ = server.accept()
        with talk:
            talk.settimeout(WAIT_S)
            received = b""
            while len(received) < size:
                received += talk.recv(65_536)
            talk.sendall(received)

    thread = threading.Thread(target=echo)
    thread.start()
    with calling(pair, vip, socket.SOCK_STREAM) as client:
        client.connect((vip, 7))
        segment = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        client.sendall(data)
        received = b""
        while len(received) < size:
            received += client.recv(65_536)
    thread.join()
    return segment, hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("cookies", ["1", "2"], ids=["without cookies", "with SYN cookies"])
@pytest.mark.parametrize(("vip", "outer", "limit"), [(VIP4, 4, 1420), (VIP6, 6, 1400)])
def test_uploads_fit_when_encapsulated(
    clean: Pair, vip: str, outer: int, limit: int, cookies: str
) -> None:
    """The director's side loses what is longer than the MTU, so a wrong MSS would stall."""
    apply(clean)
    namespace.sysctl(clean.backend, {"ipv4.tcp_syncookies": cookies})
    with listening(clean, vip, socket.SOCK_STREAM) as server, Director(clean, outer):
        segment, is_whole = exchange(clean, server, vip, 300_000)
    assert is_whole
    assert 1_200 < segment <= limit
    assert show(clean).counters["mss_clamped"] >= 1  # more, if it had to be sent again


@pytest.mark.parametrize(("vip", "backend"), [(VIP4, BACKEND4), (VIP6, BACKEND6)])
def test_frames_in_mode_l2_reach_the_vip(clean: Pair, vip: str, backend: str) -> None:
    """The director rewrites the MAC alone; as does a sender whose next hop is the backend."""
    apply(clean)
    with namespace.netlink(clean.client) as link:
        link.route("add", dst=f"{vip}/{ip_address(vip).max_prefixlen}", gateway=backend)
    with listening(clean, vip, socket.SOCK_DGRAM) as server:
        assert ask_once(clean, server, vip)
    assert show(clean).counters["decapsulated"] == 0


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_nobody_on_the_segment_learns_of_the_vip(clean: Pair, vip: str) -> None:
    """The backend does not answer ARP or neighbour solicitations for it."""
    apply(clean)
    with namespace.netlink(clean.client) as link:
        oif = link.link_lookup(ifname="eth0")[0]
        link.route("add", dst=f"{vip}/{ip_address(vip).max_prefixlen}", oif=oif)
    with listening(clean, vip, socket.SOCK_DGRAM) as server:
        server.settimeout(QUICK_S)
        with pytest.raises(TimeoutError):
            ask_once(clean, server, vip)


def test_everything_is_put_back(clean: Pair) -> None:
    """After `down` addresses, sysctls, filter, program, pins and files are as before."""
    before = [clean.addresses(), *(clean.sysctl(key) for key in SYSCTLS)]
    namespace.sysctl(clean.backend, {"ipv4.conf.eth0.rp_filter": "2"})
    before[2] = "2"
    now = apply(clean)
    assert {VIP4, VIP6} <= clean.addresses()
    assert [clean.sysctl(key) for key in SYSCTLS] == ["0", "0", "1", "2"]
    remove(clean)
    assert [clean.addresses(), *(clean.sysctl(key) for key in SYSCTLS)] == before
    with clean.inside(clean.backend):
        assert not egress.is_attached(now.ifindex)
        assert ingress.attached_to(programs.folder(clean.name)) == 0
    with namespace.netlink(clean.backend) as link:
        kinds = [each.get_attr("TCA_KIND") for each in link.get_qdiscs(index=now.ifindex)]
        assert "clsact" not in kinds
    assert not programs.folder(clean.name).exists()
    assert not state.path(clean.name).exists()
    with pytest.raises(NotFound, match="no agent"):
        show(clean)
    apply(clean)  # would find another XDP program if one had stayed


def test_what_was_there_before_stays(clean: Pair) -> None:
    """An address or sysctl that the operator has set is not the agent's to remove."""
    with namespace.netlink(clean.backend) as link:
        lo = link.link_lookup(ifname="lo")[0]
        link.addr("add", index=lo, address=VIP4, prefixlen=32)
    now = apply(clean)
    assert now.addresses == [ip_address(VIP6)]
    namespace.sysctl(clean.backend, {"ipv4.conf.all.arp_ignore": "8"})
    remove(clean)
    assert VIP4 in clean.addresses()
    assert VIP6 not in clean.addresses()
    assert clean.sysctl("all/arp_ignore") == "8"


def test_a_reload_changes_the_vips(clean: Pair) -> None:
    """Addresses come and go with the file; counters go on; the link stays the same."""
    apply(clean, vips=[VIP4])
    with listening(clean, VIP4, socket.SOCK_DGRAM) as server, Director(clean, 4):
        assert ask_once(clean, server, VIP4)
    apply(clean, vips=[VIP6], mtu=1400)
    assert VIP4 not in clean.addresses()
    with listening(clean, VIP6, socket.SOCK_DGRAM) as server, Director(clean, 4):
        assert ask_once(clean, server, VIP6)
    found = show(clean)
    assert found.counters["decapsulated"] == 2
    assert (found.mss4, found.mss6) == (1400 - 80, 1400 - 100)
    assert found.vips == {ip_address(VIP6): True}
    remove(clean)
    assert not {VIP4, VIP6} & clean.addresses()


def test_no_datagram_is_lost_while_the_program_is_replaced(installed: Pair) -> None:
    """Sent one by one without a pause, while another thread replaces the program five times."""
    mode = show(installed).mode
    done, is_over, answered = threading.Event(), threading.Event(), 0

    def replace() -> None:
        for number in range(1, 6):
            while answered <= 4 * number:  # some come between two of them
                if is_over.wait(0.001):
                    return
            apply(installed, xdp=mode)
        done.set()

    with (
        listening(installed, VIP4, socket.SOCK_DGRAM) as server,
        Director(installed, 4),
        calling(installed, VIP4, socket.SOCK_DGRAM) as client,
    ):
        client.connect((VIP4, 7))
        thread = threading.Thread(target=replace)
        thread.start()
        try:
            while thread.is_alive():
                assert ask(client, server)
                answered += 1
        finally:
            is_over.set()
            thread.join()
    assert done.is_set()
    assert show(installed).counters["decapsulated"] == answered


def test_the_mode_can_be_changed(clean: Pair) -> None:
    assert apply(clean).xdp is XdpMode.NATIVE
    assert apply(clean, xdp="generic").xdp is XdpMode.GENERIC
    assert apply(clean).xdp is XdpMode.GENERIC  # auto keeps what runs
    assert apply(clean, xdp="native").xdp is XdpMode.NATIVE
    assert not show(clean).problems()


def test_an_interface_made_anew_is_taken(clean: Pair) -> None:
    apply(clean)
    with namespace.netlink(clean.backend) as link:
        link.link("del", index=link.link_lookup(ifname="eth0")[0])
    assert len(show(clean).problems()) == 2
    clean.connect()
    apply(clean)
    assert not show(clean).problems()
    with listening(clean, VIP4, socket.SOCK_DGRAM) as server, Director(clean, 4):
        assert ask_once(clean, server, VIP4)


def test_state_of_another_namespace_is_not_believed(clean: Pair) -> None:
    """A machine that was made anew under the same name has none of what the file says."""
    apply(clean)
    file = state.path(clean.name)
    known = state.State.model_validate_json(file.read_text())
    known.namespace += 1
    known.addresses = [ip_address("192.0.2.99")]
    state.save(known)
    with pytest.raises(NotFound):
        show(clean)
    assert ip_address("192.0.2.99") not in apply(clean).addresses
    assert not show(clean).problems()


# --- Refusals: each says why, and leaves nothing ------------------------------------------------


def untouched(pair: Pair) -> bool:
    return (
        not {VIP4, VIP6} & pair.addresses()
        and not programs.folder(pair.name).exists()
        and not state.path(pair.name).exists()
        and pair.sysctl("all/arp_ignore") == "0"
    )


def test_no_such_interface(clean: Pair) -> None:
    with pytest.raises(NotFound, match=r"no interface 'eth9' here; there are .*eth0.* lo"):
        apply(clean, interface="eth9")
    assert untouched(clean)


def test_interface_without_ethernet_is_refused(clean: Pair) -> None:
    with pytest.raises(Unsupported, match="no Ethernet"):
        apply(clean, interface="lo")
    assert untouched(clean)


def test_a_driver_without_native_xdp(clean: Pair) -> None:
    with namespace.netlink(clean.backend) as link:
        link.link("add", ifname="br0", kind="bridge")
    with pytest.raises(Unsupported, match=r'br0 takes no XDP program in mode native.*xdp = "auto"'):
        apply(clean, interface="br0", xdp="native")
    assert untouched(clean)
    assert apply(clean, interface="br0").xdp is XdpMode.GENERIC


def test_a_foreign_xdp_program(clean: Pair) -> None:
    other = programs.Programs(configuration(clean), mss.limits(1500, []))
    with clean.inside(clean.backend):
        link = bpf.link_create(other.ingress, interface.find("eth0").index, 0)
    try:
        with pytest.raises(Conflict, match="another XDP program"):
            apply(clean)
    finally:
        os.close(link)
        other.close()
    assert untouched(clean)


def test_a_failed_reload_leaves_the_data_path(clean: Pair) -> None:
    apply(clean)
    with pytest.raises(NotFound):
        apply(clean, interface="eth9", vips=[VIP6])
    with listening(clean, VIP4, socket.SOCK_DGRAM) as server, Director(clean, 4):
        assert ask_once(clean, server, VIP4)
    assert not show(clean).problems()


def test_ipv6_switched_off_is_refused(clean: Pair) -> None:
    namespace.sysctl(clean.backend, {"ipv6.conf.lo.disable_ipv6": "1"})
    with pytest.raises(LimpetError, match=r"put 2001:db8::10 on lo.*is IPv6 disabled"):
        apply(clean)
    assert untouched(clean)


def test_removing_nothing_says_so(clean: Pair) -> None:
    with clean.inside(clean.backend), pytest.raises(NotFound, match="there is no agent"):
        installation.remove(clean.name)


def test_names_with_dots_can_be_pinned(clean: Pair) -> None:
    """bpffs allows no dots in file names."""
    clean.name += ".example"
    apply(clean)
    assert programs.folder(clean.name).exists()
    assert Path(state.path(clean.name)).name == f"agent-{clean.name}.json"
