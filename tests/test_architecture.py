# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and what is never true of the data plane. ARCHITECTURE.md gives the reasons.

The table below is the whole truth: a package that is not in it fails. Imports are read from the
syntax tree, those inside functions too.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "limpet"

# Package -> what of ours it may import beside itself. A name allows what is below it too.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "datapath": {"core"},
    "store": {"core"},
    # Labels and help texts come from the generated ABI, names of counters from beside it.
    "metrics": {"core", "datapath.abi", "datapath.counters"},
    # The daemon is seen through the protocol in api.interface, which the daemon implements.
    "api": {"core"},
    # The speaker outlives the daemon, and knows of it by files alone.
    "announce": {"core"},
    "daemon": {"core", "announce", "datapath", "store", "metrics", "api"},
    "agent": {"core", "datapath"},
    # Hosts of the lab run the commands. It knows where their sockets and state lie, and asks them.
    # Its slow links are a program of its own, which it loads as others are loaded.
    "lab": {"core", "api.client", "api.places", "datapath.elf"},
    # Decides nothing itself: the packet path is the reference, the control code is core's.
    "sim": {"core", "datapath.abi", "datapath.reference", "datapath.settings"},
    "cli": {
        "core",
        "api.client",
        "api.interface",
        "api.places",
        "api.tokens",
        "agent",
        "announce",
        "daemon",
        "lab",
        "sim",
    },
    "__main__": {"cli"},
}
# Commands that run in the process of the command line import it when they run, never before:
# `limpet --help` and clients of the API must not pay for it.
ONLY_INSIDE_FUNCTIONS = {"cli": {"agent", "announce", "daemon", "lab", "sim"}}

# Core decides; it does not look at the world. `pathlib` and the like would let files in.
IMPURE = {
    "asyncio",
    "ctypes",
    "datetime",
    "io",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "pyroute2",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "structlog",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
}
# Module -> why it needs C calls of its own.
USES_CTYPES = {
    "datapath.bpf": "the system call bpf(2)",
    "datapath.elf": "the only binding to libbpf",
    "lab.entry": "setns, without the libraries that scripts would wait for",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One module that another imports."""

    by: str  # module, without "limpet."
    name: str  # of the imported module
    line: int
    is_inside_function: bool

    @property
    def of_ours(self) -> str:
        """Name without "limpet.", empty if it is not ours. The version is everybody's."""
        return self.name.removeprefix("limpet.") if self.name.startswith("limpet.") else ""

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.name}"


def module_of(path: Path) -> str:
    """Dotted name below `limpet`."""
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names(node: ast.AST) -> list[str]:
    """Modules that a statement imports. `from x import y` may name the module x.y."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"line {node.lineno}: write imports out, from the package's name"
    module = node.module or ""
    return [child for alias in node.names if (child := _module(module, alias.name))] or [module]


def _module(package: str, name: str) -> str:
    """package.name if that is a module of ours, else nothing."""
    parts = package.split(".")
    folder = SOURCES.joinpath(*parts[1:])
    is_module = parts[0] == "limpet" and (
        folder.joinpath(f"{name}.py").exists() or folder.joinpath(name, "__init__.py").exists()
    )
    return f"{package}.{name}" if is_module else ""


def walk(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs only when a function does (or a type checker)."""
    for child in ast.iter_child_nodes(node):
        yield child, inside
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        yield from walk(child, inside or is_function or is_for_types)


@cache
def imports() -> tuple[Import, ...]:
    """All imports of the package."""
    return tuple(
        Import(module_of(path), name, getattr(node, "lineno", 0), inside)
        for path in sorted(SOURCES.rglob("*.py"))
        for node, inside in walk(ast.parse(path.read_text()))
        for name in names(node)
    )


def package_of(module: str) -> str:
    return module.split(".")[0]


def is_below(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_it_may(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        str(each)
        for each in imports()
        if package_of(each.by) == package and each.of_ours and not is_below(each.of_ours, allowed)
    ]
    assert not wrong


def test_every_package_is_in_the_table() -> None:
    found = {package_of(module_of(path)) for path in SOURCES.rglob("*.py")} - {""}
    assert found == MAY_IMPORT.keys()


@pytest.mark.parametrize("package", ONLY_INSIDE_FUNCTIONS)
def test_costly_packages_are_imported_when_they_are_used(package: str) -> None:
    late = ONLY_INSIDE_FUNCTIONS[package]
    wrong = [
        str(each)
        for each in imports()
        if package_of(each.by) == package
        and not each.is_inside_function
        and is_below(each.of_ours, late)
    ]
    assert not wrong


def test_command_line_starts_without_what_it_may_not_need() -> None:
    """Scripts call it often; each of these costs more than all the rest."""
    costly = "{'numpy', 'fastapi', 'uvicorn', 'pyroute2', 'pydantic', 'prometheus_client'}"
    code = f"import sys, limpet.cli.main; print(*({costly} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("package", ["core", "datapath.reference"])
def test_pure_package_does_not_look_at_the_world(package: str) -> None:
    """No clock, chance, files, sockets, processes, logs."""
    wrong = [
        str(each)
        for each in imports()
        if is_below(each.by, {package}) and is_below(each.name, IMPURE)
    ]
    assert not wrong


def test_pure_core_opens_no_file() -> None:
    calls = [
        f"{module_of(path)}:{node.lineno}"
        for path in sorted((SOURCES / "core").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("open", "print", "input", "exec", "eval", "__import__")
    ]
    assert not calls


def test_reference_shares_nothing_with_the_kernel_side() -> None:
    """An oracle that runs the code under test agrees with every mistake in it."""
    allowed = {"core", "datapath.abi", "datapath.reference"}
    wrong = [
        str(each)
        for each in imports()
        if is_below(each.by, {"datapath.reference"})
        and each.of_ours
        and not is_below(each.of_ours, allowed)
    ]
    assert not wrong


def test_kernel_is_reached_from_the_daemon_only() -> None:
    wrong = [
        str(each)
        for each in imports()
        if each.of_ours == "datapath.kernel" and package_of(each.by) not in ("daemon", "datapath")
    ]
    assert not wrong


def test_ctypes_is_used_only_where_it_must() -> None:
    users = {each.by for each in imports() if is_below(each.name, {"ctypes"})}
    assert users == USES_CTYPES.keys()


def python_files() -> list[Path]:
    return sorted(
        path
        for folder in ("src", "tests", "bench", "tools")
        for path in (ROOT / folder).rglob("*.py")
    )


def test_no_check_is_silenced_without_its_name() -> None:
    """`type: ignore` and `noqa` say in brackets or behind a colon what they silence."""
    silenced = re.compile(r"#\s*(type:\s*ignore(?!\[[a-z])|noqa(?!: ?[A-Z]))")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if silenced.search(line)
    ]
    assert not wrong


def code_of(path: Path) -> str:
    """C without comments, with its line breaks."""
    text = path.read_text()
    text = re.sub(r"/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), text, flags=re.S)
    return re.sub(r"//.*", "", text)


def lines_with(pattern: str, *, but: str = "", glob: str = "*.[ch]") -> list[str]:
    """Places in bpf/ whose code matches, outside one file."""
    return [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((ROOT / "bpf").glob(glob))
        if path.name != but
        for number, line in enumerate(code_of(path).splitlines(), 1)
        if re.search(pattern, re.sub(r"cursor_between\(.*?\)", "", line.replace("->", ".")))
    ]


def test_only_cursor_compares_with_the_end_of_a_packet() -> None:
    """Elsewhere it may be carried, and a length be made of it; no place is compared with it."""
    end, compare = r"(data_end|\bc(ursor)?\.end)\b", r"(<|>|==|!=)"
    assert not lines_with(f"{end}.*{compare}|{compare}.*{end}", but="cursor.h")


def test_only_the_closing_switch_turns_a_verdict_into_an_action() -> None:
    """Programs (*.bpf.c) call it; what they return themselves is about missing maps."""
    assert not lines_with(r"\bXDP_(ABORTED|DROP|PASS|TX|REDIRECT)\b", but="verdict.h", glob="*.h")


def test_headers_for_the_host_call_no_helper() -> None:
    for name in ("hash.h", "csum.h", "cursor.h", "packet.h", "parse.h", "affinity.h"):
        assert not lines_with(r"\bbpf_\w+\(", glob=name)


def maps_of(header: str) -> dict[str, str]:
    """Type of each map that a header of bpf/ declares."""
    declared = re.findall(
        r"struct \{\s+__uint\(type, BPF_MAP_TYPE_(\w+)\)[^}]*\} (\w+) SEC",
        code_of(ROOT / "bpf" / header),
    )
    return {name: kind for kind, name in declared}


def test_director_looks_up_arrays_only() -> None:
    """Their lookup is inlined to an address computation; a hash costs tens of nanoseconds.

    But for those that few packets meet: known mega-proxies, asked for new flows of VIPs that look
    at the list; what other directors told, looked at for flows without an entry; and rings.
    """
    maps = maps_of("maps.h") | maps_of("select.h")
    assert len(maps) >= 20
    others = {name: kind for name, kind in maps.items() if kind not in ("ARRAY", "PERCPU_ARRAY")}
    rings = {"resets": "RINGBUF", "news": "RINGBUF", "held": "RINGBUF"}
    assert others == {"proxies": "LPM_TRIE", "directory": "HASH"} | rings


def test_list_of_mega_proxies_is_asked_in_one_place_only() -> None:
    """A trie takes a microsecond: behind the switch of the VIP, and for new flows only."""
    assert len(lines_with(r"&proxies\b")) == 1
    assert len(lines_with(r"proxy_is_listed\(p")) == 1
    assert lines_with(r"looks_at_list && proxy_is_listed\(p\)", glob="seat.h")


def test_data_plane_has_no_conditional_code() -> None:
    """Features are switches in rodata: one object for every setting. Include guards are all."""
    conditions = lines_with(r"^\s*#\s*(if|ifdef|ifndef|elif)\b(?! LIMPET_\w+_H$)")
    assert not conditions
