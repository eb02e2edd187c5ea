# SPDX-License-Identifier: Apache-2.0
"""All packet cases."""

from packets import (
    cases_answer,
    cases_directory,
    cases_encap,
    cases_flow,
    cases_fragment,
    cases_full,
    cases_held,
    cases_icmp,
    cases_link,
    cases_malformed,
    cases_news,
    cases_orphan,
    cases_policy,
    cases_room,
    cases_service,
    cases_session,
    cases_split,
)
from packets.case import Case

CASES: list[Case] = [
    *cases_link.CASES,
    *cases_malformed.CASES,
    *cases_service.CASES,
    *cases_encap.CASES,
    *cases_answer.CASES,
    *cases_icmp.CASES,
    *cases_fragment.CASES,
    *cases_flow.CASES,
    *cases_full.CASES,
    *cases_session.CASES,
    *cases_room.CASES,
    *cases_policy.CASES,
    *cases_split.CASES,
    *cases_directory.CASES,
    *cases_news.CASES,
    *cases_held.CASES,
    *cases_orphan.CASES,
]
MALFORMED: list[Case] = cases_malformed.CASES
