# SPDX-License-Identifier: Apache-2.0
"""BPF objects, loaded from their ELF files by libbpf.

libbpf (the shared library that iproute2 depends on) is used only where it is hard to do without: to
open an object, set its constants and map sizes, and load it. What it says of a program that the
kernel refuses is in the error. A missing libbpf is Unsupported.
"""

import ctypes
import errno as errnos
import os
from functools import cache
from pathlib import Path

from limpet.core.errors import DatapathError, Unsupported
from limpet.datapath.bpf import libc

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@cache
def _libbpf() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Unsupported(
            f"libbpf.so.1 is missing (Debian: apt install libbpf1): {error}"
        ) from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.bpf_object__open_mem.restype = pointer
    library.bpf_object__open_mem.argtypes = [pointer, ctypes.c_size_t, pointer]
    library.bpf_object__load.argtypes = [pointer]
    library.bpf_object__close.argtypes = [pointer]
    for name in ("map", "program"):
        find = getattr(library, f"bpf_object__find_{name}_by_name")
        find.restype, find.argtypes = pointer, [pointer, text]
        getattr(library, f"bpf_{name}__fd").argtypes = [pointer]
    library.bpf_map__set_max_entries.argtypes = [pointer, ctypes.c_uint32]
    library.bpf_map__reuse_fd.argtypes = [pointer, ctypes.c_int]
    library.bpf_map__set_initial_value.argtypes = [pointer, pointer, ctypes.c_size_t]
    return library


INFORMATION = 1  # level of libbpf's messages; above it is what it does step by step, in hundreds
LOG_MAX = 16 << 20  # the verifier's log comes as one message
_log: list[str] = []


def _collect(level: int, form: bytes, arguments: int) -> int:
    if level > INFORMATION:
        return 0
    buffer = ctypes.create_string_buffer(LOG_MAX)
    libc.vsnprintf(buffer, len(buffer), form, ctypes.c_void_p(arguments))
    _log.append("\n".join(buffer.value.decode(errors="replace").rstrip().splitlines()[-40:]))
    return 0


_print = _PRINT(_collect)  # kept, so that libbpf may call it as long as this process lives


class Object:
    """A BPF object file: open, set constants and sizes, load; then use its descriptors.

    Descriptors belong to the object and end with `close`; keep one longer with os.dup.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._library = _libbpf()
        self._library.libbpf_set_print(_print)
        _log.clear()
        self._handle = self._library.bpf_object__open_mem(self._data, len(self._data), None)
        if not self._handle:
            raise DatapathError(f"open {path.name}", ctypes.get_errno(), "\n".join(_log[-5:]))
        self._name = path.name

    def _check(self, step: str, result: int) -> None:
        if result:
            detail = "\n".join(_log[-30:])
            raise DatapathError(f"{step} {self._name}", -result, detail or os.strerror(-result))

    def _map(self, name: str) -> int:
        found = self._library.bpf_object__find_map_by_name(self._handle, name.encode())
        if not found:
            raise DatapathError(f"find map {name} in {self._name}", errnos.ENOENT, "no such map")
        return int(found)

    def has_map(self, name: str) -> bool:
        return bool(self._library.bpf_object__find_map_by_name(self._handle, name.encode()))

    def set_constants(self, value: bytes) -> None:
        """Set the read-only data; its size must be exactly that of the program's constants."""
        step = f"set the constants ({len(value)} bytes) of"
        self._check(
            step, self._library.bpf_map__set_initial_value(self._map(".rodata"), value, len(value))
        )

    def resize(self, name: str, entries: int) -> None:
        """Set how many entries a map will be made with."""
        self._check(
            f"resize {name} of", self._library.bpf_map__set_max_entries(self._map(name), entries)
        )

    def reuse(self, name: str, fd: int) -> None:
        """Use an existing map instead of making one."""
        self._check(f"reuse map {name} in", self._library.bpf_map__reuse_fd(self._map(name), fd))

    def load(self) -> None:
        """Give all to the kernel; DatapathError carries the end of the verifier's log."""
        _log.clear()
        self._check("load", self._library.bpf_object__load(self._handle))

    def map_fd(self, name: str) -> int:
        """Descriptor of a map."""
        return int(self._library.bpf_map__fd(self._map(name)))

    def program_fd(self, name: str) -> int:
        """Descriptor of a program."""
        found = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not found:
            raise DatapathError(
                f"find program {name} in {self._name}", errnos.ENOENT, "no such program"
            )
        return int(self._library.bpf_program__fd(found))

    def close(self) -> None:
        """Free the object and its descriptors."""
        if self._handle:
            self._library.bpf_object__close(self._handle)
            self._handle = None
