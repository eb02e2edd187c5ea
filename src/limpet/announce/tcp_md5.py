# SPDX-License-Identifier: Apache-2.0
"""TCP MD5: tells a wrong password from a router that is not there.

Segments with a wrong signature, or without one where one must be, are dropped by the kernel without
a word to the speaker: it only sees a connection that never opens. But the kernel counts them, for
the whole network namespace. Where the count rises while a peer is down, its password is the likely
reason, and we say so.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from limpet.announce.observed import PeerState
from limpet.core.model import Peer

NETSTAT = Path("/proc/net/netstat")
COUNTERS = {
    "TCPMD5NotFound": "segments come without a signature: the router has no password for us",
    "TCPMD5Unexpected": "segments come with a signature: the router has a password for us, and "
    "password_file is not set",
    "TCPMD5Failure": "segments come with a wrong signature: the passwords here and on the router "
    "differ",
}
SHOWN_S = 30.0  # after the last such segment; speakers try every few seconds


class Signatures:
    """Follows the counters."""

    def __init__(self) -> None:
        self._before = read()
        self._risen: dict[str, float] = {}  # name of the counter -> when

    def blame(self, peers: Iterable[PeerState], known: Iterable[Peer]) -> tuple[PeerState, ...]:
        """The peers that are down, with what signatures have to do with it."""
        now, found = time.monotonic(), read()
        for name, value in found.items():
            if value > self._before.get(name, 0):
                self._risen[name] = now
        self._before = found
        recent = {name for name, at in self._risen.items() if now - at < SHOWN_S}
        signed = {peer.name: bool(peer.password_file) for peer in known}
        return tuple(_blamed(each, recent, signed.get(each.name, False)) for each in peers)


def _blamed(peer: PeerState, recent: set[str], is_signed: bool) -> PeerState:
    possible = ("TCPMD5Failure", "TCPMD5NotFound") if is_signed else ("TCPMD5Unexpected",)
    why = [COUNTERS[name] for name in possible if name in recent]
    if peer.is_up or not why:
        return peer
    return replace(peer, error="; ".join([*why, *filter(None, [peer.error])]))


def read(path: Path = NETSTAT) -> Mapping[str, int]:
    """The counters of this network namespace."""
    rows = [line.split() for line in path.read_text().splitlines() if line.startswith("TcpExt:")]
    both = dict(zip(rows[0][1:], map(int, rows[1][1:]), strict=True))
    return {name: both.get(name, 0) for name in COUNTERS}
