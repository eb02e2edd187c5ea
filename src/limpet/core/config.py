# SPDX-License-Identifier: Apache-2.0
"""Config: text of a configuration file -> Desired, or every problem in it at once.

Three steps: TOML (tomllib), shape and values (core/document.py), what has to fit together
(core/checks.py). A problem names file, line, table and key, says what is wrong and how to mend it.
The steps build on one another, so a file with a syntax error shows that alone.

Pure: the caller reads the file, and refuses one that is not UTF-8.
"""

import tomllib
from typing import Any

from pydantic import ValidationError

from limpet.core.checks import check
from limpet.core.document import Document
from limpet.core.errors import ConfigError, Problem
from limpet.core.model import Desired
from limpet.core.problems import explain, syntax_problem, title
from limpet.core.source import Source


def parse(text: str, source: str = "limpet.toml") -> Desired:
    """What the text desires. Raises ConfigError with all problems, sorted by line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([syntax_problem(text, source, error)]) from None
    try:
        desired = Document.model_validate(raw).to_desired()
        findings = list(check(desired))
    except ValidationError as error:
        findings = [explain(details) for details in error.errors()]
    if not findings:
        return desired
    place = Source(text, source)
    findings.sort(key=lambda finding: place.line(finding.path))
    raise ConfigError(
        [Problem(place.where(f.path, title(f.path, raw)), f.why, f.mend) for f in findings]
    )


def schema() -> dict[str, Any]:
    """JSON Schema of the configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Document.model_json_schema(),
    }
