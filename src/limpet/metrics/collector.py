# SPDX-License-Identifier: Apache-2.0
"""Collector: what a director counts, for Prometheus, read from the kernel at every scrape.

Labels are names from the configuration and counters from bpf/abi.h: never a client or a session,
so the number of series is bounded by the configuration. Every series has `director` and `pop`.
Counters carry their `severity` (normal, watch, alarm), so that one alert covers them all.
docs/operate/metrics.md lists everything; a test compares.
"""

import threading
from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric

from limpet.datapath.abi import MEANINGS
from limpet.metrics import members
from limpet.metrics.reading import Family, Json, Reading, meaning

COUNTERS = {
    "verdicts": ("verdict", "Packets by what was done with them, each exactly once"),
    "rungs": ("rung", "Forwarded packets by the rung of the ladder that chose the backend"),
    "events": ("event", "What happened to the connection table and to the session table"),
}
VIP_COUNTERS = {
    "limpet_packets": ("packets", "Packets for a VIP that were forwarded"),
    "limpet_bytes": ("bytes", "Bytes of these from the IP header on, before encapsulation"),
    "limpet_flows_created": ("flows_created", "New flows to a VIP"),
    "limpet_sessions_created": ("sessions_created", "New sessions of a VIP"),
    "limpet_dropped_packets": ("dropped", "Packets for a VIP that were dropped"),
}
BACKEND_COUNTERS = {
    "limpet_backend_packets": ("packets", "Packets forwarded to a backend"),
    "limpet_backend_bytes": ("bytes", "Bytes of these from the IP header on, before encapsulation"),
    "limpet_backend_flows_created": ("flows_created", "New flows to a backend"),
    "limpet_backend_sessions_created": ("sessions_created", "New sessions on a backend"),
}
POOL_GAUGES = {
    "limpet_backend_slots": ("slots", "Slots that a backend owns in a pool, of 65536"),
    "limpet_backend_weight": ("weight", "Weight that is desired for a backend in a pool"),
    "limpet_backend_effective_weight": (
        "effective_weight",
        "Weight for new sessions: what intent, health and slow start leave of it",
    ),
}
VIP_GAUGES = {
    "limpet_vip_flows": ("flows", "Live flows of a VIP"),
    "limpet_vip_sessions": ("sessions", "Live sessions of a VIP"),
}
DRAIN_GAUGES = {
    "limpet_drain_sessions": ("sessions", "Live sessions left on a backend that drains"),
    "limpet_drain_flows": ("flows", "Open flows left on a backend that drains"),
    "limpet_drain_end_seconds": (
        "estimated_end_s",
        "Estimated time to the end of a drain; missing while nobody leaves",
    ),
}
ANNOUNCING = (
    "announced",
    "withdrawn",
    "peer_ups",
    "peer_downs",
    "failed",
    "speaker_starts",
    "bird_restarts",
    "hold_withdrawals",
)
HEALTH_GAUGES = {
    "limpet_health_up": ("is_up", "1 if checks say that a backend is up, in a pool that checks"),
    "limpet_health_suppressed": (
        "is_suppressed",
        "1 if a backend changes too often, and counts as down",
    ),
}


class Collector:
    """Makes metrics of a reading at every scrape."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        reading = self._read()
        yield from _kernel_counters(reading)
        yield from _outbound(reading)
        yield from _vips(reading)
        yield from _backends(reading)
        yield from _tables(reading)
        yield from _drains(reading)
        yield from _health(reading)
        yield from _tasks(reading)
        yield from members.cluster(reading)
        yield from members.directory(reading)
        yield from members.ownership(reading)
        yield from _routes(reading)
        yield from _daemon(reading)

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not read the kernel."""
        return iter(())


def _kernel_counters(reading: Reading) -> Iterator[Metric]:
    for kind, (section, what) in COUNTERS.items():
        family = Family(reading)
        add = family.counter(f"limpet_{kind}", f"{what}. {meaning(section)}", [section, "severity"])
        for name, value in getattr(reading.counters, kind).items():
            add([name, MEANINGS[section][name.upper()][1]], value)
        yield family.metric


def _outbound(reading: Reading) -> Iterator[Metric]:
    what = f"Packets of this machine to backends (checks, resets). {meaning('outbound')}"
    family = Family(reading)
    add = family.counter("limpet_outbound_packets", what, ["outbound", "severity"])
    for name, value in reading.outbound.items():
        add([name, MEANINGS["outbound"][name.upper()][1]], value)
    yield family.metric


def _vips(reading: Reading) -> Iterator[Metric]:
    for metric, (key, help) in VIP_COUNTERS.items():
        family = Family(reading)
        add = family.counter(metric, help, ["vip"])
        for vip in reading.vips:
            add([vip["name"]], vip[key])
        yield family.metric
    for metric, (key, help) in VIP_GAUGES.items():
        family = Family(reading)
        add = family.gauge(metric, help, ["vip"])
        for vip in reading.vips:
            add([vip["name"]], vip[key])
        yield family.metric


def _backends(reading: Reading) -> Iterator[Metric]:
    for metric, (key, help) in BACKEND_COUNTERS.items():
        family = Family(reading)
        add = family.counter(metric, help, ["backend"])
        for name, backend in _named(reading):
            add([name], backend[key])
        yield family.metric
    for metric, (key, help) in POOL_GAUGES.items():
        family = Family(reading)
        add = family.gauge(metric, help, ["backend", "pool"])
        for pool in reading.pools:
            for member in pool["backends"]:
                add([member["name"], pool["name"]], member[key])
        yield family.metric
    family = Family(reading)
    add = family.gauge(
        "limpet_backend_flows",
        "Live flows of a backend; lingering: it was removed",
        ["backend", "state"],
    )
    for name, backend in _named(reading):
        add([name, backend["state"]], backend["flows"])
    yield family.metric
    family = Family(reading)
    add = family.gauge("limpet_backend_sessions", "Live sessions of a backend", ["backend"])
    for name, backend in _named(reading):
        add([name], backend["sessions"])
    yield family.metric
    family = Family(reading)
    add = family.gauge(
        "limpet_backend_next_hop_resolved",
        "1 if packets are sent straight to the next hop, 0 if through the kernel",
        ["backend"],
    )
    for name, backend in _named(reading):
        add([name], float(backend["next_hop"]["state"] == "resolved"))
    yield family.metric


def _named(reading: Reading) -> Iterator[tuple[str, Json]]:
    """Backends under names that are unique also while a namesake lingers."""
    taken: set[str] = set()
    for backend in reading.backends:
        name = backend["name"]
        if name in taken:
            name = f"{name}@{backend['address']}"
        taken.add(name)
        yield name, backend


def _tables(reading: Reading) -> Iterator[Metric]:
    for metric, occupancy, table in (
        ("limpet_flows", reading.flows, "connection"),
        ("limpet_sessions", reading.sessions, "session"),
    ):
        family = Family(reading)
        add = family.gauge(metric, f"Used entries of the {table} table by their life", ["state"])
        for life, count in occupancy["by_life"].items():
            add([life], count)
        yield family.metric
        family = Family(reading)
        entries = metric.removesuffix("s") + "_entries"
        add = family.gauge(entries, f"Entries of the {table} table, used or not", [])
        add([], occupancy["entries"])
        yield family.metric
    family = Family(reading)
    add = family.gauge("limpet_table_generation", "Generation of a pool's slot table", ["pool"])
    for pool in reading.pools:
        add([pool["name"]], pool["generation"])
    yield family.metric


def _drains(reading: Reading) -> Iterator[Metric]:
    family = Family(reading)
    add = family.gauge("limpet_drain", "1 for the state that a drain is in", ["backend", "state"])
    for drain in reading.drains:
        for state in ("draining", "resetting", "drained"):
            add([drain["backend"], state], float(drain["state"] == state))
    yield family.metric
    for metric, (key, help) in DRAIN_GAUGES.items():
        family = Family(reading)
        add = family.gauge(metric, help, ["backend"])
        for drain in reading.drains:
            if drain[key] is not None:
                add([drain["backend"]], drain[key])
        yield family.metric


def _health(reading: Reading) -> Iterator[Metric]:
    for metric, (key, help) in HEALTH_GAUGES.items():
        family = Family(reading)
        add = family.gauge(metric, help, ["backend", "pool"])
        for row in reading.health:
            add([row["backend"], row["pool"]], float(row[key]))
        yield family.metric
    family = Family(reading)
    add = family.counter(
        "limpet_health_changes", "How often a backend went up or down", ["backend", "pool"]
    )
    for row in reading.health:
        add([row["backend"], row["pool"]], row["changes"])
    yield family.metric


def _tasks(reading: Reading) -> Iterator[Metric]:
    tasks = reading.tasks
    for metric, help, task, results in (
        (
            "limpet_checks",
            "Health checks by result",
            "checks",
            ("good", "failed", "not_checked", "late"),
        ),
        ("limpet_sweeps", "Sweeps by result", "sweeper", ("done", "failed")),
        (
            "limpet_resets",
            "Flows that are being reset: how often clients were asked and have answered",
            "resets",
            ("elicited", "answered", "given_up", "failed"),
        ),
    ):
        family = Family(reading)
        add = family.counter(metric, help, ["result"])
        for result in results:
            add([result], tasks[task][result])
        yield family.metric
    for metric, key, help in (
        ("limpet_sweep_duration_seconds", "duration_s", "Duration of the last sweep"),
        ("limpet_sweep_forgotten", "forgotten", "Entries that were remembered for too long"),
    ):
        family = Family(reading)
        add = (family.gauge if key == "duration_s" else family.counter)(metric, help, [])
        add([], tasks["sweeper"][key])
        yield family.metric
    yield from _hooks(reading)


def _hooks(reading: Reading) -> Iterator[Metric]:
    hooks = reading.tasks["hooks"]
    family = Family(reading)
    add = family.counter("limpet_hooks", "Deliveries to hooks by result", ["hook", "result"])
    for hook, record in hooks.items():
        for result in ("delivered", "failed"):
            add([hook, result], record[result])
    yield family.metric
    family = Family(reading)
    add = family.gauge("limpet_hook_pending", "Events that a hook has yet to take", ["hook"])
    for hook, record in hooks.items():
        add([hook], record["pending"])
    yield family.metric


def _routes(reading: Reading) -> Iterator[Metric]:
    """Of what routers are told."""
    record = reading.tasks["routes"]
    family = Family(reading)
    what = "Routes that came and went, changes of peers, failures, and restarts, as they happened"
    add = family.counter("limpet_announcing", what, ["result"])
    for name in ANNOUNCING:
        add([name], record[name])
    yield family.metric
    for metric, key, what, label in (
        ("limpet_route_told", "told", "Who is told of an address: peers, or 1 table", "address"),
        ("limpet_peer_up", "peers", "1 if the session with a router is up", "peer"),
    ):
        family = Family(reading)
        add = family.gauge(metric, what, [label])
        for name, value in record.get(key, {}).items():
            add([name], float(value))
        yield family.metric


def _daemon(reading: Reading) -> Iterator[Metric]:
    family = Family(reading)
    add = family.counter("limpet_reconcile_passes", "Reconcile passes by result", ["result"])
    for result, count in reading.passes.items():
        add([result], count)
    yield family.metric
    for name, help, value in (
        (
            "limpet_reconcile_duration_seconds",
            "Duration of the last good pass",
            reading.pass_duration_s,
        ),
        (
            "limpet_reconcile_success_timestamp_seconds",
            "When the last good pass ended, Unix time",
            reading.pass_succeeded_at,
        ),
        ("limpet_revision", "Revision of the intents that are in effect", reading.revision),
    ):
        family = Family(reading)
        family.gauge(name, help, [])([], value)
        yield family.metric
    family = Family(reading)
    add = family.gauge(
        "limpet_attached",
        "1 if the program is attached to an interface, by mode",
        ["interface", "mode"],
    )
    for attachment in reading.attachments:
        add(
            [attachment["interface"], attachment["mode"] or "none"], float(bool(attachment["mode"]))
        )
    yield family.metric
    family = Family(reading)
    family.gauge("limpet_build_info", "Version of the daemon", ["version"])([reading.version], 1)
    yield family.metric


class Endpoint:
    """The address where metrics are served, which may change while it runs."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(Collector(read))
        self._listen = ""
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def listen(self, listen: str) -> None:
        """Serve on "address:port" and no longer where it did; "" is nowhere.

        Raises OSError if it cannot be had; then there are no metrics.
        """
        if listen == self._listen:
            return
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
        self._server, self._listen = None, ""
        if listen:
            address, _, port = listen.rpartition(":")
            self._server = start_http_server(int(port), address.strip("[]"), self._registry)
            self._listen = listen
