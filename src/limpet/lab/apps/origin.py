# SPDX-License-Identifier: Apache-2.0
"""The address that a program speaks from, if the program itself cannot be told.

`psql` has no option for it. So it runs as a user that exists for one address only, and a rule of
the client's routes that user by a table of its own, whose route prefers the address. Nothing
of the connection itself is touched. The users need no names: a number is enough for the kernel.
"""

from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from limpet.lab import namespace

USER_FIRST, USERS = 1_000_000, 1_000_000  # of each family; also numbers of routing tables
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


class Origin:
    """One user on one client host; `close` takes its rule and its route away."""

    def __init__(self, netns: str, source: str, towards: str) -> None:
        address = ip_address(source)
        place = int(address) if address.version == 4 else int(address) >> 64  # a /64 each
        self._netns = netns
        self._user = USER_FIRST + place % USERS + (USERS if address.version == 6 else 0)
        self._rule = {
            "family": AF_INET if address.version == 4 else AF_INET6,
            "table": self._user,
            "uid_range": f"{self._user}:{self._user}",
        }
        with namespace.netlink(netns) as socket:
            (way,) = socket.route("get", dst=towards)
            self._route = {
                "dst": DEFAULT[address.version],
                "gateway": way.get_attr("RTA_GATEWAY"),
                "prefsrc": source,
                "table": self._user,
            }
            socket.route("replace", **self._route)
            socket.rule("add", **self._rule)

    @property
    def prefix(self) -> list[str]:
        """What makes a command run as the user."""
        return ["setpriv", f"--reuid={self._user}", "--clear-groups"]

    def close(self) -> None:
        """Fine if the client is gone."""
        if namespace.exists(self._netns):
            with namespace.netlink(self._netns) as socket:
                socket.rule("del", **self._rule)
                socket.route("del", **self._route)
