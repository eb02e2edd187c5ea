# SPDX-License-Identifier: Apache-2.0
"""Config: text of an agent's configuration file -> what it says, or every problem in it at once.

Four keys are needed: who the agent is, where packets come in, who may send them, and for which
addresses. Who may send says what the machine is: `directors` make it a backend, `backends` an exit,
where replies of other PoPs' backends leave. Problems are reported as for directors: file, line and
key, what is wrong, and how to mend it.

Pure: the caller reads the file. Not here: whether the interface exists (agent/interface.py).
"""

import re
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from limpet.core.errors import ConfigError, Problem
from limpet.core.problems import syntax_problem
from limpet.core.source import Path, Source
from limpet.core.values import INTERFACE_BYTES_MAX, AnyAddress, Name, broken, toml

SOURCES_MAX, VIPS_MAX, EXITS_MAX = 256, 1_024, 8  # LIMIT_AGENT_* of bpf/abi.h
MTU_MIN, MTU_MAX = 576, 65_535
MTU_MIN6 = 1_280  # RFC 8200
Prefix = IPv4Network | IPv6Network
T = TypeVar("T")

EXAMPLES = {
    "name": 'name = "b1"',
    "interface": 'interface = "eth0"',
    "directors": 'directors = ["100.64.0.0/16", "fd00:11be:7::/96"]',
    "vips": 'vips = ["192.0.2.10", "2001:db8::10"]',
    "xdp": 'xdp = "auto" ("native" or "generic" to insist on one)',
    "exits": 'directors = ["100.65.0.0/16"] and address = "10.0.2.2" below [[exits]]',
    "backends": 'backends = ["10.0.1.0/24", "2001:db8:a::/64"] (on an exit, in place of directors)',
    "mtu": f"mtu = 1500 (a whole number from {MTU_MIN} to {MTU_MAX}), or leave it out",
}


def _interface(value: object) -> str:
    mend = f"use the name that `ip link` shows, as {EXAMPLES['interface']}"
    if not isinstance(value, str):
        raise broken(f"{toml(value)} is not a string", mend)
    if value in ("", ".", "..") or re.search(r"[/:\s]", value):
        raise broken(f"{value!r} is not an interface name", mend)
    if len(value.encode()) > INTERFACE_BYTES_MAX:
        raise broken(f"{value!r} has more than {INTERFACE_BYTES_MAX} bytes", mend)
    return value


def _prefix(value: object) -> Prefix:
    mend = f"write prefixes, as the directors' source4 and source6: {EXAMPLES['directors']}"
    if not isinstance(value, str):
        raise broken(f"{toml(value)} is not a string", mend)
    try:
        prefix = ip_network(value, strict=False)
    except ValueError:
        raise broken(f"{value!r} is not a prefix", mend) from None
    if ip_address(value.split("/")[0]) != prefix.network_address:
        raise broken(f"{value!r} has host bits set", f'write "{prefix}"')
    if prefix.prefixlen == 0:
        raise broken(f"{value!r} lets everybody send", mend)
    return prefix


def _unique(values: list[T]) -> list[T]:
    for value in values:
        if values.count(value) > 1:
            raise broken(f"{value} is listed {values.count(value)} times", "list it once")
    return values


def _vip(address: AnyAddress) -> AnyAddress:
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        raise broken(f"{address} cannot be a VIP", "write the addresses that clients connect to")
    return address


def _exit(address: AnyAddress) -> AnyAddress:
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise broken(f"{address} cannot be an exit", "write the address of a machine of that PoP")
    return address


Prefixes = Annotated[list[Annotated[Prefix, BeforeValidator(_prefix)]], AfterValidator(_unique)]


class _Common(BaseModel):
    """What every agent has."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Name = Field(description="name of this agent; pins and state are kept under it")
    interface: Annotated[str, BeforeValidator(_interface)] = Field(
        description="interface on which encapsulated packets come in"
    )
    vips: Annotated[list[Annotated[AnyAddress, AfterValidator(_vip)]], AfterValidator(_unique)] = (
        Field(min_length=1, max_length=VIPS_MAX, description="addresses that clients connect to")
    )
    xdp: Literal["auto", "native", "generic"] = Field(
        "auto", description="where the XDP program runs; auto: native where the driver can"
    )


class Exit(BaseModel):
    """A PoP by which replies leave whose clients' packets come in by it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    directors: Prefixes = Field(
        min_length=1, max_length=SOURCES_MAX, description="source4 and source6 of its directors"
    )
    address: Annotated[AnyAddress, AfterValidator(_exit)] = Field(
        description="of the machine there that sends replies on, on the backbone"
    )


class AgentConfig(_Common):
    """Configuration of an agent on a backend."""

    directors: Prefixes = Field(
        min_length=1,
        max_length=SOURCES_MAX,
        description="outer sources that are accepted: source4 and source6 of the directors",
    )
    mtu: int | None = Field(
        None,
        ge=MTU_MIN,
        le=MTU_MAX,
        description="largest packet from a director to this machine, outer header included; "
        "default: the MTU of the interface",
    )
    exits: list[Exit] = Field(
        [],
        max_length=EXITS_MAX,
        description="other PoPs by which replies leave, as their clients' packets come in",
    )

    @model_validator(mode="after")
    def _carries_ipv6(self) -> "AgentConfig":
        has_ipv6 = any(each.version == 6 for each in (*self.vips, *self.sources()))
        if self.mtu is not None and self.mtu < MTU_MIN6 and has_ipv6:
            raise broken(
                f"an mtu of {self.mtu} is too small for IPv6",
                f"write at least {MTU_MIN6} (RFC 8200)",
            )
        return self

    @model_validator(mode="after")
    def _one_way_each(self) -> "AgentConfig":
        prefixes = [*self.directors, *(each for exit in self.exits for each in exit.directors)]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise broken(
                    f"{prefix} is in more than one list of directors",
                    "give the directors of each PoP a source4 and source6 of their own",
                )
        if len(prefixes) > SOURCES_MAX:
            raise broken(f"more than {SOURCES_MAX} prefixes of directors", "list fewer")
        return self

    @model_validator(mode="after")
    def _exits_are_machines(self) -> "AgentConfig":
        for exit in self.exits:
            if exit.address in self.vips:
                raise broken(
                    f"the exit {exit.address} is a VIP",
                    "write the address on the backbone of a machine of that PoP",
                )
        return self

    def sources(self) -> dict[Prefix, int]:
        """Outer sources, and the way that they stand for: 0: own PoP, else 1 + the exit."""
        own = dict.fromkeys(self.directors, 0)
        return own | {
            prefix: 1 + number
            for number, exit in enumerate(self.exits)
            for prefix in exit.directors
        }


class ExitConfig(_Common):
    """Configuration of an agent where replies of other PoPs' backends leave."""

    backends: Prefixes = Field(
        min_length=1,
        max_length=SOURCES_MAX,
        description="outer sources that are accepted: addresses of the backends",
    )

    def sources(self) -> dict[Prefix, int]:
        return dict.fromkeys(self.backends, 0)


Config = AgentConfig | ExitConfig


def parse(text: str, source: str = "agent.toml") -> Config:
    """The configuration in the text. Raises ConfigError with all problems, sorted by line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([syntax_problem(text, source, error)]) from None
    try:
        if "backends" in raw:
            return ExitConfig.model_validate(raw)
        return AgentConfig.model_validate(raw)
    except ValidationError as error:
        place = Source(text, source)
        found = sorted(error.errors(), key=lambda details: place.line(details["loc"]))
        raise ConfigError([_explain(place, details) for details in found]) from None


def _explain(place: Source, details: ErrorDetails) -> Problem:
    path: Path = details["loc"]
    context = details.get("ctx", {})
    key = str(path[0]) if path else ""
    if details["type"] == "limpet":
        why, mend = context["why"], context["mend"]
    elif details["type"] == "extra_forbidden":
        why, mend = _unknown(path)
    elif details["type"] == "missing":
        why, mend = "the key is missing", f"write {EXAMPLES[key]}"
    elif details["type"] == "too_short":
        why, mend = "the list is empty", f"write {EXAMPLES[key]}"
    elif details["type"] == "too_long":
        why, mend = f"more than {context['max_length']} entries", "list fewer"
    else:
        why, mend = f"{toml(details['input'])} does not fit here", f"write {EXAMPLES[key]}"
    name = ".".join(str(part) for part in path if isinstance(part, str))
    return Problem(place.where(path, name or "file"), why, mend)


def _unknown(path: Path) -> tuple[str, str]:
    if path in (("directors",), ("mtu",), ("exits",)):  # only of a backend
        return "it does not go with backends", "remove one of the two: an exit has backends only"
    keys = Exit.model_fields if len(path) > 1 else EXAMPLES
    return "unknown key", f"remove it; the keys are {', '.join(keys)}"
