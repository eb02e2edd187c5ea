# SPDX-License-Identifier: Apache-2.0
"""bpf/decap.h joins the ECN fields of both headers as RFC 6040 (figure 4) says."""

import pytest

from host.library import Library

NONE, CAPABLE1, CAPABLE0, MARKED, DROP = 0, 1, 2, 3, -1
# Inner field -> result for each outer field: the columns of the RFC.
FIGURE_4 = {
    NONE: (NONE, NONE, NONE, DROP),
    CAPABLE0: (CAPABLE0, CAPABLE0, CAPABLE1, MARKED),
    CAPABLE1: (CAPABLE1, CAPABLE1, CAPABLE1, MARKED),
    MARKED: (MARKED, MARKED, MARKED, MARKED),
}


@pytest.mark.parametrize("inner", FIGURE_4)
def test_congestion_mark_of_the_outer_header_reaches_the_session(
    library: Library, inner: int
) -> None:
    joined = tuple(
        library.call.host_ecn_join(outer, inner) for outer in (NONE, CAPABLE0, CAPABLE1, MARKED)
    )
    assert joined == FIGURE_4[inner]
