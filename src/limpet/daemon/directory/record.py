# SPDX-License-Identifier: Apache-2.0
"""Record: what the session directory of this director has done, for status and metrics.

Each number says in its comment how to take it: normal, watch or alarm. They begin with the daemon.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Record:
    """Counts of entries, unless the comment says otherwise."""

    told: int = 0  # news of the data path: normal
    published: int = 0  # appended to this director's log: normal
    batches: int = 0  # of these, batches: normal
    echoes: int = 0  # not published, since the cluster knows: normal
    outdated: int = 0  # not published, since the cluster knows something newer: normal
    queue_full: int = 0  # not published, too many wait for the store; a scan finds them: alarm
    append_failed: int = 0  # attempts to append a batch that the store refused: watch
    received: int = 0  # read from other directors' logs: normal
    merged: int = 0  # of these, newer than what was known: normal
    stale: int = 0  # of these, no newer: normal
    late: int = 0  # of these, no longer valid when they came: normal
    ahead: int = 0  # of these, from a clock that is ahead of this one: watch
    table_full: int = 0  # no room for them, of this director's or of others: alarm
    rejected_signature: int = 0  # batches that are not signed with the cluster's key: alarm
    rejected_form: int = 0  # batches that cannot be read: alarm
    rejected_origin: int = 0  # batches of one director in the log of another: alarm
    truncated: int = 0  # times that a log no longer held what was to be read next: watch
    expired: int = 0  # forgotten, since their time had passed: normal
    loaded: int = 0  # written to the data path's map: normal
    unloaded: int = 0  # removed from it: normal
    map_full: int = 0  # no room for them in that map; tried again later: alarm
    map_failed: int = 0  # attempts to write it that the kernel refused; tried again later: alarm
    news_lost: int = 0  # news for which the ring had no room; a scan was made for them: watch
    scans: int = 0  # times that both tables of the data path were searched: normal
    scans_failed: int = 0  # the same, and failed: alarm
    scan_s: float = 0.0  # duration of the last one: normal
    clock_jumps: int = 0  # of the wall clock by more than a minute, that were not followed: alarm
    clock_off_s: float = 0.0  # by which the wall clock is ahead of the time that counts: alarm
    lag_s: float = 0.0  # age of the last batch read, when it was in effect: normal
    entries: int = 0  # in the merged table now: normal
    queued: int = 0  # that wait for the store now: watch
