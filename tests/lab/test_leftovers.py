# SPDX-License-Identifier: Apache-2.0
"""What a killed test has left is removed, and nothing else."""

import os
import subprocess
from pathlib import Path

import pytest

import leftovers
from limpet.datapath.bpf import BPFFS
from limpet.lab import folder, namespace, operations, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

pytestmark = pytest.mark.lab


def test_what_a_killed_test_has_left_is_removed_and_nothing_else(one_pop: Topology) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, alive = f"t{ended.pid}-1", f"t{os.getpid()}-x"
    space, pins = f"ta{ended.pid}-1-a", BPFFS / f"limpet-test-{ended.pid}-1"
    try:
        for name in (dead, alive):
            with state.locked(name, create=True):
                state.save(State(lab=name, phase="up", topology=one_pop, numbers_used={"fra": 13}))
                Network(name, one_pop).build()
        namespace.create(space)
        pins.mkdir()
        with namespace.inside(f"{dead}-b1"):
            left = subprocess.Popen(["sleep", "600"])
        assert {*leftovers.remove()} >= {dead, space, pins.name}
        assert left.wait(10) != 0
        assert not namespace.names(dead)
        assert not namespace.exists(space)
        assert not pins.exists()
        assert not Path("/run/limpet/lab", dead).exists()
        assert alive in folder.labs()
        assert namespace.exists(f"{alive}-b1")
    finally:
        operations.down(alive)
        leftovers.remove()
