# SPDX-License-Identifier: Apache-2.0
"""Compile bpf/*.bpf.c into the package, with the clang that the PyPI package `ziglang` carries.

That compiler needs nothing installed on the machine and brings the kernel's user-space headers
along. Used by `make bpf` and by the wheel's build hook, so that both give the same object. Prints
the instruction count of each program; skips an object that is newer than all its sources.
"""

import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf"
OBJECTS = ROOT / "src" / "limpet" / "datapath"
FLAGS = [
    "-target",
    "bpfel-freestanding",
    "-mcpu=v3",
    "-O2",
    "-g",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-strict-aliasing",  # packet bytes are read as words of several sizes
    "-Wall",
    "-Wextra",
    "-Werror",
]


def include_flags() -> list[str]:
    """Kernel headers of the compiler package; the BPF target does not search them by itself."""
    import ziglang

    headers = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    return [
        f"-ffile-prefix-map={headers}=headers",
        *(f"-isystem{headers / name}" for name in ("any-linux-any", "x86-linux-any")),
    ]


def compile_object(source: Path, target: Path) -> None:
    """Compile one program; `subprocess.CalledProcessError` if the compiler refuses it."""
    # Debug information names files as in the source tree: the same object wherever it is built.
    anywhere = f"-ffile-prefix-map={ROOT}=."
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, anywhere, *include_flags()]
    subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)


def instructions(path: Path) -> dict[str, int]:
    """Instructions (8 bytes each) of every executable section of a BPF object."""
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, offset + i * entry_size) for i in range(count)]
    names_at = sections[names_index][4]

    def name(at: int) -> str:
        return data[names_at + at : data.index(b"\0", names_at + at)].decode()

    executable = 0x4
    return {name(s[0]): s[5] // 8 for s in sections if s[2] & executable and s[5]}


def build(force: bool = False) -> list[Path]:
    """Compile what is out of date; returns all object paths."""
    made_from = (*SOURCES.glob("*.[ch]"), Path(__file__))
    newest = max(path.stat().st_mtime for path in made_from)
    objects = []
    for source in sorted(SOURCES.glob("*.bpf.c")):
        target = OBJECTS / source.name.replace(".bpf.c", ".bpf.o")
        if force or not target.exists() or target.stat().st_mtime < newest:
            compile_object(source, target)
            counts = ", ".join(f"{name} {n}" for name, n in instructions(target).items())
            print(f"bpf: {target.relative_to(ROOT)}: instructions: {counts}")
        objects.append(target)
    return objects


if __name__ == "__main__":
    build(force="--force" in sys.argv)
