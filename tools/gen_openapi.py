# SPDX-License-Identifier: Apache-2.0
"""Write docs/formats/openapi.json: the OpenAPI document that /v1/openapi.json serves.

It needs no director: routes are described before anybody is asked. `--check` writes nothing and
exits with 1 if the file is not current.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

from limpet.api.application import application
from limpet.api.audit import Audit
from limpet.api.events import Streams
from limpet.api.interface import Director

FILE = Path(__file__).resolve().parent.parent / "docs/formats/openapi.json"


def document() -> dict[str, Any]:
    return application(cast(Director, None), Audit(None), Streams()).openapi()


def text() -> str:
    return json.dumps(document(), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    if FILE.exists() and FILE.read_text() == text():
        return 0
    print(f"{FILE.name}: {'not current' if arguments else 'written'}")
    if arguments:
        return 1
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: gen_openapi.py [--check]")
    sys.exit(main(sys.argv[1:]))
