# SPDX-License-Identifier: Apache-2.0
"""Audit: who changed what, from where, with what outcome; and who was refused.

Each entry is one JSON object a line in audit.jsonl of the state folder, and an event of the log.
Files are rotated at BYTES_MAX, and KEPT old ones are kept. A refused request of somebody unknown
could be repeated until everything else is rotated away, so only REFUSALS_PER_S of these are
written; the next entry says how many were not. A disk that takes no entry does not stop a change:
the log still has it, with an error.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import structlog

from limpet.api.interface import Json

NAME = "audit.jsonl"
BYTES_MAX = 16 << 20  # of one file
KEPT = 3  # rotated files, audit.jsonl.1 the newest
REFUSALS_PER_S = 5  # of callers nobody knows
ENTRIES_MAX = 10_000  # of one answer
log = structlog.get_logger("audit")


class Audit:
    """The audit log of one director."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / NAME if folder else None
        self._second, self._refusals = 0, 0
        self._left_out = 0

    def write(self, entry: Json, *, is_stranger: bool = False) -> None:
        """One entry, with the time. Those of strangers are limited."""
        if is_stranger and self._is_too_many():
            self._left_out += 1
            return
        whole = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        if self._left_out:
            whole["left_out"], self._left_out = self._left_out, 0
        log.info("audit", **{key: value for key, value in whole.items() if key != "at"})
        try:
            self._append(json.dumps(whole) + "\n")
        except OSError as error:
            log.error("audit file not written", file=str(self._path), why=error.strerror)

    def read(self, limit: int) -> list[Json]:
        """The newest entries, the newest first."""
        found: list[Json] = []
        for path in self._files():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                continue
            found.extend(_entries(lines, limit))
            if len(found) >= limit:
                break
        return found[:limit]

    def _files(self) -> list[Path]:
        """The newest first."""
        if self._path is None:
            return []
        old = [self._path.with_name(f"{NAME}.{age}") for age in range(1, KEPT + 1)]
        return [self._path, *old]

    def _is_too_many(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        return self._refusals > REFUSALS_PER_S

    def _append(self, line: str) -> None:
        if self._path is None:
            return
        mode = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, mode, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # cut off by a crash
                line = "\n" + line
            os.write(file, line.encode())
        finally:
            os.close(file)
        if size + len(line) >= BYTES_MAX:
            self._rotate()

    def _rotate(self) -> None:
        files = self._files()
        for newer, older in reversed(list(pairwise(files))):
            if newer.exists():
                newer.replace(older)


def _entries(lines: list[str], limit: int) -> Iterator[Json]:
    """The newest first, without lines that were cut off."""
    for line in reversed(lines[-limit:]):
        with contextlib.suppress(ValueError):
            yield json.loads(line)
