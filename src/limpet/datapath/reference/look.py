# SPDX-License-Identifier: Apache-2.0
"""What is known of a flow without an entry: its client's session here, what other directors told,
and the home of its slot with its marks.
"""

from dataclasses import dataclass
from enum import Enum, auto

from limpet.datapath.abi import Slot
from limpet.datapath.reference.directory import NO_HINT, Hint, HintState
from limpet.datapath.reference.seat import Seat
from limpet.datapath.reference.sessions import Session

NONE, SESSION, FLOW = HintState.NONE, HintState.SESSION, HintState.FLOW
BACKEND, TELL = int(Slot.BACKEND), int(Slot.TELL)


class Following(Enum):
    """What the backend of a flow was taken from."""

    NOTHING = auto()
    SEAT = auto()  # the client's session here
    TOLD = auto()  # the client's session, as another director told
    FLOW = auto()  # what another director said of this flow


@dataclass(slots=True)
class Look:
    """All of it. A director that stands alone has no hints, and looks at no marks."""

    seat: Seat | None  # None: affinity flow
    hint: Hint = NO_HINT
    home: int = 0  # of its slot, with marks
    slot: int = 0

    @property
    def live(self) -> Session | None:
        return self.seat.live if self.seat else None

    @property
    def past(self) -> Session | None:
        return self.seat.past if self.seat else None

    @property
    def is_hinted(self) -> bool:
        return self.hint.state is not NONE

    @property
    def is_hinted_flow(self) -> bool:
        return self.hint.state is FLOW

    @property
    def is_overruled(self) -> bool:
        """Another director knows something newer of the client's session."""
        return self.hint.state is SESSION

    def is_apart(self, backend: int) -> bool:
        """Whether a flow that was found by itself is no reason to begin or to move a session."""
        if self.live is None:
            return self.hint.is_apart
        return self.live.backend != backend or self.hint.is_newer

    def is_worth_telling(self, backend: int) -> bool:
        """Whether others would look elsewhere for what was chosen just now."""
        is_marked = bool(self.home & TELL)
        is_elsewhere = backend != self.home & BACKEND
        return is_elsewhere or is_marked or self.hint.is_known or self.past is not None
