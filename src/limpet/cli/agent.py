# SPDX-License-Identifier: Apache-2.0
"""`limpet agent`: the backend side.

Only options and output are here; what the commands do is in `limpet.agent`, imported inside the
commands, because it costs more than the start of every other limpet command may.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limpet.agent.report import Report

app = typer.Typer(
    help="On a backend: decapsulate, hold the VIPs, clamp the MSS.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

AgentName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="Configuration, TOML.")]
LEVEL_STYLES = {"watch": "yellow", "alarm": "red"}


@app.command()
def run(file: ConfigFile) -> None:
    """Install and stay until SIGTERM; packets keep flowing after that. SIGHUP reloads."""
    from limpet.agent import service

    _log_to_stderr()
    service.run(file)


@app.command()
def check(file: ConfigFile) -> None:
    """Say whether a configuration file is right."""
    from limpet.agent import service

    config = service.read(file)
    typer.echo(f"{file}: right; agent {config.name} on {config.interface}")


@app.command()
def show(
    name: AgentName,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What is attached, and what was counted. Works without the process."""
    from limpet.agent import report, service

    service.require_root()
    found = report.read(name)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)


@app.command()
def down(name: AgentName) -> None:
    """Remove all that the agent has put on this machine."""
    from limpet.agent import service

    service.down(name)
    typer.echo(f"agent {name} is gone")


def _print(found: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    from limpet.agent.report import meaning

    console = Console()
    console.print(f"agent {found.name} on {found.interface}")
    xdp = f"XDP {found.mode} {found.program}" if found.ingress else "not attached"
    clamp = f"tc egress {found.clamp}" if found.egress else "not attached"
    sizes = "exit" if found.is_exit else f"MSS {found.mss4}, {found.mss6} (IPv6)"
    console.print(f"decapsulation: {xdp}" + ("" if found.is_exit else f"; MSS clamp: {clamp}"))
    console.print(f"VIPs {', '.join(map(str, found.vips))}; {sizes}")
    console.print(f"accepts from {', '.join(found.directors)}")
    if found.exits:
        console.print(f"replies follow their clients, by exits {', '.join(found.exits)}")
    table = Table("counter", "packets", "meaning", "")
    table.columns[1].justify = "right"
    for name, count in found.counters.items():
        text, level = meaning(name)
        style = LEVEL_STYLES.get(level) if count else None
        table.add_row(name, str(count), text, level, style=style)
    console.print(table)
    for problem in found.problems():
        console.print(f"[red]{problem}[/red]; `limpet agent run` puts it back")


def _log_to_stderr() -> None:
    """JSON lines, or text for a person at a terminal."""
    import structlog
    from structlog import processors

    last = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else processors.JSONRenderer()
    structlog.configure(
        processors=[
            processors.add_log_level,
            processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
