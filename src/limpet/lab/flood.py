# SPDX-License-Identifier: Apache-2.0
"""A flood for the lab: TCP packets to a VIP, each from another source, of flows that nobody has.

SYNs, of handshakes that are never completed; or ACKs, which look like the middle of a session that
began elsewhere. So many as are wanted, or until standard input ends.

Frames are built with numpy and written to a packet socket on eth0, past this host's own stack. Only
usable inside a lab's namespace: the sources are made up. Run as `python -m limpet.lab.flood ...`.
"""

import argparse
import errno
import ipaddress
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, takewhile

import numpy as np
from numpy.typing import NDArray
from pyroute2 import IPRoute

SOURCES = int(ipaddress.IPv4Address("10.64.0.0"))  # 10.64.0.0/10
SOURCES_MAX = 1 << 22  # in that prefix; then they come again, from other ports
ETH_P_IP = 0x0800
FRAME = np.dtype(
    [
        ("macs", "u1", (12,)),
        ("ethertype", ">u2"),
        ("version_ihl", "u1"),
        ("tos", "u1"),
        ("length", ">u2"),
        ("id", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("check", ">u2"),
        ("source", ">u4"),
        ("dest", ">u4"),
        ("source_port", ">u2"),
        ("dest_port", ">u2"),
        ("sequence", ">u4"),
        ("acknowledgement", ">u4"),
        ("offset", "u1"),
        ("flags", "u1"),
        ("window", ">u2"),
        ("tcp_check", ">u2"),
        ("urgent", ">u2"),
    ]
)
CHUNK = 8_192  # frames built at a time
QUEUE_WAIT_S = 0.0005
IP_HEADER, TCP_HEADER = 20, 20
PORT_FIRST, PORTS = 1_024, 60_000
SYN, ACK = 0x02, 0x10
FLAGS = {"syn": SYN, "ack": ACK}


def frames(
    macs: bytes, vip: ipaddress.IPv4Address, port: int, numbers: NDArray[np.int64], flags: int = SYN
) -> bytes:
    """One packet per number, from source 10.64.0.0 + number, with correct checksums."""
    rows = np.zeros(len(numbers), FRAME)
    rows["macs"] = np.frombuffer(macs, np.uint8)
    rows["ethertype"] = ETH_P_IP
    rows["version_ihl"], rows["length"], rows["ttl"] = 0x45, IP_HEADER + TCP_HEADER, 64
    rows["protocol"] = socket.IPPROTO_TCP
    turn, place = np.divmod(numbers, SOURCES_MAX)
    rows["source"], rows["dest"] = SOURCES + place, int(vip)
    rows["source_port"], rows["dest_port"] = PORT_FIRST + (numbers + turn) % PORTS, port
    rows["offset"], rows["flags"], rows["window"] = 5 << 4, flags, 65_535
    if flags & ACK:
        rows["sequence"], rows["acknowledgement"] = numbers % (1 << 32), ~numbers % (1 << 32)
    halves = rows.view(np.uint8).reshape(len(rows), FRAME.itemsize)[:, 14:].copy().view(">u2")
    rows["check"] = _checksum(halves[:, : IP_HEADER // 2].astype(np.uint32).sum(axis=1))
    pseudo = halves[:, 6:10].astype(np.uint32).sum(axis=1) + socket.IPPROTO_TCP + TCP_HEADER
    rows["tcp_check"] = _checksum(halves[:, 10:].astype(np.uint32).sum(axis=1) + pseudo)
    return rows.tobytes()


def _checksum(sums: NDArray[np.integer]) -> NDArray[np.integer]:
    """RFC 1071: fold to 16 bits and invert."""
    for _ in range(2):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return ~sums & 0xFFFF


def link_macs(vip: str) -> bytes:
    """MAC addresses of the router and of this host, in the order of an Ethernet header."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((vip, 9))
        probe.send(b"")  # lets the kernel resolve the router
    with IPRoute() as route:
        eth0 = route.link_lookup(ifname="eth0")[0]
        own = route.get_links(eth0)[0].get_attr("IFLA_ADDRESS")
        gateway = route.route("get", dst=vip)[0].get_attr("RTA_GATEWAY")
        for _ in range(50):
            for neighbour in route.get_neighbours(ifindex=eth0):
                mac = neighbour.get_attr("NDA_LLADDR")
                if neighbour.get_attr("NDA_DST") == gateway and mac:
                    return bytes.fromhex((mac + own).replace(":", ""))
            time.sleep(0.02)
    raise SystemExit(f"the router {gateway} does not answer")


def flood(
    vip: str, port: int, wanted: Iterator[range], flags: int, is_over: Callable[[], bool]
) -> tuple[int, float]:
    """Send one packet per number; how many, and seconds that it took."""
    macs, target = link_macs(vip), ipaddress.IPv4Address(vip)
    begun, sent = time.monotonic(), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as out:
        out.bind(("eth0", 0))
        for numbers in wanted:
            if is_over():
                break
            some = np.arange(numbers.start, numbers.stop)
            data = memoryview(frames(macs, target, port, some, flags))
            for at in range(0, len(data), FRAME.itemsize):
                _send(out, data[at : at + FRAME.itemsize])
            sent += len(some)
    return sent, time.monotonic() - begun


def chunks(first: int, number: int | None) -> Iterator[range]:
    """Numbers from the first on; None: for ever."""
    starts = count(first, CHUNK)
    if number is None:
        yield from (range(start, start + CHUNK) for start in starts)
    else:
        end = first + number
        for start in takewhile(lambda each: each < end, starts):
            yield range(start, min(end, start + CHUNK))


def _is_input_over() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not sys.stdin.readline()


def _send(out: socket.socket, frame: memoryview) -> None:
    """The link's queue may be full for a moment; what is lost further on is not noticed."""
    while True:
        try:
            out.send(frame)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(QUEUE_WAIT_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("vip")
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int, nargs="?", help="none: until standard input ends")
    parser.add_argument("--first", type=int, default=0, help="number of the first source")
    parser.add_argument("--kind", choices=FLAGS, default="syn")
    options = parser.parse_args()
    wanted, flags = chunks(options.first, options.count), FLAGS[options.kind]
    is_over = _is_input_over if options.count is None else lambda: False
    sent, took = flood(options.vip, options.port, wanted, flags, is_over)
    print(json.dumps({"sent": sent, "seconds": round(took, 2)}))


if __name__ == "__main__":
    main()
