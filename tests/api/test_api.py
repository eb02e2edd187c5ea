# SPDX-License-Identifier: Apache-2.0
"""The API over its unix socket, against a running daemon."""

import http.client
import json
import socket
from typing import Any

import pytest

from daemon.site import VIP4, VIP6, Site
from limpet.api import problem
from limpet.api.client import Client
from limpet.core import errors
from limpet.core.errors import ConfigError, Conflict, DatapathError, NotFound, Problem, Unreachable

pytestmark = pytest.mark.kernel


def raw(site: Site, method: str, path: str, body: str = "") -> tuple[int, str, Any]:
    """Status, media type and JSON of an answer, or its text."""
    connection = http.client.HTTPConnection("limpet")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(site.places.socket))
    connection.request(method, path, body)
    response = connection.getresponse()
    media_type, text = response.getheader("content-type") or "", response.read().decode()
    connection.close()
    is_json = media_type in ("application/json", problem.MEDIA_TYPE)
    return response.status, media_type, json.loads(text) if is_json else text


def test_status_says_who_and_how(running: Site) -> None:
    status = running.get("/v1/status")
    assert (status["director"], status["pop"]) == (running.name, "fra")
    attachment = status["attachments"][0]
    assert attachment == {**attachment, "interface": "eth0", "mode": "native", "state": "up"}
    assert status["reconcile"]["state"] == "done"
    assert status["flows"]["entries"] == 8192


def test_pools_are_shared_by_weight(running: Site) -> None:
    (pool,) = running.get("/v1/pools")
    assert (pool["name"], pool["vips"]) == ("web", ["web4", "web6"])
    assert [(b["name"], b["slots"], b["share_percent"]) for b in pool["backends"]] == [
        ("b1", 32_768, 50.0),
        ("b2", 32_768, 50.0),
    ]


def test_counters_of_vips_and_backends_agree(running: Site) -> None:
    def packets() -> tuple[int, int]:
        vips, backends = running.get("/v1/vips"), running.get("/v1/backends")
        return sum(v["packets"] for v in vips), sum(b["packets"] for b in backends)

    def counted() -> bool:  # the sampler reads once a second
        return packets() == (before[0] + 10, before[1] + 10)

    before = packets()
    running.forwarded(range(40_000, 40_010))
    running.wait_for(counted)


def test_flows_are_filtered_counted_and_limited(running: Site) -> None:
    def ask(**query: object) -> list[Any]:
        query = {"client": "10.1.0.2", "vip": "web4", **query}
        return [json.loads(line) for line in client.lines("/v1/flows", **query)]

    running.forwarded(range(41_000, 41_020))
    client = Client(running.places.socket)
    first, *rest = ask(limit=0)
    assert first["total"] == len(rest) >= 20
    assert {flow["vip"] for flow in rest} == {"web4"}
    assert {flow["client_port"] for flow in rest} >= set(range(41_000, 41_020))
    assert len(ask(limit=5)) == 6
    assert ask(count=True) == [first]
    assert ask(client="10.9.9.9") == [{"total": 0}]
    assert ask(backend=rest[0]["backend"])[0] == first


def test_where_says_table_for_a_live_flow_and_home_for_a_new_client(running: Site) -> None:
    seen = running.forwarded(range(42_000, 42_001))
    ask = {"client": "10.1.0.2", "vip": VIP4}
    live = running.get("/v1/where", client_port=42_000, **ask)
    assert (live["rung"], live["backend"]) == ("table", seen[42_000])
    assert live["flows"][0]["idle_s"] < 60
    assert live["slot"] is not None
    new = running.get("/v1/where", client="10.2.200.1", vip=VIP4)
    assert (new["rung"], new["backend"], new["flows"]) == ("home_new", new["home"], [])


def test_where_says_session_for_a_new_flow_of_a_client_that_has_one(running: Site) -> None:
    seen = running.forwarded(range(42_100, 42_101))
    new = running.get("/v1/where", client="10.1.0.2", vip=VIP4, client_port=9)
    assert (new["rung"], new["backend"], new["flows"]) == ("session_new", seen[42_100], [])
    assert [session["backend"] for session in new["sessions"]] == [seen[42_100]]


@pytest.mark.parametrize(
    ("vip", "sources"),
    [
        (VIP4, [f"10.2.4.{i}" for i in range(1, 101)]),
        (VIP6, [f"2001:db8:2:{0x200 + i:x}::1" for i in range(1, 101)]),
    ],
    ids=["ipv4", "ipv6"],
)
def test_where_agrees_with_the_data_plane(running: Site, vip: str, sources: list[str]) -> None:
    """A hundred clients: the home that is told is the backend that gets the packet."""
    told = {
        44_000 + place: running.get("/v1/where", client=source, vip=vip)["home"]
        for place, source in enumerate(sources)
    }
    with running.ears() as ears:
        for place, source in enumerate(sources):
            running.send_from("client2", source, 44_000 + place, vip)
        heard = ears.hear(len(sources))
    assert heard == told
    assert set(told.values()) == {"b1", "b2"}


PROBLEMS = {
    "/v1/where?client=10.0.0.1&vip=web9": (404, "not-found", "there is no VIP 'web9'"),
    "/v1/where?client=nobody&vip=web4": (404, "not-found", "is not an IP address"),
    "/v1/where?client=2001:db8::1&vip=web4": (409, "conflict", "not the same IP version"),
    "/v1/where?client=10.0.0.1&vip=web4&protocol=tcp": (404, "not-found", "it serves udp all"),
    "/v1/flows?backend=b9": (404, "not-found", "backends: b1, b2"),
    "/v1/flows?limit=-1": (400, "malformed", "limit: "),
    "/v1/where?vip=web4": (400, "malformed", "client: "),
}


@pytest.mark.parametrize("path", PROBLEMS)
def test_what_cannot_be_answered_is_a_problem(running: Site, path: str) -> None:
    status, name, says = PROBLEMS[path]
    found, media_type, details = raw(running, "GET", path)
    assert (found, media_type) == (status, "application/problem+json")
    assert details["type"] == f"urn:limpet:error:{name}"
    assert details["status"] == status
    assert says in details["detail"]


def test_a_plan_is_not_carried_out(running: Site) -> None:
    before = running.get("/v1/pools")
    text = running.file.read_text().replace("b2 = 1 }", "b2 = 3 }")
    answer = Client(running.places.socket).post("/v1/plan", text)
    assert answer["moves"] == [
        {
            "pool": "web",
            "slots_moved": 16_384,
            "moves": [{"from": "b1", "to": "b2", "slots": 16_384}],
        }
    ]
    assert running.get("/v1/pools") == before


def test_a_bad_plan_names_every_problem(running: Site) -> None:
    text = running.file.read_text().replace("b2 = 1 }", "b2 = 99999, b9 = 1 }")
    with pytest.raises(ConfigError) as caught:
        Client(running.places.socket).post("/v1/plan", text)
    assert [p.why for p in caught.value.problems]
    assert raw(running, "POST", "/v1/plan", text)[0] == 422


def test_a_path_that_is_not_there_is_404(running: Site) -> None:
    assert raw(running, "GET", "/v1/nothing")[0] == 404


def test_nobody_there_is_unreachable(running: Site) -> None:
    with pytest.raises(Unreachable, match="Start the daemon"):
        Client(running.places.state / "no.sock").get("/v1/status")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError([Problem("f:1", "why", "mend")]),
        NotFound("x"),
        Conflict("x"),
        errors.Unsupported("x"),
        DatapathError("step", 5, "detail"),
        Unreachable("x"),
        errors.LimpetError("x"),
        problem.Stale(3, 4),
        problem.Unauthorized("x"),
        problem.Forbidden("x"),
        problem.Malformed("x"),
        problem.Busy("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_as_itself(error: errors.LimpetError) -> None:
    """Type, words and exit status survive the way over HTTP."""
    back = problem.decode(json.loads(json.dumps(problem.encode(error))))
    assert type(back) is type(error)
    assert str(error) in str(back)
    assert back.exit_status == error.exit_status


def test_every_error_has_a_status() -> None:
    both = (*vars(errors).values(), *vars(problem).values())
    kinds = {kind for kind in both if isinstance(kind, type)}
    wanted = {kind for kind in kinds if issubclass(kind, errors.LimpetError)}
    assert wanted == problem.STATUSES.keys() == problem.NAMES.keys() == problem.TITLES.keys()
