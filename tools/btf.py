# SPDX-License-Identifier: Apache-2.0
"""Read the types that a BPF object carries in its .BTF section (Documentation/bpf/btf.rst).

Only what gen_abi needs: integers, arrays, structs, enums, typedefs and qualifiers.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
TRAILER = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
PER_MEMBER = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}


@dataclass
class Type:
    """One BTF type. `size` is the size in bytes, or the id of the type referred to."""

    kind: int
    name: str
    size: int
    members: list[tuple[str, int, int]] = field(default_factory=list)
    element: int = 0
    count: int = 0


def section(data: bytes, wanted: str) -> bytes:
    """Content of a section of a 64-bit little-endian ELF object; ValueError if it has none."""
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * entry_size) for i in range(count)]
    names_at = headers[names_index][4]
    for header in headers:
        start = names_at + header[0]
        if data[start : data.index(b"\0", start)].decode() == wanted:
            return data[header[4] : header[4] + header[5]]
    raise ValueError(f"no section {wanted}")


def read(path: Path) -> list[Type]:
    """All types of an object; the index is the BTF type id."""
    btf = section(path.read_bytes(), ".BTF")
    header_size, type_at, type_size, string_at, _ = struct.unpack_from("<IIIII", btf, 4)
    strings = btf[header_size + string_at :]

    def name(at: int) -> str:
        return strings[at : strings.index(b"\0", at)].decode()

    types = [Type(0, "void", 0)]
    at, end = header_size + type_at, header_size + type_at + type_size
    while at < end:
        name_at, info, size = struct.unpack_from("<III", btf, at)
        at += 12
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        found = Type(kind, name(name_at), size)
        if kind == ARRAY:
            found.element, _, found.count = struct.unpack_from("<III", btf, at)
        elif kind in (STRUCT, UNION, ENUM):
            step = PER_MEMBER[kind]
            rows = [
                struct.unpack_from("<III"[: 1 + step // 4], btf, at + i * step)
                for i in range(count)
            ]
            found.members = [(name(row[0]), row[1], row[-1]) for row in rows]
        at += TRAILER.get(kind, 0) + PER_MEMBER.get(kind, 0) * count
        types.append(found)
    return types
