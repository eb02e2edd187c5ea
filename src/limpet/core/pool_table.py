# SPDX-License-Identifier: Apache-2.0
"""The tables of a pool: its weights, how its new sessions are placed, and how it is checked.

As in core/document.py, of which they are a part: a key has its type, default, range, description
and an example, and its default is that of core/model.py.

Not here: what has to fit together with the VIPs of the pool (core/health_checks.py).
"""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from limpet.core.model import (
    CheckKind,
    CheckPath,
    DrainRule,
    HealthCheck,
    OnDown,
    Policy,
    Pool,
    Prefer,
)
from limpet.core.table import Table
from limpet.core.values import (
    TIMEOUT_MAX_S,
    Argv,
    Body,
    HttpHost,
    HttpPath,
    HttpStatus,
    Name,
    NameOrEmpty,
    Weight,
)

SLOW_START_MAX_S = 86_400
CHECK_S = (0.1, 3_600)  # interval and timeout
ROW_MAX = 100  # answers in a row

_CHECK = HealthCheck()
_POOL = Pool("", {})

PortOrNone = Annotated[
    int | None,
    Field(ge=1, le=65_535),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65_535}),
]
CheckSeconds = Annotated[float, Field(ge=CHECK_S[0], le=CHECK_S[1], allow_inf_nan=False)]
InARow = Annotated[int, Field(ge=1, le=ROW_MAX)]
PolicyName = Literal["hash", "round-robin", "least-sessions"]


class HealthTable(Table):
    """How a pool asks its backends whether they are up. Without this table all count as up."""

    kind: Literal["tcp", "tls", "http", "https", "command"] = Field(
        _CHECK.kind.value, description="what is asked: a connection, a handshake, an answer, ..."
    )
    path: Literal["vip", "direct"] = Field(
        _CHECK.path.value,
        description="how: to the VIP, encapsulated as packets of clients are, or to the "
        "backend's own address",
    )
    vip: NameOrEmpty = Field(
        _CHECK.vip,
        description="name of the VIP that is asked; empty: the pool's first over TCP",
        examples=["web4"],
    )
    port: PortOrNone = Field(
        _CHECK.port, description="port that is asked; left out: that of the VIP", examples=[8080]
    )
    interval_s: CheckSeconds = Field(
        _CHECK.interval_s, description="seconds from one check to the next"
    )
    timeout_s: CheckSeconds = Field(
        _CHECK.timeout_s, description="seconds that an answer may take, at most interval_s"
    )
    rise: InARow = Field(_CHECK.rise, description="good answers in a row that make it up")
    fall: InARow = Field(_CHECK.fall, description="bad answers in a row that make it down")
    http_path: HttpPath = Field(
        _CHECK.http_path, description="path that is asked for", examples=["/health"]
    )
    http_host: HttpHost = Field(
        _CHECK.http_host,
        description="name of the host, also in TLS; empty: the address",
        examples=["www.example.net"],
    )
    http_status: HttpStatus = Field(
        _CHECK.http_status,
        description="first and last status that is good",
        examples=[[200, 399]],
    )
    http_body: Body = Field(
        _CHECK.http_body,
        description="text that must be in the first 64 KiB of the answer; empty: any",
        examples=["ready"],
    )
    verify: bool = Field(_CHECK.verify, description="whether the certificate has to be valid")
    command: Argv = Field(
        _CHECK.command,
        description="program and arguments, exit status 0 is good; {backend}, {address}, {vip} "
        "and {port} are filled in",
        examples=[["/usr/local/bin/check", "{address}"]],
    )

    def to_check(self) -> HealthCheck:
        values = {key: getattr(self, key) for key in type(self).model_fields}
        values |= {"kind": CheckKind(self.kind), "path": CheckPath(self.path)}
        return HealthCheck(**values)


class PoolTable(Table):
    """The weighted backends behind VIPs."""

    name: Name = Field(description="name of the pool", examples=["web"])
    backends: dict[Name, Weight] = Field(
        description="weight of each backend, by name; none: new sessions are refused",
        examples=[{"b1": 1, "b2": 1}],
    )
    policy: PolicyName = Field(
        _POOL.policy.value, description="how the backend of a new session is chosen"
    )
    reassign: PolicyName = Field(
        _POOL.reassign.value, description="the same for a client whose session has expired"
    )
    drain: Literal["sessions", "flows"] = Field(
        _POOL.drain.value,
        description="who may stay on a draining backend: live sessions with the flows they "
        "begin, or open flows only",
    )
    slow_start_s: int = Field(
        _POOL.slow_start_s,
        ge=0,
        le=SLOW_START_MAX_S,
        description="seconds over which the weight of a backend that comes rises; 0: at once",
    )
    hold_s: int = Field(
        _POOL.hold_s,
        ge=0,
        le=TIMEOUT_MAX_S,
        description="seconds that flows of a backend that is down are held",
    )
    on_down: Literal["hold", "reset", "rehash"] = Field(
        _POOL.on_down.value,
        description="what becomes of them then: held on, reset so that clients connect anew, or "
        "placed anew without a word",
    )
    fail_open: bool = Field(
        _POOL.fail_open, description="whether all are used when every backend is down"
    )
    prefer: Literal["any", "near"] = Field(
        _POOL.prefer.value,
        description="near: new sessions go to backends of the director's PoP, then by the cost "
        "to other PoPs",
    )
    health: HealthTable | None = Field(
        None, description="how backends are checked; left out: they are not"
    )

    def to_pool(self) -> Pool:
        return Pool(
            name=self.name,
            weights=dict(self.backends),
            policy=Policy(self.policy),
            reassign=Policy(self.reassign),
            drain=DrainRule(self.drain),
            slow_start_s=self.slow_start_s,
            health=self.health.to_check() if self.health else None,
            hold_s=self.hold_s,
            on_down=OnDown(self.on_down),
            fail_open=self.fail_open,
            prefer=Prefer(self.prefer),
        )
