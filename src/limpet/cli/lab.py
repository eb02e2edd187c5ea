# SPDX-License-Identifier: Apache-2.0
"""`limpet lab`: a small network in namespaces to try limpet in.

Only options and output are here; what the commands do is in `limpet.lab`. That is imported inside
the commands, because it costs more than the start of every other limpet command may.
"""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="A small network in namespaces, to try limpet or your own application behind it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

LabName = Annotated[
    str, typer.Option("--lab", envvar="LIMPET_LAB", help="Name of the lab.", metavar="NAME")
]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="A host of the lab.")]
BackendName = Annotated[str, typer.Argument(metavar="NAME", help="A backend host.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

DEFAULT = "limpet"
COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE = 127, 126  # as a shell says it


@app.command()
def up(
    topology: Annotated[
        str, typer.Argument(help="A built-in topology, or the path of a TOML file.")
    ] = "one-pop",
    name: Annotated[
        str,
        typer.Option("--name", "--lab", envvar="LIMPET_LAB", help="Name of the lab."),
    ] = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Build a lab. Returns when it forwards."""
    from limpet.lab import operations, source

    try:
        operations.up(name, source.load(topology))
    except KeyboardInterrupt:
        typer.echo(f"interrupted; nothing of lab {name} is left", err=True)
        raise
    try:
        _print_status(name, as_json)
    except KeyboardInterrupt:
        typer.echo(f"lab {name} is up; `limpet lab down --lab {name}` removes it", err=True)
        raise


@app.command()
def status(lab: LabName = DEFAULT, as_json: AsJson = False) -> None:
    """Hosts, addresses, VIPs and PoPs of a lab."""
    _print_status(lab, as_json)


@app.command("exec")
def execute(
    host: HostName,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    lab: LabName = DEFAULT,
) -> None:
    """Run a command on a host. Streams and exit status are the command's own."""
    from limpet.lab import entry

    try:
        entry.become(lab, host, command)
    except OSError as error:
        typer.echo(f"{command[0]}: {error.strerror}", err=True)
        missing = isinstance(error, FileNotFoundError)
        raise typer.Exit(COMMAND_NOT_FOUND if missing else COMMAND_NOT_EXECUTABLE) from error


@app.command()
def add(name: BackendName, lab: LabName = DEFAULT) -> None:
    """Add a new backend host, in the pool."""
    from limpet.lab import changes

    host = changes.add(lab, name)
    typer.echo(f"{host.name} is in the pool with weight {host.weight}")


@app.command()
def weight(
    name: BackendName,
    value: Annotated[int, typer.Argument(metavar="W", min=0, max=65_535, help="The new weight.")],
    lab: LabName = DEFAULT,
) -> None:
    """Change the desired weight of a backend."""
    from limpet.lab import changes

    changes.weight(lab, name, value)
    typer.echo(f"{name} has weight {value}")


@app.command()
def remove(
    name: BackendName,
    keep_host: Annotated[
        bool, typer.Option("--keep-host", help="Out of the pool only; the machine goes on running.")
    ] = False,
    lab: LabName = DEFAULT,
) -> None:
    """Take a backend out of the pool, and its host away."""
    from limpet.lab import changes

    changes.remove(lab, name, keep_host=keep_host)
    typer.echo(f"{name} is out of the pool" + (", its host runs on" if keep_host else ""))


@app.command()
def kill(
    host: HostName,
    daemon_only: Annotated[
        bool, typer.Option("--daemon-only", help="Only limpet's process on it.")
    ] = False,
    lab: LabName = DEFAULT,
) -> None:
    """SIGKILL a host: every process on it, and its links."""
    from limpet.lab import changes

    changes.kill(lab, host, daemon_only=daemon_only)
    typer.echo(f"limpet on {host} was killed" if daemon_only else f"{host} was killed")


@app.command()
def start(host: HostName, lab: LabName = DEFAULT) -> None:
    """Bring a killed host or daemon back. Returns when it forwards."""
    from limpet.lab import changes

    changes.start(lab, host)
    typer.echo(f"{host} runs")


@app.command()
def down(lab: LabName = DEFAULT) -> None:
    """Remove a lab and everything it left, also after a crash."""
    from limpet.lab import operations

    removed = operations.down(lab)
    typer.echo(f"lab {lab} is gone" if removed else f"lab {lab} was not up; nothing to remove")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up at the end.")] = False,
    lab: LabName = DEFAULT,
) -> None:
    """Tell the story: sessions that live while all around them changes. Status 1 if one broke."""
    from limpet.lab import demo as story

    if not story.tell(lab, keep=keep):
        raise typer.Exit(1)


def _print_status(lab: str, as_json: bool) -> None:
    from limpet.lab import operations

    status = operations.status(lab)
    if as_json:
        typer.echo(json.dumps(status, indent=2))
    else:
        _print_table(status)


def _print_table(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"lab {status['lab']} ({status['topology']})", title_justify="left")
    for column in ("host", "role", "pop", "state", "weight", "addresses"):
        table.add_column(column, justify="right" if column == "weight" else "left")
    for host in status["hosts"]:
        condition = host["state"]
        if host.get("daemon") == "down" and condition == "up":
            condition = "limpet down"
        style = None if condition == "up" else "yellow"
        cells = [host["name"], host["role"], host["pop"] or "", condition]
        table.add_row(*cells, str(host.get("weight", "")), _few(host["addresses"]), style=style)
    console = Console()
    console.print(table)
    console.print(f"VIPs {', '.join(status['vips'])}, every TCP and UDP port")


def _few(addresses: list[str]) -> str:
    """The first of each family, and how many more there are."""
    first = [next((a for a in addresses if (":" in a) == is_ipv6), "") for is_ipv6 in (False, True)]
    more = len(addresses) - 2
    return ", ".join(filter(None, first)) + (f" and {more} more" if more > 0 else "")
