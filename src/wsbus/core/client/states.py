"""The states of a client session, and every move between them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["NEXT", "ClientMove", "ClientState"]


class ClientState(Enum):
    """The state of a client session."""

    FETCHING = auto()
    """The application is asked for a token; there is no connection."""
    DIALLING = auto()
    """A connection is being opened."""
    GREETING = auto()
    """There is a connection; the server has not accepted the client yet."""
    OPEN = auto()
    """The server has accepted the client; requests can be sent."""
    WAITING = auto()
    """There is no connection; another attempt is due at the deadline."""
    ENDED = auto()
    """The session has ended."""


class ClientMove(Enum):
    """A move from one state to the next."""

    FETCH = auto()
    """An attempt begins with a token."""
    DIAL = auto()
    """An attempt begins, or the token for it is there."""
    GREET = auto()
    """The connection is open."""
    ENTER = auto()
    """The server has accepted the client."""
    RETREAT = auto()
    """The connection, or the attempt, has failed; there will be another."""
    END = auto()
    """The session ends; there will be no further attempt."""


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
