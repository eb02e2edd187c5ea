# SPDX-License-Identifier: Apache-2.0
"""`limpet backend`: what people want of a backend: drain, undrain, weight; and how it does.

Only options are here; what the commands do is imported when they run.
"""

from typing import Annotated, Literal

import typer

from limpet.cli import duration, names
from limpet.cli.options import AsJson, BackendName, Revision, Socket

app = typer.Typer(
    help="Drain backends, weigh them, and see how they do.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        parser=duration.parse,
        metavar="DURATION",
        help="When waiting ends, from now: 90s, 10m, 2h, 1d.",
    ),
]
AtDeadline = Annotated[
    Literal["keep", "reset"] | None,
    typer.Option(
        "--at-deadline",
        help="Those that are left then: keep them, or reset their TCP connections.  "
        "[default: keep]",
    ),
]
Rule = Annotated[
    Literal["sessions", "flows"] | None,
    typer.Option(
        "--rule",
        help="Who may stay: live sessions with the flows that they begin, or open flows only.  "
        "[default: the pool's]",
    ),
]


@app.command()
def drain(
    name: BackendName,
    deadline: Deadline = None,
    at_deadline: AtDeadline = None,
    rule: Rule = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress; end when the last one has gone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also the last active backend of a pool.")
    ] = False,
    if_revision: Revision = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """New sessions go elsewhere, live ones stay until they end or the deadline passes.

    With --wait: status 0 when drained, 8 if the drain was taken back meanwhile, 9 if the deadline
    passed and some were left. Ctrl-C ends the waiting, not the drain.
    """
    from limpet.cli import drain
    from limpet.cli.drain import Order, Terms

    terms = Terms(deadline, at_deadline, rule)
    order = Order(name, terms, is_forced=force, if_revision=if_revision)
    if dry_run:
        drain.preview(order, socket, as_json=as_json)
    else:
        drain.drain(order, socket, is_waiting=wait, as_json=as_json)


@app.command()
def undrain(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the backend.", autocompletion=names.drains),
    ],
    if_revision: Revision = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Take a drain back: new sessions come again."""
    from limpet.cli import drain

    drain.undrain(name, socket, if_revision, as_json=as_json)


@app.command()
def weight(
    name: BackendName,
    value: Annotated[
        int | None,
        typer.Argument(metavar="[WEIGHT]", help="0 to 65535; 0: no new sessions."),
    ] = None,
    pool: Annotated[
        str,
        typer.Option("--pool", help="Needed if it is in several.", autocompletion=names.pools),
    ] = "",
    reset: Annotated[
        bool, typer.Option("--reset", help="Back to the weight of the configuration file.")
    ] = False,
    if_revision: Revision = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Set a weight over that of the file. New sessions follow at once, no live one moves."""
    from limpet.cli import weight

    order = weight.Order(name, pool, value, is_reset=reset, if_revision=if_revision)
    weight.weigh(order, socket, as_json=as_json)


@app.command("list")
def list_(socket: Socket = None, as_json: AsJson = False) -> None:
    """Intent, health, weights and load of every backend, and why one gets no new sessions."""
    from limpet.cli import backends

    backends.show(socket, as_json=as_json)
