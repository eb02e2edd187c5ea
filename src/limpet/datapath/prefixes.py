# SPDX-License-Identifier: Apache-2.0
"""Prefixes: the map of known mega-proxies, a longest-prefix trie, by system calls."""

from collections.abc import Iterable, Iterator
from errno import ENOENT
from ipaddress import IPv4Network, IPv6Network

import numpy as np

from limpet.core import hashing
from limpet.core.errors import DatapathError
from limpet.core.model import Address
from limpet.core.registry import network_order
from limpet.datapath import bpf
from limpet.datapath.abi import PROXY

Network = IPv4Network | IPv6Network
MAPPED_BITS = 96  # that an IPv4 prefix is longer in the 16 byte form
PRESENT = b"\1"


def _key(network: Network) -> bytes:
    record = np.zeros((), PROXY)
    record["bits"] = network.prefixlen + (MAPPED_BITS if network.version == 4 else 0)
    high, low = hashing.words(network.network_address)
    record["address"] = np.frombuffer((high << 64 | low).to_bytes(16, "big"), np.uint8)
    return record.tobytes()


def _network(key: bytes) -> Network:
    record = np.frombuffer(key, PROXY)[0]
    words = np.frombuffer(record["address"].tobytes(), ">u8").tolist()
    address: Address = hashing.address(*words)
    bits = int(record["bits"])
    if address.version == 4:
        return IPv4Network((address, bits - MAPPED_BITS))
    return IPv6Network((address, bits))


def _keys(fd: int) -> Iterator[bytes]:
    key: bytes | None = None
    while True:
        try:
            key = bpf.map_next_key(fd, key, PROXY.itemsize)
        except DatapathError as error:
            if error.errno == ENOENT:
                return
            raise
        yield key


def read(fd: int) -> tuple[Network, ...]:
    """All prefixes, sorted: IPv4 first."""
    return tuple(sorted((_network(key) for key in _keys(fd)), key=network_order))


def write(fd: int, wanted: Iterable[Network]) -> None:
    """Make these the content: what is new first, then what has to go."""
    keys = {_key(network) for network in wanted}
    there = set(_keys(fd))
    for key in sorted(keys - there):
        bpf.map_update(fd, key, PRESENT)
    for key in sorted(there - keys):
        bpf.map_delete(fd, key)
