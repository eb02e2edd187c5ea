# SPDX-License-Identifier: Apache-2.0
"""Down: the end of a director on this machine. Forwarding stops.

A daemon that runs is asked to exit first, because it would put everything back. Then routes are
withdrawn, while packets that are under way are still forwarded. The state file
stays: with it, the next start gives every backend the slots that it had, and every client its slot.
"""

import contextlib
import time
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from limpet.announce import process
from limpet.announce.folder import Folder
from limpet.api.client import Client
from limpet.api.places import Places
from limpet.core.errors import Conflict, Unreachable
from limpet.daemon.lock import locked, owner
from limpet.daemon.nexthop import EXT_MANAGED
from limpet.datapath import kernel, outbound
from limpet.datapath.kernel import Kernel, Sizes
from limpet.datapath.pins import remove_empty

EXIT_WAIT_S = 10.0
WITHDRAWN_S = 1.0  # for routers to send packets elsewhere before they are not forwarded here


def down(places: Places) -> bool:
    """Remove everything of the director from the kernel. False if nothing was there."""
    if not places.pins.exists():
        return process.end(Folder(places.speaker))
    if owner(places.pins) is not None:
        _stop_daemon(places)
    if process.end(Folder(places.speaker)):
        time.sleep(WITHDRAWN_S)
    with locked(places.pins, wait_s=EXIT_WAIT_S):
        if (places.pins / "maps").exists():
            with contextlib.suppress(Conflict):  # another version's maps, which it cannot read
                _release_neighbours(places)
        outbound.remove(places.pins)
        kernel.remove(places.pins)
        remove_empty(places.pins.parent)
    with contextlib.suppress(FileNotFoundError):
        places.socket.unlink()
    return True


def _stop_daemon(places: Places) -> None:
    try:
        Client(places.socket).post("/v1/shutdown")
    except Unreachable as error:
        pid = owner(places.pins)
        if pid is not None:
            raise Conflict(
                f"the daemon of {places.name!r} (pid {pid}) runs, but not on {places.socket}: "
                "give its --socket, or stop it first"
            ) from error


def _release_neighbours(places: Places) -> None:
    """Let the kernel forget the neighbours that it was told to keep resolved."""
    held = Kernel.open(places.pins, Sizes(1, 1, 1))
    hops = [row.next_hop for row in held.observe().backends]
    held.close()
    macs = {(hop.ifindex, hop.mac.hex(":")) for hop in hops if hop is not None and hop.ifindex}
    with IPRoute() as netlink:
        for message in netlink.get_neighbours():
            is_ours = (message["ifindex"], message.get("NDA_LLADDR")) in macs
            if is_ours and (message.get("NDA_FLAGS_EXT") or 0) & EXT_MANAGED:
                address = str(ip_address(message.get("NDA_DST")))
                with contextlib.suppress(NetlinkError):  # gone meanwhile
                    netlink.neigh("del", ifindex=message["ifindex"], dst=address)
