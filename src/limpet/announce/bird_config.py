# SPDX-License-Identifier: Apache-2.0
"""BIRD config: the whole configuration of our BIRD, as text. Pure.

Two files: the peers, which seldom change, and the routes, which the speaker empties when the daemon
is gone for too long. A peer gets the routes of its own address's family, with ourselves as next
hop. Nothing is imported, and nothing but our own routes is exported. Attributes are set in the
export filter: BIRD takes a MED that was set before it for one that it has received, and keeps it
back.

Hold times are short (9 s), because a director that loses power takes its PoP's share of clients
with it until routers notice; BFD is faster still (3 times 100 ms).
"""

import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address

from limpet.core.announcement import GRACEFUL_SHUTDOWN, Announced
from limpet.core.model import Address, Bgp, Peer

NAME_MAX = 60  # BIRD's names have at most 64 characters
LOG_BYTES = 1 << 20
FAMILIES = (4, 6)
HEAD = """# Written by limpet; changes are lost.
log "{log}" {bytes} "{log}.old" all;
{router_id}protocol device limpet_device {{}}
protocol bfd limpet_bfd {{
  interface "*" {{ interval 100 ms; multiplier 3; }};
  multihop {{ interval 300 ms; multiplier 3; }};
}}
include "{routes}";
"""
PEER = """
protocol bgp '{protocol}' {{
  description "{name}";
  local as {asn};
  neighbor {address} as {peer_asn};
{extras}  hold time 9;
  keepalive time 3;
  connect delay time 1;
  connect retry time 5;
  error wait time 1, 30;
  error forget time 60;
  ipv{family} {{ import none; export filter limpet_export{family}; next hop self; }};
}}
"""


def protocol(peer: Peer) -> str:
    """What BIRD calls a peer."""
    name = peer.name
    if len(name) > NAME_MAX:
        name = f"{name[:40]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"p_{name}"


def peers(bgp: Bgp, passwords: Mapping[str, str], routes: str, log: str) -> str:
    """The main file. `passwords` by name of the peer."""
    router_id = "" if bgp.router_id is None else f"router id {bgp.router_id};\n"
    head = HEAD.format(log=log, bytes=LOG_BYTES, router_id=router_id, routes=routes)
    return head + "".join(_peer(bgp, peer, passwords.get(peer.name, "")) for peer in bgp.peers)


def routes(bgp: Bgp, wanted: Iterable[Announced]) -> str:
    """The file of routes, and of the filters that give them their attributes."""
    found = list(wanted)
    return "# Written by limpet; changes are lost.\n" + "".join(
        _family(bgp, [each for each in found if each.address.version == family], family)
        for family in FAMILIES
    )


def _peer(bgp: Bgp, peer: Peer, password: str) -> str:
    extras = [f'password "{password}"'] if password else []
    extras += ["bfd on"] if peer.bfd else []
    extras += ["multihop"] if peer.multihop else ["direct"]
    return PEER.format(
        protocol=protocol(peer),
        name=peer.name,
        asn=bgp.asn,
        address=_neighbour(peer.address),
        peer_asn=peer.asn,
        family=peer.address.version,
        extras="".join(f"  {each};\n" for each in extras),
    )


def _neighbour(address: Address) -> str:
    if isinstance(address, IPv6Address) and address.scope_id:
        return f"{str(address).partition('%')[0]} % '{address.scope_id}'"
    return str(address)


def _family(bgp: Bgp, found: list[Announced], family: int) -> str:
    static = "".join(f"  route {each.prefix} blackhole;\n" for each in found)
    rules = "".join(_rule(bgp, each) for each in found)
    return (
        f"protocol static limpet_vips{family} {{\n  ipv{family};\n{static}}}\n"
        f'filter limpet_export{family} {{\n  if proto != "limpet_vips{family}" then reject;\n'
        f"{rules}  reject;\n}}\n"
    )


def _rule(bgp: Bgp, route: Announced) -> str:
    steps = [f"bgp_community.add(({high}, {low}))" for high, low in route.communities]
    steps += [] if route.med is None else [f"bgp_med = {route.med}"]
    steps += [f"bgp_path.prepend({bgp.asn})"] * route.prepend
    if GRACEFUL_SHUTDOWN in route.communities:
        steps.append("bgp_local_pref = 0")  # RFC 8326; only peers of our own AS see it
    body = "".join(f"{each}; " for each in steps)
    return f"  if net = {route.prefix} then {{ {body}accept; }}\n"
