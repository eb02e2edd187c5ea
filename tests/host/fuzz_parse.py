# SPDX-License-Identifier: Apache-2.0
"""Throws frames at bpf/parse.h and at the reference, which must agree; C must not read too far.

Run as a process of its own, since a read beyond the frame ends it. Frames come from a seed, so a
run can be repeated: frames of the corpus, cut short, with bits flipped, bytes set to edges,
inserted and removed, and bytes at random. The frame under test is kept in a file that outlives a
crash.

    python -m host.fuzz_parse LIBRARY FRAME_FILE SEED ROUNDS
"""

import mmap
import random
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

from host.frames import CORPUS
from host.library import Library, Parsed
from limpet.datapath.abi import Verdict
from limpet.datapath.reference import parse as reference
from limpet.datapath.reference.packet import Final, Kind, Packet

KEPT = 4_096  # bytes of the file that holds the frame under test
EDGES = (0x00, 0x01, 0x04, 0x05, 0x06, 0x11, 0x2C, 0x3C, 0x40, 0x45, 0x60, 0x7F, 0x80, 0xFF)


def expected(frame: bytes) -> tuple[Verdict, Packet | None]:
    """What the reference makes of a frame: its verdict, and the packet if it can be read."""
    cursor = reference.Cursor(frame)
    try:
        packet = reference.link(cursor)
        reference.network(cursor, packet)
        reference.transport(cursor, packet)
    except Final as final:
        return final.verdict, None
    return Verdict.CONTINUE, packet


def disagreements(got: Parsed, verdict: Verdict, packet: Packet | None) -> list[str]:
    """Where C and the reference differ."""
    if got.verdict != verdict:
        return [f"verdict {Verdict(got.verdict).name}, not {verdict.name}"]
    if packet is None:
        return []
    wanted = {
        field.name: getattr(packet, field.name)
        for field in fields(Parsed)
        if field.name not in ("verdict", "kind")
    }
    wanted["kind"] = list(Kind).index(packet.kind)
    return [
        f"{name} {getattr(got, name)!r}, not {value!r}"
        for name, value in wanted.items()
        if getattr(got, name) != value
    ]


def _flip(frame: bytearray, rng: random.Random) -> None:
    if frame:
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)


def _set_edge(frame: bytearray, rng: random.Random) -> None:
    if frame:
        frame[rng.randrange(min(len(frame), 120))] = rng.choice(EDGES)


def _cut(frame: bytearray, rng: random.Random) -> None:
    del frame[rng.randrange(len(frame) + 1) :]


def _remove(frame: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(frame) + 1)
    del frame[start : start + rng.randrange(1, 12)]


def _insert(frame: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(frame) + 1)
    frame[start:start] = rng.randbytes(rng.randrange(1, 12))


MUTATIONS = (_flip, _flip, _set_edge, _set_edge, _cut, _remove, _insert)


def frames(seed: int, rounds: int) -> list[bytes]:
    """The frames of a run: the corpus whole and at every length, then mutations."""
    rng = random.Random(seed)
    corpus = [bytes(packet) for packet in CORPUS.values()]
    made = [frame[:length] for frame in corpus for length in range(len(frame) + 1)]
    while len(made) < rounds:
        if rng.random() < 0.05:
            made.append(rng.randbytes(rng.randrange(200)))
            continue
        frame = bytearray(rng.choice(corpus))
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            rng.choice(MUTATIONS)(frame, rng)
        made.append(bytes(frame))
    return made


def main() -> None:
    path, kept_path, seed, rounds = sys.argv[1:]
    library, verdicts = Library(Path(path)), Counter[str]()
    with Path(kept_path).open("r+b") as file, mmap.mmap(file.fileno(), KEPT) as kept:
        for frame in frames(int(seed), int(rounds)):
            kept[: 2 + len(frame)] = len(frame).to_bytes(2, "big") + frame
            verdict, packet = expected(frame)
            verdicts[verdict.name] += 1
            wrong = disagreements(library.parse(frame, slack=0), verdict, packet)
            if wrong:
                raise SystemExit(f"{frame.hex()}: C says {'; '.join(wrong)}")
    print(" ".join(f"{name}={count}" for name, count in verdicts.items()))


if __name__ == "__main__":
    main()
