# SPDX-License-Identifier: Apache-2.0
"""Peers: the other directors, and which of them one waits for.

A director that has not answered anything for a second is asked on, but nobody waits for it: its
machine is gone, and flows of others must not pay for that. One answer brings it back.
"""

from collections.abc import Iterable, Mapping

SILENT_S = 1.0

Endpoint = tuple[str, int]  # address and port


class Peers:
    """By name."""

    def __init__(self) -> None:
        self.addresses: Mapping[str, Endpoint] = {}
        self._unheard: dict[str, float] = {}  # since when a question has been without an answer

    def update(self, addresses: Mapping[str, Endpoint]) -> None:
        """All of them, from now on."""
        self.addresses = dict(addresses)
        self._unheard = {name: at for name, at in self._unheard.items() if name in addresses}

    def asked(self, names: Iterable[str], now: float) -> None:
        for name in names:
            self._unheard.setdefault(name, now)

    def heard(self, name: str) -> None:
        self._unheard.pop(name, None)

    def speaking(self, now: float) -> set[str]:
        """Those that one waits for."""
        return {name for name in self.addresses if now - self._unheard.get(name, now) <= SILENT_S}

    def silent(self, now: float) -> list[str]:
        return sorted(self.addresses.keys() - self.speaking(now))
