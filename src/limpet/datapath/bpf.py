# SPDX-License-Identifier: Apache-2.0
"""The boundary to the kernel's BPF: maps, pins, links and test runs, by the bpf(2) system call.

Directly, so that no behaviour depends on the version of a library. Objects are loaded by libbpf
(datapath/elf.py). These two are the only files that import ctypes.

Every failure is a DatapathError that names the step; a missing bpffs is Unsupported.
"""

import ctypes
import errno as errnos
import mmap
import os
import platform
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import DatapathError, Unsupported

BPFFS = Path("/sys/fs/bpf")

(MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY) = (1, 2, 3, 4)
(OBJ_PIN, OBJ_GET, TEST_RUN) = (6, 7, 10)
MAP_UPDATE_BATCH = 26
(INFO_BY_FD, MAP_LOOKUP_BATCH, LINK_CREATE, LINK_UPDATE, LINK_DETACH) = (15, 24, 28, 29, 34)
XDP = 37  # enum bpf_attach_type
F_REPLACE = 4
XDP_GENERIC, XDP_NATIVE = 2, 4  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
XDP_ACTIONS = ("aborted", "drop", "pass", "tx", "redirect")
TC_ACT_UNSPEC = 0xFFFFFFFF  # a tc program leaves the packet to the next filter

_SYSCALLS = {"x86_64": (321, 324), "aarch64": (280, 283)}
_MEMBARRIER_GLOBAL = 1
libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: object) -> int:
    return int(libc.syscall(number, *arguments))


def _numbers() -> tuple[int, int]:
    try:
        return _SYSCALLS[platform.machine()]
    except KeyError:
        raise Unsupported(
            f"limpet does not know the system calls of {platform.machine()}"
        ) from None


def _bpf(step: str, command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 144))
    result = _syscall(_numbers()[0], command, buffer, len(buffer))
    number = ctypes.get_errno()
    _last.attributes = buffer.raw  # of a batch cut short too: how far it came
    if result < 0:
        raise DatapathError(step, number, os.strerror(number))
    return result


_last = threading.local()  # attributes: what the kernel wrote back in this thread's last call


def _address(data: bytes | bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in bpffs."""
    name = ctypes.create_string_buffer(str(path).encode())
    _bpf(f"pin {path}", OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def get(path: Path) -> int:
    """File descriptor of what is pinned at `path`; DatapathError with ENOENT if nothing is."""
    name = ctypes.create_string_buffer(str(path).encode())
    return _bpf(f"open pin {path}", OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


def link_create(program: int, ifindex: int, flags: int) -> int:
    """Attach an XDP program; the link is the attachment, and ends with its last reference."""
    return _bpf(
        f"attach XDP to interface {ifindex}",
        LINK_CREATE,
        struct.pack("=IIII", program, ifindex, XDP, flags),
    )


def link_update(link: int, program: int) -> None:
    """Replace the program of a link; no packet sees neither or both."""
    _bpf("replace the XDP program", LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_detach(link: int) -> None:
    """Detach now, whoever else still holds the link."""
    _bpf("detach the XDP program", LINK_DETACH, struct.pack("=I", link))


@dataclass(frozen=True)
class MapInfo:
    """What the kernel says of a map."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


def _info(fd: int, size: int) -> bytes:
    buffer = bytearray(size)
    _bpf("read object info", INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)))
    return bytes(buffer)


def map_info(fd: int) -> MapInfo:
    """Type and sizes of a map."""
    kind, _, key_size, value_size, entries = struct.unpack_from("=IIIII", _info(fd, 80))
    return MapInfo(kind, key_size, value_size, entries)


def link_ifindex(fd: int) -> int:
    """Interface of an XDP link, 0 if it has been detached or the interface is gone."""
    (ifindex,) = struct.unpack_from("=I", _info(fd, 64), 16)
    return int(ifindex)


def program_id(fd: int) -> int:
    """The kernel's number of a program, as other tools show it."""
    (number,) = struct.unpack_from("=I", _info(fd, 128), 4)
    return int(number)


def program_tag(fd: int) -> str:
    """The kernel's digest of a program's instructions, 16 hex digits."""
    return _info(fd, 128)[8:16].hex()


def map_lookup(fd: int, key: int, size: int) -> bytes:
    """Value of an array map; for per-CPU maps `size` counts all CPUs."""
    index, value = bytearray(struct.pack("=I", key)), bytearray(size)
    _bpf(
        "read map",
        MAP_LOOKUP,
        struct.pack("=IxxxxQQQ", fd, _address(index), _address(value), 0),
    )
    return bytes(value)


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Write one value of any kind of map."""
    name, data = bytearray(key), bytearray(value)
    _bpf(
        "write map",
        MAP_UPDATE,
        struct.pack("=IxxxxQQQ", fd, _address(name), _address(data), 0),
    )


def map_delete(fd: int, key: bytes) -> None:
    """Remove one entry."""
    name = bytearray(key)
    _bpf("delete from map", MAP_DELETE, struct.pack("=IxxxxQQQ", fd, _address(name), 0, 0))


def map_next_key(fd: int, key: bytes | None, size: int) -> bytes:
    """The key after this one, the first after None; DatapathError with ENOENT at the end."""
    before, after = bytearray(key or size), bytearray(size)
    given = _address(before) if key else 0
    _bpf("walk map", MAP_NEXT_KEY, struct.pack("=IxxxxQQQ", fd, given, _address(after), 0))
    return bytes(after)


def map_lookup_all(fd: int, entries: int, size: int) -> bytes:
    """All values of an array map in one call; `size` as for `map_lookup`."""
    batch, keys, values = bytearray(4), bytearray(4 * entries), bytearray(size * entries)
    attributes = struct.pack(
        "=QQQQIIQQ", 0, _address(batch), _address(keys), _address(values), entries, fd, 0, 0
    )
    try:
        _bpf("read map", MAP_LOOKUP_BATCH, attributes)
    except DatapathError as error:
        if error.errno != errnos.ENOENT:  # ENOENT says that the end was reached
            raise
    return bytes(values)


def map_find(fd: int, key: bytes, size: int) -> bytes | None:
    """Value of a hash map, None if the key is not there."""
    name, value = bytearray(key), bytearray(size)
    try:
        _bpf(
            "read map",
            MAP_LOOKUP,
            struct.pack("=IxxxxQQQ", fd, _address(name), _address(value), 0),
        )
    except DatapathError as error:
        if error.errno == errnos.ENOENT:
            return None
        raise
    return bytes(value)


def map_discard(fd: int, key: bytes) -> bool:
    """Remove one entry; False if it is not there."""
    try:
        map_delete(fd, key)
    except DatapathError as error:
        if error.errno == errnos.ENOENT:
            return False
        raise
    return True


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> int:
    """Write `count` entries of a hash map; how many there was room for."""
    if not count:
        return 0
    names, data = bytearray(keys), bytearray(values)
    attributes = struct.pack("=QQQQIIQQ", 0, 0, _address(names), _address(data), count, fd, 0, 0)
    try:
        _bpf("write map", MAP_UPDATE_BATCH, attributes)
    except DatapathError as error:
        if error.errno not in (errnos.E2BIG, errnos.ENOMEM):
            raise
    return int(struct.unpack_from("=I", _last.attributes, 32)[0])


def map_items(fd: int, key_size: int, value_size: int, step: int) -> tuple[bytes, bytes]:
    """All keys and all values of a hash map, read `step` or more at a time."""
    keys, values, position = bytearray(), bytearray(), bytearray(4)
    is_first, is_end = True, False
    while not is_end:
        names, data, after = bytearray(key_size * step), bytearray(value_size * step), bytearray(4)
        given = 0 if is_first else _address(position)
        attributes = struct.pack(
            "=QQQQIIQQ", given, _address(after), _address(names), _address(data), step, fd, 0, 0
        )
        try:
            _bpf("read map", MAP_LOOKUP_BATCH, attributes)
        except DatapathError as error:
            if error.errno == errnos.ENOSPC:  # one place of the hash has more than fit
                step *= 2
                continue
            if error.errno != errnos.ENOENT:
                raise
            is_end = True
        (count,) = struct.unpack_from("=I", _last.attributes, 32)
        keys += names[: count * key_size]
        values += data[: count * value_size]
        position, is_first = after, False
    return bytes(keys), bytes(values)


@dataclass(frozen=True)
class Run:
    """Result of a test run: action, the packet afterwards, mean duration in nanoseconds."""

    action: str
    packet: bytes
    duration_ns: int


def run(program: int, packet: bytes, repeat: int = 1, ifindex: int = 0, metadata: int = 0) -> Run:
    """Run an XDP program over one packet in the kernel (BPF_PROG_TEST_RUN).

    With `repeat` > 1 every round but the first sees the packet as the round before left it.
    `ifindex` is the interface it comes from; 0 leaves that to the kernel (loopback). `metadata`
    bytes in front of the packet take room away from what a program may put there.
    """
    data, out = bytearray(metadata) + bytearray(packet), bytearray(len(packet) + 512)
    context = bytearray(struct.pack("=IIIIII", metadata, len(data), 0, ifindex, 0, 0))
    has_context = ifindex or metadata
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII",
        program,
        0,
        len(data),
        len(out),
        _address(data),
        _address(out),
        repeat,
        0,
        len(context) if has_context else 0,
        0,
        _address(context) if has_context else 0,
        0,
        0,
        0,
        0,
    )
    _bpf("test run", TEST_RUN, attributes)
    action, _, size = struct.unpack_from("=III", _last.attributes, 4)
    (duration,) = struct.unpack_from("=I", _last.attributes, 36)
    name = "unspec" if action == TC_ACT_UNSPEC else XDP_ACTIONS[action]
    return Run(name, bytes(out[:size]), duration)


def run_value(program: int) -> int:
    """The 32 bits that an XDP program returns over an empty frame, action or not."""
    data = bytearray(64)
    attributes = struct.pack("=IIIIQQII", program, 0, 64, 0, _address(data), 0, 1, 0)
    _bpf("test run", TEST_RUN, attributes)
    return int.from_bytes(_last.attributes[4:8], "little")


def run_syscall(program: int, context: bytes) -> bytes:
    """Run a program of type syscall; its context, as it left it."""
    data = bytearray(context)
    attributes = struct.pack(
        "=IIIIQQIIIIQQ", program, 0, 0, 0, 0, 0, 0, 0, len(data), 0, _address(data), 0
    )
    _bpf("run a program", TEST_RUN, attributes)
    return bytes(data)


def possible_cpus() -> int:
    """CPUs that per-CPU maps have values for: from 0 to the last possible one."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace("-", ",").split(",")[-1]) + 1


def grace_period() -> None:
    """Wait until every CPU has left the BPF programs it was in (an RCU grace period).

    membarrier(MEMBARRIER_CMD_GLOBAL) is synchronize_rcu() in the kernel.
    """
    if _syscall(_numbers()[1], _MEMBARRIER_GLOBAL, 0, 0) < 0:
        raise DatapathError("wait for a grace period", ctypes.get_errno(), "membarrier failed")


def map_memory(fd: int) -> mmap.mmap:
    """The values of an mmapable array map, shared with the kernel, whole pages."""
    info = map_info(fd)
    stride = (info.value_size + 7) // 8 * 8
    size = -(-stride * info.max_entries // mmap.PAGESIZE) * mmap.PAGESIZE
    return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def mount_bpffs() -> None:
    """Make sure that /sys/fs/bpf is a BPF file system.

    A second mount would hide the pins of the first, so one that is there is left alone.
    """
    if os.path.ismount(BPFFS):
        return
    if libc.mount(b"bpf", str(BPFFS).encode(), b"bpf", 0, None) < 0:
        number = ctypes.get_errno()
        raise Unsupported(f"cannot mount {BPFFS}: {os.strerror(number)}; limpet needs root")
