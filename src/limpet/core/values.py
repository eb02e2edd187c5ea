# SPDX-License-Identifier: Apache-2.0
"""Values: what may stand behind the `=` of a configuration key, and how a wrong one is refused.

Each type checks one value and turns it into the type that the rest of the program uses: addresses
into `ipaddress` objects, keys into bytes. Nothing is converted silently: `true` is no number. A
refusal says what is wrong and how to mend it; core/config.py adds the place.

Not here: which keys there are (core/document.py), and what has to fit together (core/checks.py).
"""

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from limpet.core.model import PROXIES_MAX, WEIGHT_MAX, Address

NAME_PATTERN = "[a-z0-9][a-z0-9._-]{0,62}"
INTERFACE_BYTES_MAX = 15  # IFNAMSIZ - 1
SHOWN_MAX = 60  # characters of a value in a message
TIMEOUT_MAX_S = 604_800  # 7 days
TEXT_BYTES_MAX = 1_024
PORT_RANGES_MAX = 65_536
MARK_STEP = 4_096  # the low 12 bits of a mark are a backend's id


def broken(why: str, mend: str) -> PydanticCustomError:
    """An error that carries its own remedy."""
    # Braces would be read as placeholders of the message template.
    return PydanticCustomError("limpet", "{why}", {"why": why, "mend": mend})


def _text(value: object, mend: str) -> str:
    if not isinstance(value, str):
        raise broken(f"{toml(value)} is not a string", mend)
    return value


def toml(value: object) -> str:
    """A value as it would stand in the file, cut where a message would get too long."""
    text = _toml(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 4] + " ..."


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _name(value: object) -> str:
    mend = "use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    text = _text(value, mend)
    if not re.fullmatch(NAME_PATTERN, text):
        raise broken(f"{text!r} is not a name", mend)
    return text


def _name_or_empty(value: object) -> str:
    return "" if value == "" else _name(value)


def _address(value: object) -> Address:
    mend = 'write an IPv4 or IPv6 address, as "192.0.2.10" or "2001:db8::10"'
    try:
        address = ip_address(_text(value, mend))
    except ValueError:
        raise broken(f"{value!r} is not an IP address", mend) from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise broken(f"{value!r} has a zone", f'write it without: "{str(address).split("%")[0]}"')
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise broken(f"{value!r} is an IPv4 address", f'write "{address.ipv4_mapped}"')
    return address


def _network(value: object, bits: int, example: str) -> IPv4Network | IPv6Network:
    mend = f'write a /{bits} prefix, as "{example}"'
    text = _text(value, mend)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise broken(f"{text!r} is not a prefix", mend) from None
    if network.version != ip_network(example).version:
        raise broken(f"{text!r} is of the wrong IP version", mend)
    if network.prefixlen != bits:
        raise broken(f"{text!r} is a /{network.prefixlen}, not a /{bits}", mend)
    if ip_address(text.split("/")[0]) != network.network_address:
        raise broken(f"{text!r} has host bits set", f'write "{network}"')
    return network


def _network4(value: object) -> object:
    return _network(value, 16, "100.64.0.0/16")


def _network6(value: object) -> object:
    return _network(value, 96, "fd00:11be:7::/96")


def _slot_key(value: object) -> bytes:
    mend = "write 32 hexadecimal digits (openssl rand -hex 16), the same on every director"
    text = _text(value, mend)
    if not re.fullmatch("[0-9a-fA-F]{32}|", text):
        raise broken(f"{len(text)} characters that are not 32 hexadecimal digits", mend)
    return bytes.fromhex(text)


def _interfaces(value: object) -> tuple[str, ...]:
    mend = 'list the interfaces on which packets for VIPs come in, as interfaces = ["eth0"]'
    if not isinstance(value, list) or not value:
        raise broken(f"{toml(value)} is not a list of interface names", mend)
    for name in value:
        text = _text(name, mend)
        length = len(text.encode())
        if length > INTERFACE_BYTES_MAX:
            raise broken(
                f"{text!r} has {length} bytes, an interface name has at most {INTERFACE_BYTES_MAX}",
                "use the name that `ip link` shows",
            )
        if text in ("", ".", "..") or re.search(r"[/:\s]", text):
            raise broken(f"{text!r} is not an interface name", "use the name that `ip link` shows")
        if value.count(name) > 1:
            raise broken(f"{text!r} is listed {value.count(name)} times", "list it once")
    return tuple(value)


def _port(value: object) -> int | None:
    mend = 'write a port from 1 to 65535, or "all"'
    if value == "all":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise broken(f"{toml(value)} is not a port", mend)
    if not 1 <= value <= 65_535:
        raise broken(f"{value} is out of range", mend)
    return value


def _weight(value: object) -> int:
    mend = f"write a whole number from 0 to {WEIGHT_MAX}; 0 takes no new sessions"
    if isinstance(value, bool) or not isinstance(value, int):
        raise broken(f"weight {toml(value)} is not a whole number", mend)
    if not 0 <= value <= WEIGHT_MAX:
        raise broken(f"weight {value} is out of range", mend)
    return value


def _listen(value: object) -> str:
    mend = 'write "address:port", as "127.0.0.1:9464" or "[::1]:9464"'
    text = _text(value, mend)
    if not text:
        return text
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if not match or not 1 <= int(match[3]) <= 65_535:
        raise broken(f"{text!r} is not an address with a port", mend)
    try:
        (IPv6Address if match[1] else IPv4Address)(match[1] or match[2])
    except ValueError:
        raise broken(f"{match[1] or match[2]!r} is not an IP address", mend) from None
    return text


def _port_ranges(value: object) -> int:
    mend = f"write a power of two from 2 to {PORT_RANGES_MAX}, as 16"
    if isinstance(value, bool) or not isinstance(value, int):
        raise broken(f"{toml(value)} is not a whole number", mend)
    if not 2 <= value <= PORT_RANGES_MAX or value.bit_count() != 1:
        raise broken(f"{value} is not a power of two in range", mend)
    return value


def _mark(value: object) -> int:
    mend = "write a number below 2^32 whose low 12 bits are 0, as 0x6c690000"
    if isinstance(value, bool) or not isinstance(value, int):
        raise broken(f"{toml(value)} is not a whole number", mend)
    if not MARK_STEP <= value < 1 << 32:
        raise broken(f"{value:#x} is out of range", mend)
    if value % MARK_STEP:
        raise broken(f"the low 12 bits of {value:#x} are not 0: they are the backend's id", mend)
    return value


def _prefixes(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    mend = 'list prefixes of clients, as ["198.51.100.0/24", "2001:db8:7::/48"]'
    if not isinstance(value, list):
        raise broken(f"{toml(value)} is not a list of prefixes", mend)
    if len(value) > PROXIES_MAX:
        raise broken(f"{len(value)} prefixes are more than {PROXIES_MAX}", "join neighbours")
    return tuple(_prefix(item, mend) for item in value)


def _prefix(value: object, mend: str) -> IPv4Network | IPv6Network:
    text = _text(value, mend)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise broken(f"{text!r} is not a prefix", mend) from None
    if "%" in text:
        raise broken(f"{text!r} has a zone", "write it without")
    if ip_address(text.split("/")[0]) != network.network_address:
        raise broken(f"{text!r} has host bits set", f'write "{network}"')
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise broken(f"{text!r} is an IPv4 prefix", "write it as one")
    if network.prefixlen == 0:
        raise broken(f"{text!r} is everybody", "list the prefixes of known mega-proxies only")
    return network


def _http_status(value: object) -> tuple[int, int]:
    mend = "write the first and the last status that is good, as [200, 399]"
    numbers = [i for i in value if type(i) is int] if isinstance(value, list) else []
    if not isinstance(value, list) or len(value) != 2 or len(numbers) != 2:
        raise broken(f"{toml(value)} is not a list of two whole numbers", mend)
    first, last = numbers
    if not 100 <= first <= last <= 599:
        raise broken(f"{toml(value)} is not a range within 100 to 599", mend)
    return first, last


def _argv(value: object) -> tuple[str, ...]:
    mend = 'list the program and its arguments, as ["/usr/local/bin/check", "{address}"]'
    if not isinstance(value, list):
        raise broken(f"{toml(value)} is not a list of strings", mend)
    for item in value:
        if "\0" in _text(item, mend):
            raise broken(f"{item!r} has a NUL character", mend)
    if value and not value[0]:
        raise broken("the program has no name", mend)
    return tuple(value)


def _http_path(value: object) -> str:
    mend = 'write the path of a URL, as "/health"'
    text = _text(value, mend)
    if not re.fullmatch(r"/[!-~]*", text) or len(text) > TEXT_BYTES_MAX:
        raise broken(f"{toml(text)} is not a path of printable ASCII that begins with /", mend)
    return text


def _http_host(value: object) -> str:
    mend = 'write a host name, as "www.example.net", or leave it out for the address'
    text = _text(value, mend)
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,253}", text):
        raise broken(f"{toml(text)} is not a host name", mend)
    return text


def _body(value: object) -> str:
    mend = "write text that must be in the answer"
    text = _text(value, mend)
    size = len(text.encode())
    if size > TEXT_BYTES_MAX:
        raise broken(f"text of {size} bytes is longer than {TEXT_BYTES_MAX}", mend)
    return text


def _absolute_path(value: object) -> str:
    mend = 'write an absolute path, as "/etc/limpet/tls.pem"'
    text = _text(value, mend)
    if text and (not text.startswith("/") or "\0" in text):
        raise broken(f"{toml(text)} is not an absolute path", mend)
    return text


def _webhook(value: object) -> str:
    mend = 'write the URL that events are posted to, as "https://ops.example.net/limpet"'
    text = _text(value, mend)
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if text and not (is_good and re.fullmatch("[!-~]+", text)):
        raise broken(f"{toml(text)} is not a URL of http or https", mend)
    return text


def _is_text(**more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **more})


Name = Annotated[str, BeforeValidator(_name), _is_text(pattern=f"^{NAME_PATTERN}$")]
NameOrEmpty = Annotated[
    str, BeforeValidator(_name_or_empty), _is_text(pattern=f"^({NAME_PATTERN})?$")
]
AnyAddress = Annotated[
    Address,
    BeforeValidator(_address),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "ipv4"},
                {"type": "string", "format": "ipv6"},
            ]
        }
    ),
]
Network4 = Annotated[IPv4Network, BeforeValidator(_network4), _is_text(pattern="/16$")]
Network6 = Annotated[IPv6Network, BeforeValidator(_network6), _is_text(pattern="/96$")]
SlotKey = Annotated[
    bytes, BeforeValidator(_slot_key), _is_text(pattern="^([0-9a-fA-F]{32})?$", default="")
]
Interfaces = Annotated[
    tuple[str, ...],
    BeforeValidator(_interfaces),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": INTERFACE_BYTES_MAX},
            "minItems": 1,
            "uniqueItems": True,
        }
    ),
]
Port = Annotated[
    int | None,
    BeforeValidator(_port),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65_535}, {"const": "all"}]}
    ),
]
Weight = Annotated[
    int,
    BeforeValidator(_weight),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": WEIGHT_MAX}),
]
Listen = Annotated[str, BeforeValidator(_listen), _is_text()]
Seconds = Annotated[int, Field(ge=1, le=TIMEOUT_MAX_S)]
PortRanges = Annotated[
    int,
    BeforeValidator(_port_ranges),
    WithJsonSchema({"type": "integer", "enum": [1 << bits for bits in range(1, 17)]}),
]
Mark = Annotated[
    int,
    BeforeValidator(_mark),
    WithJsonSchema(
        {
            "type": "integer",
            "minimum": MARK_STEP,
            "maximum": (1 << 32) - MARK_STEP,
            "multipleOf": MARK_STEP,
        }
    ),
]
Prefixes = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(_prefixes),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": PROXIES_MAX}),
]
HttpStatus = Annotated[
    tuple[int, int],
    BeforeValidator(_http_status),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 100, "maximum": 599},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]
Argv = Annotated[
    tuple[str, ...],
    BeforeValidator(_argv),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
HttpPath = Annotated[str, BeforeValidator(_http_path), _is_text(pattern="^/[!-~]*$")]
HttpHost = Annotated[str, BeforeValidator(_http_host), _is_text(pattern="^[A-Za-z0-9._-]{0,253}$")]
Body = Annotated[str, BeforeValidator(_body), _is_text(maxLength=TEXT_BYTES_MAX)]
AbsolutePath = Annotated[str, BeforeValidator(_absolute_path), _is_text(pattern="^(/.*)?$")]
Webhook = Annotated[str, BeforeValidator(_webhook), _is_text(pattern="^(https?://.+)?$")]
