# SPDX-License-Identifier: Apache-2.0
"""What limpet needs from a kernel, asked of the kernel itself by raw bpf(2).

Runs here and, by `make test-kernels`, on the oldest kernels that limpet supports. Each test is one
feature, so that a kernel which lacks one says which, before the data path fails for reasons that
are harder to read. No library and none of limpet's code stands between test and kernel.
Not here: the data path's own programs; tests/datapath loads and runs them.
"""

import ctypes
import mmap
import os
import platform
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pyroute2 import NetNS, netns

pytestmark = pytest.mark.kernel

BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, OBJ_PIN, OBJ_GET = 0, 1, 2, 5, 6, 7
PROG_TEST_RUN, LINK_CREATE, LINK_UPDATE = 10, 28, 29
MAP_TYPE_ARRAY, MAP_TYPE_TRIE, MAP_TYPE_RING, ATTACH_XDP = 2, 11, 27, 37
PROG_TYPE_TC, PROG_TYPE_XDP, PROG_TYPE_SYSCALL = 3, 6, 31
F_MMAPABLE, F_NO_PREALLOC, F_REPLACE, F_SLEEPABLE = 1 << 10, 1, 4, 1 << 4
XDP_DROP, XDP_PASS = 1, 2
SLOT_TABLE_BYTES = 2 * 65536
# Helpers of newer kernels than 5.10 that a data path may use, and those of tc programs and rings
# that it does, by type of program and number.
HELPERS = {
    "ktime_get_coarse_ns": (PROG_TYPE_XDP, 160),
    "timer_init": (PROG_TYPE_XDP, 169),
    "loop": (PROG_TYPE_XDP, 181),
    "xdp_get_buff_len": (PROG_TYPE_XDP, 188),
    "ringbuf_reserve": (PROG_TYPE_XDP, 131),
    "jiffies64 of the sweeper": (PROG_TYPE_SYSCALL, 118),
    "loop of the sweeper": (PROG_TYPE_SYSCALL, 181),
    "skb_adjust_room": (PROG_TYPE_TC, 50),
    "skb_store_bytes": (PROG_TYPE_TC, 9),
}
UNKNOWN_HELPER = re.compile("invalid func|unknown func|cannot use helper")
LOG_BYTES = 65536

libc = ctypes.CDLL(None, use_errno=True)
Buffer = ctypes.Array[ctypes.c_char]


def bpf(command: int, *fields: int | Buffer, layout: str) -> tuple[int, bytes]:
    """The system call with attributes packed by `layout`: its result, and the attributes after it.

    A buffer stands for its address.
    """
    values = [v if isinstance(v, int) else ctypes.addressof(v) for v in fields]
    attributes = ctypes.create_string_buffer(struct.pack("=" + layout, *values), 128)
    result = libc.syscall(BPF_SYSCALL, command, attributes, 128)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, attributes.raw


def new_array(value_bytes: int, entries: int, flags: int = 0) -> int:
    return bpf(MAP_CREATE, MAP_TYPE_ARRAY, 4, value_bytes, entries, flags, layout="5I")[0]


def store(map_fd: int, key: int, value: bytes) -> None:
    key_buffer = ctypes.create_string_buffer(struct.pack("=I", key), 4)
    value_buffer = ctypes.create_string_buffer(value, len(value))
    bpf(MAP_UPDATE, map_fd, key_buffer, value_buffer, 0, layout="I4xQQQ")


def fetch(map_fd: int, key: int, value_bytes: int) -> bytes:
    key_buffer = ctypes.create_string_buffer(struct.pack("=I", key), 4)
    value_buffer = ctypes.create_string_buffer(value_bytes)
    bpf(MAP_LOOKUP, map_fd, key_buffer, value_buffer, 0, layout="I4xQQQ")
    return value_buffer.raw


def load(instructions: bytes, kind: int = PROG_TYPE_XDP) -> int:
    """A program; OSError carries the verifier's words."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(LOG_BYTES)
    count = len(instructions) // 8
    flags = F_SLEEPABLE if kind == PROG_TYPE_SYSCALL else 0
    fields = (kind, count, code, license_text, 1, LOG_BYTES, log, 0, flags)
    try:
        return bpf(PROG_LOAD, *fields, layout="IIQQIIQII")[0]
    except OSError as error:
        raise OSError(error.errno, log.value.decode()) from error


def words_about(instructions: bytes, kind: int = PROG_TYPE_XDP) -> str:
    """What the verifier says when it refuses; nothing when it does not."""
    try:
        os.close(load(instructions, kind))
    except OSError as error:
        return str(error)
    return ""


def step(code: int, registers: int = 0, offset: int = 0, number: int = 0) -> bytes:
    """One instruction; `registers`: the source in the high four bits, the target in the low."""
    return struct.pack("=BBhi", code, registers, offset, number)


def verdict(action: int) -> bytes:
    """r0 = action; exit."""
    return step(0xB7, number=action) + step(0x95)


def call(helper: int) -> bytes:
    """call helper; r0 = XDP_PASS; exit. The verifier knows the helper, or says that it does not."""
    return step(0x85, number=helper) + verdict(XDP_PASS)


def run(program_fd: int) -> int:
    """What the program answers to a packet of 64 zeros."""
    packet = ctypes.create_string_buffer(64)
    answer = ctypes.create_string_buffer(256)
    fields = (program_fd, 0, 64, 256, packet, answer, 1)
    _, attributes = bpf(PROG_TEST_RUN, *fields, layout="IIIIQQI")
    return int.from_bytes(attributes[4:8], "little")


@pytest.fixture
def veth() -> Iterator[int]:
    """Index of a veth interface in a namespace of this test's own, which is entered."""
    name = f"limpet-feature-{uuid4().hex[:8]}"
    with NetNS(name, flags=os.O_CREAT | os.O_EXCL) as namespace:
        try:
            namespace.link("add", ifname="a", kind="veth", peer="b")
            [index] = namespace.link_lookup(ifname="a")
            namespace.link("set", index=index, state="up")
            netns.pushns(name)
            try:
                yield index
            finally:
                netns.popns()
        finally:
            netns.remove(name)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of this test's own; its pins go with it."""
    place = bytes(tmp_path)
    assert libc.mount(b"bpf", place, b"bpf", 0, None) == 0, os.strerror(ctypes.get_errno())
    try:
        yield tmp_path
    finally:
        libc.umount2(place, 0)


def test_kernel_describes_its_own_types() -> None:
    assert Path("/sys/kernel/btf/vmlinux").stat().st_size > 1_000_000


def test_array_keeps_what_is_stored() -> None:
    array = new_array(8, 4)
    store(array, 3, b"limpet!!")
    assert fetch(array, 3, 8) == b"limpet!!"
    assert fetch(array, 2, 8) == bytes(8)


def test_array_of_slot_tables_is_mapped_into_memory() -> None:
    """One element of 128 KiB per pool, and for each of 1,024 pools a place."""
    array = new_array(SLOT_TABLE_BYTES, 1024, F_MMAPABLE)
    store(array, 1, b"\7" * SLOT_TABLE_BYTES)
    with mmap.mmap(array, 2 * SLOT_TABLE_BYTES) as memory:
        assert memory[SLOT_TABLE_BYTES - 1 : SLOT_TABLE_BYTES + 1] == b"\0\7"
        memory[5] = 9
        assert fetch(array, 0, SLOT_TABLE_BYTES)[:7] == bytes([0, 0, 0, 0, 0, 9, 0])


@pytest.mark.parametrize("action", [XDP_DROP, XDP_PASS])
def test_xdp_program_runs_on_a_packet_without_an_interface(action: int) -> None:
    assert run(load(verdict(action))) == action


@pytest.mark.parametrize("helper", HELPERS)
def test_helper_is_known_to_its_type_of_program(helper: str) -> None:
    """The call has no arguments, so most are refused, but for that, and not as unknown."""
    kind, number = HELPERS[helper]
    assert not UNKNOWN_HELPER.search(words_about(call(number), kind))


def test_unknown_helper_is_told_from_known_ones() -> None:
    """The test above can fail: for what is no helper, and for one of another type of program."""
    assert UNKNOWN_HELPER.search(words_about(call(9999)))
    assert UNKNOWN_HELPER.search(words_about(call(HELPERS["skb_adjust_room"][1])))


def test_program_compares_and_exchanges_a_word_of_64_bits() -> None:
    """*(u64 *)(fp - 8) = 5; r0 = 5; r1 = 7; if it is r0 still: becomes r1; r0 = what is there."""
    stored = step(0x7A, 0x0A, -8, 5) + step(0xB7, 0x00, 0, 5) + step(0xB7, 0x01, 0, 7)
    exchanged = stored + step(0xDB, 0x1A, -8, 0xF1) + step(0x79, 0xA0, -8) + step(0x95)
    assert run(load(exchanged)) == 7


def test_syscall_program_answers_in_the_memory_that_it_was_given() -> None:
    """r2 = 9; *(u32 *)(ctx + 4) = r2; the sweeper is asked, and answers, in the same way."""
    program = load(step(0xB7, 0x02, 0, 9) + step(0x63, 0x21, 4) + verdict(0), PROG_TYPE_SYSCALL)
    asked = ctypes.create_string_buffer(struct.pack("=II", 1, 2), 8)
    fields = (program, 0, 0, 0, 0, 0, 0, 0, 8, 0, asked, 0)
    bpf(PROG_TEST_RUN, *fields, layout="IIIIQQIIIIQQ")
    assert struct.unpack("=II", asked.raw) == (1, 9)


def test_trie_of_prefixes_answers_for_an_address_below_one() -> None:
    trie = bpf(MAP_CREATE, MAP_TYPE_TRIE, 20, 1, 16, F_NO_PREALLOC, layout="5I")[0]
    key = ctypes.create_string_buffer(
        struct.pack("=I", 104) + bytes(10) + b"\xff\xff\x0a" + bytes(3)
    )
    value = ctypes.create_string_buffer(b"\1", 1)
    bpf(MAP_UPDATE, trie, key, value, 0, layout="I4xQQQ")
    for address, is_below in ((b"\x0a\1\2\3", True), (b"\x0b\1\2\3", False)):
        asked = struct.pack("=I", 128) + bytes(10) + b"\xff\xff" + address
        found = ctypes.create_string_buffer(1)
        try:
            fields = (trie, ctypes.create_string_buffer(asked, 20), found, 0)
            bpf(MAP_LOOKUP, *fields, layout="I4xQQQ")
        except FileNotFoundError:
            assert not is_below
        else:
            assert is_below


def test_ring_is_mapped_into_memory() -> None:
    """Where the consumer stands can be written, what was produced can only be read."""
    page = mmap.PAGESIZE
    ring = bpf(MAP_CREATE, MAP_TYPE_RING, 0, 0, page, 0, layout="5I")[0]
    with mmap.mmap(ring, page) as consumer:
        consumer[:8] = bytes(8)
    with mmap.mmap(ring, 3 * page, prot=mmap.PROT_READ, offset=page) as produced:
        assert produced[:8] == bytes(8)


def test_link_swaps_its_program_only_for_the_one_expected(veth: int) -> None:
    first, second = load(verdict(XDP_PASS)), load(verdict(XDP_DROP))
    link, _ = bpf(LINK_CREATE, first, veth, ATTACH_XDP, 0, layout="4I")
    with pytest.raises(OSError, match="Operation not permitted"):
        bpf(LINK_UPDATE, link, first, F_REPLACE, second, layout="4I")
    bpf(LINK_UPDATE, link, second, F_REPLACE, first, layout="4I")
    os.close(link)


def test_pinned_map_outlives_its_descriptor(bpffs: Path) -> None:
    name = ctypes.create_string_buffer(bytes(bpffs / "array"))
    array = new_array(8, 1)
    bpf(OBJ_PIN, name, array, 0, layout="QII")
    store(array, 0, b"survives")
    os.close(array)
    again, _ = bpf(OBJ_GET, name, 0, 0, layout="QII")
    assert fetch(again, 0, 8) == b"survives"
