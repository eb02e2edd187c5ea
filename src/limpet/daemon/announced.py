# SPDX-License-Identifier: Apache-2.0
"""Announced: what routers are told, as the JSON of `limpet routes` and /v1/routes."""

from dataclasses import asdict

from limpet.announce.observed import Exported
from limpet.api.interface import Json
from limpet.core.announcement import Decision
from limpet.core.intent import PopDrain
from limpet.daemon.announcing import Announcing, Picture


def routes(announcing: Announcing, pop: str, drain: PopDrain | None) -> Json:
    """All of it, at the last step."""
    picture, record = announcing.picture, announcing.record
    report = picture.report
    return {
        "speaker": None if picture.bgp.speaker is None else str(picture.bgp.speaker),
        "error": record.error or report.error,
        "speaker_pid": report.pid or None,
        "bird_pid": report.bird_pid or None,
        "bird_restarts": report.restarts,
        "hold_s": picture.bgp.hold_s,
        "pop": pop,
        "drained_by": None if drain is None else drain.by,
        "routes": [_route(each, picture) for each in picture.decisions],
        "peers": [_peer(picture, index) for index in range(len(picture.observed.peers))],
    }


def record(announcing: Announcing) -> Json:
    """What became of it, in figures, for status and metrics."""
    picture = announcing.picture
    observed = picture.observed
    told = {
        str(each.address): len(observed.routes.get(each.address, ())) for each in picture.decisions
    }
    peers = {peer.name: peer.is_up for peer in observed.peers}
    return {**asdict(announcing.record), "told": told, "peers": peers}


def _route(decision: Decision, picture: Picture) -> Json:
    wanted, told = decision.route, picture.observed.routes.get(decision.address, ())
    state = "withdrawn"
    if wanted is not None:
        state = "leaving" if wanted.is_leaving else "announced"
    return {
        "address": str(decision.address),
        "vips": list(decision.vips),
        "state": state,
        "why": decision.why,
        "communities": [] if wanted is None else _words(wanted.communities),
        "med": None if wanted is None else wanted.med,
        "prepend": 0 if wanted is None else wanted.prepend,
        "told": [_told(each) for each in told],
    }


def _told(route: Exported) -> Json:
    return {
        "to": route.to,
        "communities": _words(route.communities),
        "med": route.med,
        "path": list(route.path),
    }


def _peer(picture: Picture, index: int) -> Json:
    peer = picture.observed.peers[index]
    told = [each.to for routes in picture.observed.routes.values() for each in routes]
    return {
        "name": peer.name,
        "address": peer.address,
        "asn": peer.asn,
        "is_up": peer.is_up,
        "state": peer.state,
        "error": peer.error,
        "routes": told.count(peer.name),
    }


def _words(communities: tuple[tuple[int, int], ...]) -> list[str]:
    return [f"{high}:{low}" for high, low in communities]
