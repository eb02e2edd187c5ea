# SPDX-License-Identifier: Apache-2.0
"""BIRD state: reads what BIRD says of its peers and of the routes that it exports. Pure.

BIRD's answers are made for people: the few words that matter are taken, and all else is passed
over, so that another version of BIRD does not confuse us.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from limpet.announce.control import Line
from limpet.announce.observed import Exported, PeerState
from limpet.core.model import Address, Peer

PROTOCOL = re.compile(r"(\S+)\s+BGP\s+\S+\s+(\S+)\s+\S+(?: \S+)?\s*(.*)")
PREFIX = re.compile(r"([0-9a-fA-F.:]+)/\d+\s")
COMMUNITY = re.compile(r"\((\d+),(\d+)\)")
HEADING, DETAIL = 1002, 1006  # codes of lines
ESTABLISHED = "Established"


def peer_states(lines: Iterable[Line], known: dict[str, Peer]) -> tuple[PeerState, ...]:
    """Of `show protocols all`; `known` by BIRD's name of them. One that BIRD lacks is down."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for line in lines:
        if line.code == HEADING:
            match = PROTOCOL.match(line.text)
            current = found.setdefault(match[1], {}) if match else None
        elif line.code == DETAIL and current is not None:
            key, _, value = line.text.strip().partition(":")
            current.setdefault(key, value.strip())
    return tuple(_peer(peer, found.get(name)) for name, peer in known.items())


def _peer(peer: Peer, said: dict[str, str] | None) -> PeerState:
    address = str(peer.address)
    if said is None:
        return PeerState(peer.name, address, peer.asn, False, "unknown", "BIRD does not have it")
    state = said.get("BGP state", "Down")
    error = "" if state == ESTABLISHED else said.get("Last error", "")
    return PeerState(peer.name, address, peer.asn, state == ESTABLISHED, state, error)


def exported(lines: Iterable[Line], to: str) -> dict[Address, Exported]:
    """Of `show route export PEER all`."""
    found: dict[Address, Exported] = {}
    address: Address | None = None
    for text in (line.text.strip() for line in lines):
        match = PREFIX.match(text)
        if match:
            address = ip_address(match[1])
            found[address] = Exported(to)
        elif address is not None and text.startswith("BGP."):
            found[address] = _with(found[address], *text.removeprefix("BGP.").split(": ", 1))
    return found


def _with(route: Exported, key: str, value: str = "") -> Exported:
    communities, med, path = route.communities, route.med, route.path
    if key == "community":
        communities = tuple((int(high), int(low)) for high, low in COMMUNITY.findall(value))
    elif key == "med":
        med = int(value)
    elif key == "as_path":
        path = tuple(int(each) for each in value.split() if each.isdecimal())
    return Exported(route.to, communities, med, path)
