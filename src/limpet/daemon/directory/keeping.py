# SPDX-License-Identifier: Apache-2.0
"""Keeping: the merged table and how far each log was read, in a file, for the next start.

Without it a director reads every log from its beginning, which may take long; so a file that cannot
be read or written is logged, and no error. It is written beside the old one, then renamed.

The file is a line of JSON and then the records as they lie in memory. Not NumPy's own format, whose
header is Python source: in CPython 3.11 two threads that parse source at once can both fail.

The last records are those that waited for the store. The next start queues them again: they are
known here, so that no scan would find them to be news.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from limpet.core.exception import RECORD, VERSION, Records

NAME = "directory.records"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file holds."""

    records: Records
    loaded: Mapping[str, int]  # director -> sequence up to which its log is in the records
    waiting: Records = field(default_factory=lambda: np.zeros(0, RECORD))  # not in its own log yet


def keep(folder: Path, kept: Kept) -> None:
    """Write it; a disk that does not take it is logged."""
    fresh = folder / f".{NAME}"
    try:
        data = kept.records.tobytes() + kept.waiting.tobytes()
        about = {
            "version": VERSION,
            "loaded": dict(kept.loaded),
            "waiting": len(kept.waiting),
            "digest": _digest(data),
        }
        with fresh.open("wb") as file:
            file.write(json.dumps(about).encode() + b"\n")
            file.write(data)
        fresh.replace(folder / NAME)
    except OSError as error:
        log.warning("session directory could not be kept for the next start", why=error.strerror)


def recall(folder: Path) -> Kept:
    """What was kept; nothing, if that cannot be read."""
    nothing = Kept(np.zeros(0, RECORD), {})
    try:
        with (folder / NAME).open("rb") as file:
            about, data = json.loads(file.readline()), file.read()
        if about["version"] != VERSION:
            return nothing
        if about["digest"] != _digest(data):
            raise ValueError("it is not as it was written")
        loaded = {str(name): int(number) for name, number in about["loaded"].items()}
        records = np.frombuffer(data, RECORD).copy()
        told = len(records) - int(about.get("waiting", 0))
        return Kept(records[:told], loaded, records[told:])
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("session directory of before cannot be read; logs are", why=str(error))
        return nothing


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()
