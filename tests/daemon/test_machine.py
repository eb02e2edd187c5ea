# SPDX-License-Identifier: Apache-2.0
"""What `limpet check` says of the machine, or namespace, that it runs in."""

import os

import pytest

from limpet.core.config import parse
from limpet.daemon.machine import warnings
from limpet.lab import namespace

pytestmark = pytest.mark.kernel
OWN = """
[director]
name = "d1"
interfaces = ["seen", "unseen"]
"""


def test_a_check_looks_at_the_interfaces_of_its_own_namespace() -> None:
    """/sys shows those of the namespace in which it was mounted."""
    name = f"tm{os.getpid()}"
    namespace.create(name)
    try:
        with namespace.netlink(name) as link:
            link.link("add", ifname="seen", kind="veth", peer={"ifname": "peer"})
        with namespace.inside(name):
            said = [each for each in warnings(parse(OWN, "limpet.toml")) if "interface" in each]
    finally:
        namespace.remove(name)
    assert len(said) == 1
    assert "this machine has no interface 'unseen' (it has lo, peer, seen)" in said[0]
