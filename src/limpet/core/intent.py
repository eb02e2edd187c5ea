# SPDX-License-Identifier: Apache-2.0
"""Intent: what people want beyond the configuration file, set by command: drains and weights.

The file stays the source of what it declares; intents lie on top of it until they are taken back.
They name backends and pools, as people do; an intent for a name that the file does not have is
kept, and has no effect. Health, which is measured, is never here.

Pure values: every change is a new `Intents`. The store keeps them under ordered revisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from limpet.core.model import AtDeadline, DrainRule


@dataclass(frozen=True, slots=True)
class Drain:
    """A backend gets no new sessions. Times are Unix seconds."""

    backend: str
    began: float
    by: str  # who asked
    rule: DrainRule | None = None  # None: that of each pool
    deadline: float | None = None
    at_deadline: AtDeadline = AtDeadline.KEEP
    drained: float | None = None  # when the last one had gone; None: not yet


@dataclass(frozen=True, slots=True)
class Intents:
    """All intents. Weights by (pool, backend)."""

    drains: Mapping[str, Drain] = field(default_factory=dict)
    weights: Mapping[tuple[str, str], int] = field(default_factory=dict)
