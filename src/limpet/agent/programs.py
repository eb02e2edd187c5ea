# SPDX-License-Identifier: Apache-2.0
"""Programs: the agent's object, loaded for one configuration, and what of it is pinned.

Every load has maps of its own for sources and VIPs, which nothing changes afterwards: swapping the
program swaps the whole configuration at once, and a reload cannot be seen half done. Only the
counters go on from load to load, unless another version of limpet counts other things.

Pinned in /sys/fs/bpf/limpet/<name>/ for people and for `limpet agent show`; the attachments
(agent/ingress.py, agent/egress.py) keep the programs alive.
"""

import os
from pathlib import Path

import numpy as np

from limpet.agent.config import AgentConfig, Prefix
from limpet.agent.mss import Limits
from limpet.core.model import Address
from limpet.datapath import abi, libbpf

OBJECT = Path(libbpf.__file__).with_name("agent.bpf.o")
INGRESS, EGRESS = "agent", "agent_egress"
COUNTERS = "agent_counters"
MAPS = ("agent_sources", "agent_vips", COUNTERS)
PRESENT = (1).to_bytes(4, "little")


def folder(name: str) -> Path:
    """Where the pins of an agent are. bpffs allows no dots."""
    return libbpf.BPFFS / "limpet" / name.replace(".", "@")


def address_bytes(address: Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff" * 2 + address.packed


def source_key(prefix: Prefix) -> bytes:
    """Key of a prefix in the map `agent_sources`."""
    record = np.zeros((), abi.AGENT_SOURCE)
    record["bits"] = prefix.prefixlen + (96 if prefix.version == 4 else 0)
    record["address"] = list(address_bytes(prefix.network_address))
    return record.tobytes()


class Programs:
    """A loaded object. `close` lets go of it; what is attached or pinned stays."""

    def __init__(self, config: AgentConfig, mss: Limits, counters: Path | None = None) -> None:
        """Load; `counters` is a pinned map to go on counting in."""
        self._object = libbpf.Object(OBJECT)
        try:
            settings = np.zeros((), abi.AGENT_SETTINGS)
            settings["mss4"], settings["mss6"] = mss.mss4, mss.mss6
            self._object.set_constants(settings.tobytes())
            self._reuse(counters)
            self._object.load()
            self._fill(config)
        except BaseException:
            self._object.close()
            raise
        self.ingress = self._object.program_fd(INGRESS)
        self.egress = self._object.program_fd(EGRESS)

    def _reuse(self, counters: Path | None) -> None:
        if counters is None or not counters.exists():
            return
        fd = libbpf.get(counters)
        try:
            if libbpf.map_info(fd).value_size == abi.AGENT_COUNTERS.itemsize:
                self._object.reuse(COUNTERS, fd)
        finally:
            os.close(fd)

    def _fill(self, config: AgentConfig) -> None:
        for prefix in config.directors:
            libbpf.map_update(self._object.map_fd("agent_sources"), source_key(prefix), PRESENT)
        for vip in config.vips:
            libbpf.map_update(self._object.map_fd("agent_vips"), address_bytes(vip), PRESENT)

    def counters_fd(self) -> int:
        return self._object.map_fd(COUNTERS)

    def pin(self, pins: Path) -> None:
        """Pin programs and maps in place of those of before."""
        for name in (INGRESS, EGRESS):
            _repin(self._object.program_fd(name), pins / name)
        for name in MAPS:
            _repin(self._object.map_fd(name), pins / name)

    def close(self) -> None:
        self._object.close()


def _repin(fd: int, path: Path) -> None:
    fresh = path.with_name(f"{path.name}_new")
    fresh.unlink(missing_ok=True)  # left by a crash
    libbpf.pin(fd, fresh)
    fresh.rename(path)
