"""The states of a conversation on the server's side, and every move between them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["NEXT", "UNAUTHENTICATED", "Move", "State"]


class State(Enum):
    """The state of a conversation."""

    AWAITING = auto()
    """No identity yet; only ``auth`` is acted on."""
    JUDGING = auto()
    """No identity yet; a token is being judged."""
    OPEN = auto()
    """Everything is acted on."""
    ASKING = auto()
    """Open, and a question is out: a refreshed token, a permission, or hooks that run."""
    CLOSED = auto()
    """Nothing is acted on any more."""


class Move(Enum):
    """A move of a conversation from one state to the next."""

    ASK = auto()
    """The application is asked."""
    ACCEPT = auto()
    """Its answer has come, and the client has an identity."""
    REFUSE = auto()
    """Its answer has come: the client has none."""
    END = auto()
    """The connection ends."""


# A pair that is not in the table is a mistake of the session: it raises and changes nothing.
NEXT: Final = {
    (State.AWAITING, Move.ASK): State.JUDGING,
    (State.JUDGING, Move.ACCEPT): State.OPEN,
    (State.JUDGING, Move.REFUSE): State.AWAITING,
    (State.OPEN, Move.ASK): State.ASKING,
    (State.ASKING, Move.ACCEPT): State.OPEN,
    **{(state, Move.END): State.CLOSED for state in State},
}
UNAUTHENTICATED: Final = (State.AWAITING, State.JUDGING)
