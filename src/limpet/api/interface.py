# SPDX-License-Identifier: Apache-2.0
"""Interface: all that the API may ask of a running director. Nothing else of it is visible there.

Answers are JSON objects, the same in the API, in `--json` of the commands and in the
documentation; docs/operate/director.md describes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FlowQuery:
    """Which flows; empty is any. VIPs and backends by name or address."""

    vip: str = ""
    backend: str = ""
    client: str = ""
    limit: int = 0  # 0: all


@dataclass(frozen=True, slots=True)
class FlowPage:
    """How many flows match, and the first of them: batches of JSON objects, one a line."""

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


class Director(Protocol):
    """A running director."""

    async def status(self) -> Json: ...

    async def vips(self) -> list[Json]: ...

    async def pools(self) -> list[Json]: ...

    async def backends(self) -> list[Json]: ...

    async def counters(self) -> Json: ...

    async def flows(self, query: FlowQuery) -> FlowPage: ...

    async def where(self, question: Question) -> Json: ...

    async def plan(self, text: str) -> Json: ...

    async def reload(self) -> Json: ...

    def shutdown(self) -> None: ...
