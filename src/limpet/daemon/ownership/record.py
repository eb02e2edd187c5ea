# SPDX-License-Identifier: Apache-2.0
"""Record: what was asked, answered and refused, counted; docs/operate/metrics.md has them all."""

from dataclasses import dataclass

from limpet.core.sealing import Refusal


@dataclass
class Record:
    """Counters since the daemon started."""

    held: int = 0  # packets that came out of the ring
    stale: int = 0  # of these, dropped: they had been there for seconds, without a daemon
    asked: int = 0  # flows that the other directors were asked about
    joined: int = 0  # packets of flows whose question was under way
    settled: int = 0  # packets of flows whose question was just decided
    flow_full: int = 0  # packets dropped: so many of their flow wait already
    paused: int = 0  # times that the ring was left to itself, for want of room or time
    sent: int = 0  # datagrams with questions, to all peers
    repeated: int = 0  # of these, those that were sent again
    send_failed: int = 0  # datagrams that the machine did not take
    owned: int = 0  # flows whose owner was found
    orphaned: int = 0  # flows that no director knows
    given_up: int = 0  # flows decided although a director had not answered in time
    hurried: int = 0  # of these, those that would have been waited for if fewer packets waited
    without_silent: int = 0  # flows decided without directors that have been silent for longer
    alone: int = 0  # flows decided without asking: no other director is known
    backend_unknown: int = 0  # answers that name a backend which is not known here
    directory_full: int = 0  # packets dropped: there was no room for what was answered
    injected: int = 0  # packets that took the ladder again
    inject_failed: int = 0  # packets that the kernel did not take back
    looped: int = 0  # flows asked for anew: the program did not follow what was decided
    answers: int = 0  # heard, each about one flow
    answers_late: int = 0  # datagrams with answers that nobody waited for
    answered: int = 0  # questions of other directors
    answered_known: int = 0  # of these, those with something to say
    busy: int = 0  # questions left without an answer, over the share of time
    refused_malformed: int = 0
    refused_forged: int = 0
    refused_outdated: int = 0
    refused_replayed: int = 0
    refused_own: int = 0

    def refuse(self, why: Refusal) -> None:
        """Count a datagram that is not listened to."""
        name = f"refused_{why}"
        setattr(self, name, getattr(self, name) + 1)
