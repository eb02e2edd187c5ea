# SPDX-License-Identifier: Apache-2.0
"""Leftovers: what tests made under the number of a process that was killed before it cleaned up.

Labs, namespaces and pins of tests bear the number of the process that made them. Whoever is still
there cleans up itself, so runs beside this one are left alone. Called when a run ends, however it
ends: of several processes, the first outlives those that are killed with an interrupted run.
"""

import re
import shutil
from pathlib import Path

from limpet.datapath.bpf import BPFFS
from limpet.lab import folder, namespace, operations

OF_A_TEST = re.compile(
    r"(?:limpet-)?(?:[a-z]{1,2}|own|own-|test-|accounts-|directory-)(\d+)(?:-.*)?"
)


def remove() -> list[str]:
    """Their names."""
    labs = [name for name in folder.labs() if _is_left(name)]
    for name in labs:
        operations.down(name)
    spaces = [name for name in namespace.names("") if _is_left(name)]
    for name in spaces:
        namespace.kill_processes(name)
        namespace.remove(name)
    pins = [path for path in _pins() if _is_left(path.name)]
    for path in pins:
        shutil.rmtree(path)
    return [*labs, *spaces, *(path.name for path in pins)]


def _pins() -> list[Path]:
    return [path for path in BPFFS.iterdir() if path.is_dir()] if BPFFS.is_dir() else []


def _is_left(name: str) -> bool:
    """Whether it is of a test whose process is no more."""
    found = OF_A_TEST.fullmatch(name)
    return found is not None and not Path("/proc", found[1]).exists()
