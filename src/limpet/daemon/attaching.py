# SPDX-License-Identifier: Apache-2.0
"""Attaching: the program on the interfaces that are wanted, in the mode that is wanted, no others.

Called in the thread of the passes. An interface that is not there is left for the pass in which it
has come.
"""

import structlog

from limpet.core.errors import DatapathError
from limpet.core.model import Desired, XdpMode
from limpet.daemon import admission
from limpet.daemon import links as links_of
from limpet.daemon.links import Link, Links
from limpet.datapath.kernel import Kernel

log = structlog.get_logger()


def attach(kernel: Kernel, desired: Desired, links: Links) -> None:
    """Attach and detach, as far as that is not so already."""
    mode, known = desired.director.xdp, links_of.by_name(links)
    wanted = desired.director.interfaces
    held = {a.interface: a.ifindex for a in kernel.attachments()}
    for interface in held.keys() - set(wanted):
        kernel.detach(interface)
        log.info("detached", interface=interface)
    for interface in wanted:
        link = known.get(interface)
        if link is None:
            continue
        if held.get(interface) == link.index and admission.is_other_mode(link, mode):
            _change_mode(kernel, link, mode)
        elif held.get(interface) != link.index:
            kernel.attach(interface, link.index, mode)
            log.info("attached", interface=interface, ifindex=link.index)


def _change_mode(kernel: Kernel, link: Link, mode: XdpMode) -> None:
    """Two modes cannot be attached at once. What the driver refuses leaves the old one."""
    kernel.detach(link.name)
    try:
        kernel.attach(link.name, link.index, mode)
    except DatapathError:
        kernel.attach(link.name, link.index, XdpMode(link.xdp))
        raise
    log.info("attached in another mode", interface=link.name, mode=str(mode))
