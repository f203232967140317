"""The states of a client session: what each does with each input, and what next.

:data:`TABLE` is complete: a pair that is not in it is a mistake of the session, raises and changes
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
    GREETING = "there is a connection; the server has not said yet who this is"
    OPEN = "everything can be said"
    ENDED = "it is over"


class ClientInput(Enum):
    """What happens to a client."""

    OPENED = "the connection is open"
    FAILED = "no connection could be opened"
    LOST = "the connection, or the attempt, has ended"
    HEARD = "the server says something"
    DUE = "the deadline has come"
    FETCH = "an attempt begins with a token"
    DIAL = "an attempt begins, or the token for it is there"
    ENTER = "the server knows who this is"
    RETREAT = "the connection, or the attempt, came to nothing; there will be another"
    END = "there will be no other attempt"


class ClientDuty(Enum):
    """What a client does with an input."""

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
"""What comes from outside may come at any time: where it is not acted on it is ignored."""
_MOVES: Final = {
    ClientInput.FETCH: {_W: _F},
    ClientInput.DIAL: {_W: _D, _F: _D},
    ClientInput.ENTER: {_G: _O},
    ClientInput.RETREAT: {_F: _W, _D: _W, _G: _W, _O: _W},
    ClientInput.END: {_W: _E, _F: _E, _D: _E, _G: _E, _O: _E},
}
"""What the session itself decides: elsewhere it is a mistake."""

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
