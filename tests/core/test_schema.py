# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema and the page about the configuration say what the code does."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from limpet.core.config import parse, schema
from limpet.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/gen_schema.py"


def test_committed_schema_and_page_are_current() -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run tools/gen_schema.py\n{done.stdout}{done.stderr}"


def test_schema_has_a_description_for_every_key_and_is_closed() -> None:
    whole = schema()
    for model in [whole, *whole["$defs"].values()]:
        assert model["additionalProperties"] is False
        assert all(field["description"] for field in model["properties"].values())


def test_schema_knows_every_key_of_the_example() -> None:
    example = tomllib.loads((ROOT / "tests/core/example.toml").read_text())
    assert_known(example, schema(), schema()["$defs"])


def assert_known(given: dict[str, Any], model: dict[str, Any], definitions: dict[str, Any]) -> None:
    assert given.keys() <= model["properties"].keys()
    assert set(model.get("required", ())) <= given.keys()
    for key, value in given.items():
        field = model["properties"][key]
        places = [field, field.get("items", {}), *field.get("anyOf", ())]
        reference = next((place["$ref"] for place in places if "$ref" in place), "")
        if reference:
            inner = definitions[reference.rpartition("/")[2]]
            for row in value if isinstance(value, list) else [value]:
                assert_known(row, inner, definitions)


def test_message_shown_on_the_page_is_the_real_one() -> None:
    """It is what a misspelt pool in the example leads to."""
    example = (ROOT / "tests/core/example.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        parse(example.replace('pool = "web"', 'pool = "wep"', 1))
    page = (ROOT / "docs/formats/config.md").read_text()
    assert f"```\n{caught.value}\n```" in page


def test_schema_is_json_that_names_its_dialect() -> None:
    assert json.loads(json.dumps(schema()))["$schema"].endswith("2020-12/schema")
