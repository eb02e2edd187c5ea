# SPDX-License-Identifier: Apache-2.0
"""Write docs/formats/config.schema.json and the parts of docs/formats/config.md made from code.

The schema is that of `limpet.core.config.schema()`. In config.md, everything between
`<!-- begin X -->` and `<!-- end X -->` is replaced: `example` by tests/core/example.toml, `keys`
by the table of keys. `--check` writes nothing and exits with 1 if a file is not current.
"""

import json
import sys
from pathlib import Path
from typing import Any

from limpet.core.config import schema

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "docs/formats/config.schema.json"
PAGE = ROOT / "docs/formats/config.md"
EXAMPLE = ROOT / "tests/core/example.toml"


def files() -> dict[Path, str]:
    """What each generated file should contain."""
    page = PAGE.read_text()
    page = between(page, "example", f"```toml\n{EXAMPLE.read_text()}```")
    page = between(page, "keys", keys(schema()))
    return {SCHEMA: json.dumps(schema(), indent=2) + "\n", PAGE: page}


def between(page: str, name: str, text: str) -> str:
    """The page with another text between the marks of that name."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    assert found, f"{PAGE} has no marks for {name!r}"
    return f"{head}{begin}\n{text}\n{end}{tail}"


def keys(whole: dict[str, Any]) -> str:
    """One Markdown table per TOML table."""
    definitions = whole["$defs"]
    parts = []
    for name, field in whole["properties"].items():
        is_list = field.get("type") == "array"
        reference = field["items"] if is_list else field
        model = definitions[target(reference)]
        parts += table(f"[[{name}]]" if is_list else f"[{name}]", model, definitions)
    return "\n".join(parts).rstrip()


def table(header: str, model: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    lines = [f"### `{header}`", "", model["description"], ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for key, field in model["properties"].items():
        if target(field):
            deeper = f"[{header.strip('[]')}.{key}]"
            deeper = f"[{deeper}]" if field.get("type") == "array" else deeper
            lines.append(f"| `{key}` | table | | {field['description']}; see `{deeper}` |")
            inner += table(deeper, definitions[target(field)], definitions)
            continue
        is_needed = key in model.get("required", ())
        default = "required" if is_needed else usual(field)
        lines.append(f"| `{key}` | {value(field)} | {default} | {field['description']} |")
    return [*lines, "", *inner]


def target(field: dict[str, Any]) -> str:
    """Name of the model that a field refers to; empty if it is a plain value."""
    # A table that may be left out is one of two; of a list of tables, each item is one.
    choices = [field, field.get("items", {}), *field.get("anyOf", ())]
    return next((str(c["$ref"]).rpartition("/")[2] for c in choices if "$ref" in c), "")


def usual(field: dict[str, Any]) -> str:
    """The default; empty where leaving the key out is something that no value says."""
    return "" if field.get("default") is None else f"`{json.dumps(field['default'])}`"


def value(field: dict[str, Any]) -> str:
    """The values of a key in words."""
    kind = field.get("type")
    if "enum" in field and kind == "string":
        return ", ".join(f"`{json.dumps(word)}`" for word in field["enum"])
    if kind in ("integer", "number") and "minimum" in field:
        return f"{field['minimum']:.10g} to {field['maximum']:.10g}"
    if kind == "boolean":
        return "`true` or `false`"
    if field.get("examples"):
        return f"as `{toml(field['examples'][0])}`"
    return "text"


def toml(example: Any) -> str:
    if isinstance(example, dict):
        return "{ " + ", ".join(f"{k} = {v}" for k, v in example.items()) + " }"
    return json.dumps(example)


def main(arguments: list[str]) -> int:
    stale = {path: text for path, text in files().items() if not is_current(path, text)}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'not current' if arguments else 'written'}")
        if not arguments:
            path.write_text(text)
    return 1 if stale and arguments == ["--check"] else 0


def is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: gen_schema.py [--check]")
    sys.exit(main(sys.argv[1:]))
