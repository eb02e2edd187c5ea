# SPDX-License-Identifier: Apache-2.0
"""BIRD: brings routes into our BIRD, and reads back what it tells whom.

`put` writes the files and has BIRD read them; what BIRD refuses leaves it as it was, and is raised.
The files are there for a BIRD that starts later, too. Nothing is believed that was not read back:
`observe` asks every time.

Not here: the process (announce/speaker.py).
"""

from pathlib import Path

from limpet.announce import bird_config, bird_state, folder, tcp_md5
from limpet.announce.control import BirdError, ask
from limpet.announce.folder import Folder
from limpet.announce.observed import Exported, Observed
from limpet.announce.password import password
from limpet.core.announcement import Announced
from limpet.core.errors import ConfigError
from limpet.core.model import Address, Bgp, Peer


class Bird:
    """The BIRD of one director."""

    mode = "bird"

    def __init__(self, files: Folder) -> None:
        self._files = files
        self._put: tuple[str, str] | None = None  # texts that BIRD has taken
        self._bgp = Bgp()
        self._signatures = tcp_md5.Signatures()

    def put(self, bgp: Bgp, routes: tuple[Announced, ...]) -> bool:
        """Have BIRD announce these, and nothing else. False if it does so already.

        Raises ConfigError for a password that cannot be had, BirdError if BIRD refuses.
        """
        before = self._written()
        try:
            peers = self._peers(bgp)
        except ConfigError:
            if before is not None:  # a route that has to go goes, whatever is wrong with a peer
                self._bring(before[0], bird_config.routes(self._bgp, routes), before)
            raise
        self._bgp = bgp
        try:
            return self._bring(peers, bird_config.routes(bgp, routes), before)
        except BirdError:
            if before is not None and before[0] != peers and self._files.control.exists():
                self._bring(before[0], bird_config.routes(bgp, routes), None)
            raise

    def _peers(self, bgp: Bgp) -> str:
        secrets = {peer.name: password(peer) for peer in bgp.peers}
        files = self._files
        return bird_config.peers(bgp, secrets, str(files.routes), str(files.bird_log))

    def _bring(self, peers: str, routes: str, before: tuple[str, str] | None) -> bool:
        files = self._files
        if (peers, routes) == self._put == before:
            return False
        self._put = None
        folder.write(files.routes, routes)
        folder.write(files.config, peers)
        if not files.control.exists():
            return True  # the speaker is about to start it, with these files
        ask(files.control, "configure")
        self._put = peers, routes
        return True

    def observe(self) -> Observed:
        """What BIRD says. Raises BirdError."""
        known = {bird_config.protocol(peer): peer for peer in self._bgp.peers}
        said = ask(self._files.control, "show protocols all")
        peers = self._signatures.blame(bird_state.peer_states(said, known), self._bgp.peers)
        up = {peer.name for peer in peers if peer.is_up}
        found: dict[Address, tuple[Exported, ...]] = {}
        for name, peer in known.items():
            for address, route in self._exported(name, peer).items() if peer.name in up else ():
                found[address] = (*found.get(address, ()), route)
        return Observed(found, peers)

    def inherited(self) -> frozenset[Address]:
        """What BIRD holds to be announced, whether a peer is up or not. Raises BirdError."""
        found: set[Address] = set()
        for family in bird_config.FAMILIES:
            lines = ask(self._files.control, f"show route protocol limpet_vips{family}")
            found |= bird_state.exported(lines, "").keys()
        return frozenset(found)

    def _exported(self, name: str, peer: Peer) -> dict[Address, Exported]:
        lines = ask(self._files.control, f"show route export '{name}' all")
        return bird_state.exported(lines, peer.name)

    def _written(self) -> tuple[str, str] | None:
        """What the files say: the speaker empties that of the routes."""
        try:
            return self._files.config.read_text(), self._files.routes.read_text()
        except FileNotFoundError:
            return None


def withdraw(files: Folder) -> None:
    """Take all routes back; the sessions with the peers stay. Raises BirdError."""
    folder.write(files.routes, bird_config.routes(Bgp(), ()))
    ask(files.control, "configure")


def lacks(path: Path = Path("/usr/sbin/bird")) -> str:
    """What to do where there is no BIRD; empty if there is one."""
    if path.exists():
        return ""
    return f"there is no {path}: install BIRD 2 (apt install bird2)"


__all__ = ["Bird", "BirdError", "lacks", "withdraw"]
