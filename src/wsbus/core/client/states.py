"""The states of a client session: what each does with each input, and what next.

``TABLE`` is complete: a pair that is not in it is a mistake of the session, raises and changes
nothing. ``docs/explanation/states.md`` is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TABLE", "ClientDuty", "ClientInput", "ClientState"]


class ClientState(Enum):
    """The state of a client session."""

    WAITING = "there is no connection; another attempt is due at the deadline"
    FETCHING = "the application is asked for a token; there is no connection"
    DIALLING = "a connection is being opened"
    GREETING = "there is a connection; the server has not accepted the client yet"
    OPEN = "the server has accepted the client; requests can be sent"
    ENDED = "the session has ended"


class ClientInput(Enum):
    """The inputs of a client."""

    OPENED = "the connection is open"
    FAILED = "no connection could be opened"
    LOST = "the connection, or the attempt, has ended"
    HEARD = "the server says something"
    DUE = "the deadline has come"
    FETCH = "an attempt begins with a token"
    DIAL = "an attempt begins, or the token for it is there"
    ENTER = "the server has accepted the client"
    RETREAT = "the connection, or the attempt, has failed; there will be another"
    END = "there will be no other attempt"


class ClientDuty(Enum):
    """The ways in which a client deals with an input."""

    ACT = "act on it"
    IGNORE = "nothing"


_W, _F, _D, _G, _O, _E = ClientState
_ACTS: Final = {
    ClientInput.OPENED: {_D: _G},
    ClientInput.FAILED: {_D: _D},  # A retreat follows, or the end.
    ClientInput.LOST: {_D: _D, _G: _G, _O: _O},  # The same.
    ClientInput.HEARD: {_G: _G, _O: _O},
    ClientInput.DUE: {_W: _W, _D: _D, _G: _G, _O: _O},
}
"""Inputs from outside may come at any time: in the other states they are ignored."""
_MOVES: Final = {
    ClientInput.FETCH: {_W: _F},
    ClientInput.DIAL: {_W: _D, _F: _D},
    ClientInput.ENTER: {_G: _O},
    ClientInput.RETREAT: {_F: _W, _D: _W, _G: _W, _O: _W},
    ClientInput.END: {_W: _E, _F: _E, _D: _E, _G: _E, _O: _E},
}
"""Inputs that the session decides itself: in other states they are a mistake."""

TABLE: Final[dict[tuple[ClientState, ClientInput], tuple[ClientDuty, ClientState]]] = {
    **{
        (state, heard): (ClientDuty.ACT, row[state]) if state in row else (ClientDuty.IGNORE, state)
        for heard, row in _ACTS.items()
        for state in ClientState
    },
    **{
        (state, heard): (ClientDuty.ACT, then)
        for heard, row in _MOVES.items()
        for state, then in row.items()
    },
    (_E, ClientInput.END): (ClientDuty.IGNORE, _E),
}
