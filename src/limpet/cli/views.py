# SPDX-License-Identifier: Apache-2.0
"""Views: the commands that look and change nothing. Only options are here."""

from typing import Annotated

import typer

from limpet.cli.options import AsJson, Limit, OfBackend, OfClient, OfVip, Port, Socket

app = typer.Typer()  # joined to the main one, which has the settings
Count = Annotated[bool, typer.Option("--count", help="Only how many there are.")]


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="[vips|pools|backends|counters]", help="Only this.")
    ] = "",
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Show VIPs, pools, backends, sessions, flows, rates and counters."""
    from limpet.cli import show

    show.show(what, socket, as_json=as_json)


@app.command()
def status(socket: Socket = None, as_json: AsJson = False) -> None:
    """How the director does, and what is not as it should be."""
    from limpet.cli import show

    show.status(socket, as_json=as_json)


@app.command()
def where(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Address of the client.")],
    vip: Annotated[str, typer.Argument(metavar="VIP", help="Name or address of the VIP.")],
    port: Port = None,
    client_port: Port = None,
    protocol: Annotated[str | None, typer.Option(help="tcp or udp.")] = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """To which backend a client's packets go, and why."""
    from limpet.cli import flows

    question = {
        "client": client,
        "vip": vip,
        "vip_port": port,
        "client_port": client_port,
        "protocol": protocol,
    }
    flows.where(question, socket, as_json=as_json)


@app.command("flows")
def flows_(
    vip: OfVip = "",
    backend: OfBackend = "",
    client: OfClient = "",
    limit: Limit = 100,
    count: Count = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """List live flows of the connection table."""
    from limpet.cli import flows

    query = {"vip": vip, "backend": backend, "client": client, "limit": limit, "count": count}
    flows.listed(flows.FLOWS, query, socket, as_json=as_json)


@app.command("sessions")
def sessions(
    vip: OfVip = "",
    backend: OfBackend = "",
    client: OfClient = "",
    limit: Limit = 100,
    count: Count = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """List live sessions: which client belongs to which backend."""
    from limpet.cli import flows

    query = {"vip": vip, "backend": backend, "client": client, "limit": limit, "count": count}
    flows.listed(flows.SESSIONS, query, socket, as_json=as_json)


@app.command()
def sources(
    vip: OfVip = "", limit: Limit = 20, socket: Socket = None, as_json: AsJson = False
) -> None:
    """List the heaviest clients, and which of them are split as mega-proxies."""
    from limpet.cli import lists

    lists.show(lists.SOURCES, socket, as_json=as_json, vip=vip, limit=limit)


@app.command()
def health(socket: Socket = None, as_json: AsJson = False) -> None:
    """What the health checks find, per pool and backend."""
    from limpet.cli import lists

    lists.show(lists.HEALTH, socket, as_json=as_json)


@app.command()
def drains(socket: Socket = None, as_json: AsJson = False) -> None:
    """List the backends that are being drained, and how far they are."""
    from limpet.cli import lists

    lists.show(lists.DRAINS, socket, as_json=as_json)


@app.command()
def routes(socket: Socket = None, as_json: AsJson = False) -> None:
    """Show what routers are told of the VIPs, why or why not, and how the peers do."""
    from limpet.cli import routes

    routes.show(socket, as_json=as_json)


@app.command()
def history(limit: Limit = 20, socket: Socket = None, as_json: AsJson = False) -> None:
    """List the revisions of the intents: who changed what, and when."""
    from limpet.cli import lists

    lists.show(lists.HISTORY, socket, as_json=as_json, limit=limit)


@app.command()
def diff(socket: Socket = None, as_json: AsJson = False) -> None:
    """Show what the file says, what commands have set over it, and what is in effect."""
    from limpet.cli import intents

    intents.diff(socket, as_json=as_json)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what over the API, and who was refused."""
    from limpet.cli import lists

    lists.show(lists.AUDIT, socket, as_json=as_json, limit=limit)


@app.command("events")
def events_(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")
    ] = False,
    since: Annotated[
        int | None, typer.Option(min=0, metavar="ID", help="Only those after this one.")
    ] = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Print what has happened of late: drains, weights, health, reloads."""
    from limpet.cli import events

    events.show(socket, since, follows=follow, as_json=as_json)


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end.")] = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Watch VIPs, backends, sessions and counters, once a second."""
    from limpet.cli import top

    top.top(socket, once=once, as_json=as_json)
