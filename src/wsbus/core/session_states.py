"""The states of a conversation on the server's side: what each does with each input, and what next.

``TABLE`` is complete: a pair that is not in it is a mistake of the caller, raises and changes
nothing. ``docs/explanation/states.md`` is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TABLE", "SessionDuty", "SessionInput", "State"]


class State(Enum):
    """The state of a conversation."""

    AWAITING = "there is no identity yet; only `auth` is acted on"
    JUDGING = "there is no identity yet; a token is being judged"
    OPEN = "everything is acted on"
    HELD = "hooks of the application run; what the client says waits"
    CLOSED = "nothing is acted on any more"


class SessionInput(Enum):
    """The inputs of a conversation."""

    PING = "the client sends a ping or a pong"
    AUTH = "the client shows a token"
    REQUEST = "the client sends another request"
    JUDGE = "a token goes to the authenticator"
    ADMIT = "the client gets its identity"
    ANSWER = "the answer to a pending request comes"
    HOLD = "hooks begin to run"
    RELEASE = "the hooks have returned"
    CHANGE = "the application subscribes, unsubscribes or revokes"
    END = "the connection ends"


class SessionDuty(Enum):
    """The ways in which a conversation deals with an input."""

    ACT = "act on it"
    WAIT = "keep it until the state allows it"
    REFUSE = "refuse it: `UNAUTHENTICATED`"
    IGNORE = "nothing"


_STAYS: Final[dict[State, dict[SessionInput, SessionDuty]]] = {
    State.AWAITING: {
        SessionInput.PING: SessionDuty.REFUSE,
        SessionInput.AUTH: SessionDuty.ACT,
        SessionInput.REQUEST: SessionDuty.REFUSE,
        SessionInput.HOLD: SessionDuty.IGNORE,  # There is nothing that could be acted on.
        SessionInput.CHANGE: SessionDuty.ACT,
    },
    State.JUDGING: {
        SessionInput.PING: SessionDuty.ACT,
        SessionInput.AUTH: SessionDuty.WAIT,
        SessionInput.REQUEST: SessionDuty.WAIT,
        SessionInput.ANSWER: SessionDuty.ACT,
        SessionInput.HOLD: SessionDuty.IGNORE,  # All that the client says waits already.
        SessionInput.CHANGE: SessionDuty.ACT,
    },
    State.OPEN: {
        SessionInput.PING: SessionDuty.ACT,
        SessionInput.AUTH: SessionDuty.ACT,
        SessionInput.REQUEST: SessionDuty.ACT,
        SessionInput.JUDGE: SessionDuty.ACT,
        SessionInput.ANSWER: SessionDuty.ACT,
        SessionInput.CHANGE: SessionDuty.ACT,
    },
    State.HELD: {
        SessionInput.PING: SessionDuty.ACT,
        SessionInput.AUTH: SessionDuty.WAIT,
        SessionInput.REQUEST: SessionDuty.WAIT,
        SessionInput.ANSWER: SessionDuty.WAIT,
        SessionInput.HOLD: SessionDuty.IGNORE,  # One hold is enough.
        SessionInput.CHANGE: SessionDuty.ACT,
    },
    State.CLOSED: {
        SessionInput.PING: SessionDuty.IGNORE,
        SessionInput.AUTH: SessionDuty.IGNORE,
        SessionInput.REQUEST: SessionDuty.IGNORE,
        SessionInput.HOLD: SessionDuty.IGNORE,
        SessionInput.RELEASE: SessionDuty.IGNORE,
        SessionInput.CHANGE: SessionDuty.IGNORE,
        SessionInput.END: SessionDuty.IGNORE,
    },
}
_MOVES: Final[dict[tuple[State, SessionInput], State]] = {
    (State.AWAITING, SessionInput.JUDGE): State.JUDGING,
    (State.AWAITING, SessionInput.ADMIT): State.OPEN,  # By the handshake.
    (State.JUDGING, SessionInput.ADMIT): State.OPEN,
    (State.OPEN, SessionInput.HOLD): State.HELD,
    (State.HELD, SessionInput.RELEASE): State.OPEN,
    **{(state, SessionInput.END): State.CLOSED for state in State if state is not State.CLOSED},
}

TABLE: Final[dict[tuple[State, SessionInput], tuple[SessionDuty, State]]] = {
    **{
        (state, heard): (duty, state)
        for state, row in _STAYS.items()
        for heard, duty in row.items()
    },
    **{pair: (SessionDuty.ACT, then) for pair, then in _MOVES.items()},
}
