# SPDX-License-Identifier: Apache-2.0
"""bpf/decap.h joins the ECN fields of both headers as RFC 6040 (figure 4) says."""

import pytest

from host.library import Library

NOT_ECT, ECT1, ECT0, CE, DROP = 0, 1, 2, 3, -1
# Inner field -> result for outer Not-ECT, ECT(0), ECT(1), CE: the columns of the RFC.
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT0: (ECT0, ECT0, ECT1, CE),
    ECT1: (ECT1, ECT1, ECT1, CE),
    CE: (CE, CE, CE, CE),
}


@pytest.mark.parametrize("inner", FIGURE_4)
def test_congestion_mark_of_the_outer_header_reaches_the_session(
    library: Library, inner: int
) -> None:
    joined = tuple(library.call.host_ecn_join(outer, inner) for outer in (NOT_ECT, ECT0, ECT1, CE))
    assert joined == FIGURE_4[inner]
