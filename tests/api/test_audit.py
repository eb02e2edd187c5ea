# SPDX-License-Identifier: Apache-2.0
"""Audit: every change and every refusal is written down, with who, what, from where, outcome."""

import json
import stat
import time
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from api.served import Served
from limpet.api import audit
from limpet.api.audit import Audit
from limpet.api.client import Client

DRAIN = "/v1/backends/b1/drain"


def test_a_change_is_written_with_all_that_matters(served: Served) -> None:
    Client(served.path).put(DRAIN, {"deadline_s": 60})
    (entry,) = served.audit()
    assert entry["duration_ms"] > 0
    assert entry["at"].endswith("+00:00")
    assert entry["from"].startswith("unix, pid ")
    assert {key: entry[key] for key in ("by", "role", "method", "path", "outcome")} == {
        "by": "uid 0 (root)",
        "role": "operator",
        "method": "PUT",
        "path": DRAIN,
        "outcome": "done",
    }
    assert entry["details"] == {"deadline_s": 60, "at_deadline": "keep"}
    assert (entry["status"], entry["revision"]) == (200, 2)


def test_a_change_that_failed_says_why(served: Served) -> None:
    served.ask("PUT", "/v1/backends/b9/drain", {})
    served.ask("PUT", DRAIN, {}, If_Match='"9"')
    first, second = served.audit()
    assert (first["outcome"], first["status"], first["revision"]) == ("failed", 404, None)
    assert "no backend 'b9'" in first["why"]
    assert (second["outcome"], second["status"]) == ("failed", 412)
    assert "revision 9" in second["why"]


def test_reads_and_questions_leave_no_trace(secure: Served) -> None:
    for method, path in (
        ("GET", "/v1/status"),
        ("POST", "/v1/plan"),
        ("PUT", f"{DRAIN}?dry_run=1"),
    ):
        secure.ask_tls(method, path, secure.secrets["v"])
    assert secure.audit() == []


def test_refusals_are_written_with_what_is_known(secure: Served) -> None:
    secure.ask_tls("PUT", DRAIN, secure.secrets["v"])
    secure.ask_tls("GET", "/v1/audit", secure.secrets["v"])
    secure.ask_tls("GET", "/v1/status", "guessed")
    secure.ask_as(4_242, [], "GET", "/v1/status")
    entries = secure.audit()
    assert [entry["outcome"] for entry in entries] == ["refused"] * 4
    assert [entry["status"] for entry in entries] == [403, 403, 401, 403]
    assert [entry["by"] for entry in entries] == ["token v", "token v", "127.0.0.1", "uid 4242"]
    assert [entry["role"] for entry in entries] == ["viewer", "viewer", None, None]
    assert "guessed" not in (secure.folder / audit.NAME).read_text()


def test_operators_read_the_newest_entries_first(served: Served) -> None:
    client = Client(served.path)
    client.put(DRAIN, {})
    client.delete(DRAIN)
    assert [row["method"] for row in client.get("/v1/audit")] == ["DELETE", "PUT"]
    assert [row["method"] for row in client.get("/v1/audit", limit=1)] == ["DELETE"]


def test_file_is_for_its_owner_only(served: Served) -> None:
    Client(served.path).put(DRAIN, {})
    mode = (served.folder / audit.NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def seconds_since(began: float) -> int:
    """How many seconds of the clock that the audit goes by were touched."""
    return int(time.monotonic()) - int(began) + 1


def test_a_flood_of_strangers_is_counted_not_written(tmp_path: Path) -> None:
    """They must not rotate away what others did."""
    made, began = Audit(tmp_path), time.monotonic()
    for _ in range(1_000):
        made.write({"by": "192.0.2.9"}, is_stranger=True)
    seconds = seconds_since(began)
    made.write({"by": "token o"})
    *_, last = rows = made.read(2_000)[::-1]
    assert len(rows) <= seconds * audit.REFUSALS_PER_S + 1
    assert last["by"] == "token o"
    assert sum(row.get("left_out", 0) for row in rows) + len(rows) == 1_001


def test_guesses_of_tokens_are_such_a_flood(
    secure: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSALS_PER_S", 1)
    began = time.monotonic()
    for _ in range(40):
        assert secure.ask_tls("GET", "/v1/status", "guessed").status == 401
    seconds = seconds_since(began)
    secure.ask("PUT", DRAIN, {})
    *written, last = secure.audit()
    assert last["outcome"] == "done"
    assert sum(row.get("left_out", 0) for row in (*written, last)) + len(written) == 40
    assert len(written) <= seconds


def test_files_are_rotated_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BYTES_MAX", 1_000)
    made = Audit(tmp_path)
    for number in range(200):
        made.write({"number": number})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["audit.jsonl", *(f"audit.jsonl.{age}" for age in range(1, audit.KEPT + 1))]
    assert all(path.stat().st_size < 1_100 for path in tmp_path.iterdir())
    numbers = [row["number"] for row in made.read(1_000)]
    assert numbers == list(range(199, 199 - len(numbers), -1))
    assert len(numbers) > 30
    assert [row["number"] for row in made.read(25)] == numbers[:25]


def test_a_disk_that_takes_nothing_does_not_stop_a_change(served: Served) -> None:
    (served.folder / audit.NAME).mkdir()
    assert served.ask("PUT", DRAIN, {}).status == 200


def test_what_is_not_written_is_in_the_log(tmp_path: Path) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        Audit(tmp_path / "none").write({"by": "token o"})
    events = [(entry["event"], entry["log_level"]) for entry in logs]
    assert events == [("audit", "info"), ("audit file not written", "error")]
    assert logs[0]["by"] == "token o"


def test_a_line_that_was_cut_off_does_not_hide_the_others(tmp_path: Path) -> None:
    """Power may fail while one is written."""
    made = Audit(tmp_path)
    made.write({"number": 1})
    with (tmp_path / audit.NAME).open("a") as file:
        file.write('{"number": 2, "by')
    made.write({"number": 3})
    assert [row["number"] for row in made.read(10)] == [3, 1]
    assert json.loads((tmp_path / audit.NAME).read_text().splitlines()[-1])["number"] == 3
