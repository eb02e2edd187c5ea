# SPDX-License-Identifier: Apache-2.0
"""Reading: all numbers of a director at one moment, and how series are made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from limpet.datapath.abi import MEANINGS
from limpet.datapath.counters import Counters

Json = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """All numbers of a director at one moment; lists as the API shows them (daemon/view.py)."""

    director: str
    pop: str
    version: str
    counters: Counters
    outbound: dict[str, int]  # packets of this machine to backends, by outcome
    vips: list[Json]
    pools: list[Json]
    backends: list[Json]
    attachments: list[Json]
    flows: Json
    sessions: Json
    drains: list[Json]
    health: list[Json]
    tasks: dict[str, Json]  # what became of sweeps, hooks, resets and checks, as status says it
    revision: int
    passes: dict[str, int]
    pass_duration_s: float
    pass_succeeded_at: float


def meaning(section: str) -> str:
    """What the values of a counter's label mean, for its help text."""
    return "; ".join(
        f"{name.lower()}: {text} ({severity})"
        for name, (text, severity) in MEANINGS[section].items()
    )


class Family:
    """Adds the labels that every series has."""

    def __init__(self, reading: Reading) -> None:
        self._common = [reading.director, reading.pop]

    def counter(self, name: str, help: str, labels: list[str]) -> Callable[..., None]:
        self.metric: Metric = CounterMetricFamily(name, help, labels=["director", "pop", *labels])
        return self._add

    def gauge(self, name: str, help: str, labels: list[str]) -> Callable[..., None]:
        self.metric = GaugeMetricFamily(name, help, labels=["director", "pop", *labels])
        return self._add

    def _add(self, labels: list[str], value: float) -> None:
        family = self.metric
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric([*self._common, *labels], value)
