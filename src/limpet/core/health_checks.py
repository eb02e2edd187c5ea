# SPDX-License-Identifier: Apache-2.0
"""Health checks: what has to fit together in [pool.health], and with the VIPs of the pool.

A check that cannot be made would leave the backends up for ever, and nobody would know. So a check
must have somebody to ask: a VIP over TCP of this very pool, and a port. A key that the kind of
check does not look at is refused, like a misspelt one.

`target` says which VIP and port are asked; the daemon's checks use it too.
"""

from collections.abc import Iterator
from dataclasses import fields

from limpet.core.finding import Finding, suggestion
from limpet.core.model import CheckKind, CheckPath, Desired, HealthCheck, Pool, Protocol, Vip
from limpet.core.source import Path

HTTP = (CheckKind.HTTP, CheckKind.HTTPS)
TLS = (CheckKind.TLS, CheckKind.HTTPS)
USED_BY = {
    "http_path": HTTP,
    "http_status": HTTP,
    "http_body": HTTP,
    "http_host": (*HTTP, CheckKind.TLS),
    "verify": TLS,
    "command": (CheckKind.COMMAND,),
}


def check(desired: Desired) -> Iterator[Finding]:
    """Everything that does not fit together."""
    # A VIP whose pool is misspelt may be the one to ask; that it is misspelt is said elsewhere.
    is_complete = {vip.pool for vip in desired.vips} <= {pool.name for pool in desired.pools}
    for index, pool in enumerate(desired.pools):
        if pool.health is not None:
            path = ("pool", index, "health")
            yield from _keys(pool.health, path)
            if is_complete:
                yield from _whom_to_ask(desired, pool, pool.health, path)


def target(desired: Desired, pool: Pool) -> tuple[Vip | None, int | None]:
    """The VIP and the port that the pool's check asks; None where there is none to be found."""
    check = pool.health
    assert check is not None, f"pool {pool.name} has no check"
    over_tcp = [v for v in desired.vips if v.pool == pool.name and v.protocol is Protocol.TCP]
    vip = next((v for v in over_tcp if check.vip in ("", v.name)), None)
    return vip, check.port or (vip.port if vip else None)


def _keys(check: HealthCheck, path: Path) -> Iterator[Finding]:
    usual = {field.name: field.default for field in fields(HealthCheck)}
    for key, kinds in USED_BY.items():
        if getattr(check, key) != usual[key] and check.kind not in kinds:
            yield Finding(
                (*path, key),
                f"a check of kind {check.kind} does not look at {key}",
                f"leave it out, or write kind = {' or '.join(repr(str(k)) for k in kinds)}",
            )
    if check.kind is CheckKind.COMMAND and not check.command:
        yield Finding(
            (*path, "kind"),
            "a check of kind command has no command",
            'write command = ["/usr/local/bin/check", "{address}", "{port}"]',
        )
    if check.timeout_s > check.interval_s:
        yield Finding(
            (*path, "timeout_s"),
            f"a timeout of {check.timeout_s:g} s is longer than the interval of "
            f"{check.interval_s:g} s",
            f"write at most {check.interval_s:g}, or a longer interval_s",
        )


def _whom_to_ask(desired: Desired, pool: Pool, check: HealthCheck, path: Path) -> Iterator[Finding]:
    named = next((vip for vip in desired.vips if vip.name == check.vip), None)
    if check.vip and (named is None or named.pool != pool.name):
        mine = [vip.name for vip in desired.vips if vip.pool == pool.name]
        why = f"there is no VIP {check.vip!r}"
        if named is not None:
            why = f"VIP {check.vip!r} belongs to pool {named.pool!r}"
        yield Finding((*path, "vip"), why, suggestion(check.vip, mine, "vip"))
        return
    if check.kind is CheckKind.COMMAND:
        return
    if named is not None and named.protocol is not Protocol.TCP:
        yield Finding(
            (*path, "vip"),
            f"VIP {check.vip!r} is {named.protocol}, and a check of kind {check.kind} needs TCP",
            'name a VIP over TCP, or write kind = "command"',
        )
        return
    vip, port = target(desired, pool)
    if vip is None and check.path is CheckPath.VIP:
        yield Finding(
            path,
            f"no VIP over TCP is served by pool {pool.name!r}, so there is none to ask",
            'write path = "direct" with a port, or kind = "command"',
        )
    elif port is None:
        why = "has all ports" if vip else "is not there to take the port from"
        yield Finding(
            path,
            f"the check has no port, and the VIP {why}",
            "write the port that is asked, as port = 443",
        )
