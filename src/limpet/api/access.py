# SPDX-License-Identifier: Apache-2.0
"""Access: who asks, and what they may do.

On the unix socket the kernel says who is at the other end (SO_PEERCRED, SO_PEERGROUPS): root and
the daemon's own user are operators, others by membership of two groups. The socket itself is open
to all, so that who may not is told so, and what to do. Over TCP a token says it, inside TLS.

Nobody is let in by default. What is asked for is not looked at here: api/gate.py does.
"""

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from limpet.api.problem import Forbidden, Unauthorized
from limpet.api.tokens import Role, Tokens

OPERATORS, VIEWERS = "limpet", "limpet-viewers"  # groups
UCRED = struct.Struct("iII")
SO_PEERGROUPS = 59
GROUPS_BYTES = 1_024  # 256 groups; of a process with more only the first one counts


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]

    def __str__(self) -> str:
        try:
            return f"uid {self.uid} ({pwd.getpwuid(self.uid).pw_name})"
        except KeyError:
            return f"uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    by: str  # "uid 0 (root)", "token NAME"
    role: Role
    source: str  # "unix, pid 17", "tls, 192.0.2.9"


@dataclass(slots=True)
class Access:
    """Who may; changed by reloads."""

    tokens: Tokens = field(default_factory=Tokens)
    uids: frozenset[int] = frozenset({0, os.geteuid()})  # operators
    roles: dict[int, Role] = field(default_factory=dict)  # by group id

    def read_groups(self) -> None:
        """Look up the ids of the groups anew."""
        self.roles = {}
        for name, role in ((VIEWERS, Role.VIEWER), (OPERATORS, Role.OPERATOR)):
            try:
                self.roles[grp.getgrnam(name).gr_gid] = role
            except KeyError:
                continue

    def caller(self, scope: dict[str, Any]) -> Caller:
        """Who asks in this ASGI scope. Raises Unauthorized or Forbidden."""
        peer = scope["state"].get("peer")
        return self._by_peer(peer) if peer else self._by_token(scope)

    def _by_peer(self, peer: Peer) -> Caller:
        source = f"unix, pid {peer.pid}"
        roles = {self.roles[group] for group in peer.groups & self.roles.keys()}
        if peer.uid in self.uids or Role.OPERATOR in roles:
            return Caller(str(peer), Role.OPERATOR, source)
        if Role.VIEWER in roles:
            return Caller(str(peer), Role.VIEWER, source)
        raise Forbidden(
            f"{peer} may not ask this daemon: it can redirect traffic. Use sudo, or join the "
            f'group "{OPERATORS}" (everything) or "{VIEWERS}" (reading) and log in again; create '
            "it with groupadd and reload the daemon, if there is none"
        )

    def _by_token(self, scope: dict[str, Any]) -> Caller:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, secret = (values[0] if len(values) == 1 else b"").decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise Unauthorized(
                "send a token: `Authorization: Bearer TOKEN`; `limpet token new` makes one"
            )
        token = self.tokens.find(secret.strip())
        if token is None:
            raise Unauthorized(
                "this token is not known: its line must be in the file that api.tokens names, and "
                "the daemon be reloaded after that"
            )
        return Caller(f"token {token.name}", token.role, f"tls, {source(scope)}")


def source(scope: dict[str, Any]) -> str:
    """From where a request comes, in words."""
    peer, client = scope["state"].get("peer"), scope.get("client")
    if peer:
        return str(peer)
    return str(client[0]) if client else "nowhere"


def peer_of(connection: Any) -> Peer:
    """Who is at the other end of a unix socket, as the kernel says."""
    pid, uid, gid = UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    )
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Peer(pid, uid, frozenset((gid, *groups)))
