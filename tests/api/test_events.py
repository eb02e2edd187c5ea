# SPDX-License-Identifier: Apache-2.0
"""Events: in order, resumed where they were left, and never at the cost of others."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.memory import MemoryDirector
from api.served import START_S, Served, wait_for
from limpet.api import events, listener
from limpet.api.client import Client
from limpet.api.feed import Feed
from limpet.api.interface import Json


class Stream:
    """The raw bytes of /v1/events, read message by message."""

    def __init__(self, served: Served, query: str = "", **headers: str) -> None:
        self._connection = http.client.HTTPConnection("limpet")
        self._connection.sock = self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START_S)
        self.socket.connect(str(served.path))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", f"/v1/events{query}", headers=sent)
        self.response = self._connection.getresponse()

    def next(self) -> dict[str, str]:
        """Fields of the next message; a comment has the empty name."""
        fields: dict[str, str] = {}
        while line := self.response.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        return fields

    def next_event(self) -> Any:
        while "data" not in (found := self.next()):
            assert found, "the stream has ended"
        event = json.loads(found["data"])
        assert (found["id"], found["event"]) == (str(event["id"]), event["kind"])
        return event

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@pytest.fixture
def stream(served: Served) -> Iterator[Stream]:
    made = Stream(served)
    yield made
    made.close()


def followed(served: Served, count: int = 1) -> None:
    wait_for(lambda: served.director.feed.followers == count)


def test_events_come_as_they_happen(served: Served, stream: Stream) -> None:
    assert stream.response.getheader("content-type", "").startswith("text/event-stream")
    assert stream.next() == {"retry": "2000"}
    Client(served.path).put("/v1/backends/b1/drain", {})
    event = stream.next_event()
    assert (event["kind"], event["backend"], event["by"]) == ("drain_began", "b1", "uid 0 (root)")


def test_a_client_that_comes_back_gets_what_it_missed(served: Served, stream: Stream) -> None:
    feed = served.director.feed
    stream.next()
    first = feed.publish("split", number=0)
    assert stream.next_event() == first
    stream.close()
    for number in range(1, 4):
        feed.publish("split", number=number)
    for again in (
        Stream(served, Last_Event_ID=str(first["id"])),
        Stream(served, f"?since={first['id']}"),
        Stream(served, "?since=1", Last_Event_ID=str(first["id"])),
    ):
        assert [again.next_event()["number"] for _ in range(3)] == [1, 2, 3]
        again.close()


def test_events_of_before_are_not_told_to_who_does_not_ask(served: Served) -> None:
    served.director.feed.publish("split", number=1)
    stream = Stream(served)
    stream.next()
    served.director.feed.publish("split", number=2)
    assert stream.next_event()["number"] == 2
    stream.close()


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "9" * 20, "²"])
def test_an_id_that_is_none_is_refused(served: Served, wrong: str) -> None:
    headers = {"Last_Event_ID": wrong.encode()}
    assert served.ask("GET", "/v1/events", None, **headers).status == 400  # type: ignore[arg-type]


def test_silence_is_broken_by_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    began = time.monotonic()
    stream = Stream(served)
    stream.next()
    assert [stream.next() for _ in range(2)] == [{"": "still here"}] * 2
    assert time.monotonic() - began >= 2 * 0.2
    stream.close()


def test_a_client_that_does_not_read_is_overtaken_and_told_so(folder: Path) -> None:
    """It costs a bounded ring, delays nobody, and learns how many it has lost."""
    with Served(folder, MemoryDirector(kept=10)) as served:
        feed, slow = served.director.feed, Stream(served)
        slow.next()
        filler = "x" * 100_000
        for number in range(40):
            feed.publish("split", number=number, filler=filler)
            time.sleep(0.005)
        wait_for(lambda: feed.followers == 1)
        got: list[Json] = []
        while not got or got[-1].get("number") != 39:
            got.append(slow.next_event())
        lost = [event for event in got if event["kind"] == "lost"]
        numbers = [event["number"] for event in got if event["kind"] == "split"]
        assert len(lost) >= 1
        assert sum(event["count"] for event in lost) + len(numbers) == 40
        assert feed.lost == sum(event["count"] for event in lost)
        assert numbers == sorted(numbers)
        assert [event["id"] for event in got] == sorted(event["id"] for event in got)
        slow.close()


def test_a_client_that_has_gone_is_forgotten(served: Served) -> None:
    streams = [Stream(served) for _ in range(3)]
    followed(served, 3)
    for each in streams:
        each.close()
    followed(served, 0)


def test_too_many_streams_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 2)
    streams = [Stream(served) for _ in range(2)]
    followed(served, 2)
    answer = served.ask("GET", "/v1/events")
    assert (answer.status, answer.body["type"]) == (503, "urn:limpet:error:busy")
    streams.pop().close()
    followed(served, 1)
    streams.append(Stream(served))
    assert streams[1].response.status == 200
    for each in streams:
        each.close()


def test_streams_do_not_hold_up_the_end_of_the_daemon(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "GRACE_S", 10 * START_S)  # for requests that are under way
    with Served(folder) as served:
        stream = Stream(served)
        followed(served)
    # It has ended within START_S, else we would not be here.
    stream.next()
    assert stream.next() == {}
    stream.close()


def test_a_token_that_is_taken_back_ends_its_stream(
    secure: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    url = f"https://127.0.0.1:{secure.service.tcp_port}"
    cacert = str(secure.folder / "server.crt")
    client = Client(url=url, token=secure.secrets["v"], cacert=cacert)
    told = client.events()
    secure.director.feed.publish("split")
    tokens = secure.folder / "tokens"
    first = secure.director.feed.publish("split")["id"]
    told = client.events(since=first - 1)
    assert next(told)["id"] == first
    tokens.write_text(tokens.read_text().splitlines()[1])
    secure.call(secure.service.update(secure.listen))
    assert list(told) == []


def test_client_follows_and_lists(served: Served) -> None:
    feed, client = served.director.feed, Client(served.path)
    made = [feed.publish("split", number=number) for number in range(3)]
    assert list(client.events(0, follow=False)) == made
    assert list(client.events(made[0]["id"], follow=False)) == made[1:]
    followed = client.events(made[1]["id"])
    assert next(followed) == made[2]
    made.append(feed.publish("reloaded"))
    assert next(followed) == made[3]


# --- The feed itself -----------------------------------------------------------------------------


def some(feed: Feed, since: int | None, count: int) -> list[Json]:
    async def gather() -> list[Json]:
        told = feed.follow(since)
        return [await asyncio.wait_for(anext(told), START_S) for _ in range(count)]

    return asyncio.run(gather())


def test_ids_go_on_over_a_restart_and_the_gap_is_told() -> None:
    before = Feed()
    old = [before.publish("split")["id"] for _ in range(3)]
    time.sleep(0.01)
    after = Feed()
    new = after.publish("split")
    assert new["id"] > max(old)
    word, event = some(after, old[0], 2)
    assert (word["kind"], word["count"], event) == ("lost", None, new)


def test_an_id_that_was_never_given_is_a_gap_too() -> None:
    feed = Feed()
    last = feed.publish("split")["id"]
    word = some(feed, last + 1_000, 1)[0]
    assert (word["kind"], word["count"]) == ("lost", None)


def test_what_is_lost_is_counted_exactly() -> None:
    feed = Feed(kept=4)
    ids = [feed.publish("split")["id"] for _ in range(10)]
    word, event = some(feed, ids[1], 2)
    assert (word["kind"], word["count"], word["id"]) == ("lost", 4, ids[5])
    assert event["id"] == ids[6]
    assert some(feed, word["id"], 1) == [event]
    assert [e["id"] for e in some(feed, 0, 4)] == ids[6:]


def test_events_are_published_from_any_thread() -> None:
    async def told() -> list[int]:
        feed = Feed()
        follower = feed.follow(None)
        first = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0.05)
        threads = [asyncio.to_thread(feed.publish, "split", number=n) for n in range(50)]
        await asyncio.gather(*threads)
        rest = [await asyncio.wait_for(anext(follower), START_S) for _ in range(49)]
        return [event["id"] for event in (await first, *rest)]

    ids = asyncio.run(told())
    assert ids == list(range(ids[0], ids[0] + 50))
