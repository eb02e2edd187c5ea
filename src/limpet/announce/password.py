# SPDX-License-Identifier: Apache-2.0
"""Password: the secret of a peer (TCP MD5, RFC 2385), from a file that nobody else may read.

Refused with what to do: a file that is open to others, is empty, or holds what neither BIRD nor the
kernel would take.
"""

import stat
from pathlib import Path

from limpet.core.errors import ConfigError, Problem
from limpet.core.model import Peer

LENGTH_MAX = 80  # TCP_MD5SIG_MAXKEYLEN


def password(peer: Peer) -> str:
    """Empty if the peer has none. Raises ConfigError."""
    if not peer.password_file:
        return ""
    path = Path(peer.password_file)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").rstrip("\n")
    except UnicodeDecodeError:
        raise _broken(peer, "is not plain ASCII", "write a password of ASCII characters") from None
    except OSError as error:
        mend = "put the password there, in a file that only root may read"
        raise _broken(peer, f"cannot be read: {error.strerror}", mend) from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        why = f"is open to others (mode {stat.S_IMODE(mode):04o})"
        raise _broken(peer, why, f"chmod 600 {path}")
    if not 1 <= len(text) <= LENGTH_MAX or not text.isprintable() or '"' in text:
        why = f"does not hold a password of 1 to {LENGTH_MAX} printable characters on one line"
        raise _broken(peer, why, 'write one, without quotation marks (")')
    return text


def _broken(peer: Peer, why: str, mend: str) -> ConfigError:
    where = f"bgp.peer {peer.name!r}: password_file {peer.password_file}"
    return ConfigError([Problem(where, why, mend)])
