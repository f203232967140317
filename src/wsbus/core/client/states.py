"""The states of a client session, and every move between them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["NEXT", "ClientMove", "ClientState"]


class ClientState(Enum):
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


class ClientMove(Enum):
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
NEXT: Final[dict[tuple[ClientState, ClientMove], ClientState]] = {
    (ClientState.WAITING, ClientMove.FETCH): ClientState.FETCHING,
    (ClientState.WAITING, ClientMove.DIAL): ClientState.DIALLING,
    (ClientState.FETCHING, ClientMove.DIAL): ClientState.DIALLING,
    (ClientState.DIALLING, ClientMove.GREET): ClientState.GREETING,
    (ClientState.GREETING, ClientMove.ENTER): ClientState.OPEN,
    (ClientState.FETCHING, ClientMove.RETREAT): ClientState.WAITING,
    (ClientState.DIALLING, ClientMove.RETREAT): ClientState.WAITING,
    (ClientState.GREETING, ClientMove.RETREAT): ClientState.WAITING,
    (ClientState.OPEN, ClientMove.RETREAT): ClientState.WAITING,
    **{
        (state, ClientMove.END): ClientState.ENDED
        for state in ClientState
        if state is not ClientState.ENDED
    },
}
