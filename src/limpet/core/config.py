# SPDX-License-Identifier: Apache-2.0
"""Config: text of a configuration file -> Desired, or every problem in it at once.

A director that stands alone has one file. That of a member of a cluster says what is its own; what
all of them serve is the shared document, in the same syntax, and `parse_shared` lays it over the
member's own.

Three steps: TOML (tomllib), shape and values (core/document.py), what has to fit together
(core/checks.py). A problem names file, line, table and key, says what is wrong and how to mend it.
The steps build on one another, so a file with a syntax error shows that alone.

Pure: the caller reads the file, and refuses one that is not UTF-8.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from pydantic import ValidationError

from limpet.core.checks import check
from limpet.core.document import Document
from limpet.core.errors import ConfigError, Problem
from limpet.core.finding import Finding
from limpet.core.model import Desired
from limpet.core.problems import explain, syntax_problem, title
from limpet.core.source import Source

LOCAL = ("director", "cluster", "bgp", "api", "metrics")  # tables of one director
SHARED = ("pop", "vip", "pool", "backend", "mega_proxy", "hooks")  # of all directors of a cluster


def parse(text: str, source: str = "limpet.toml") -> Desired:
    """What the text desires. Raises ConfigError with all problems, sorted by line."""
    raw = _toml(text, source)
    desired, findings = _desired(raw)
    cluster = raw.get("cluster")
    name = cluster.get("name") if isinstance(cluster, dict) else None
    if name:
        findings += _misplaced(raw, SHARED, f"this director is a member of cluster {name!r}")
    if desired is not None and not findings:
        return desired
    raise _refusal(text, source, raw, findings)


def parse_shared(text: str, local: Desired, source: str = "shared.toml") -> Desired:
    """What the shared document and a member's own file desire together. Raises ConfigError."""
    raw = _toml(text, source)
    findings = list(_misplaced(raw, LOCAL, "this is the shared document of a cluster"))
    own: dict[str, Any] = {
        "name": local.director.name,
        "interfaces": list(local.director.interfaces),
    }
    own |= {"timeouts": asdict(local.director.timeouts)}
    whole = {key: value for key, value in raw.items() if key not in LOCAL}
    desired, more = _desired({**whole, "director": own}, local)
    if desired is not None and not findings and not more:
        return desired
    raise _refusal(text, source, raw, findings + more)


def is_shared(text: str) -> bool:
    """Whether it is meant as the shared document of a cluster: any other file has [director]."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return "director" not in raw and any(name in raw for name in SHARED)


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([syntax_problem(text, source, error)]) from None


def _desired(
    raw: dict[str, Any], local: Desired | None = None
) -> tuple[Desired | None, list[Finding]]:
    """What is desired, under the member's own part if that is given, and what is wrong with it."""
    try:
        desired = Document.model_validate(raw).to_desired()
    except ValidationError as error:
        return None, [explain(details) for details in error.errors()]
    if local is not None:
        desired = replace(
            desired,
            director=local.director,
            metrics_listen=local.metrics_listen,
            log_level=local.log_level,
            api=local.api,
            bgp=local.bgp,
            cluster=local.cluster,
        )
    return desired, list(check(desired))


def _misplaced(raw: dict[str, Any], tables: tuple[str, ...], why: str) -> Iterator[Finding]:
    for name in tables:
        if name not in raw:
            continue
        header = f"[[{name}]]" if isinstance(raw[name], list) else f"[{name}]"
        if tables is SHARED:
            mend = "put it into a file of its own and `limpet apply` it"
        else:
            mend = "put it into the own file of each director"
        yield Finding((name,), f"{header} does not belong here: {why}", mend)


def _refusal(text: str, source: str, raw: dict[str, Any], findings: list[Finding]) -> ConfigError:
    place = Source(text, source)
    findings.sort(key=lambda finding: place.line(finding.path))
    return ConfigError(
        [Problem(place.where(f.path, title(f.path, raw)), f.why, f.mend) for f in findings]
    )


def schema() -> dict[str, Any]:
    """JSON Schema of the configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Document.model_json_schema(),
    }
