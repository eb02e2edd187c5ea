# SPDX-License-Identifier: Apache-2.0
"""Models of what people want and did: drains, weights, revisions, events, the audit log.

As those in api/models.py they describe answers, and are not run over them.
"""

from typing import Any, Literal

from pydantic import Field

from limpet.api.models import Model


class DrainTerms(Model):
    """What people want of a drain."""

    backend: str
    began: str
    by: str
    rule: Literal["sessions", "flows"] | None = Field(description="null: that of each pool")
    deadline: str | None
    at_deadline: Literal["keep", "reset"]
    drained: str | None


class Drain(DrainTerms):
    """A drain, and how far it is."""

    state: Literal["draining", "resetting", "drained"]
    sessions: int = Field(description="left")
    flows: int = Field(description="left")
    oldest_s: float | None
    leaving_per_s: float | None
    estimated_end_s: float | None
    sessions_at_start: int | None


class Share(Model):
    """The part of the new sessions that a backend gets."""

    pool: str
    backend: str
    percent_before: float
    percent_after: float
    sessions: int = Field(description="that it has now")


class DrainPreview(Model):
    """What a drain would do."""

    sessions: int = Field(description="that would stay to their end")
    flows: int
    new_sessions_go_to: list[Share]
    summary: str


class Weight(Model):
    """A weight over that of the file."""

    pool: str
    backend: str
    weight: int


class PopDrain(Model):
    """A drain of a PoP."""

    pop: str
    began: str
    by: str


class Intents(Model):
    """What people want beyond the configuration file."""

    revision: int
    drains: list[DrainTerms]
    weights: list[Weight]
    pop_drains: list[PopDrain]


class Revision(Model):
    """A revision of the intents."""

    revision: int
    at: str | None
    by: str
    what: str
    changes: list[str]
    file_digest: str = Field(description="of the configuration file at that time")


class FileWeights(Model):
    """What the file says, by pool and backend."""

    pools: dict[str, dict[str, int]]


class KeptDrain(Model):
    """A drain as it is kept: times are Unix seconds."""

    backend: str
    began: float
    by: str
    rule: Literal["sessions", "flows"] | None
    deadline: float | None
    at_deadline: Literal["keep", "reset"]
    drained: float | None


class KeptPopDrain(Model):
    """A drain of a PoP as it is kept: times are Unix seconds."""

    pop: str
    began: float
    by: str


class KeptIntents(Model):
    """Intents on top of the file."""

    drains: list[KeptDrain]
    weights: list[Weight]
    pop_drains: list[KeptPopDrain] = Field(default=[], description="left out where there are none")
    without_effect: list[str] = Field(description="the file lacks their backend or pool")


class Effective(Model):
    """What comes out for a backend of a pool."""

    pool: str
    backend: str
    file_weight: int
    command_weight: int | None
    intent: Literal["active", "draining", "drained"]
    effective_weight: int
    full_weight: int = Field(description="at the end of slow start")
    standing: list[str] = Field(description="what its sessions and flows do")
    reasons: list[str]


class Diff(Model):
    """What the file says, what intents change of it, and what comes out."""

    file: FileWeights
    intents: KeptIntents
    effective: list[Effective]
    summary: str


class Event(Model):
    """Something that happened; more keys by kind."""

    id: int = Field(description="grows, also over restarts")
    at: str
    kind: str = Field(
        description="drain_began, drain_progress, drained, drain_ended, weight_set, rolled_back, "
        "pop_drain_began, pop_drain_ended, announced, withdrawn, peer_up, peer_down, "
        "health_changed, reloaded, split; lost: `count` events were missed, null: unknown"
    )


class AuditEntry(Model):
    """A change that somebody asked for, or a refusal."""

    at: str
    by: str
    role: Literal["viewer", "operator"] | None
    from_: str = Field(alias="from")
    method: str
    path: str
    details: dict[str, Any] = Field(description="of the request's body")
    outcome: Literal["done", "refused", "failed"]
    status: int
    why: str = Field(default="", description="of a failure")
    revision: int | None = None
    duration_ms: float | None = None
    left_out: int = Field(default=0, description="refusals before it that were not written")
