# SPDX-License-Identifier: Apache-2.0
"""The packet path in the kernel: one director's maps, program and attachments, pinned in bpffs.

What is pinned is the state: `Kernel.open` adopts the maps that are there and makes those that are
missing, so a restart, an upgrade and the first start are the same path. `load` brings in a program
with new constants and swaps it into every attachment; no packet sees neither or both. Nothing here
decides anything: `apply` writes what `diff` says, in its order, make before break.

When this process dies, packets keep flowing: maps, links and with them the program stay pinned.
Only `remove` takes them away.
"""

import os
import shutil
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limpet.core.diff import Changes
from limpet.core.errors import Conflict, DatapathError
from limpet.core.model import Image, XdpMode
from limpet.datapath import abi, bpf, counters, elf
from limpet.datapath.clock import clock, hz
from limpet.datapath.content import Content
from limpet.datapath.directory import DirectoryMap
from limpet.datapath.flows import FlowTable
from limpet.datapath.lookup import Lookup
from limpet.datapath.maps import CALLED, MAPPED, PER_CPU
from limpet.datapath.ring import Ring
from limpet.datapath.sessions import SessionTable
from limpet.datapath.sweeper import Sweeper, Swept

OBJECT = Path(__file__).with_name("director.bpf.o")
PROGRAM = "director"
SPARE_TABLES = 4  # places beyond one a pool: room to build a table while the old one is in use
Settings = np.ndarray[tuple[()], np.dtype[np.void]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that a director's maps are made with; maps that are there already keep theirs."""

    buckets: int  # of the connection table
    pools: int
    session_buckets: int
    exceptions: int = 1_000_000

    def entries(self) -> dict[str, int]:
        return {
            "flows": self.buckets,
            "flow_clients": self.buckets * int(abi.Limit.FLOW_WAYS),
            "slot_tables": self.pools + SPARE_TABLES,
            "member_tables": self.pools + SPARE_TABLES,
            "turn_tables": self.pools + SPARE_TABLES,
            "sessions": self.session_buckets,
            "session_seen": self.session_buckets,
            "directory": self.exceptions,
        }


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface that the program is attached to."""

    interface: str
    ifindex: int  # 0: the interface is gone


class Kernel:
    """One director's part of the kernel. One process at a time writes it."""

    def __init__(self, pins: Path, sizes: Sizes) -> None:
        self._pins, self._sizes = pins, sizes
        self._fds: dict[str, int] = {}
        self._memory: dict[str, NDArray[np.void]] = {}
        self._program = -1
        self._settings: Settings | None = None
        self._sweeper: Sweeper | None = None

    @classmethod
    def open(cls, pins: Path, sizes: Sizes) -> "Kernel":
        """Adopt what is pinned under `pins`; what is missing is made by the first `load`.

        Counters of another layout begin anew with the next `load`. Raises Conflict if other pinned
        maps are of another layout, Unsupported without bpffs.
        """
        bpf.mount_bpffs()
        (pins / "maps").mkdir(parents=True, exist_ok=True)
        (pins / "links").mkdir(exist_ok=True)
        kernel = cls(pins, sizes)
        for name in (*MAPPED, *PER_CPU, *CALLED):
            if (pins / "maps" / name).exists():
                kernel._adopt(name)
        kernel._check_layout()
        return kernel

    def _adopt(self, name: str) -> None:
        fd = bpf.get(self._pins / "maps" / name)
        found, wanted = bpf.map_info(fd).value_size, _value_size(name)
        if found != wanted:
            os.close(fd)
            if name in PER_CPU:  # nothing is forwarded by it
                return
            raise Conflict(
                f"{self._pins}: the pinned map {name!r} has values of {found} bytes, this version "
                f"of limpet has {wanted}. Run `limpet down` and start again; that forgets the "
                "connection table"
            )
        self._fds[name] = fd

    def _check_layout(self) -> None:
        """Maps of the same sizes may still be another build's, with another meaning."""
        if "control" not in self._fds:
            return
        found = int(self._map("control")[0]["layout"])
        if found not in (0, abi.Layout.VERSION):
            raise Conflict(
                f"{self._pins}: the pinned maps have layout {found}, this version of limpet has "
                f"{abi.Layout.VERSION:d}. Run `limpet down` and start again; that forgets the "
                "connection table"
            )

    def adopted(self) -> Sizes | None:
        """Sizes of the maps that were there, None before the first start."""
        names = ("flows", "slot_tables", "sessions")
        if not {*names} <= self._fds.keys():
            return None
        flows, tables, sessions = (bpf.map_info(self._fds[name]).max_entries for name in names)
        return Sizes(flows, tables - SPARE_TABLES, sessions)

    # --- Program --------------------------------------------------------------------------------

    def load(self, settings: Settings) -> None:
        """Load the program with these constants and swap it into every attachment.

        `bucket_mask` is set here, from the connection table that is there.
        """
        program = elf.Object(OBJECT)
        try:
            fitted = self._fitted(settings)
            program.set_constants(fitted.tobytes())
            for name, entries in self._sizes.entries().items():
                if name not in self._fds:
                    program.resize(name, entries)
            for name, fd in self._fds.items():
                program.reuse(name, fd)
            program.load()
            self._keep_maps(program)
            fresh = os.dup(program.program_fd(PROGRAM))
            sweeper = Sweeper(self._fds, fitted.tobytes())
        finally:
            program.close()
        for attachment in self.attachments():
            if attachment.ifindex:
                self._swap(attachment.interface, fresh)
        if self._program >= 0:
            os.close(self._program)
        if self._sweeper is not None:
            self._sweeper.close()
        self._program, self._settings, self._sweeper = fresh, fitted, sweeper
        self._content().prepare()

    def _fitted(self, settings: Settings) -> Settings:
        fitted = settings.copy()
        sizes = self.adopted() or self._sizes
        fitted["bucket_mask"] = sizes.buckets - 1
        fitted["session_mask"] = sizes.session_buckets - 1
        return fitted

    def _keep_maps(self, program: elf.Object) -> None:
        for name in (*MAPPED, *PER_CPU, *CALLED):
            if name not in self._fds:
                path = self._pins / "maps" / name
                path.unlink(missing_ok=True)  # of another layout
                bpf.pin(program.map_fd(name), path)
                self._fds[name] = os.dup(program.map_fd(name))

    def _swap(self, interface: str, program: int) -> None:
        link = bpf.get(self._link_pin(interface))
        try:
            bpf.link_update(link, program)
        finally:
            os.close(link)

    # --- Attachments ----------------------------------------------------------------------------

    def _link_pin(self, interface: str) -> Path:
        return self._pins / "links" / interface.replace(".", "@")  # bpffs allows no dots

    def attachments(self) -> list[Attachment]:
        """Where the program is attached, by pinned links."""
        found = []
        for path in sorted((self._pins / "links").iterdir()):
            link = bpf.get(path)
            found.append(Attachment(path.name.replace("@", "."), bpf.link_ifindex(link)))
            os.close(link)
        return found

    def attach(self, interface: str, ifindex: int, mode: XdpMode) -> None:
        """Attach to an interface, unless it is attached already."""
        for attachment in self.attachments():
            if attachment.interface == interface:
                if attachment.ifindex == ifindex:
                    return
                self.detach(interface)
        link = self._new_link(ifindex, mode)
        try:
            bpf.pin(link, self._link_pin(interface))
        finally:
            os.close(link)

    def _new_link(self, ifindex: int, mode: XdpMode) -> int:
        if mode is not XdpMode.GENERIC:
            try:
                return bpf.link_create(self._program, ifindex, bpf.XDP_NATIVE)
            except DatapathError:
                if mode is XdpMode.NATIVE:
                    raise
        return bpf.link_create(self._program, ifindex, bpf.XDP_GENERIC)

    def detach(self, interface: str) -> None:
        """Detach from an interface; fine if it is not attached."""
        path = self._link_pin(interface)
        if path.exists():
            link = bpf.get(path)
            path.unlink()
            bpf.link_detach(link)
            os.close(link)

    # --- Image ----------------------------------------------------------------------------------

    def _map(self, name: str) -> NDArray[np.void]:
        """The rows of a mapped array, shared with the kernel."""
        if name not in self._memory:
            info = bpf.map_info(self._fds[name])
            memory = bpf.map_memory(self._fds[name])
            self._memory[name] = np.frombuffer(memory, MAPPED[name], count=info.max_entries)
        return self._memory[name]

    def _content(self) -> Content:
        return Content(self._map, self._fds["proxies"], hz())

    def observe(self) -> Image:
        """What the kernel holds now; nothing, if a first `load` was cut short."""
        if not (MAPPED.keys() | CALLED.keys()) <= self._fds.keys():
            return Image()
        return self._content().observe()

    def apply(self, changes: Changes) -> None:
        """Write changes, in their order. Each step leaves the kernel able to forward."""
        self._content().apply(changes)

    # --- Flows and counters ---------------------------------------------------------------------

    def flows(self) -> FlowTable:
        """The connection table."""
        return FlowTable(
            self._map("flows")["entries"].reshape(-1),
            self._map("flow_clients"),
            self._map("vips")["family"],
            self._content().limits(),
        )

    def sessions(self) -> SessionTable:
        """The session table."""
        return SessionTable(
            self._map("sessions")["entries"].reshape(-1),
            self._map("session_seen")["seen"].reshape(-1),
            self._content().limits(),
        )

    def lookup(self) -> Lookup:
        """Single flows and sessions of both tables."""
        assert self._settings is not None, "load comes first"
        return Lookup(self._map, self._settings, self._content().limits())

    def loads(self) -> NDArray[np.uint32]:
        """Live sessions by backend id, shape (4096,), of VIPs of every affinity."""
        found: NDArray[np.uint32] = self._map("loads")["sessions"][0].copy()
        return found

    def sweep(self) -> Swept:
        """End what has been idle for too long, in both tables. One thread at a time."""
        assert self._sweeper is not None, "load comes first"
        return self._sweeper.sweep()

    def resets(self) -> Ring:
        """A reading end of the ring that asks for TCP resets; RESET records."""
        return Ring(self._fds["resets"], int(abi.Limit.RESETS), abi.RESET)

    def news(self) -> Ring:
        """A reading end of the ring that tells of new exceptions; NEWS records."""
        return Ring(self._fds["news"], int(abi.Limit.NEWS), abi.NEWS)

    def held(self) -> Ring:
        """A reading end of the ring of packets that wait for an answer; HELD records."""
        return Ring(self._fds["held"], int(abi.Limit.HELD), abi.HELD)

    def directory(self) -> DirectoryMap:
        """What other directors told, as packets see it."""
        return DirectoryMap(self._fds["directory"])

    def program_id(self) -> int:
        """The kernel's number of the program that runs now; a new one with every load."""
        return bpf.program_id(self._program)

    def program_tag(self) -> str:
        """The kernel's digest of the program that `load` brought in."""
        return bpf.program_tag(self._program)

    def tick(self) -> int:
        """Now, as the connection table counts it."""
        assert self._settings is not None, "load comes first"
        return clock().jiffies() >> int(self._settings["tick_shift"])

    def _per_cpu(self, name: str) -> tuple[bytes, int]:
        entries = bpf.map_info(self._fds[name]).max_entries
        size = PER_CPU[name].itemsize * bpf.possible_cpus()
        return bpf.map_lookup_all(self._fds[name], entries, size), entries

    def counters(self) -> counters.Counters:
        """Verdicts, rungs and events since the maps were made."""
        return counters.decode(self._per_cpu("counters")[0])

    def vip_stats(self) -> NDArray[np.void]:
        """VIP_STATS by VIP id."""
        return counters.totals(self._per_cpu("vip_stats")[0], abi.VIP_STATS, abi.Limit.VIPS)

    def backend_stats(self) -> NDArray[np.void]:
        """BACKEND_STATS by backend id."""
        data, entries = self._per_cpu("backend_stats")
        return counters.totals(data, abi.BACKEND_STATS, entries)

    def test_run(self, packet: bytes, ifindex: int = 0, repeat: int = 1) -> bpf.Run:
        """What the program does with a packet; maps and counters change as for any packet."""
        return bpf.run(self._program, packet, repeat, ifindex)

    @property
    def program(self) -> int:
        """Descriptor of the program that runs now."""
        return self._program

    def forget_flows(self) -> None:
        """Empty connection and session table. For benchmarks and tests: live flows lose their
        backend."""
        self._map("flows")["entries"]["word"] = 0
        self._map("sessions")["entries"]["word"] = 0
        self._map("sessions")["entries"]["flows"] = 0
        self._map("loads")["sessions"] = 0

    # --- End ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of everything; what is pinned goes on."""
        self._memory.clear()
        for fd in (*self._fds.values(), self._program):
            if fd >= 0:
                os.close(fd)
        self._fds.clear()
        self._program = -1
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None


def _value_size(name: str) -> int:
    return CALLED[name] if name in CALLED else (MAPPED | PER_CPU)[name].itemsize


def remove(pins: Path) -> bool:
    """Detach and forget everything pinned there; False if nothing was."""
    if not pins.exists():
        return False
    for path in sorted((pins / "links").glob("*")):
        link = bpf.get(path)
        path.unlink()
        try:
            bpf.link_detach(link)
        except DatapathError as error:
            if error.errno != ENOENT:  # the interface is gone already
                raise
        finally:
            os.close(link)
    shutil.rmtree(pins)
    return True
