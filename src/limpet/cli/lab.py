# SPDX-License-Identifier: Apache-2.0
"""`limpet lab`: a small network in namespaces to try limpet in.

Only options and output are here; what the commands do is in `limpet.lab`. That is imported inside
the commands, because it costs more than the start of every other limpet command may.
"""

import json
import re
from enum import StrEnum
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
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="A client host.")]
PlaceA = Annotated[str, typer.Argument(metavar="A", help="A host, router, segment or PoP.")]
PlaceB = Annotated[str, typer.Argument(metavar="B", help="Another one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

DEFAULT = "limpet"


class Story(StrEnum):
    TWO_POP = "two-pop"
    ONE_POP = "one-pop"


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
def add(
    name: BackendName,
    pop: Annotated[
        str, typer.Option("--pop", help="PoP that it stands in; default: the first.")
    ] = "",
    lab: LabName = DEFAULT,
) -> None:
    """Add a new backend host, in the pool."""
    from limpet.lab import changes

    host = changes.add(lab, name, pop=pop)
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
def shift(
    client: ClientName,
    pop: Annotated[str, typer.Argument(metavar="POP", help="The PoP to go to.")],
    lab: LabName = DEFAULT,
) -> None:
    """Have BGP send a client's packets to another PoP. Returns when it does."""
    from limpet.lab import shifting

    took_s = shifting.shift(lab, client, pop)
    typer.echo(f"packets of {client} go to {pop} since {took_s * 1_000:.0f} ms after the command")


@app.command()
def flap(
    client: ClientName,
    every: Annotated[
        str, typer.Option("--every", help="Time from one shift to the next.")
    ] = "200ms",
    duration: Annotated[str, typer.Option("--for", help="How long.")] = "10s",
    lab: LabName = DEFAULT,
) -> None:
    """Shift a client back and forth; in the end its packets go where they went before."""
    from limpet.lab import shifting

    found = shifting.flap(lab, client, _seconds("--every", every), _seconds("--for", duration))
    typer.echo(f"{found.seen} of {found.asked} shifts were complete before the next one")


@app.command()
def path(
    client: ClientName,
    vip: Annotated[str, typer.Argument(metavar="[VIP]", help="Default: each.")] = "",
    source: Annotated[
        str, typer.Option("--source", metavar="ADDRESS", help="One of the client's addresses.")
    ] = "",
    lab: LabName = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """PoP, director and backend that a client's packets take now."""
    from limpet.lab import shifting

    found = [each.record() for each in shifting.path(lab, client, vip, source)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        hops = each["hops"]
        assert isinstance(hops, list)
        typer.echo(
            f"{each['client']} -> {each['vip']}: PoP {each['pop'] or '-'}, director "
            f"{each['director'] or '-'}, backend {each['backend'] or '-'} ({each['why']})\n"
            f"  by {', '.join(hops)}"
        )


@app.command()
def cut(a: PlaceA, b: PlaceB, lab: LabName = DEFAULT) -> None:
    """Cut the link between two places: hosts, routers, segments or PoPs."""
    from limpet.lab import shifting

    shifting.worsen(lab, a, b, cut=True)
    typer.echo(f"{a} and {b} are cut off from each other")


@app.command()
def heal(a: PlaceA, b: PlaceB, lab: LabName = DEFAULT) -> None:
    """Undo `cut`, `loss` and `delay` between two places."""
    from limpet.lab import shifting
    from limpet.lab.impairment import Impairment

    shifting.impair(lab, Impairment(a=a, b=b))
    typer.echo(f"nothing is wrong between {a} and {b}")


@app.command()
def loss(
    a: PlaceA,
    b: PlaceB,
    share: Annotated[str, typer.Argument(metavar="PERCENT", help="As 1%.")],
    lab: LabName = DEFAULT,
) -> None:
    """Lose a share of the packets between two places, each way."""
    from limpet.lab import shifting

    shifting.worsen(lab, a, b, loss_percent=_percent(share))
    typer.echo(f"between {a} and {b} {share} of the packets are lost")


@app.command()
def delay(
    a: PlaceA,
    b: PlaceB,
    time: Annotated[str, typer.Argument(metavar="TIME", help="As 20ms; 0 for none.")],
    lab: LabName = DEFAULT,
) -> None:
    """Delay all that passes between two places, each way."""
    from limpet.lab import shifting

    shifting.worsen(lab, a, b, delay_ms=_milliseconds(time))
    typer.echo(f"what passes between {a} and {b} takes {time} longer, each way")


@app.command()
def down(lab: LabName = DEFAULT) -> None:
    """Remove a lab and everything it left, also after a crash."""
    from limpet.lab import operations

    removed = operations.down(lab)
    typer.echo(f"lab {lab} is gone" if removed else f"lab {lab} was not up; nothing to remove")


@app.command()
def demo(
    story: Annotated[
        Story, typer.Argument(help="two-pop: BGP moves clients. one-pop: the rest.")
    ] = Story.TWO_POP,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up at the end.")] = False,
    compare: Annotated[
        bool, typer.Option(help="two-pop: tell it again of balancers that go by the hash alone.")
    ] = True,
    lab: LabName = DEFAULT,
) -> None:
    """Tell a story: sessions that live while all around them changes. Status 1 if one broke."""
    from limpet.lab import anycast_demo
    from limpet.lab import demo as one_pop

    if story is Story.TWO_POP:
        held = anycast_demo.tell(lab, keep=keep, compare=compare)
    else:
        held = one_pop.tell(lab, keep=keep)
    if not held:
        raise typer.Exit(1)


def _seconds(option: str, text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    found = re.fullmatch(r"([0-9.]+)(ms|s|m)", text)
    try:
        value = float(found[1]) * units[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise typer.BadParameter(
            f"'{text}' is no time: write it as 200ms, 10s or 2m", param_hint=option
        )
    return value


def _milliseconds(text: str) -> float:
    from limpet.lab.impairment import DELAY_MAX_MS

    value = 0.0 if text == "0" else _seconds("TIME", text) * 1_000
    if value > DELAY_MAX_MS:
        raise typer.BadParameter(f"'{text}' is too long: up to {DELAY_MAX_MS // 1_000}s works")
    return value


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 < value <= 100:
        raise typer.BadParameter(f"'{text}' is no share: write it as 1% or 0.5%, up to 100%")
    return value


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
