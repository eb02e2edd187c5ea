# SPDX-License-Identifier: Apache-2.0
"""The wheel, built as the deployment guide says; and a tree of which a newer one is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .guide import Guide, differing

ROOT = Path(__file__).resolve().parent.parent.parent
NEWER = ("#define OUTER_HOP_LIMIT   64", "#define OUTER_HOP_LIMIT   63")
TREE = ("src", "bpf", "tools", "pyproject.toml", "README.md", "LICENSE", "requirements.lock")


def build(tree: Path, guide: Guide, folder: Path) -> Path:
    """Built as the guide says; what it is built with is installed here."""
    command = guide.command("Machines", "pip wheel").removesuffix(" .")
    folder.mkdir()
    how = ("--no-build-isolation", str(tree), "-w", str(folder))
    argv = [sys.executable, "-m", *command.split(), *how]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def newer_tree(tree: Path) -> Path:
    """This source, a version later; its packets can be told from those of this one."""
    tree.mkdir()
    for name in TREE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    for file, old, new in (
        ("bpf/encap.h", *NEWER),
        ("src/limpet/__init__.py", '"0.1.0"', '"0.1.1"'),
    ):
        (tree / file).write_text(differing((tree / file).read_text(), {old: new}))
    return tree
