# SPDX-License-Identifier: Apache-2.0
"""Recollection: what was known of backends' health when the daemon ended, for the next one.

A daemon that starts would take every backend for up until checks have failed often enough, and send
new sessions to one that its predecessor knew to be down. The file only saves these seconds: it is
written when health changes, and with every full pass, without waiting for the disk. One that cannot
be read is as good as none, and so is what was last checked long ago. It lies beside the state file,
and may be lost.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import structlog

from limpet.core.health import Health

NAME = "health.json"
OLD_S = 3_600.0  # after which nothing is believed
Key = tuple[str, str]  # pool, backend
log = structlog.get_logger()


def keep(folder: Path, known: Mapping[Key, Health]) -> None:
    """Keep what is known; a disk that does not take it is logged, and no error."""
    rows = [{"pool": pool, "backend": name, **asdict(each)} for (pool, name), each in known.items()]
    fresh = folder / f".{NAME}"
    try:
        fresh.write_text(json.dumps(rows))
        fresh.replace(folder / NAME)
    except OSError as error:
        log.warning("health could not be kept for the next start", why=error.strerror)


def recall(folder: Path) -> dict[Key, Health]:
    """What was kept; nothing, if that cannot be read."""
    try:
        rows = json.loads((folder / NAME).read_text())
        found = {(row.pop("pool"), row.pop("backend")): Health(**row) for row in rows}
        recent = time.time() - OLD_S
        return {key: each for key, each in found.items() if (each.checked or 0.0) > recent}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("health of before cannot be read; every backend counts as up", why=str(error))
        return {}
