# SPDX-License-Identifier: Apache-2.0
"""Limits: docs/limits.md has each with its name and value, and halves of the code agree on them.

A limit belongs into the list below when whoever runs a director can reach it. Where several modules
have one of the same name, the name in the document says whose it is.
"""

import re
from pathlib import Path

import pytest

from limpet.agent import config as agent_config
from limpet.api import audit, events, feed, gate, interface, listener, tokens
from limpet.core import cluster, document, exception, model, pool_table, sealing, slots, values
from limpet.daemon import pacing, resets, unixtime
from limpet.daemon.checks import checker, http
from limpet.daemon.cluster import catchup, tidying
from limpet.daemon.directory import ownlog, placement, worth
from limpet.daemon.ownership import holding, verdicts
from limpet.datapath import abi, settings
from limpet.store import outbox, revisions

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def limits() -> dict[str, int]:
    """Every limit with a name, as docs/limits.md must have it."""
    found = {f"LIMIT_{name}": int(limit) for name, limit in abi.Limit.__members__.items()}
    found |= {
        "WEIGHT_MAX": model.WEIGHT_MAX,
        "FLOWS_MIN": document.FLOWS_MIN,
        "FLOWS_MAX": document.FLOWS_MAX,
        "RATE_MAX_PER_S": document.RATE_MAX_PER_S,
        "TIMEOUT_MAX_S": values.TIMEOUT_MAX_S,
        "INTERFACE_BYTES_MAX": values.INTERFACE_BYTES_MAX,
        "HISTORY_DEPTH": slots.HISTORY_DEPTH,
        "FRAGMENT_S": settings.FRAGMENT_S,
        "MTU_MIN": agent_config.MTU_MIN,
        "MTU_MIN6": agent_config.MTU_MIN6,
        "CONNECTIONS_MAX": checker.CONNECTIONS_MAX,
        "COMMANDS_MAX": checker.COMMANDS_MAX,
        "BODY_MAX": http.BODY_MAX,
        "ROW_MAX": pool_table.ROW_MAX,
        "SLOW_START_MAX_S": pool_table.SLOW_START_MAX_S,
        "SESSIONS_MIN": document.SESSIONS_MIN,
        "SESSIONS_MAX": document.SESSIONS_MAX,
    }
    found |= limits_of_commands() | limits_of_queries() | limits_of_directory()
    for name in ("QUOTE_MAX4", "QUOTE_MAX6", "OUTER_HOP_LIMIT"):
        text = (ROOT / "bpf" / "answer.h").read_text() + (ROOT / "bpf" / "encap.h").read_text()
        match = re.search(rf"#define {name}\s+(\d+)", text)
        assert match, name
        found[name] = int(match[1])
    return found


def limits_of_directory() -> dict[str, int]:
    """Those of the session directory."""
    return {
        "BATCH_MAX": exception.BATCH_MAX,
        "QUEUE_MAX": ownlog.QUEUE_MAX,
        "AT_ONCE_MAX": ownlog.AT_ONCE_MAX,
        "GRACE_S": placement.GRACE_S,
        "FLOW_S": placement.FLOW_S,
        "SKEW_MS": worth.SKEW_MS,
    }


def limits_of_queries() -> dict[str, int]:
    """Those of ownership queries."""
    return {
        "DATAGRAM_BYTES_MAX": sealing.DATAGRAM_BYTES_MAX,
        "TIME_WINDOW_MS": sealing.TIME_WINDOW_MS,
        "SENDERS_MAX": sealing.SENDERS_MAX,
        "WAITING_OF_FLOW_MAX": holding.WAITING_OF_FLOW_MAX,
        "WAITING_MAX": holding.WAITING_MAX,
        "OWNERS_MAX": verdicts.OWNERS_MAX,
        "ORPHANS_MAX": verdicts.ORPHANS_MAX,
        "RETURNS_MAX": verdicts.RETURNS_MAX,
    }


def limits_of_commands() -> dict[str, int]:
    """Those of intents, events, API and resets; with its module where others have the same name."""
    return {
        "REVISIONS_MAX": revisions.REVISIONS_MAX,
        "HISTORY_BYTES_MAX": revisions.HISTORY_BYTES_MAX,
        "LATE_S": int(catchup.LATE_S),
        "JUMP_S": int(unixtime.JUMP_S),
        "ABSENT_MAX_S": int(cluster.ABSENT_MAX_S),
        "SHARED_HISTORY_MAX": tidying.SHARED_HISTORY_MAX,
        "SHARED_HISTORY_BYTES_MAX": tidying.SHARED_HISTORY_BYTES_MAX,
        "EVENTS_MAX": outbox.EVENTS_MAX,
        "feed.KEPT": feed.KEPT,
        "STREAMS_MAX": events.STREAMS_MAX,
        "CHANGES_MAX": pacing.CHANGES_MAX,
        "DEADLINE_MAX_S": interface.DEADLINE_MAX_S,
        "listener.CONNECTIONS_MAX": listener.CONNECTIONS_MAX,
        "gate.BODY_MAX": gate.BODY_MAX,
        "TOKENS_MAX": tokens.TOKENS_MAX,
        "audit.BYTES_MAX": audit.BYTES_MAX,
        "audit.KEPT": audit.KEPT,
        "REFUSALS_PER_S": audit.REFUSALS_PER_S,
        "ENTRIES_MAX": audit.ENTRIES_MAX,
        "ELICITED_PER_S": resets.ELICITED_PER_S,
        "TRIES": resets.TRIES,
        "WANTED_MAX": resets.WANTED_MAX,
        "AGAIN_MAX": resets.AGAIN_MAX,
    }


@pytest.mark.parametrize(("name", "value"), limits().items(), ids=str)
def test_limit_in_the_document_is_the_limit_in_the_code(name: str, value: int) -> None:
    """In one row of a table of docs/limits.md: the name, then the number written with commas."""
    text = (DOCS / "limits.md").read_text()
    rows = re.findall(rf"^\|[^|]*\| `{re.escape(name)}` \| ([\d,]+) \| \S", text, re.M)
    assert rows == [f"{value:,}"]


def test_model_and_data_plane_have_the_same_limits() -> None:
    assert model.SLOTS == abi.Limit.SLOTS
    assert model.BACKENDS_MAX == abi.Limit.BACKENDS
    assert model.VIPS_MAX == abi.Limit.VIPS
    assert model.POOLS_MAX == abi.Limit.POOLS
    assert model.PROXIES_MAX == abi.Limit.PROXIES
    assert agent_config.SOURCES_MAX == abi.Limit.AGENT_SOURCES
    assert agent_config.VIPS_MAX == abi.Limit.AGENT_VIPS
    assert model.VIPS_MAX <= abi.Limit.VIP_ADDRESSES // 2
