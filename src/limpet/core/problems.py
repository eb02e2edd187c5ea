# SPDX-License-Identifier: Apache-2.0
"""Problems: an error of tomllib or pydantic, in the words of the configuration file.

pydantic says "Input should be a valid list, loc ('pool',)"; the operator needs to know that a pool
is written [[pool]], with two brackets. Remedies are made from the descriptions and examples of
core/document.py, so they cannot contradict it.

Not here: what is wrong across tables (core/checks.py).
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from limpet.core.document import Document
from limpet.core.errors import Problem
from limpet.core.finding import Finding, suggestion
from limpet.core.source import Path
from limpet.core.values import toml


def syntax_problem(text: str, source: str, error: tomllib.TOMLDecodeError) -> Problem:
    """Where the text stops being TOML."""
    match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    line = int(match[1]) if match else text.count("\n") + 1
    place = f"column {match[2]}" if match else "end of file"
    why = re.sub(r" \(at .*\)", "", str(error))
    return Problem(
        f"{source}:{line}: {place}",
        f"this is not TOML: {why[0].lower()}{why[1:]}",
        "correct the syntax there, or just before it (https://toml.io)",
    )


def title(path: Path, raw: Mapping[str, Any]) -> str:
    """The path in words: ("pool", 0, "backends") -> "[[pool]] 'web' backends"."""
    if len(path) > 1 and isinstance(path[1], int):
        rows = raw.get(str(path[0]))
        row = rows[path[1]] if isinstance(rows, list) and path[1] < len(rows) else None
        name = row.get("name") if isinstance(row, dict) else None
        table = f"[[{path[0]}]] " + (repr(name) if isinstance(name, str) else f"#{path[1] + 1}")
        rest = path[2:]
    else:
        table, rest = f"[{path[0]}]", path[1:]
    return f"{table} {'.'.join(map(str, rest))}".rstrip()


def explain(details: ErrorDetails) -> Finding:
    """One error of pydantic's."""
    path: Path = tuple(part for part in details["loc"] if part != "[key]")
    given, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "limpet":
            return Finding(path, context["why"], context["mend"])
        case "extra_forbidden":
            return _unknown_key(path)
        case "missing":
            return _missing_key(path)
        case "list_type" | "model_type" | "dict_type":
            return Finding(path, f"{toml(given)} is not {_form(path)}", _how_to_write(path))
        case "greater_than_equal" | "less_than_equal":
            return Finding(path, f"{toml(given)} is out of range", _within(path))
        case "literal_error":
            return Finding(path, f"{toml(given)} is not known", f"write {context['expected']}")
        case "int_type" | "float_type" | "finite_number":
            kind = "whole number" if details["type"] == "int_type" else "number"
            return Finding(path, f"{toml(given)} is not a {kind}", _within(path))
        case "bool_type":
            return Finding(path, f"{toml(given)} is neither true nor false", "write true or false")
        case other:
            raise AssertionError(f"no words for the error {other} at {path}")


def _unknown_key(path: Path) -> Finding:
    known = list(_model(path[:-1]).model_fields)
    kind = "table" if len(path) == 1 else "key"
    mend = suggestion(str(path[-1]), known, kind)
    return Finding(path, f"unknown {kind} {path[-1]!r}", mend)


def _missing_key(path: Path) -> Finding:
    if len(path) == 1:
        return Finding(path, f"the table [{path[-1]}] is missing", _how_to_write(path))
    return Finding(path[:-1], f"the key {path[-1]!r} is missing", _how_to_write(path))


def _how_to_write(path: Path) -> str:
    """An example from the document: 'write pool = "web" (name of the pool that serves it)'."""
    field = _field(path)
    name = next(str(part) for part in reversed(path) if isinstance(part, str))
    if _is_table(path):
        model = _model(path)
        fields = model.model_fields.items()
        needed = [(key, field) for key, field in fields if field.is_required()] or fields
        keys = [f"{key} = {toml(_example(field))}" for key, field in needed]
        table = ".".join(part for part in path if isinstance(part, str))
        header = f"[[{table}]]" if _is_list(field) else f"[{table}]"
        return f"write {header} on a line of its own, then its keys: {', '.join(keys)}"
    return f"write {name} = {toml(_example(field))} ({field.description})"


def _example(field: FieldInfo) -> object:
    return field.examples[0] if field.examples else field.default


def _form(path: Path) -> str:
    if not _is_table(path):
        return "an inline table of names and weights"
    return "a list of tables" if _is_list(_field(path)) else "a table"


def _is_table(path: Path) -> bool:
    return _table(_field(path)) is not None


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is list


def _table(field: FieldInfo) -> type[BaseModel] | None:
    """The model behind `Table`, `list[Table]` or `Table | None`."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _within(path: Path) -> str:
    field = _field(path)
    limits = {type(m).__name__: m for m in field.metadata}
    is_whole = int in (field.annotation, *get_args(field.annotation))
    kind = "whole number" if is_whole else "number"
    return f"write a {kind} from {limits['Ge'].ge} to {limits['Le'].le}"


def _field(path: Path) -> FieldInfo:
    keys = [part for part in path if isinstance(part, str)]
    return _model(tuple(keys[:-1])).model_fields[keys[-1]]


def _model(path: Path) -> type[BaseModel]:
    """The table that the path leads to."""
    model: type[BaseModel] = Document
    for key in (part for part in path if isinstance(part, str)):
        inner = _table(model.model_fields[key])
        assert inner is not None, f"{key} is no table"
        model = inner
    return model
