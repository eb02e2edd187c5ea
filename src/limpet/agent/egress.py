# SPDX-License-Identifier: Apache-2.0
"""Egress: the MSS clamp as a tc filter on the interface's way out.

clsact with a direct-action filter, not tcx, because kernel 6.1 has no tcx. The filter belongs to
the interface, so it stays when the process ends. Its priority and handle are fixed: replacing it is
one netlink message, and the kernel swaps the program without a gap.
"""

import errno

from pyroute2 import IPRoute, NetlinkError

from limpet.core.errors import Conflict, DatapathError

NAME = "limpet-agent"
PRIORITY, HANDLE = 27_015, 1  # low priority: what others attach there comes first
EGRESS = 0xFFFFFFF3  # TC_H_CLSACT, TC_H_MIN_EGRESS
CLSACT = 0xFFFFFFF1


def attach(ifindex: int, program: int) -> bool:
    """Add or replace the filter; True if the qdisc it needs had to be made."""
    with IPRoute() as socket:
        made = _add_clsact(socket, ifindex)
        found = _at_our_place(socket, ifindex)
        if found not in (None, NAME):
            raise Conflict(f"tc filter {PRIORITY} on interface {ifindex} is {found}, not limpet's")
        try:
            socket.tc(
                "replace-filter",
                "bpf",
                index=ifindex,
                handle=HANDLE,
                fd=program,
                name=NAME,
                parent=EGRESS,
                prio=PRIORITY,
                direct_action=True,
            )
        except NetlinkError as error:
            raise DatapathError("attach the tc filter", error.code, str(error)) from error
    return made


def is_attached(ifindex: int) -> bool:
    with IPRoute() as socket:
        return _at_our_place(socket, ifindex) == NAME


def detach(ifindex: int, *, with_qdisc: bool) -> None:
    """Remove the filter, and the qdisc if nothing else uses it. Fine if they are gone."""
    with IPRoute() as socket:
        try:
            if _at_our_place(socket, ifindex) == NAME:
                socket.tc(
                    "del-filter",
                    "bpf",
                    index=ifindex,
                    handle=HANDLE,
                    parent=EGRESS,
                    prio=PRIORITY,
                )
            if with_qdisc and not _is_used(socket, ifindex):
                socket.tc("del", "clsact", index=ifindex)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise DatapathError("remove the tc filter", error.code, str(error)) from error


def _add_clsact(socket: IPRoute, ifindex: int) -> bool:
    try:
        socket.tc("add", "clsact", index=ifindex)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        raise DatapathError("add the qdisc clsact", error.code, str(error)) from error
    return True


def _at_our_place(socket: IPRoute, ifindex: int) -> str | None:
    """Name of the filter that stands where ours would, None if there is none."""
    for message in socket.get_filters(index=ifindex, parent=EGRESS):
        options = message.get_attr("TCA_OPTIONS")
        if message["info"] >> 16 == PRIORITY and message["handle"] == HANDLE and options:
            name = options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None
            return str(name)
    return None


def _is_used(socket: IPRoute, ifindex: int) -> bool:
    parents = (EGRESS, EGRESS - 1)
    return any(list(socket.get_filters(index=ifindex, parent=parent)) for parent in parents)
