# SPDX-License-Identifier: Apache-2.0
"""Cluster wire: heads, reports and leases as the bytes that the store keeps, and back.

JSON, compressed, with a version of the format in front: a director that meets a newer one says so,
instead of guessing. What `decode_*` cannot have come from `encode_*` raises ValueError: a head that
was misread would move every session. decode(encode(x)) == x.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from limpet.core.cluster import Head, Report, Version
from limpet.core.intent import decode as decode_intents
from limpet.core.intent import encode as encode_intents

FORMAT = 1
JSON_BYTES_MAX = 16 << 20  # of what is unpacked
Json = dict[str, Any]


def encode_head(head: Head) -> bytes:
    return pack(
        {
            **_plain(head, ("revision", "text", "who", "what", "at")),
            "slot_key": head.slot_key.hex(),
            "intents": encode_intents(head.intents),
            "current": _version(head.current),
            "following": None if head.following is None else _version(head.following),
        }
    )


def decode_head(data: bytes) -> Head:
    raw = unpack(data, "head")
    try:
        return Head(
            revision=_whole(raw["revision"]),
            text=_text(raw["text"]),
            slot_key=_key(raw["slot_key"]),
            intents=decode_intents(raw["intents"]),
            current=_to_version(raw["current"]),
            following=None if raw["following"] is None else _to_version(raw["following"]),
            who=_text(raw["who"]),
            what=_text(raw["what"]),
            at=_number(raw["at"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"head: {error}") from error


def encode_report(report: Report) -> bytes:
    names = ("name", "pop", "listen", "boot", "software", "revision", "sequence", "scanned", "at")
    return pack(
        {
            **_plain(report, names),
            "current": _version(report.current),
            "prepared": None if report.prepared is None else _version(report.prepared),
            "loaded": None if report.loaded is None else _version(report.loaded),
            "tables": dict(report.tables),
            "checked": sorted(report.checked),
            "down": sorted(map(list, report.down)),
            "referenced": sorted(report.referenced),
            "sessions": dict(report.sessions),
            "left": {name: list(counts) for name, counts in report.left.items()},
            "watermarks": dict(report.watermarks),
            "condition": list(report.condition),
        }
    )


def decode_report(data: bytes) -> Report:
    raw = unpack(data, "report")
    try:
        return Report(
            name=_text(raw["name"]),
            pop=_text(raw["pop"]),
            listen=_text(raw["listen"]),
            boot=_text(raw["boot"]),
            software=_text(raw["software"]),
            revision=_whole(raw["revision"]),
            current=_to_version(raw["current"]),
            prepared=None if raw["prepared"] is None else _to_version(raw["prepared"]),
            sequence=_whole(raw["sequence"]),
            loaded=None if raw["loaded"] is None else _to_version(raw["loaded"]),
            tables={_text(k): _text(v) for k, v in raw["tables"].items()},
            checked=frozenset(map(_text, raw["checked"])),
            down=frozenset((_text(pool), _text(name)) for pool, name in raw["down"]),
            scanned=_whole(raw["scanned"]),
            referenced=frozenset(map(_whole, raw["referenced"])),
            sessions=_counts(raw["sessions"]),
            left={_text(k): (_whole(a), _whole(b)) for k, (a, b) in raw["left"].items()},
            watermarks=_counts(raw["watermarks"]),
            condition=tuple(map(_text, raw["condition"])),
            at=_number(raw["at"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"report: {error}") from error


# --- Parts -------------------------------------------------------------------------------------


def pack(what: Json) -> bytes:
    text = json.dumps({"format": FORMAT, **what}, separators=(",", ":"), sort_keys=True)
    return zlib.compress(text.encode())


def unpack(data: bytes, what: str) -> Json:
    """Raises ValueError for anything but a compressed object of this format."""
    machine = zlib.decompressobj()
    try:
        raw = json.loads(machine.decompress(data, JSON_BYTES_MAX))
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: cannot be read: {error}") from error
    if not machine.eof or not isinstance(raw, dict):
        raise ValueError(f"{what}: is cut off, or no object")
    if raw.get("format") != FORMAT:
        raise ValueError(
            f"{what}: has format {raw.get('format')!r}, and this limpet reads {FORMAT}: another "
            "version of limpet wrote it; bring all directors to the same"
        )
    return raw


def _plain(what: object, names: tuple[str, ...]) -> Json:
    return {name: getattr(what, name) for name in names}


def _version(version: Version) -> Json:
    return asdict(version)


def _to_version(raw: Any) -> Version:
    return Version(_whole(raw["generation"]), _text(raw["digest"]))


def _counts(raw: Mapping[Any, Any]) -> dict[str, int]:
    return {_text(key): _whole(value) for key, value in raw.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _key(value: object) -> bytes:
    key = bytes.fromhex(_text(value))
    if len(key) != 16:
        raise ValueError(f"head: the slot key has {len(key)} bytes instead of 16")
    return key
