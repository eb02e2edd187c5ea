# SPDX-License-Identifier: Apache-2.0
"""The sweeper: ends flows and sessions whose idle time is over.

It changes nothing for packets, since an expired entry is not used, swept or not; but then flows
and sessions that have ended count no more. An established flow and a live session are remembered,
until somebody needs the room or for as long as late entries are kept.
"""

from limpet.datapath.abi import Event, Life, SessionLife
from limpet.datapath.reference.rows import Rows
from limpet.datapath.reference.sessions import SessionTable, age
from limpet.datapath.reference.table import ConnectionTable, Entry
from limpet.datapath.reference.ties import Ties


def sweep_flows(table: ConnectionTable, ties: Ties, now: int) -> list[Event]:
    """Look at all flows."""
    events = []
    for entry in table.entries():
        if ties.is_quiet(entry, now):
            continue
        if entry.life is not Life.LATE:
            ties.pass_on(entry, now)
        if table.is_out_of_time(entry, now):
            events += _end(table, entry, ties, now)
    return events


def _end(table: ConnectionTable, entry: Entry, ties: Ties, now: int) -> list[Event]:
    life = entry.life
    if life is Life.ESTABLISHED:
        entry.life = Life.LATE
    else:
        table.forget(entry)
    if life is Life.LATE:
        return []
    ties.ended(entry, life, now)
    return [] if life is Life.FRAGMENT else [Event.FLOW_EXPIRED]


def sweep_sessions(sessions: SessionTable, rows: Rows, now: int) -> list[Event]:
    """Look at all sessions."""
    events = []
    for session in sessions.entries():
        if sessions.is_live(session, now):
            continue
        if session.life is SessionLife.PAST:
            if age(session.seen, now) > rows.idle_limit(session.key.vip, Life.LATE):
                sessions.forget(session)
        else:
            sessions.add_load(session.backend, -1)
            events.append(Event.SESSION_EXPIRED)
            if session.life is SessionLife.LIVE:
                session.life = SessionLife.PAST
            else:
                sessions.forget(session)
    return events
