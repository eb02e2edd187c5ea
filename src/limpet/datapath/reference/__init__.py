# SPDX-License-Identifier: Apache-2.0
"""The director's packet path in plain Python: the executable specification.

Frame in, `Outcome` out: verdict, rung, events, the frame as it goes on. bpf/ does the same in the
kernel; every packet case and every generated packet runs through both, and must give the same
counters and bytes. No numpy, no clock and no I/O in here: a simulator runs many directors at once
and owns the time.

A director of a cluster has a `directory`, into which its owner writes what others told, and says in
an `Outcome` what others are to be told (`news`), and which packet waits for an answer (`held`): run
it again once that is in the directory.

Not here: several CPUs. Where two race for an entry, the kernel counts EVENT_RACE_LOST; here nobody
races. Rings are never full here.
"""

from limpet.datapath.reference.director import Outcome, Reference, Reset
from limpet.datapath.reference.directory import Told
from limpet.datapath.reference.held import Held
from limpet.datapath.reference.news import Name, News

__all__ = ["Held", "Name", "News", "Outcome", "Reference", "Reset", "Told"]
