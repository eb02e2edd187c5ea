# SPDX-License-Identifier: Apache-2.0
"""Members: series of a director that shares its state with others; none of one that stands alone.

Membership, session directory and ownership queries keep records of their own; what is a number of
now is a gauge, all else counts.
"""

from collections.abc import Iterator

from prometheus_client.core import Metric

from limpet.metrics.reading import Family, Reading


def directory(reading: Reading) -> Iterator[Metric]:
    """Of a director that shares its state with others."""
    record = dict(reading.tasks.get("directory", {}))
    families = [Family(reading) for _ in range(3)]
    add_now = families[0].gauge("limpet_directory_now", "Exceptions known and queued", ["state"])
    add_time = families[1].gauge("limpet_directory_seconds", "Last scan, last lag, clock", ["time"])
    what = "Session directory: entries, batches and scans by what became of them"
    add = families[2].counter("limpet_directory", what, ["result"])
    for name in sorted({"entries", "queued"} & record.keys()):
        add_now([name], record.pop(name))
    for name in sorted({"clock_off_s", "lag_s", "scan_s"} & record.keys()):
        add_time([name.removesuffix("_s")], record.pop(name))
    for name, value in record.items():
        add([name], value)
    yield from (family.metric for family in families)


CLUSTER_RESULTS = (
    "applied",
    "prepared",
    "late",
    "late_here",
    "refused",
    "failed",
    "unreadable",
    "reconnects",
    "forgotten",
    "history_forgotten",
)
CLUSTER_STATES = (
    "leads",
    "store_connected",
    "directors",
    "reachable",
    "differing",
    "behind",
    "cut_off",
)
GENERATIONS = {"generation": "here", "head_generation": "head", "preparing": "preparing"}


def cluster(reading: Reading) -> Iterator[Metric]:
    """Of a director that shares its state with others."""
    record = reading.tasks.get("cluster", {})
    counted, now, generations = Family(reading), Family(reading), Family(reading)
    what = "Membership of the cluster: changes, failures and tidying, as they happened"
    add = counted.counter("limpet_cluster", what, ["result"])
    add_now = now.gauge("limpet_cluster_now", "Membership of the cluster now", ["state"])
    what = "Generation of the tables: in effect here, at the head, being prepared (0: none)"
    add_generation = generations.gauge("limpet_cluster_generation", what, ["of"])
    for name, value in record.items():
        if name in CLUSTER_RESULTS:
            add([name], value)
        elif name in CLUSTER_STATES:
            add_now([name], float(value))
        elif name in GENERATIONS:
            add_generation([GENERATIONS[name]], value)
    yield from (family.metric for family in (counted, now, generations))


OWNERSHIP_STATES = ("waiting", "ready", "remembered", "peers", "silent_peers")


def ownership(reading: Reading) -> Iterator[Metric]:
    """Of a director that shares its state with others."""
    record = reading.tasks.get("ownership", {})
    counted, now = Family(reading), Family(reading)
    what = "Ownership queries: packets, flows, datagrams and answers by what became of them"
    add = counted.counter("limpet_ownership", what, ["result"])
    what = "Ownership queries now: packets, flows that were decided, directors"
    add_now = now.gauge("limpet_ownership_now", what, ["state"])
    for name, value in record.items():
        (add_now if name in OWNERSHIP_STATES else add)([name], value)
    yield counted.metric
    yield now.metric
