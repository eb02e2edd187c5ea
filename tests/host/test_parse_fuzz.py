# SPDX-License-Identifier: Apache-2.0
"""bpf/parse.h reads within the frame, does nothing undefined, and agrees with the reference."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from host.fuzz_parse import KEPT
from host.library import ROOT

ROUNDS = 40_000
TIMEOUT_S = 240  # takes seconds, on a machine that is not busy
# Verdicts that parsing alone can give: a run that misses one does not test it.
VERDICTS = {
    "CONTINUE",
    "NOT_IP",
    "PASS_MALFORMED",
    "NO_SERVICE",
    "DROP_MALFORMED",
    "DROP_FRAGMENT",
    "DROP_ICMP_TYPE",
    "DROP_ICMP_QUOTE",
}


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with the tests importable."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_parser_survives_any_frame_and_agrees_with_the_reference(
    library_path: Path, tmp_path: Path, seed: int
) -> None:
    """40,000 frames a seed, each right before a page that may not be read."""
    kept = tmp_path / "frame"
    kept.write_bytes(bytes(KEPT))
    run = python("-m", "host.fuzz_parse", str(library_path), str(kept), str(seed), str(ROUNDS))
    data = kept.read_bytes()
    last = data[2 : 2 + int.from_bytes(data[:2], "big")].hex()
    assert run.returncode == 0, f"status {run.returncode} {run.stderr}\nlast frame: {last}"
    seen = dict(pair.split("=") for pair in run.stdout.split())
    assert seen.keys() == VERDICTS
    assert all(int(count) >= 20 for count in seen.values()), run.stdout


@pytest.mark.parametrize(
    ("how", "expected"), [("read", {signal.SIGSEGV}), ("overflow", {signal.SIGILL, signal.SIGTRAP})]
)
def test_harness_sees_what_it_is_there_to_see(
    library_path: Path, how: str, expected: set[signal.Signals]
) -> None:
    """One byte read behind a frame, or one overflow, ends the process."""
    code = (
        "import sys, pathlib; from host.library import Library; "
        "Library(pathlib.Path(sys.argv[1])).die(sys.argv[2])"
    )
    assert -python("-c", code, str(library_path), how).returncode in expected
