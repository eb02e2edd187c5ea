# SPDX-License-Identifier: Apache-2.0
"""Offloads of veth interfaces, set so that XDP programs on them see whole, checksummed packets.

A veth with transmit offloads hands over packets without checksum, and TCP segments larger than
the MTU. A program that rewrites or encapsulates these breaks them: one SYN arrives, then silence.
So every end sends finished packets. What a program sends back or redirects arrives only where the
peer polls its queue, which a veth does with GRO (or a program of its own) on.
"""

from pyroute2.ethtool import Ethtool

from limpet.lab import namespace

# Without checksums the kernel itself drops the TCP and UDP segmentation offloads.
TRANSMIT_OFFLOADS = frozenset({"tx-checksum-ip-generic", "tx-generic-segmentation"})
RECEIVE_POLL = "rx-gro"


def prepare(netns: str, interface: str, *, polls: bool) -> None:
    """Transmit offloads off; `polls`: the other end may have an XDP program that sends."""
    with namespace.inside(netns):
        tool = Ethtool()
        try:
            features = tool.get_features(interface)
            for name in TRANSMIT_OFFLOADS:
                features.features[name].enable = False
            features.features[RECEIVE_POLL].enable = polls
            tool.set_features(interface, features)
        finally:
            tool.close()
