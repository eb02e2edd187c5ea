# SPDX-License-Identifier: Apache-2.0
"""`limpet`: the commands, and how errors end them.

Only options are here. What a command does is imported when it runs, because `limpet --help` has to
be there at once, and a client needs neither numpy nor fastapi.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

import limpet
from limpet.cli import views
from limpet.cli.options import AsJson, Revision, Socket
from limpet.core.errors import LimpetError

GROUPS = ("agent", "backend", "director", "lab", "pop", "sim", "token")
SUB_APPS = {name: f"limpet.cli.{name}" for name in GROUPS}


class Commands(TyperGroup):
    """Imports a sub-app only when it is asked for, or listed."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override] # vendored click
        return sorted([*super().list_commands(ctx), *SUB_APPS])

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def, override] # vendored click
        module = SUB_APPS.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(views.app)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"limpet {limpet.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """A Layer-4 anycast load balancer that never loses a session."""


ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration file.")]
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="LIMPET_STATE",
        help="Folder of the state file [default: /var/lib/limpet/NAME].",
        metavar="DIR",
    ),
]


@app.command()
def run(file: ConfigFile, socket: Socket = None, state: StateFolder = None) -> None:
    """Run the director's daemon in the foreground."""
    from limpet.daemon.daemon import Options
    from limpet.daemon.daemon import run as run_daemon

    run_daemon(Options(file, socket, state))


@app.command()
def check(file: ConfigFile, as_json: AsJson = False) -> None:
    """Check a configuration file; warn of what this machine lacks for it."""
    from limpet.cli import change

    change.check(file, as_json=as_json)


@app.command()
def plan(
    file: ConfigFile, socket: Socket = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """Show what a configuration file would change, without changing it."""
    from limpet.cli import change

    change.plan(file, socket, state, as_json=as_json)


@app.command()
def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Document of the cluster: VIPs, pools, ...")
    ],
    if_revision: Revision = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would change, and change nothing.")
    ] = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Have all directors of the cluster serve what the file says."""
    from limpet.cli import change

    if dry_run:
        change.apply_dry(file, socket, as_json=as_json)
    else:
        change.apply(file, socket, if_revision, as_json=as_json)


@app.command("reload")
def reload_(socket: Socket = None, as_json: AsJson = False) -> None:
    """Let the daemon read its configuration file again."""
    from limpet.cli import change

    change.reload(socket, as_json=as_json)


@app.command()
def down(
    name: Annotated[str, typer.Argument(help="The director; without it: the only one.")] = "",
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Stop forwarding: end the daemon, detach and forget everything in the kernel."""
    from limpet.cli import change

    change.down(name, socket, as_json=as_json)


@app.command()
def speaker(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="/run/limpet/NAME.bgp.")],
) -> None:
    """Hold the BIRD of a director; the daemon starts this. Withdraws when the daemon stays away."""
    from limpet.announce import speaker

    speaker.run(folder)


@app.command()
def rollback(
    revision: Annotated[
        int, typer.Argument(metavar="REVISION", min=0, help="Of `limpet history`; 0: no intents.")
    ],
    if_revision: Revision = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Set all intents, drains and weights, as they were at a revision."""
    from limpet.cli import intents

    intents.rollback(revision, socket, if_revision, as_json=as_json)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    import json

    found = {"version": limpet.__version__}
    typer.echo(json.dumps(found) if as_json else f"limpet {limpet.__version__}")


def main() -> None:
    """Entry point. An error that limpet raises on purpose ends with its own exit status."""
    try:
        app()
    except LimpetError as error:
        typer.echo(f"limpet: {error}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:  # the reader of our output has gone, as in `limpet flows | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except PermissionError as error:
        root = "" if os.geteuid() == 0 else "; this needs root: use sudo"
        typer.echo(f"limpet: {error.filename}: {error.strerror}{root}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
