# SPDX-License-Identifier: Apache-2.0
"""Interface: all that the API may ask of a running director. Nothing else of it is visible there.

Answers are JSON objects, the same in the API, in `--json` of the commands and in the
documentation; api/models.py has their keys, docs/operate/api.md shows them.

Changes say who asks (`by`) and may name the revision of the intents that they build on
(`if_revision`): if it has moved on, nothing is changed, and problem.Stale is raised. Their answers
carry "revision". Asking for what is so already changes nothing, and answers with the revision
that is.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # commands import this module, and shall not wait for numpy
    from limpet.core.model import ApiListen, AtDeadline, DrainRule

Json = dict[str, Any]

DEADLINE_MAX_S = 31_536_000  # of a drain: a year, for whoever asks


def _keep() -> "AtDeadline":
    from limpet.core.model import AtDeadline

    return AtDeadline.KEEP


@dataclass(frozen=True, slots=True)
class FlowQuery:
    """Which flows; empty is any. VIPs and backends by name or address."""

    vip: str = ""
    backend: str = ""
    client: str = ""
    limit: int = 0  # 0: all


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which sessions; empty is any. VIPs and backends by name or address."""

    vip: str = ""
    backend: str = ""
    client: str = ""  # an address: every session that this client belongs to
    limit: int = 0  # 0: all


@dataclass(frozen=True, slots=True)
class FlowPage:
    """How many flows or sessions match, and the first of them: batches of JSON, one a line."""

    total: int
    batches: Iterator[str]


@dataclass(frozen=True, slots=True)
class Question:
    """Where would a packet of this client to this VIP go? None: not known."""

    client: str
    vip: str  # name or address
    client_port: int | None = None
    vip_port: int | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """How a backend is to be drained."""

    rule: "DrainRule | None" = None  # None: that of each pool
    deadline_s: float | None = None  # from now on; None: it waits for the last session
    at_deadline: "AtDeadline" = field(default_factory=_keep)


class Director(Protocol):
    """A running director."""

    # --- Reads ----------------------------------------------------------------------------------

    async def status(self) -> Json: ...

    async def vips(self) -> list[Json]: ...

    async def pools(self) -> list[Json]: ...

    async def backends(self) -> list[Json]: ...

    async def counters(self) -> Json: ...

    async def flows(self, query: FlowQuery) -> FlowPage: ...

    async def sessions(self, query: SessionQuery) -> FlowPage: ...

    async def sources(self, vip: str, limit: int) -> list[Json]:
        """The heaviest clients; `vip` may be empty, `limit` 0 is all."""
        ...

    async def where(self, question: Question) -> Json: ...

    async def health(self) -> list[Json]: ...

    async def drains(self) -> list[Json]: ...

    async def intents(self) -> Json: ...

    async def history(self, limit: int) -> list[Json]:
        """Revisions, the newest first; `limit` 0 is all."""
        ...

    async def diff(self) -> Json: ...

    async def routes(self) -> Json:
        """What routers are told of the VIPs, and why or why not."""
        ...

    async def pops(self) -> Json:
        """The directors of the cluster by PoP, and what each of them runs."""
        ...

    async def drain_preview(self, backend: str, request: DrainRequest) -> Json: ...

    async def plan(self, text: str) -> Json: ...

    def events(self, since: int | None) -> AsyncIterator[Json]:
        """What happens from now on, or after the event of that id; api/feed.py does it."""
        ...

    # --- Changes --------------------------------------------------------------------------------

    async def drain(
        self, backend: str, request: DrainRequest, by: str, if_revision: int | None
    ) -> Json: ...

    async def undrain(self, backend: str, by: str, if_revision: int | None) -> Json: ...

    async def drain_pop(self, pop: str, by: str, if_revision: int | None) -> Json: ...

    async def undrain_pop(self, pop: str, by: str, if_revision: int | None) -> Json: ...

    async def set_weight(
        self, pool: str, backend: str, weight: int | None, by: str, if_revision: int | None
    ) -> Json:
        """A weight over that of the file; None: that of the file again."""
        ...

    async def rollback(self, revision: int, by: str, if_revision: int | None) -> Json: ...

    async def apply(self, text: str, by: str, if_revision: int | None) -> Json:
        """Have all directors of the cluster serve this document."""
        ...

    async def remove_director(self, name: str, by: str) -> Json:
        """Have the cluster forget a director that is gone for good."""
        ...

    async def reload(self) -> Json: ...

    def shutdown(self) -> None: ...


class Service(Protocol):
    """The API that is being served, as the daemon sees it; api/server.py yields one."""

    async def update(self, listen: "ApiListen") -> None:
        """Serve over TCP as it says from now on; certificate and tokens are read again.

        Call it on every reload, before anything is changed: ConfigError if it cannot be, and
        then everything is served as before.
        """
        ...
