# SPDX-License-Identifier: Apache-2.0
"""Programs: the agent's object, loaded for one configuration, and what of it is pinned.

Every load has maps of its own for sources and VIPs, which nothing changes afterwards: swapping the
program swaps the whole configuration at once, and a reload cannot be seen half done. Only the
counters go on from load to load, unless another version of limpet counts other things; and what is
known of clients' ways, as long as ways and VIPs are numbered as before.

Pinned in /sys/fs/bpf/limpet/<name>/ for people and for `limpet agent show`; the attachments
(agent/ingress.py, agent/egress.py) keep the programs alive.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limpet.agent.config import Config, ExitConfig, Prefix
from limpet.agent.mss import Limits
from limpet.core.model import Address
from limpet.datapath import abi, bpf, elf
from limpet.datapath.clock import hz

OBJECT = Path(bpf.__file__).with_name("agent.bpf.o")
INGRESS, EGRESS, REPLY = "agent", "agent_egress", "agent_reply"
COUNTERS, EXITS = "agent_counters", "agent_exits"
WAYS = ("agent_clients", "agent_heard")
MAPS = ("agent_sources", "agent_vips", EXITS, COUNTERS, *WAYS)
SILENCE_S = 3.0  # after which a PoP from which nothing comes is taken to announce no more
CLIENTS_UNUSED = 128  # entries of the map of clients where there are no exits


@dataclass(frozen=True, slots=True)
class Replies:
    """How replies leave, by exits in their order; none: directly."""

    exits: tuple[tuple[Address, Address], ...] = ()  # exit, and own address as outer source
    known: Path | None = None  # where the ways of clients are pinned, if they still mean the same


def folder(name: str) -> Path:
    """Where the pins of an agent are. bpffs allows no dots."""
    return bpf.BPFFS / "limpet" / name.replace(".", "@")


def address_bytes(address: Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff" * 2 + address.packed


def source_key(prefix: Prefix) -> bytes:
    """Key of a prefix in the map `agent_sources`."""
    record = np.zeros((), abi.AGENT_SOURCE)
    record["bits"] = prefix.prefixlen + (96 if prefix.version == 4 else 0)
    record["address"] = list(address_bytes(prefix.network_address))
    return record.tobytes()


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


class Programs:
    """A loaded object. `close` lets go of it; what is attached or pinned stays."""

    def __init__(
        self,
        config: Config,
        mss: Limits,
        counters: Path | None = None,
        replies: Replies | None = None,
    ) -> None:
        """Load; `counters` is a pinned map to go on counting in."""
        self._object = elf.Object(OBJECT)
        replies = replies or Replies()
        try:
            self._set(config, mss, replies)
            self._reuse(COUNTERS, counters, abi.AGENT_COUNTERS.itemsize)
            if replies.known is not None:
                self._reuse(WAYS[0], replies.known / WAYS[0], 4)
                self._reuse(WAYS[1], replies.known / WAYS[1], abi.AGENT_HEARD.itemsize)
            self._object.load()
            self._fill(config, replies)
        except BaseException:
            self._object.close()
            raise
        self.ingress = self._object.program_fd(INGRESS)
        self.egress = self._object.program_fd(EGRESS)
        self.reply = self._object.program_fd(REPLY)

    def _set(self, config: Config, mss: Limits, replies: Replies) -> None:
        """Constants, and sizes: maps for replies take no memory where they are not used."""
        settings = np.zeros((), abi.AGENT_SETTINGS)
        settings["mss4"], settings["mss6"] = mss.mss4, mss.mss6
        settings["is_exit"] = isinstance(config, ExitConfig)
        settings["exits"] = len(replies.exits)
        if replies.exits:
            settings["silence"] = round(SILENCE_S * hz())
            self._object.resize("agent_heard", len(config.vips))
        else:
            self._object.resize("agent_heard", 1)
            self._object.resize("agent_clients", CLIENTS_UNUSED)
        self._object.set_constants(settings.tobytes())

    def _reuse(self, name: str, pin: Path | None, value_size: int) -> None:
        if pin is None or not pin.exists():
            return
        fd = bpf.get(pin)
        try:
            if bpf.map_info(fd).value_size == value_size:
                self._object.reuse(name, fd)
        finally:
            os.close(fd)

    def _fill(self, config: Config, replies: Replies) -> None:
        put = bpf.map_update
        for prefix, way in config.sources().items():
            value = _number(1 + (way if replies.exits else 0))
            put(self._object.map_fd("agent_sources"), source_key(prefix), value)
        for number, vip in enumerate(config.vips):
            put(self._object.map_fd("agent_vips"), address_bytes(vip), _number(number))
        for number, (exit, source) in enumerate(replies.exits):
            value = address_bytes(exit) + address_bytes(source)
            put(self._object.map_fd(EXITS), _number(number), value)

    def pin(self, pins: Path) -> None:
        """Pin programs and maps in place of those of before."""
        for name in (INGRESS, EGRESS, REPLY):
            _repin(self._object.program_fd(name), pins / name)
        for name in MAPS:
            _repin(self._object.map_fd(name), pins / name)

    def close(self) -> None:
        self._object.close()


def _repin(fd: int, path: Path) -> None:
    fresh = path.with_name(f"{path.name}_new")
    fresh.unlink(missing_ok=True)  # left by a crash
    bpf.pin(fd, fresh)
    fresh.rename(path)
