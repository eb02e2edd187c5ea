# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, declared once, so that they read and complete the same."""

from pathlib import Path
from typing import Annotated

import typer

from limpet.cli import names

Socket = Annotated[
    Path | None,
    typer.Option("--socket", envvar="LIMPET_SOCKET", help="Socket of the daemon.", metavar="PATH"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Port = Annotated[int | None, typer.Option(min=0, max=65_535)]
Limit = Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")]
Revision = Annotated[
    int | None,
    typer.Option(
        "--if-revision",
        min=0,
        metavar="N",
        help="Only if the intents are still at this revision (`limpet history`).",
    ),
]
BackendName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the backend.", autocompletion=names.backends),
]
OfVip = Annotated[
    str,
    typer.Option("--vip", help="Only of this VIP, by name or address.", autocompletion=names.vips),
]
OfBackend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Only to this backend, by name or address.",
        autocompletion=names.backends,
    ),
]
OfClient = Annotated[str, typer.Option("--client", help="Only of this client address.")]
