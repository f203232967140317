"""The states of a client session, and every move between them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["NEXT", "Move", "State"]


class State(Enum):
    """Where a client stands."""

    FETCHING = auto()
    """The application is asked for a token; there is no connection."""
    DIALLING = auto()
    """A connection is being opened."""
    GREETING = auto()
    """There is a connection; the server has not said yet who this is."""
    OPEN = auto()
    """Everything can be said."""
    WAITING = auto()
    """There is no connection; another attempt is due at the deadline."""
    ENDED = auto()
    """It is over."""


class Move(Enum):
    """What takes a client from one state to the next."""

    FETCH = auto()
    """An attempt begins with a token."""
    DIAL = auto()
    """An attempt begins, or the token for it is there."""
    GREET = auto()
    """The connection is open."""
    ENTER = auto()
    """The server knows who this is."""
    RETREAT = auto()
    """The connection, or the attempt, came to nothing; there will be another."""
    END = auto()
    """There will be none."""


# A pair that is not in the table is a mistake of the session: it raises and changes nothing.
NEXT: Final[dict[tuple[State, Move], State]] = {
    (State.WAITING, Move.FETCH): State.FETCHING,
    (State.WAITING, Move.DIAL): State.DIALLING,
    (State.FETCHING, Move.DIAL): State.DIALLING,
    (State.DIALLING, Move.GREET): State.GREETING,
    (State.GREETING, Move.ENTER): State.OPEN,
    (State.FETCHING, Move.RETREAT): State.WAITING,
    (State.DIALLING, Move.RETREAT): State.WAITING,
    (State.GREETING, Move.RETREAT): State.WAITING,
    (State.OPEN, Move.RETREAT): State.WAITING,
    **{(state, Move.END): State.ENDED for state in State if state is not State.ENDED},
}
