# SPDX-License-Identifier: Apache-2.0
"""Every error that limpet raises on purpose.

    LimpetError
      ConfigError        the configuration is wrong: where, why, how to mend it
      NotFound           no such VIP, pool, backend, host
      Conflict           the request contradicts what is there
      Unsupported        the kernel lacks a feature; tests skip on exactly this
      DatapathError      a step against the kernel failed, with its errno
      Unreachable        the daemon does not answer
      Unavailable        the store of the cluster cannot be reached

A bug is an AssertionError, and never caught as one of these.
"""

from dataclasses import dataclass


class LimpetError(Exception):
    """Base of all errors raised on purpose; `str()` of it is fit to be shown to the operator."""

    exit_status = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration.

    `where` is a place a person can find ("limpet.toml:12: pool 'web'"), `why` says what is wrong,
    `mend` says what to write instead.
    """

    where: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}\n    to mend: {self.mend}"


class ConfigError(LimpetError):
    """The configuration is wrong. Nothing was changed. Carries every problem found."""

    exit_status = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def unreadable(file: object, error: OSError | UnicodeDecodeError) -> ConfigError:
    """What to raise when a configuration cannot even be read."""
    if isinstance(error, UnicodeDecodeError):
        return ConfigError(
            [Problem(str(file), f"not UTF-8 at byte {error.start}", "save it as UTF-8")]
        )
    why = f"cannot read it: {error.strerror}"
    return ConfigError([Problem(str(file), why, "give the path of a TOML file that can be read")])


class NotFound(LimpetError):
    """No such thing."""

    exit_status = 3


class Conflict(LimpetError):
    """The request contradicts what is there."""

    exit_status = 4


class Unsupported(LimpetError):
    """This kernel or machine lacks a feature."""

    exit_status = 5


class Unreachable(LimpetError):
    """The daemon does not answer. Packets are still forwarded by the kernel."""

    exit_status = 6


class Unavailable(LimpetError):
    """The store of the cluster cannot be reached. What is local goes on; changes have to wait."""

    exit_status = 10


class DatapathError(LimpetError):
    """A step against the kernel failed."""

    exit_status = 7

    def __init__(self, step: str, errno: int, detail: str = "") -> None:
        super().__init__(f"{step}: {detail or 'errno'} ({errno})")
        self.step = step
        self.errno = errno
