# SPDX-License-Identifier: Apache-2.0
"""Routes: what is asked for reaches the director, and what it says comes back."""

import json

import pytest
from structlog.testing import capture_logs

from api.memory import CONFIG, SESSION, MemoryDirector
from api.served import Served
from limpet.api.client import Client, place
from limpet.api.problem import Malformed, Stale
from limpet.core.errors import ConfigError, NotFound


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served.path)


WEIGHT = place("pools", "web", "backends", "b1", "weight")
DRAIN = place("backends", "b1", "drain")


def test_drain_says_who_asked_and_its_revision(served: Served, client: Client) -> None:
    answer = client.put(DRAIN, {"rule": "flows", "deadline_s": 60, "at_deadline": "reset"})
    assert answer["revision"] == 2
    (row,) = client.get("/v1/drains")
    assert (row["rule"], row["deadline"], row["at_deadline"]) == ("flows", "in 60 s", "reset")
    assert row["by"] == "uid 0 (root)"
    assert client.delete(DRAIN)["revision"] == 3
    assert client.get("/v1/drains") == []


def test_a_drain_without_a_body_takes_the_defaults(served: Served) -> None:
    assert served.ask("PUT", DRAIN).status == 200
    row = served.director.drain_rows["b1"]
    assert (row["rule"], row["deadline"], row["at_deadline"]) == (None, None, "keep")


def test_repeating_a_change_changes_nothing(client: Client) -> None:
    for _ in range(2):
        assert client.put(DRAIN, {})["revision"] == 2
    for _ in range(2):
        assert client.put(WEIGHT, {"weight": 7})["revision"] == 3
    for _ in range(2):
        assert client.delete(WEIGHT)["revision"] == 4


def test_a_drain_that_is_not_there_cannot_be_ended(served: Served) -> None:
    answer = served.ask("DELETE", DRAIN)
    assert (answer.status, served.director.revision) == (409, 1)


def test_dry_run_of_a_drain_changes_nothing(served: Served, client: Client) -> None:
    preview = client.put(DRAIN, {}, dry_run=True)
    assert preview["new_sessions_go_to"][0]["percent_after"] == 100.0
    assert served.director.drain_rows == {}
    assert served.audit() == []


def test_weight_is_set_and_taken_back(served: Served, client: Client) -> None:
    assert client.put(WEIGHT, {"weight": 7})["revision"] == 2
    assert served.director.weights == {("web", "b1"): 7}
    client.delete(WEIGHT)
    assert served.director.weights == {}


def test_rollback_and_history_go_by_revision(client: Client) -> None:
    client.put(DRAIN, {})
    assert client.post_json("/v1/rollback", {"revision": 1})["revision"] == 3
    assert [row["revision"] for row in client.get("/v1/history", limit=2)] == [3, 2]
    with pytest.raises(NotFound, match="no revision 99"):
        client.post_json("/v1/rollback", {"revision": 99})


def test_etag_of_an_answer_is_its_revision(served: Served) -> None:
    assert served.ask("GET", "/v1/intents").headers["etag"] == '"1"'
    assert served.ask("PUT", DRAIN, {}).headers["etag"] == '"2"'


def test_if_match_lets_a_change_through_on_its_revision_only(
    served: Served, client: Client
) -> None:
    client.put(DRAIN, {}, if_revision=1)
    answer = served.ask("PUT", WEIGHT, {"weight": 1}, If_Match='"1"')
    assert answer.status == 412
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.body["expected"], answer.body["actual"]) == (1, 2)
    assert served.director.weights == {}
    with pytest.raises(Stale) as caught:
        client.delete(WEIGHT, if_revision=1)
    assert (caught.value.expected, caught.value.actual, caught.value.exit_status) == (1, 2, 4)
    assert served.ask("PUT", WEIGHT, {"weight": 1}, If_Match="*").status == 200


BAD = [
    ("PUT", WEIGHT, {"weight": 65_536}, 400, "weight: "),
    ("PUT", WEIGHT, {"weight": "7"}, 400, "weight: "),
    ("PUT", WEIGHT, {"wait": 7}, 400, "wait: "),
    ("PUT", WEIGHT, None, 400, "body: "),
    ("PUT", DRAIN, {"deadline": 5}, 400, "deadline: "),
    ("PUT", DRAIN, {"deadline_s": -1}, 400, "deadline_s: "),
    ("PUT", DRAIN, '{"deadline_s": NaN}', 400, ""),
    ("PUT", DRAIN, {"at_deadline": "kill"}, 400, "at_deadline: "),
    ("PUT", DRAIN, "{", 400, ""),
    ("PUT", place("backends", "b9", "drain"), {}, 404, "backends: b1, b2"),
    ("GET", "/v1/nothing", None, 404, "openapi.json"),
    ("POST", "/v1/status", None, 405, "Method Not Allowed"),
    ("GET", "/v1/flows?limit=x", None, 400, "limit: "),
    ("GET", "/v1/flows?backend=b9", None, 404, "backends: b1, b2"),
    ("GET", "/v1/where?vip=web4", None, 400, "client: "),
    ("POST", "/v1/plan", "[director", 422, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "says"), BAD)
def test_a_wrong_request_is_a_problem_and_changes_nothing(
    served: Served, method: str, path: str, body: object, status: int, says: str
) -> None:
    answer = served.ask(method, path, body, Content_Type="application/json")
    assert (answer.status, answer.body["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.body["detail"]
    assert served.director.revision == 1


@pytest.mark.parametrize("tag", ["1", 'W/"1"', '"x"', '"-1"', '"1", "2"', '"' + "9" * 19 + '"'])
def test_if_match_that_is_no_revision_is_refused(served: Served, tag: str) -> None:
    answer = served.ask("PUT", DRAIN, {}, If_Match=tag)
    assert (answer.status, answer.body["type"]) == (400, "urn:limpet:error:malformed")
    assert served.director.drain_rows == {}


def test_lists_are_streamed_line_by_line(served: Served, client: Client) -> None:
    first, *rest = [json.loads(line) for line in client.lines("/v1/flows", limit=2)]
    assert (first, len(rest)) == ({"total": 5}, 2)
    assert [json.loads(line) for line in client.lines("/v1/sessions")] == [{"total": 1}, SESSION]
    assert len(list(client.lines("/v1/flows", count=True))) == 1
    kind = served.ask("GET", "/v1/sessions").headers["content-type"]
    assert kind.startswith("application/x-ndjson")


def test_plan_takes_a_text_and_reload_and_shutdown_take_nothing(
    served: Served, client: Client
) -> None:
    assert client.post("/v1/plan", CONFIG)["summary"] == "nothing"
    assert client.post("/v1/reload")["program_replaced"] is False
    assert served.ask("POST", "/v1/shutdown").status == 202
    assert (served.director.reloads, served.director.has_stopped) == (1, True)


def test_a_configuration_that_is_no_utf_8_is_a_wrong_configuration(served: Served) -> None:
    answer = served.ask("POST", "/v1/plan", b"\xff\xfe")
    assert (answer.status, answer.body["problems"][0]["why"]) == (422, "not UTF-8 at byte 0")


def test_names_with_any_character_find_their_route(client: Client) -> None:
    with pytest.raises(NotFound, match="'a%2Fb c'"):
        client.put(place("backends", "a%2Fb c", "drain"), {})


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_that_is_too_long_is_not_read(
    served: Served, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr("limpet.api.gate.BODY_MAX", 1_000)
    body = iter([b"x" * 600] * 3) if chunked else "x" * 1_001
    answer = served.ask("POST", "/v1/plan", body)
    assert (answer.status, answer.body["type"]) == (400, "urn:limpet:error:malformed")


def test_a_bug_is_a_problem_that_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: MemoryDirector) -> None:
        raise AssertionError("rows do not add up")

    monkeypatch.setattr(MemoryDirector, "vips", broken)
    with capture_logs() as logs:
        answer = served.ask("GET", "/v1/vips")
    assert (logs[0]["event"], logs[0]["log_level"]) == ("bug in a request", "error")
    assert (answer.status, answer.body["type"]) == (500, "urn:limpet:error:other")
    assert "a bug in limpet: AssertionError: rows do not add up" in answer.body["detail"]


def test_errors_of_the_director_are_the_same_errors_at_the_client(client: Client) -> None:
    with pytest.raises(ConfigError):
        client.post("/v1/plan", "[director")
    with pytest.raises(Malformed):
        client.put(WEIGHT, {"weight": -1})
