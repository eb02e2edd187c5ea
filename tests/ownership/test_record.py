# SPDX-License-Identifier: Apache-2.0
"""Counters of ownership queries: each refusal has one, each one is documented."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from limpet.core.sealing import Refusal
from limpet.daemon.ownership.record import Record

DOCUMENT = Path(__file__).parents[2] / "docs/concepts/ownership.md"


@pytest.mark.parametrize("why", Refusal)
def test_every_refusal_is_counted_by_its_name(why: Refusal) -> None:
    record = Record()
    record.refuse(why)
    assert [each.name for each in fields(record) if getattr(record, each.name)] == [
        f"refused_{why}"
    ]


def test_document_has_every_counter_in_its_order_with_a_severity() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:normal|watch|alarm) \|$", text, re.M)
    assert rows == [each.name for each in fields(Record)]
