# SPDX-License-Identifier: Apache-2.0
"""Models of what reads answer, for the OpenAPI document and for tests.

The daemon makes plain dictionaries, and at run time nothing is validated against these: a list of
a million flows shall not be made twice. Tests compare them with real answers. A client must accept
keys that are not here: later versions add some.

Units stand last in a name; rates are of the last second; times are ISO 8601 in UTC.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(extra="allow")


class Attachment(Model):
    """An interface that the file names."""

    interface: str
    ifindex: int | None
    mode: str = Field(description="`native`, `generic`, or empty")
    state: Literal["up", "down", "missing"]


class Occupancy(Model):
    """How full a table of the kernel is."""

    live: int
    entries: int
    used: int
    used_percent: float
    by_life: dict[str, int]


class Reconcile(Model):
    """The last pass of the daemon over the kernel."""

    state: Literal["done", "error"]
    error: str
    passes: int
    failures: int
    duration_ms: float
    succeeded_s_ago: float


class Status(Model):
    """What the director is, and how it does."""

    director: str
    pop: str
    version: str
    pid: int
    started: str
    uptime_s: float
    file: str
    file_error: str = Field(description="of the last reload; empty: it went well")
    state: str = Field(description="path of the state file")
    pins: str
    program: str
    program_id: int | None
    attachments: list[Attachment]
    degraded: list[str] = Field(description="what is not as it should be; empty: all is well")
    revision: int = Field(description="of the intents that are in effect")
    flows: Occupancy = Field(description="the connection table")
    sessions: Occupancy = Field(description="the table of sessions")
    reconcile: Reconcile
    sweeper: dict[str, Any] = Field(description="passes that ended what had expired")
    checks: dict[str, Any] = Field(description="figures of the health checks")
    hooks: dict[str, dict[str, Any]] = Field(description="deliveries, by kind of hook")
    resets: dict[str, Any] = Field(description="figures of the RSTs that ended flows")
    routes: dict[str, Any] = Field(description="figures of what routers are told")
    cluster: dict[str, Any] | None = Field(
        None, description="figures of a member of a cluster; docs/operate/metrics.md has them"
    )
    own_packets_error: str = Field(
        description="why checks through VIPs and RSTs to backends fail; empty: they do not"
    )


class Rates(Model):
    """What was forwarded."""

    sessions: int = Field(description="live now")
    sessions_created: int
    flows: int = Field(description="open now")
    flows_created: int
    packets: int
    bytes: int
    packets_per_s: float
    bits_per_s: float


class Vip(Rates):
    """A VIP."""

    name: str
    id: int
    address: str
    protocol: Literal["tcp", "udp"]
    port: int | None = Field(description="null: all")
    pool: str
    affinity: str
    dropped: int


class Member(Model):
    """A backend in a pool."""

    name: str
    weight: int = Field(description="of the file, or set by command")
    effective_weight: int = Field(description="after intent, health and slow start")
    slots: int
    share_percent: float
    why: list[str] = Field(description="the effective weight is not that of the file")


class Pool(Model):
    """A pool."""

    name: str
    id: int
    generation: int
    digest: str
    policy: str
    reassign: str
    vips: list[str]
    backends: list[Member]


class Membership(Model):
    """A pool, as one of its backends sees it."""

    pool: str
    weight: int
    effective_weight: int = Field(description="after intent, health and slow start")
    slots: int
    share_percent: float
    why: list[str] = Field(description="the effective weight is not that of the file")


class NextHop(Model):
    """The way to a backend."""

    state: Literal["resolved", "via kernel", "no route"]
    interface: str | None
    mac: str | None
    mtu: int | None
    gateway: str | None


class Backend(Rates):
    """A backend: intent is what people want of it, health what was measured."""

    name: str
    id: int
    address: str
    encapsulation: str
    state: Literal["active", "lingering"]
    intent: Literal["active", "draining", "drained"]
    health: Literal["up", "down", "unchecked"]
    why_no_new_sessions: list[str] = Field(description="empty: it gets new sessions")
    pools: list[Membership]
    next_hop: NextHop


class Counter(Model):
    """A counter of the data plane."""

    name: str
    value: int
    meaning: str
    severity: Literal["normal", "watch", "alarm"]


class Counters(Model):
    """All counters of the data plane."""

    verdicts: list[Counter]
    rungs: list[Counter]
    events: list[Counter]


class Total(Model):
    """The first line of a list that is streamed: how many there are."""

    total: int


class Flow(Model):
    """A live flow."""

    client: str
    client_port: int
    vip: str
    vip_port: int
    backend: str
    life: str
    idle_s: float


class Session(Model):
    """A live session."""

    client: str = Field(description="address or prefix")
    ports: str = Field(description="range of the client's ports, as 1024-1039; empty: all")
    vip: str
    backend: str
    life: str
    idle_s: float
    since_s: float
    flows: int
    is_split: bool = Field(description="new flows of this client go by ranges of its ports")


class Source(Model):
    """A client that holds many flows."""

    client: str
    vip: str
    flows: int
    sessions: int
    share_percent: float = Field(description="of the VIP's flows")
    is_split: bool = Field(description="its affinity is by ranges of its ports")
    why: str


class Where(Model):
    """To which backend a client's packets go."""

    client: str
    vip: str
    pool: str
    rung: str
    backend: str | None
    address: str | None
    why: str
    slot: int | None = Field(description="null: it depends on ports that were not said")
    home: str | None
    sessions: list[Session]
    flows: list[Flow]


class Health(Model):
    """What the checks of a pool say of a backend."""

    pool: str
    backend: str
    is_up: bool
    since: str | None
    reason: str
    is_suppressed: bool = Field(description="it changes too often, and counts as down")
    checked: str | None
    check: str
    changes: int = Field(description="of late, that count towards suppression")
