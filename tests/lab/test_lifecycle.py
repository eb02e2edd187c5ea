# SPDX-License-Identifier: Apache-2.0
"""`down` leaves nothing behind, whatever state a lab is in, and touches no other lab."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from limpet.core.errors import Conflict, NotFound
from limpet.lab import folder, namespace, operations, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

pytestmark = pytest.mark.lab

BUILD = """
import sys
from limpet.lab import folder, source, state
from limpet.lab.network import Network
from limpet.lab.process import spawn
from limpet.lab.state import State
lab = sys.argv[1]
topology = source.load("one-pop")
with state.locked(lab, create=True):
    now = State(lab=lab, phase="building", topology=topology, numbers_used={})
    state.save(now)
    network = Network(lab, topology)
    network.build()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    log = folder.of(lab) / "log"
    state.save(now.changed(processes={"b1": spawn(sleep, f"{lab}-b1", log)}))
    spawn(sleep, f"{lab}-b2", log)
    print("built", flush=True)
    import time; time.sleep(60)
"""


def remains(lab: str) -> list[str]:
    """Whatever there is of a lab."""
    found = namespace.names(f"{lab}-")
    found += [str(path) for path in Path("/run/limpet").glob(f"**/{lab}*")]
    return found + [str(path) for path in Path("/sys/fs/bpf").glob(f"limpet/{lab}-*")]


@pytest.mark.parametrize("after_s", [0.45, 0.6, 0.8, None])
def test_down_after_a_crash_leaves_nothing(lab: str, after_s: float | None) -> None:
    """SIGKILL of `up` at any moment; None: when all was built and processes ran."""
    argv = [sys.executable, "-c", BUILD, lab]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as building:
        assert building.stdout is not None
        if after_s is None:
            assert building.stdout.readline() == b"built\n"
        else:
            time.sleep(after_s)
        building.kill()
    if after_s is None:
        pids = [pid for name in namespace.names(f"{lab}-") for pid in namespace.processes(name)]
        assert len(pids) == 2
    operations.down(lab)
    assert remains(lab) == []
    if after_s is None:
        assert not [pid for pid in pids if _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_down_is_fine_when_nothing_is_there(lab: str) -> None:
    assert operations.down(lab) == []
    assert remains(lab) == []


def test_down_removes_namespaces_without_any_state(lab: str, one_pop: Topology) -> None:
    Network(lab, one_pop).build()
    assert len(operations.down(lab)) == len(one_pop.host)
    assert remains(lab) == []


def test_down_spares_a_lab_whose_name_begins_with_ours(lab: str, one_pop: Topology) -> None:
    other = f"{lab}-two"
    try:
        with state.locked(other, create=True):
            Network(other, one_pop).build()
        assert operations.down(lab) == []
        assert len(namespace.names(f"{other}-")) == len(one_pop.host)
    finally:
        operations.down(other)
    assert remains(other) == []


def test_up_refuses_a_lab_that_is_up(network: State, one_pop: Topology) -> None:
    with pytest.raises(Conflict, match="is up already"):
        operations.up(network.lab, one_pop)
    assert len(namespace.names(f"{network.lab}-")) == len(one_pop.host)


def test_up_refuses_a_name_that_is_no_lab_name(one_pop: Topology) -> None:
    for name in ("../etc", "", "Lab", "x" * 40, "a b"):
        with pytest.raises(Conflict, match="lab name"):
            operations.up(name, one_pop)


UP = """
import sys
from limpet.lab import operations, source
operations.up(sys.argv[1], source.load("one-pop"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(lab: str, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", UP, lab]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as building:
        while not namespace.names(f"{lab}-"):
            assert building.poll() is None
            time.sleep(0.01)
        building.send_signal(number)
        _, said = building.communicate()
    assert f"KeyboardInterrupt: {number.name}" in said
    assert building.returncode != 0
    assert remains(lab) == []


def test_a_foreign_namespace_stops_up_and_survives_it(lab: str, one_pop: Topology) -> None:
    namespace.create(f"{lab}-b3")
    with pytest.raises(Conflict, match=f"{lab}-b3 exist"):
        operations.up(lab, one_pop)
    assert namespace.names(f"{lab}-") == [f"{lab}-b3"]


def test_commands_on_a_lab_that_is_not_up_say_so() -> None:
    for command in (operations.status, state.read):
        with pytest.raises(NotFound, match="lab 'nobody' is not up"):
            command("nobody")
    with pytest.raises(NotFound, match="lab 'nobody' is not up"), state.locked("nobody"):
        pass
    assert remains("nobody") == []


def test_two_commands_do_not_interleave(lab: str) -> None:
    """The second waits, and finds the folder replaced that the first removed."""
    order: list[str] = []

    def second() -> None:
        with state.locked(lab, create=True):
            order.append("second")

    with state.locked(lab, create=True):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)
        order.append("first")
        state.forget(lab)
        # Whoever holds only the removed folder holds nothing.
        with state.locked(lab, create=True):
            fd = os.open(folder.of(lab), os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
    waiting.join()
    assert order == ["first", "second"]
    state.forget(lab)


def test_status_lists_hosts_vips_and_pops(network: State) -> None:
    status = operations.status(network.lab)
    assert status["lab"] == network.lab
    assert status["vips"] == ["192.0.2.10", "2001:db8:0:10::10"]
    assert status["pops"] == ["fra"]
    by_name = {host["name"]: host for host in status["hosts"]}
    assert list(by_name) == [host.name for host in network.topology.host]
    b3 = by_name["b3"]
    assert (b3["role"], b3["pop"], b3["netns"]) == ("backend", "fra", f"{network.lab}-b3")
    assert b3["addresses"] == ["10.10.0.13", "2001:db8:a::d"]
    assert b3["address"] == "2001:db8:a::d"


def test_down_removes_what_directors_and_agents_leave(lab: str, one_pop: Topology) -> None:
    """Sockets, state files, databases: whatever bears the name of one of the lab's hosts."""
    Network(lab, one_pop).build()
    left = [
        Path(f"/run/limpet/{lab}-fra-d1.sock"),
        Path(f"/run/limpet/agent-{lab}-b1.json"),
        Path(f"/var/lib/limpet/{lab}-fra-d1/state.db"),
    ]
    spared = Path(f"/run/limpet/{lab}-fra-d1x.sock")
    try:
        for path in (*left, spared):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        operations.down(lab)
        assert not [path for path in left if path.exists()]
        assert spared.exists()
    finally:
        spared.unlink(missing_ok=True)
