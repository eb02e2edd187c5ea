# SPDX-License-Identifier: Apache-2.0
"""`limpet sim`: many PoPs in virtual time; does a session ever break?

Only options and output are here; what is simulated is in `limpet.sim`, imported when it runs.
"""

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limpet.sim.running import Outcome
    from limpet.sim.scenario import Scenario
    from limpet.sim.verdict import Tally

app = typer.Typer(
    help="Simulate many PoPs under seeded faults, and check every promise.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ScenarioName = Annotated[
    str,
    typer.Argument(metavar="SCENARIO", help="One that is built in, or a TOML file."),
]


@app.command()
def run(
    scenario: ScenarioName = "usual",
    first: Annotated[int, typer.Option("--seed", help="The first seed.")] = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many.")] = 20,
    processes: Annotated[
        int, typer.Option("--processes", min=0, help="0: as many as there are CPUs.")
    ] = 0,
    save: Annotated[
        Path, typer.Option("--save", metavar="FILE", help="Where the shortest failing run goes.")
    ] = Path("limpet-sim-failure.json"),
    as_json: AsJson = False,
) -> None:
    """Run a scenario under many seeds. Status 1 if a promise was broken."""
    from limpet.sim import running
    from limpet.sim import scenario as scenarios

    found = scenarios.load(scenario)
    outcome = running.many(found, first, seeds, processes)
    if as_json:
        typer.echo(json.dumps(_machine(outcome), indent=2))
    else:
        _print(found, outcome)
    if outcome.failed:
        _show_failure(found, outcome.failed[0], save)
        raise typer.Exit(1)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `limpet sim run` saved.")],
) -> None:
    """Show a failing run again. Status 1 if it still fails."""
    from limpet.sim import running

    scenario, seed, events = running.read(file)
    tally = running.one(scenario, seed, events)
    for event in events:
        typer.echo(f"  {event}")
    for failure in tally.failures:
        typer.echo(failure)
    typer.echo(f"seed {seed} of {scenario.name}: {tally.failed} promises broken")
    if tally.failed:
        raise typer.Exit(1)


@app.command()
def exhaustive(
    depth: Annotated[
        int, typer.Option("--depth", min=1, max=6, help="Steps of people, clients and faults.")
    ] = 4,
    every_step: Annotated[
        bool, typer.Option("--every-step", help="Steps of the protocol count, too.")
    ] = False,
    leave_out: Annotated[
        str,
        typer.Option("--leave-out", help="A part of the protocol, to see that it is missed."),
    ] = "nothing",
    as_json: AsJson = False,
) -> None:
    """Explore all interleavings of a small world. Status 1 if a promise is broken."""
    from limpet.sim import exhaustive as search
    from limpet.sim import interleaving

    explore = interleaving.explore if every_step else search.explore_at_once
    found = explore(depth, search.part(leave_out))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        for step in found.steps:
            typer.echo("  " + " ".join(map(str, step)))
        typer.echo(found.summary())
    if found.why:
        raise typer.Exit(1)


def _machine(outcome: "Outcome") -> dict[str, object]:
    """A Counter is no plain dictionary to `asdict`, so that comes last."""
    tally = {
        field.name: dict(value) if isinstance(value, Counter) else value
        for field in fields(outcome.tally)
        for value in (getattr(outcome.tally, field.name),)
    }
    found = {"seeds": outcome.seeds, "failed": outcome.failed, "seconds": outcome.seconds}
    return {"tally": tally, **found, "lives_a_minute": round(outcome.lives_a_minute)}


def _print(scenario: "Scenario", outcome: "Outcome") -> None:
    tally: Tally = outcome.tally
    typer.echo(f"{scenario.name}: {scenario.says}")
    typer.echo(
        f"{outcome.seeds} seeds, {tally.lives:,} sessions, {tally.connections:,} connections, "
        f"{tally.packets:,} packets, {tally.events:,} events in {outcome.seconds:.1f} s "
        f"({outcome.lives_a_minute:,.0f} session-lives a minute)"
    )
    typer.echo(
        f"met another director {tally.shifted:,} times, held {tally.held:,}; connections broken "
        f"{tally.broken:,}, misdelivered {tally.misdelivered.total():,}"
    )
    _reasons("orphan", tally.orphans)
    _reasons("misdelivered", tally.misdelivered)
    _reasons("orphan, at its backend all the same", tally.spared)
    _reasons("new connection apart from its session", tally.strayed)
    typer.echo(f"promises broken: {tally.failed:,}")


def _reasons(what: str, counts: Counter[str]) -> None:
    for reason, count in sorted(counts.items()):
        typer.echo(f"  {count:,} {what}: {reason}")


def _show_failure(scenario: "Scenario", seed: int, save: Path) -> None:
    from limpet.sim import running
    from limpet.sim import scenario as scenarios

    events = running.shorten(scenario, seed, scenarios.draw(scenario, seed))
    running.write(save, scenario, seed, events)
    typer.echo(f"seed {seed} of {scenario.name}, {running.what_runs()}, shortened:", err=True)
    for event in events:
        typer.echo(f"  {event}", err=True)
    for failure in running.one(scenario, seed, events).failures[:3]:
        typer.echo(failure, err=True)
    typer.echo(f"again: limpet sim replay {save}", err=True)
