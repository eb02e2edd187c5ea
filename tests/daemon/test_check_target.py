# SPDX-License-Identifier: Apache-2.0
"""What a check is made of: whom it asks, by which way, and what a command is told."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

from limpet.core.model import (
    Backend,
    BackendId,
    CheckKind,
    CheckPath,
    Desired,
    Director,
    HealthCheck,
    Pool,
    Protocol,
    Vip,
)
from limpet.daemon.checks.connection import Sources
from limpet.daemon.checks.probe import probe
from limpet.daemon.checks.target import Target, targets

COMMAND = CheckKind.COMMAND


def with_vip(check: HealthCheck) -> Desired:
    """A pool with one backend behind a VIP over UDP and one over TCP."""
    vips = (
        Vip("dns", ip_address("192.0.2.9"), Protocol.UDP, 53, "web"),
        Vip("web", ip_address("192.0.2.10"), Protocol.TCP, 443, "web"),
    )
    backends = (Backend("b1", ip_address("10.0.0.11")),)
    pool = Pool("web", {"b1": 1}, health=check)
    return Desired(Director("d1", ("eth0",)), backends, (pool,), vips)


def target(check: HealthCheck) -> Target:
    (found,) = targets(with_vip(check), {"b1": BackendId(7)}).values()
    return found


def test_check_goes_to_the_first_vip_over_tcp_with_the_backends_mark() -> None:
    found = target(HealthCheck())
    assert (str(found.address), found.port, found.mark) == ("192.0.2.10", 443, 0x6C69_0007)


def test_check_goes_to_the_vip_and_port_that_it_names() -> None:
    found = target(HealthCheck(vip="dns", port=853))
    assert (str(found.address), found.port) == ("192.0.2.9", 853)


def test_direct_check_goes_to_the_backends_own_address_without_a_mark() -> None:
    found = target(HealthCheck(path=CheckPath.DIRECT))
    assert (str(found.address), found.port, found.mark) == ("10.0.0.11", 443, 0)


def test_backend_without_an_id_is_not_asked() -> None:
    assert targets(with_vip(HealthCheck()), {}) == {}


def test_command_is_told_whom_it_is_about(tmp_path: Path) -> None:
    file = tmp_path / "said"
    words = ("sh", "-c", f'echo "$@" > {file}', "sh")
    check = HealthCheck(
        kind=COMMAND, command=(*words, "{backend}", "to {address}", "{vip}:{port}"), timeout_s=20
    )
    asyncio.run(run_target(with_vip(check)))
    assert file.read_text().strip() == "b1 to 10.0.0.11 192.0.2.10:443"


async def run_target(wanted: Desired) -> None:
    (target,) = targets(wanted, {"b1": BackendId(7)}).values()
    await probe(target, Sources())
