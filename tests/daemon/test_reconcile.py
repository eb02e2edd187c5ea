# SPDX-License-Identifier: Apache-2.0
"""Passes of the reconcile task: drift, pruning, next hops, interfaces; in a real network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyroute2 import IPRoute

from daemon.site import Site
from limpet.core.config import parse
from limpet.core.diff import Changes
from limpet.core.errors import DatapathError
from limpet.core.model import BackendId, Desired, XdpMode
from limpet.daemon import reconcile
from limpet.daemon.lock import locked, owner
from limpet.daemon.nexthop import NextHops
from limpet.daemon.reconcile import Reconciler
from limpet.datapath import settings
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY
from limpet.datapath.kernel import Kernel, Sizes
from limpet.lab import namespace
from limpet.store.state import State

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours that answer are waited for, however slow the machine is."""
    monkeypatch.setattr(reconcile, "RESOLVE_WAIT_S", 20.0)


@contextmanager
def reconciler(site: Site) -> Iterator[tuple[Kernel, Reconciler]]:
    """As the daemon opens it, in this process; only inside the director's namespace."""
    site.places.state.mkdir(exist_ok=True)
    sizes = Sizes(settings.buckets(4096), 64, settings.session_buckets(4096))
    kernel = Kernel.open(site.places.pins, sizes)
    with State(site.places.state_file) as state, IPRoute() as netlink:
        yield kernel, Reconciler(kernel, state, NextHops(netlink), site.places.pins)
    kernel.close()


def desired(site: Site) -> Desired:
    return parse(site.file.read_text())


def without(wanted: Desired, name: str) -> Desired:
    pool = wanted.pools[0]
    weights = {backend: weight for backend, weight in pool.weights.items() if backend != name}
    backends = tuple(backend for backend in wanted.backends if backend.name != name)
    return replace(wanted, backends=backends, pools=(replace(pool, weights=weights),))


def test_the_first_pass_resolves_every_next_hop(site: Site) -> None:
    with namespace.inside(site.netns), reconciler(site) as (_, passes):
        passes.start(desired(site))
        assert passes.now is not None
        hops = [row.next_hop for row in passes.now.image.backends]
        macs = [hop.mac.hex(":") for hop in hops if hop is not None]
        assert macs == ["02:00:0a:0a:00:0b", "02:00:0a:0a:00:0c"]
        assert all(hop is not None and hop.mtu == 1500 and hop.ifindex for hop in hops)


def test_a_second_pass_writes_nothing(site: Site) -> None:
    with namespace.inside(site.netns), reconciler(site) as (_, passes):
        assert passes.start(desired(site)).writes > 0
        outcome = passes.run(desired(site), prune=True)
        assert (outcome.writes, outcome.program_loaded) == (0, False)


def test_drift_is_repaired(site: Site) -> None:
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        held = kernel.observe()
        kernel.apply(Changes(backends_removed=(BackendId(1),)))
        kernel.detach("eth0")
        assert kernel.observe() != held
        passes.run(desired(site), prune=True)
        assert kernel.observe() == held
        assert [a.interface for a in kernel.attachments()] == ["eth0"]


def test_a_removed_backend_is_pruned_only_on_the_pass_after_its_removal(site: Site) -> None:
    """In the pass that moves its slots, a flow to it may begin that the scan has not seen."""
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        less = without(desired(site), "b2")
        passes.run(less, prune=True)
        assert [row.id for row in kernel.observe().backends] == [1, 2]
        passes.run(less, prune=True)
        assert [row.id for row in kernel.observe().backends] == [1]


def test_a_removed_backend_with_live_flows_is_not_pruned(site: Site) -> None:
    site.edit('port = "all"\npool = "web"\n', 'port = "all"\npool = "web"\naffinity = "flow"\n')
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        less = without(desired(site), "b2")
        assert set(site.forwarded(range(20_000, 20_020)).values()) == {"b1", "b2"}
        for _ in range(3):
            passes.run(less, prune=True)
        assert [row.id for row in kernel.observe().backends] == [1, 2]


def test_a_removed_backend_with_sessions_at_other_directors_is_not_pruned(site: Site) -> None:
    """They are known here from the session directory alone, and may come."""
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        key, value = np.zeros(1, EXCEPTION_KEY), np.zeros(1, EXCEPTION)
        value["backend"] = passes.now.registry.backends["b2"].id if passes.now else 0
        kernel.directory().put(key, value)
        less = without(desired(site), "b2")
        for _ in range(3):
            passes.run(less, prune=True)
        assert len(kernel.observe().backends) == 2
        kernel.directory().remove(key)
        passes.run(less, prune=True)
        assert len(kernel.observe().backends) == 1


def test_a_neighbour_that_does_not_answer_is_left_to_the_kernel(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "RESOLVE_WAIT_S", 0.5)
    site.edit("10.10.0.12", "10.10.0.99")
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        hop = kernel.observe().backends[1].next_hop
        assert hop is not None
        assert (hop.ifindex, hop.mac, hop.mtu) == (0, bytes(6), 1500)


def test_a_backend_behind_a_router_is_reached_by_it(site: Site) -> None:
    site.edit("10.10.0.12", "10.1.0.2")
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        hop = kernel.observe().backends[1].next_hop
        assert hop is not None
        assert hop.mac.hex(":") == "02:00:0a:0a:00:01"  # the router's
        assert passes.now is not None
        assert [str(g) for g in passes.now.gateways.values() if g] == ["10.10.0.1"]


def test_the_mtu_of_the_route_counts(site: Site) -> None:
    site.edit("10.10.0.12", "10.1.0.2")
    with namespace.inside(site.netns), IPRoute() as netlink:
        metrics = {"mtu": 1400}
        netlink.route("add", dst="10.1.0.0/24", gateway="10.10.0.1", metrics=metrics)
        try:
            with reconciler(site) as (kernel, passes):
                passes.start(desired(site))
                hops = [row.next_hop for row in kernel.observe().backends]
                assert [hop.mtu for hop in hops if hop is not None] == [1500, 1400]
        finally:
            netlink.route("del", dst="10.1.0.0/24", gateway="10.10.0.1")


def test_l2_behind_a_router_is_not_sent_to_the_router(site: Site) -> None:
    site.edit('address = "10.10.0.12"', 'address = "10.1.0.2"\nencapsulation = "l2"')
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        passes.start(desired(site))
        hop = kernel.observe().backends[1].next_hop
        assert hop is not None
        assert hop.ifindex == 0


def test_a_running_daemon_follows_neighbours(site: Site) -> None:
    site.start()

    def next_hop() -> dict[str, object]:
        hop: dict[str, object] = site.get("/v1/backends")[0]["next_hop"]
        return hop

    site.wait_for(lambda: next_hop()["mac"] == "02:00:0a:0a:00:0b")
    with namespace.inside(site.netns), IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        other = {"ifindex": index, "dst": "10.10.0.11", "lladdr": "02:00:00:00:00:77"}
        netlink.neigh("replace", state=4, **other)
        site.wait_for(lambda: next_hop()["mac"] == "02:00:00:00:00:77")
        netlink.neigh("del", **other)
        site.wait_for(lambda: next_hop()["mac"] == "02:00:0a:0a:00:0b")


def test_a_running_daemon_follows_links(site: Site) -> None:
    """The address of the first interface is the source of ICMP errors: a new program."""
    site.start()
    before = site.get("/v1/status")["reconcile"]["passes"]
    with namespace.inside(site.netns), IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=index, mtu=1400)
        try:
            site.wait_for(lambda: site.get("/v1/backends")[0]["next_hop"]["mtu"] == 1400)
        finally:
            netlink.link("set", index=index, mtu=1500)
    site.wait_for(lambda: site.get("/v1/backends")[0]["next_hop"]["mtu"] == 1500)
    assert site.get("/v1/status")["reconcile"]["passes"] > before


def test_interfaces_may_change_in_a_reload(site: Site) -> None:
    site.start()
    with namespace.inside(site.netns), IPRoute() as netlink:
        netlink.link("add", ifname="vp0", kind="veth", peer={"ifname": "vp1"})
        try:
            netlink.link("set", index=netlink.link_lookup(ifname="vp0")[0], state="up")
            site.edit('["eth0"]', '["eth0", "vp0", "later0"]')
            site.cli("reload")
            found = {a["interface"]: a for a in site.get("/v1/status")["attachments"]}
            assert [found[i]["mode"] for i in ("eth0", "vp0", "later0")] == ["native", "native", ""]
            assert found["later0"]["state"] == "missing"
            netlink.link("add", ifname="later0", kind="veth", peer={"ifname": "later1"})
            site.wait_for(lambda: site.get("/v1/status")["attachments"][2]["mode"] == "native")
            netlink.link("del", index=netlink.link_lookup(ifname="later0")[0])
            site.wait_for(lambda: site.get("/v1/status")["attachments"][2]["state"] == "missing")
            netlink.link("add", ifname="later0", kind="veth", peer={"ifname": "later1"})
            site.wait_for(lambda: site.get("/v1/status")["attachments"][2]["mode"] == "native")
            site.edit('["eth0", "vp0", "later0"]', '["eth0"]')
            site.cli("reload")
            assert "prog/xdp" in site.xdp()
            links = {link.get("ifname"): link for link in netlink.get_links()}
            assert links["vp0"].get_nested("IFLA_XDP", "IFLA_XDP_ATTACHED") is None
        finally:
            for name in ("vp0", "later0"):
                for index in netlink.link_lookup(ifname=name):
                    netlink.link("del", index=index)


def test_the_lock_names_its_owner_and_ends_with_it(site: Site) -> None:
    pins = site.places.pins
    assert owner(pins) is None
    with locked(pins):
        assert owner(pins) is not None
    assert owner(pins) is None


def test_forwarding_is_turned_on(site: Site) -> None:
    namespace.sysctl(site.netns, {"ipv4.ip_forward": "0", "ipv6.conf.eth0.accept_ra": "1"})
    namespace.sysctl(site.netns, {"ipv6.conf.all.forwarding": "0"})
    site.start()
    assert site.says().count("turned forwarding on") == 2
    with namespace.inside(site.netns):
        for key, value in (
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/eth0/accept_ra", "2"),
        ):
            assert Path("/proc/sys/net", key).read_text().strip() == value


def test_a_mode_that_the_driver_refuses_leaves_the_old_one_attached(site: Site) -> None:
    """Loopback has no native XDP."""
    with namespace.inside(site.netns), reconciler(site) as (kernel, passes):
        plain = desired(site)
        there = replace(plain.director, interfaces=("eth0", "lo"), xdp=XdpMode.GENERIC)
        passes.start(replace(plain, director=there))
        with pytest.raises(DatapathError):
            passes.run(replace(plain, director=replace(there, xdp=XdpMode.NATIVE)), prune=False)
        assert {a.interface for a in kernel.attachments() if a.ifindex} == {"eth0", "lo"}
