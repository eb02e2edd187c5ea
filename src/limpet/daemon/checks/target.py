# SPDX-License-Identifier: Apache-2.0
"""Target: what is asked of one backend for one pool, with everything filled in.

Pure: from what is desired, and the ids that backends have. A pool that asks for nothing has no
targets; nor has a backend without an id yet, since packets to it would lead nowhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from limpet.core.model import (
    Address,
    Backend,
    BackendId,
    CheckKind,
    CheckPath,
    Desired,
    HealthCheck,
    Pool,
    Protocol,
    Vip,
)

Key = tuple[str, str]  # pool, backend


@dataclass(frozen=True, slots=True)
class Target:
    """One check of one backend."""

    key: Key
    check: HealthCheck
    backend_address: Address
    address: Address  # that is connected to
    port: int  # 0 for a command that has none to be told
    mark: int = 0  # SO_MARK; 0: none
    command: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """Name of the server that is asked, for HTTP and TLS."""
        return self.check.http_host or str(self.address)


def targets(desired: Desired, ids: Mapping[str, BackendId]) -> dict[Key, Target]:
    """Every check that there is to make."""
    backends = {backend.name: backend for backend in desired.backends}
    found = {}
    for pool in desired.pools:
        if pool.health is None:
            continue
        vip = _asked(desired, pool, pool.health)
        for target in _of_pool(pool, pool.health, vip, backends, desired.director.mark, ids):
            found[target.key] = target
    return found


def _asked(desired: Desired, pool: Pool, check: HealthCheck) -> Vip | None:
    """The VIP that is asked; the configuration's checks have seen to it that one is there."""
    if check.vip:
        return next((vip for vip in desired.vips if vip.name == check.vip), None)
    of_pool = [vip for vip in desired.vips if vip.pool == pool.name]
    over_tcp = [vip for vip in of_pool if vip.protocol is Protocol.TCP]
    return next(iter(over_tcp or of_pool), None)


def _of_pool(
    pool: Pool,
    check: HealthCheck,
    vip: Vip | None,
    backends: Mapping[str, Backend],
    mark: int,
    ids: Mapping[str, BackendId],
) -> Iterator[Target]:
    port = check.port or (vip.port if vip is not None else None) or 0
    is_command = check.kind is CheckKind.COMMAND
    by_vip = check.path is CheckPath.VIP and not is_command
    if not is_command and (not port or (by_vip and vip is None)):
        return
    for name in pool.weights:
        if name not in ids or name not in backends:
            continue
        own = backends[name].address
        yield Target(
            key=(pool.name, name),
            check=check,
            backend_address=own,
            address=vip.address if by_vip and vip is not None else own,
            port=port,
            mark=mark | ids[name] if by_vip else 0,
            command=_filled(check.command, name, own, vip, port) if is_command else (),
        )


def _filled(
    command: tuple[str, ...], name: str, address: Address, vip: Vip | None, port: int
) -> tuple[str, ...]:
    values = {
        "{backend}": name,
        "{address}": str(address),
        "{vip}": str(vip.address) if vip is not None else "",
        "{port}": str(port) if port else "",
    }
    return tuple(_replaced(word, values) for word in command)


def _replaced(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word
