# SPDX-License-Identifier: Apache-2.0
"""What was saved is there, whatever happens afterwards; what is not ours is refused untouched."""

import os
import sqlite3
import stat
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.errors import LimpetError
from limpet.core.model import BackendId, Encapsulation, PoolId, Protocol, VipId
from limpet.core.registry import KnownBackend, KnownVip, Registry
from limpet.core.slots import build, forget
from limpet.store.state import SCHEMA_VERSION, State

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
backends = st.builds(
    KnownBackend,
    st.integers(1, 4_095).map(BackendId),
    names,
    addresses,
    st.sampled_from(Encapsulation),
)
vips = st.builds(
    KnownVip,
    st.integers(1, 1_023).map(VipId),
    names,
    addresses,
    st.sampled_from(Protocol),
    st.none() | st.integers(1, 65_535),
)
WEIGHTS = [{1: 1, 2: 1}, {1: 1}, {2: 5}, {}, {1: 1, 2: 3}]


@st.composite
def registries(draw: st.DrawFn) -> Registry:
    crowd = draw(st.lists(backends, max_size=9, unique_by=(lambda b: b.id, lambda b: b.name)))
    served = draw(st.lists(vips, max_size=9, unique_by=(lambda v: v.id, lambda v: v.key)))
    pools = draw(
        st.dictionaries(names, st.integers(0, 1_023).map(PoolId), max_size=2).filter(
            lambda d: len(set(d.values())) == len(d)
        )
    )
    tables = {}
    for pool in pools.values():
        table = None
        for weights in draw(st.lists(st.sampled_from(WEIGHTS), min_size=1, max_size=3)):
            table = build(table, {BackendId(i): w for i, w in weights.items()}, key=1)
        assert table is not None
        tables[pool] = table
    return Registry(
        backends={b.name: b for b in crowd[0::3]},
        lingering=tuple(crowd[1::3]),
        known_backends=tuple(crowd[2::3]),
        pools=pools,
        tables=tables,
        vips={v.key: v for v in served[0::2]},
        known_vips=tuple(served[1::2]),
    )


def numbered(generation: int) -> Registry:
    """A registry whose every part tells which one it is."""
    table = None
    for step in range(generation % 4 + 1):
        table = build(table, {BackendId(1): step + 1, BackendId(2): 7}, key=generation)
    assert table is not None
    address = ip_address(f"10.0.{generation >> 8 & 255}.{generation & 255}")
    backend = KnownBackend(BackendId(1), f"b{generation}", address, Encapsulation.L2)
    return Registry(
        backends={backend.name: backend},
        pools={f"p{generation}": PoolId(generation % 3)},
        tables={PoolId(generation % 3): table},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@settings(max_examples=25)
@given(st.lists(registries(), min_size=1, max_size=3))
def test_what_was_saved_is_loaded(history: list[Registry]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "state.db"
        for registry in history:
            with State(path) as state:
                state.save(registry)
                assert state.load() == registry
            with State(path) as state:
                loaded = state.load()
        assert loaded == registry
        assert loaded.lingering == registry.lingering
        assert list(loaded.pools) == list(registry.pools)


def test_new_file_holds_an_empty_registry(path: Path) -> None:
    with State(path) as state:
        assert state.load() == Registry()


def test_only_changed_tables_are_written(path: Path) -> None:
    """A save without a change of tables adds no table to the log."""
    with State(path) as state:
        registry = numbered(3)
        state.save(registry)
        state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        state.save(registry)
        assert path.with_name("state.db-wal").stat().st_size < 100_000


def test_table_without_its_history_is_written_too(path: Path) -> None:
    """To forget an id changes neither generation nor slots, and must not be lost."""
    table = build(build(None, {BackendId(1): 1, BackendId(2): 1}, 1), {BackendId(1): 1}, 1)
    with State(path) as state:
        state.save(Registry(pools={"p": PoolId(0)}, tables={PoolId(0): table}))
        clean = forget(table, BackendId(2))
        state.save(Registry(pools={"p": PoolId(0)}, tables={PoolId(0): clean}))
        assert state.load().tables[PoolId(0)] == clean != table


def test_writer_beside_another_writer_leaves_no_stale_table(path: Path) -> None:
    registry = numbered(0)
    with State(path) as one, State(path) as other:
        one.save(registry)
        other.save(numbered(3))  # the same pool id, another table
        one.save(registry)
        assert other.load() == registry


def test_saving_without_loading_first_removes_what_is_gone(path: Path) -> None:
    with State(path) as state:
        state.save(numbered(1))
    with State(path) as state:
        state.save(numbered(2))
        assert state.load() == numbered(2)


def test_secret_is_made_once(path: Path) -> None:
    with State(path) as state:
        slot_key, flow_key = state.secret("slot_key", 16), state.secret("flow_key", 16)
        state.save(numbered(1))
    with State(path) as state:
        assert state.secret("slot_key", 16) == slot_key != flow_key
        assert len(flow_key) == 16
        with pytest.raises(LimpetError, match="16 bytes instead of 32"):
            state.secret("slot_key", 32)


def test_only_the_owner_can_read_the_secrets(path: Path) -> None:
    before = os.umask(0)
    try:
        with State(path) as state:
            state.secret("slot_key", 16)
            modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600}


SAVE_UNTIL_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store.test_state import numbered
from limpet.store.state import State
state = State(sys.argv[1])
for generation in range(1, 100_000):
    state.save(numbered(generation))
    print(generation, flush=True)
"""


@pytest.mark.parametrize("round_", range(5))
def test_kill_loses_nothing_that_was_acknowledged(path: Path, round_: int) -> None:
    """SIGKILL at some moment of a series of saves: the last acknowledged one is there, whole."""
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, str(path), str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if int(line) >= 3 + 4 * round_:
                break
    finally:
        process.kill()
    acknowledged = [int(line), *map(int, process.stdout.read().split())][-1]
    process.wait()
    process.stdout.close()
    with State(path) as state:
        loaded = state.load()
    # The one after it may have been on the disk before the word got out.
    assert loaded in (numbered(acknowledged), numbered(acknowledged + 1))


def test_failed_save_changes_nothing(path: Path) -> None:
    twice = KnownBackend(BackendId(1), "b", ip_address("10.0.0.1"), Encapsulation.IPIP)
    with State(path) as state:
        state.save(numbered(1))
        with pytest.raises(sqlite3.IntegrityError):
            state.save(Registry(lingering=(twice, twice)))
        assert state.load() == numbered(1)


def test_newer_schema_is_refused(path: Path) -> None:
    with State(path) as state:
        state.save(numbered(1))
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LimpetError, match=r"state\.db: written by a newer limpet \(schema 4"):
        State(path)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("interfaces = []\n" * 1_000)
    with pytest.raises(LimpetError, match=r"is damaged \(file is not a database\)"):
        State(path)
    assert path.read_text() == "interfaces = []\n" * 1_000


def test_database_of_another_program_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cats (name TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LimpetError, match="a database of another program"):
        State(path)
    assert path.read_bytes() == before


def test_torn_file_is_refused(path: Path) -> None:
    with State(path) as state:
        state.save(numbered(3))
    data = bytearray(path.read_bytes())
    data[4_096 * 3 : 4_096 * 12] = os.urandom(4_096 * 9)
    path.write_bytes(data)
    with pytest.raises(LimpetError, match="damaged"):
        State(path).load()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE slot_tables SET slots = zeroblob(100)",
        "UPDATE slot_tables SET digest = '0123456789abcdef'",
        "UPDATE slot_tables SET former = slots",
        "UPDATE backends SET address = '10.0.0.256'",
        "UPDATE backends SET encapsulation = 'gre'",
        "UPDATE backends SET place = 'nowhere'",
    ],
)
def test_row_that_cannot_be_is_reported(path: Path, statement: str) -> None:
    with State(path) as state:
        state.save(numbered(3))
        state._db.execute(statement)
        with pytest.raises(LimpetError, match="damaged"):
            state.load()


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimpetError, match=r"none/state\.db: cannot open the state: No such file"):
        State(tmp_path / "none" / "state.db")
    with pytest.raises(LimpetError, match="cannot open the state: Is a directory"):
        State(tmp_path)
