# SPDX-License-Identifier: Apache-2.0
"""Reads a topology: a built-in one by its name, or a TOML file by its path.

A word without a slash and without ".toml" is a name, so that a file lying about in the working
folder never shadows a built-in topology. What is wrong with a file is told all at once, each with
its key and how to mend it. Not here: what makes a topology consistent (`topology`).
"""

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from limpet.core.errors import ConfigError, NotFound, Problem, unreadable
from limpet.lab.topology import Topology


def built_in() -> list[str]:
    folder = resources.files("limpet.lab") / "topologies"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load(topology: str) -> Topology:
    """Raises NotFound if there is no such topology, ConfigError if it is wrong."""
    if "/" not in topology and not topology.endswith(".toml"):
        if topology not in built_in():
            known = ", ".join(built_in())
            raise NotFound(
                f"no topology '{topology}'; there are {known}, or give the path of a TOML file"
            )
        entry = resources.files("limpet.lab") / "topologies" / f"{topology}.toml"
        return parse(entry.read_text(), where=entry.name)
    try:
        text = Path(topology).read_text()
    except OSError as error:
        known = ", ".join(built_in())
        raise NotFound(
            f"topology file {topology}: cannot read it: {error.strerror}; give the path of a TOML "
            f"file, or a built-in topology: {known}"
        ) from error
    except UnicodeDecodeError as error:
        raise unreadable(topology, error) from error
    return parse(text, where=topology)


def parse(text: str, where: str) -> Topology:
    try:
        return Topology.model_validate(tomllib.loads(text)).numbered()
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(where, str(error), "write valid TOML there")]) from error
    except ValidationError as error:
        raise ConfigError([_problem(where, detail) for detail in error.errors()]) from error


def _problem(where: str, detail: object) -> Problem:
    assert isinstance(detail, dict)
    key = ".".join(str(part) for part in detail["loc"] if part != "function-after[check()]")
    place = f"{where}: {key}" if key else where
    why = str(detail["msg"]).removeprefix("Value error, ")
    return Problem(place, why, "docs/operate/lab.md describes every key of a topology file")
