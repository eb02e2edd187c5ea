# SPDX-License-Identifier: Apache-2.0
"""Content: the image in the kernel's maps, read and written as mapped memory.

Nothing here decides anything: `apply` writes what `diff` says, in its order, make before break.
What packets look at is switched by one store each: a pool names the place of complete tables, and
one word names the live half of the VIP tables. What was live before is used again only after an RCU
grace period.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from limpet.core.diff import Changes
from limpet.core.errors import Conflict
from limpet.core.model import (
    BackendId,
    BackendRow,
    Image,
    PoolId,
    PoolRow,
    Protocol,
    Timeouts,
    VipRow,
)
from limpet.core.slots import digest, turns
from limpet.datapath import abi, bpf, prefixes, rows, viptable
from limpet.datapath import settings as constants

Rows = NDArray[np.void]
FRAGMENTS = 0  # row of idle_limits


class Content:
    """The maps of one director that hold its image."""

    def __init__(self, rows_of: Callable[[str], Rows], proxies: int, hz: int) -> None:
        """`rows_of`: the rows of a mapped array; `proxies`: descriptor of that map."""
        self._map, self._proxies, self._hz = rows_of, proxies, hz

    # --- Reading --------------------------------------------------------------------------------

    def observe(self) -> Image:
        """What the kernel holds now."""
        backends = self._map("backends")
        used = np.flatnonzero(backends["encapsulation"])
        found = [rows.decode_backend(int(i), backends[i]) for i in used]
        pools = np.flatnonzero(self._map("pools")["generation"])
        return Image(
            backends=tuple(row for row in found if row is not None),
            pools=tuple(self._pool(int(i)) for i in pools),
            vips=viptable.read(self._live_half(), self._map("vips"), self._timeouts),
            proxies=prefixes.read(self._proxies),
        )

    def _pool(self, number: int) -> PoolRow:
        row = self._map("pools")[number]
        place = int(row["table"])
        slots = self._map("slot_tables")[place]["home"].copy()
        slots.setflags(write=False)
        table = self._map("member_tables")[place]
        members, standing = rows.decode_members(table)
        return PoolRow(
            id=PoolId(number),
            generation=int(row["generation"]),
            slots=slots,
            digest=digest(slots),
            members=members,
            policy=rows.POLICIES[int(table["policy"])],
            reassign=rows.POLICIES[int(table["reassign"])],
            standing=standing,
        )

    def limits(self) -> NDArray[np.uint32]:
        """Idle ticks by VIP id and Life, shape (1024, 8), shared with the kernel."""
        found: NDArray[np.uint32] = self._map("idle_limits")["ticks"][0]
        return found

    def _timeouts(self, vip: int) -> Timeouts:
        return constants.decode_limits(self.limits()[vip], self._hz)

    def _halves(self, half: int) -> tuple[Rows, Rows]:
        addresses, services = self._map("vip_addresses"), self._map("vip_services")
        a, s = int(abi.Limit.VIP_ADDRESSES), int(abi.Limit.VIP_SERVICES)
        return addresses[half * a : (half + 1) * a], services[half * s : (half + 1) * s]

    def _live_half(self) -> viptable.VipTable:
        live = self._map("control")[0]
        return viptable.VipTable(int(live["vip_seed"]), *self._halves(int(live["vip_half"])))

    # --- Writing --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """What holds without any image, before the first packet."""
        plain = constants.encode_limits(Timeouts(), Protocol.TCP, self._hz)
        self.limits()[FRAGMENTS] = plain

    def apply(self, changes: Changes) -> None:
        """Write changes, in their order. Each step leaves the kernel able to forward."""
        for backend in changes.backends_put:
            self._put_backend(backend)
        self._put_pools(changes.pools_put)
        if changes.proxies is not None:
            prefixes.write(self._proxies, changes.proxies)
        if changes.vips is not None:
            self._put_vips(changes.vips)
        for pool in changes.pools_removed:
            self._words("pools")[pool] = 0
        self._remove_backends(changes.backends_removed)

    def _words(self, name: str) -> NDArray[np.uint64]:
        """A map of 8 byte rows as words: one assignment is one store."""
        return self._map(name).view(np.uint64)

    def _put_backend(self, row: BackendRow) -> None:
        """While a row is written, its packets take the kernel's routes; a standing alone is one
        byte."""
        stored, fresh = self._map("backends")[row.id : row.id + 1], rows.encode_backend(row)
        old = stored.copy()
        old["has_standing"] = fresh["has_standing"]
        if old.tobytes() == fresh.tobytes():
            stored["has_standing"] = fresh["has_standing"]
            return
        stored["ifindex"] = 0
        ifindex = int(fresh["ifindex"])
        fresh["ifindex"] = 0
        stored[0] = fresh
        stored["ifindex"] = ifindex

    def _put_pools(self, pools: Iterable[PoolRow]) -> None:
        for row in pools:
            place = self._free_table()
            self._map("slot_tables")[place]["home"][:] = row.slots
            self._map("turn_tables")[place]["backend"][:] = turns(row.members)
            self._map("member_tables")[place] = rows.encode_members(row)
            self._words("pools")[row.id] = row.generation << 32 | place
            bpf.grace_period()  # the tables of before are free now

    def _free_table(self) -> int:
        pools = self._map("pools")
        used = set(pools["table"][pools["generation"] > 0].tolist())
        for place in range(len(self._map("slot_tables"))):
            if place not in used:
                return place
        raise Conflict(
            "no place left for a slot table: raise director.pools_max and run `limpet down` first"
        )

    def _put_vips(self, vips: tuple[VipRow, ...]) -> None:
        for row in vips:
            self._map("vips")[row.id] = rows.encode_vip(row)
            self.limits()[row.id] = constants.encode_limits(row.timeouts, row.protocol, self._hz)
        table = viptable.build(vips)
        half = 1 - int(self._map("control")[0]["vip_half"])
        addresses, services = self._halves(half)
        addresses[:], services[:] = table.addresses, table.services
        self._words("control")[0] = table.seed << 32 | abi.Layout.VERSION << 16 | half
        bpf.grace_period()  # the other half is free now

    def _remove_backends(self, ids: Iterable[BackendId]) -> None:
        for backend in ids:
            self._map("backends")[backend] = np.zeros((), abi.BACKEND)
