# SPDX-License-Identifier: Apache-2.0
"""Models of what changes take and answer, and of problems. api/models.py has the reads.

What comes in is validated by these, strictly: an unknown key is an error, not a wish that is
silently not fulfilled.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from limpet.api.interface import DEADLINE_MAX_S, DrainRequest
from limpet.api.models import Model
from limpet.core.model import WEIGHT_MAX, AtDeadline, DrainRule


class Body(BaseModel):
    """What a request carries."""

    model_config = ConfigDict(extra="forbid")


class DrainBody(Body):
    """How to drain. All of it may be left out."""

    rule: DrainRule | None = Field(None, description="who may stay; null: as each pool says")
    deadline_s: float | None = Field(
        None,
        ge=0,
        le=DEADLINE_MAX_S,
        allow_inf_nan=False,
        description="from now on; null: until the last has gone",
    )
    at_deadline: AtDeadline = Field(
        AtDeadline.KEEP, description="what becomes of those that are left then"
    )

    def request(self) -> DrainRequest:
        return DrainRequest(self.rule, self.deadline_s, self.at_deadline)


class WeightBody(Body):
    """A weight over that of the file."""

    weight: int = Field(ge=0, le=WEIGHT_MAX, strict=True)


class RollbackBody(Body):
    """Back to the intents of a revision. That is a new revision."""

    revision: int = Field(ge=0, strict=True)


class Names(Model):
    """What differs, by name."""

    added: list[str]
    removed: list[str]
    changed: list[str]


class Move(Model):
    """Slots that change hands."""

    from_: str | None = Field(alias="from")
    to: str | None
    slots: int


class PoolMoves(Model):
    """Slots of a pool that change hands."""

    pool: str
    slots_moved: int
    moves: list[Move]


class Plan(Model):
    """What a configuration would change."""

    changes: bool
    summary: str
    vips: Names
    pools: Names
    backends: Names
    moves: list[PoolMoves]


class Changed(Plan):
    """Intents were changed, or were so already; and what that changes."""

    revision: int = Field(description="of the intents, now; also in the header ETag")
    file_differs: bool = Field(False, description="the file is another than at that revision")


class Reloaded(Plan):
    """What a reload has changed."""

    program_replaced: bool


class Stopping(Model):
    """The daemon is about to end; forwarding goes on."""

    stopping: bool


class ConfigProblem(Model):
    """One thing wrong with a configuration."""

    where: str
    why: str
    mend: str


class Problem(Model):
    """An error (RFC 9457)."""

    type: str = Field(description="`urn:limpet:error:` and its kind")
    title: str
    status: int
    detail: str = Field(description="what, why, and what to do")
    problems: list[ConfigProblem] | None = Field(None, description="of type config: all of them")
    expected: int | None = Field(None, description="of type stale: the revision built upon")
    actual: int | None = Field(None, description="of type stale: the revision that is")
    step: Any = Field(None, description="of type datapath: what failed")
    errno: int | None = Field(None, description="of type datapath")
