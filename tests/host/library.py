# SPDX-License-Identifier: Apache-2.0
"""Builds headers.c for this machine, with sanitizers, and calls it.

The compiler is the one that makes the BPF objects. What C leaves undefined (overflow, shifts,
bounds) traps; alignment does not, because the director runs where the kernel allows unaligned
reads.
"""

import ctypes
import runpy
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FRAME_MAX = 65_536
SLACK = 256  # enough that a parser which reads too far does not end the whole test run
FLAGS = [
    "-shared",
    "-fPIC",
    "-O1",
    "-g",
    "-fsanitize=undefined",
    "-fsanitize-trap=undefined",
    "-fno-sanitize=alignment",
    "-fno-strict-aliasing",  # as the BPF objects are compiled
    "-Wall",
    "-Wextra",
    "-Werror",
]
U8, U16, U32, U64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
SIGNATURES = {
    "host_mix": (U64, [U64]),
    "host_pair": (U64, [U64, U64, U64, U64]),
    "host_fold": (U16, [U64]),
    "host_replace": (U16, [U16, U16, U16]),
    "host_ecn_join": (ctypes.c_int, [U8, U8]),
    "host_slot_key": (ctypes.c_int, [U64, U64]),
    "host_flow_key": (ctypes.c_int, [U64, U64, U32]),
    "host_victim": (None, [U64 * 8, U32 * 8, U64, U32, U32 * 3]),
    "host_age": (U32, [U64, U32]),
    "host_session_has_expired": (ctypes.c_int, [U64, U32, U32, U32 * 8]),
    "host_session_places": (None, [U64 * 4, U32, U32, U32 * 2]),
    "host_slot": (U32, [U64 * 6, U8, U8, U16 * 2, U8 * 2, ctypes.c_int]),
    "host_open": (ctypes.c_int, []),
    "host_read_behind": (ctypes.c_int, []),
    "host_overflow": (ctypes.c_int, [ctypes.c_int]),
    "host_parse": (ctypes.c_int, [ctypes.c_char_p, U32, U32, U64 * 20]),
}


def build(target: Path) -> None:
    """Compile headers.c into a shared object."""
    tool = runpy.run_path(str(ROOT / "tools" / "compile_bpf.py"))
    compiler = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *tool["include_flags"]()]
    paths = [f"-I{ROOT / 'bpf'}", str(HERE / "headers.c"), "-o", str(target)]
    subprocess.run([*compiler, *paths], check=True)


def swap16(value: int) -> int:
    """A 16-bit number in the other byte order."""
    return int.from_bytes(value.to_bytes(2, "little"), "big")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What bpf/parse.h made of a frame: struct packet, with numbers as on the wire."""

    verdict: int
    ethertype: int
    tags: tuple[bytes, ...]
    link_length: int
    family: int
    client: tuple[int, int]
    vip_address: tuple[int, int]
    protocol: int
    kind: int
    client_port: int
    vip_port: int
    is_fragment: bool
    datagram: int
    length: int
    header_length: int
    hop_limit: int
    traffic_class: int


class Library:
    """The compiled headers."""

    def __init__(self, path: Path) -> None:
        self.call = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self.call, name)
            function.restype, function.argtypes = result, arguments

    @cached_property
    def _frames(self) -> None:
        if self.call.host_open():
            raise MemoryError("no room below 4 GiB for frames")

    def die(self, how: str) -> None:
        """End the process by an error that the sanitizers or the guard page must catch."""
        _ = self._frames
        self.call.host_read_behind() if how == "read" else self.call.host_overflow(1)

    def parse(self, frame: bytes, slack: int = SLACK) -> Parsed:
        """Parse a frame that ends `slack` bytes before a page that may not be read."""
        _ = self._frames
        assert len(frame) + slack < FRAME_MAX
        out = (U64 * 20)()
        verdict = self.call.host_parse(frame, len(frame), slack, out)
        ethertype, count, tag0, tag1, link_length, family, *rest = out
        tags = tuple(tag.to_bytes(4, "little") for tag in (tag0, tag1)[:count])
        client, vip = (rest[0], rest[1]), (rest[2], rest[3])
        protocol, kind, client_port, vip_port, is_fragment, *last = rest[4:]
        return Parsed(
            verdict,
            swap16(ethertype),
            tags,
            link_length,
            family,
            client,
            vip,
            protocol,
            kind,
            client_port,
            vip_port,
            bool(is_fragment),
            *last,
        )
