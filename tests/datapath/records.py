# SPDX-License-Identifier: Apache-2.0
"""What the kernel has for the daemon, as the reference says it: records of its rings. Ticks are
counted from now. And what clients may still ask, which a bench lets grow older.
"""

import numpy as np
from numpy.typing import NDArray

from limpet.datapath import bpf
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY, RATE, ExceptionKind, Limit
from limpet.datapath.reference import Held, Name, News, Reset
from limpet.datapath.reference.hash import pair
from packets.case import Tell
from packets.world import FLOW_KEY

Rows = NDArray[np.void]


class Askers:
    """What clients may still ask, in the kernel: those of which packets waited."""

    def __init__(self, fd: int) -> None:
        self._fd, self._size = fd, RATE.itemsize * bpf.possible_cpus()
        self.used = set(range(Limit.ASKERS))
        self.forget()

    def age(self, ticks: int) -> None:
        for place in self.used:
            key = place.to_bytes(4, "little")
            rows = np.frombuffer(bpf.map_lookup(self._fd, place, self._size), RATE).copy()
            rows["refilled"] -= np.uint64(ticks)
            bpf.map_update(self._fd, key, rows.tobytes())

    def forget(self) -> None:
        """All may ask from the beginning: they last asked long ago."""
        rows = np.zeros(bpf.possible_cpus(), RATE)
        rows["refilled"] -= np.uint64(1 << 20)
        for place in self.used:
            bpf.map_update(self._fd, place.to_bytes(4, "little"), rows.tobytes())
        self.used.clear()


def place_of(client: tuple[int, int]) -> int:
    """Place of a client among the askers."""
    return pair(*client, (FLOW_KEY[1], FLOW_KEY[0])) % Limit.ASKERS


def news(record: np.void, tick: int) -> News:
    key = record["key"]
    client, name = key["client"].tolist(), (int(key["range"]), int(key["vip"]))
    return News(
        Name((client[0], client[1]), *name, ExceptionKind(key["kind"])),
        int(record["tick"]) - tick,
        int(record["backend"]),
        int(record["flags"]),
    )


def held(record: np.void, tick: int) -> Held:
    client, vip = record["client"].tolist(), record["vip_address"].tolist()
    return Held(
        client=(client[0], client[1]),
        vip_address=(vip[0], vip[1]),
        ifindex=int(record["ifindex"]),
        tick=int(record["tick"]) - tick,
        client_port=int(record["client_port"]),
        vip_port=int(record["vip_port"]),
        vip=int(record["vip"]),
        protocol=int(record["protocol"]),
        family=int(record["family"]),
        is_error=bool(record["is_error"]),
        frame=record["frame"].tobytes()[: int(record["length"])],
    )


def reset(record: np.void) -> Reset:
    client = np.frombuffer(record["client"].tobytes(), ">u8").tolist()
    vip = np.frombuffer(record["vip_address"].tobytes(), ">u8").tolist()
    names = ("sequence", "acknowledged", "client_port", "vip_port", "backend", "family")
    return Reset((client[0], client[1]), (vip[0], vip[1]), *(int(record[name]) for name in names))


def exception(told: Tell, tick: int) -> tuple[Rows, Rows]:
    """What was told, as the map `directory` has it."""
    key, value = np.zeros(1, EXCEPTION_KEY), np.zeros(1, EXCEPTION)
    key["client"], key["range"] = told.name.client, told.name.range
    key["vip"], key["kind"] = told.name.vip, told.name.kind
    value["since"], value["until"] = ((tick + at) % (1 << 32) for at in (told.since, told.until))
    value["backend"], value["flags"] = told.backend, told.flags
    return key, value
