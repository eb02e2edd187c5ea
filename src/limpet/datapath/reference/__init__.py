# SPDX-License-Identifier: Apache-2.0
"""The director's packet path in plain Python: the executable specification.

Frame in, `Outcome` out: verdict, rung, events, the frame as it goes on. bpf/ does the same in the
kernel; every packet case and every generated packet runs through both, and must give the same
counters and bytes. No numpy, no clock and no I/O in here: a simulator runs many directors at once
and owns the time.

Not here: several CPUs. Where two race for an entry, the kernel counts EVENT_RACE_LOST; here nobody
races.
"""

from limpet.datapath.reference.director import Outcome, Reference, Reset

__all__ = ["Outcome", "Reference", "Reset"]
