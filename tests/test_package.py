# SPDX-License-Identifier: Apache-2.0
"""The wheel: everything that limpet needs to run is in it, and nothing else.

It is built as a release is, without isolation because the build's requirements are installed, and
installed into an environment that sees this one's libraries but not this source tree.
"""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import limpet

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "limpet"
PROGRAMS = ("agent", "clock", "delay", "director", "outbound", "sweep")
OBJECTS = {f"limpet/datapath/{name}.bpf.o" for name in PROGRAMS}
ELF, MACHINE_AT, MACHINE_BPF = b"\x7fELF", 18, 247
# What comes with a library that is declared, and is imported beside it.
COMES_WITH = {"pydantic-core": "pydantic", "starlette": "fastapi"}
TIMEOUT_S = 600  # takes seconds, on a machine that is not busy


@dataclass(frozen=True, slots=True)
class Wheel:
    """A built wheel, and what is in it."""

    path: Path
    names: frozenset[str]

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    @property
    def info(self) -> str:
        """Folder of the metadata."""
        return f"limpet-{limpet.__version__}.dist-info"


def run(*command: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command away from the source tree, and without its PYTHONPATH."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """limpet, built as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    built = run(*pip, "--no-build-isolation", ROOT, "-w", folder, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return Wheel(path, frozenset(archive.namelist()))


@pytest.fixture(scope="module")
def installed(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin folder of an environment with the wheel, and the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    done = run(*pip, "install", "--no-deps", "--no-index", wheel.path, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Only the folder: .pth files in it are not followed, and so limpet is the wheel's.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_wheel_carries_the_compiled_data_plane(wheel: Wheel) -> None:
    """The objects that are here, compiled for BPF: users need no compiler."""
    assert {name for name in wheel.names if name.endswith(".o")} == OBJECTS
    for name in OBJECTS:
        data = wheel.read(name)
        assert data[:4] == ELF
        assert int.from_bytes(data[MACHINE_AT : MACHINE_AT + 2], "little") == MACHINE_BPF
        assert data == (ROOT / "src" / name).read_bytes()


def test_wheel_says_nothing_of_the_machine_that_built_it(wheel: Wheel) -> None:
    """Not even in debug information: the same sources give the same wheel anywhere."""
    machine = (
        str(ROOT).encode(),
        sysconfig.get_path("purelib").encode(),
        str(Path.home()).encode(),
    )
    telling = [n for n in wheel.names for place in machine if place + b"/" in wheel.read(n)]
    assert not telling


def test_wheel_carries_every_file_of_the_package(wheel: Wheel) -> None:
    """Modules, topologies of the lab, whatever else lies there; nothing but the package."""
    wanted = {
        str(path.relative_to(ROOT / "src"))
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "limpet/lab/topologies/one-pop.toml" in wanted
    assert {name for name in wheel.names if not name.startswith(wheel.info)} == wanted


def test_wheel_carries_its_licence(wheel: Wheel) -> None:
    assert wheel.read(f"{wheel.info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_wheel_fits_every_machine(wheel: Wheel) -> None:
    """BPF objects are the same for all, and nothing else is compiled."""
    assert wheel.path.name == f"limpet-{limpet.__version__}-py3-none-any.whl"


def imported() -> set[str]:
    """Top-level names that the package imports, but for its own and the standard library's."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"limpet"}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    declared = {re.split("[=<>~]", each)[0].lower() for each in wanted}
    origins = importlib.metadata.packages_distributions()
    used = {origins[name][0].lower().replace("_", "-") for name in imported()}
    assert {COMES_WITH.get(name, name) for name in used} == declared


def test_versions_of_libraries_are_pinned_and_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["cluster"], *extras["dev"]}
    text = (ROOT / "requirements.lock").read_text()
    locked = set(text.lower().replace("_", "-").split())
    assert not [each for each in wanted if "==" not in each or each.lower() not in locked]


def test_installed_command_runs_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python", "-c", "import limpet; print(limpet.__file__)", folder=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), where.stderr
    shown = run(installed / "limpet", "--help", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Usage: limpet" in shown.stdout
    version = run(installed / "limpet", "version", folder=tmp_path)
    assert limpet.__version__ in version.stdout


def test_installed_command_checks_a_configuration(installed: Path, tmp_path: Path) -> None:
    """Good ones are good; a broken one ends with status 2 and says how to mend it."""
    text = (ROOT / "tests" / "core" / "example.toml").read_text()
    (tmp_path / "good.toml").write_text(text)
    (tmp_path / "bad.toml").write_text(text.replace('protocol = "tcp"', 'protocol = "tpc"'))
    good = run(installed / "limpet", "check", "good.toml", "--json", folder=tmp_path)
    assert good.returncode == 0, good.stderr
    assert isinstance(json.loads(good.stdout), dict)
    bad = run(installed / "limpet", "check", "bad.toml", folder=tmp_path)
    assert bad.returncode == 2
    assert "bad.toml:" in bad.stdout + bad.stderr
    assert "to mend:" in bad.stdout + bad.stderr


def test_installed_package_finds_its_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "from limpet.lab import source; from limpet.datapath import kernel; "
        "assert kernel.OBJECT.stat().st_size > 10_000; "
        "print(source.load('one-pop').model_dump_json())"
    )
    found = run(installed / "python", "-c", code, folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "fra-d1" in found.stdout
