# SPDX-License-Identifier: Apache-2.0
"""Inject: gives a frame to the director's program once more, as if it had just come in.

A packet that was held until another director said whose its flow is takes the ladder again this
way, with all that follows: counters, encapsulation, and the frame on the wire of the next hop. The
kernel calls such frames live: what the program decides is done, redirects are flushed. One call a
frame, about 16 us of CPU (bench/ownership.py), nearly all of it outside the interpreter's lock.

The interface must be one of the caller's network namespace. What becomes of the frame is not told:
the program's counters say it.

Source: Documentation/bpf/bpf_prog_run.rst in the kernel (since 5.18).
"""

import struct

from limpet.datapath import bpf

LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
CONTEXT = struct.Struct("=IIIIII")  # struct xdp_md
ATTRIBUTES = struct.Struct("=IIIIQQIIIIQQIII")  # of the command, see union bpf_attr


def inject(program: int, frame: bytes, ifindex: int) -> None:
    """Run the program over the frame, which came by this interface. Raises DatapathError."""
    data = bytearray(frame)
    context = bytearray(CONTEXT.pack(0, len(data), 0, ifindex, 0, 0))
    attributes = ATTRIBUTES.pack(
        *(program, 0, len(data), 0, bpf._address(data), 0, 1, 0),
        *(CONTEXT.size, 0, bpf._address(context), 0, LIVE_FRAMES, 0, 1),
    )
    bpf._bpf(f"inject a frame at interface {ifindex}", bpf.TEST_RUN, attributes)
