# SPDX-License-Identifier: Apache-2.0
"""Planning: what a text of configuration would change here, as plan, reload and apply say it.

A director that stands alone has one file. A member of a cluster is asked about two kinds of text,
and which one it is shows by itself: its own file has [director]; the shared document has not.
"""

from dataclasses import replace

from limpet.api.interface import Json
from limpet.core.config import is_shared, parse, parse_shared
from limpet.core.declared import declared
from limpet.core.model import Desired
from limpet.core.summary import Summary
from limpet.daemon.answer import said
from limpet.daemon.parts import Parts


async def plan(parts: Parts, text: str) -> Json:
    """What it would change, without changing it. Raises ConfigError."""
    desired = _desired(parts, text)
    tables = await parts.pacing.call(lambda: parts.reconciler.preview(desired))
    return said(with_declared(tables, parts.desired, desired))


def _desired(parts: Parts, text: str) -> Desired:
    company = parts.company
    if company is None:
        return parse(text)
    if is_shared(text):
        return parse_shared(text, company.member.local)
    return company.member.with_file(parse(text))


def with_declared(tables: Summary, before: Desired, after: Desired) -> Summary:
    """With what no table of the kernel shows."""
    return replace(tables, details=(*tables.details, *declared(before, after)))
