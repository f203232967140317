"""The states of a conversation on the server's side: what each does with each input, and what next.

:data:`TABLE` is complete: a pair that is not in it is a mistake of the caller, raises and changes
nothing. ``docs/explanation/states.md`` is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TABLE", "Duty", "Input", "State"]


class State(Enum):
    """Where a conversation stands."""

    AWAITING = "there is no identity yet; only `auth` is acted on"
    JUDGING = "there is no identity yet; a token is being judged"
    OPEN = "everything is acted on"
    HELD = "hooks of the application run; what the client says waits"
    CLOSED = "nothing is acted on any more"


class Input(Enum):
    """What happens to a conversation."""

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


class Duty(Enum):
    """What a conversation does with an input."""

    ACT = "act on it"
    WAIT = "keep it until the state allows it"
    REFUSE = "refuse it: `UNAUTHENTICATED`"
    IGNORE = "nothing"


_STAYS: Final[dict[State, dict[Input, Duty]]] = {
    State.AWAITING: {
        Input.PING: Duty.REFUSE,
        Input.AUTH: Duty.ACT,
        Input.REQUEST: Duty.REFUSE,
        Input.HOLD: Duty.IGNORE,  # There is nothing that could be acted on.
        Input.CHANGE: Duty.ACT,
    },
    State.JUDGING: {
        Input.PING: Duty.ACT,
        Input.AUTH: Duty.WAIT,
        Input.REQUEST: Duty.WAIT,
        Input.ANSWER: Duty.ACT,
        Input.HOLD: Duty.IGNORE,  # All that the client says waits already.
        Input.CHANGE: Duty.ACT,
    },
    State.OPEN: {
        Input.PING: Duty.ACT,
        Input.AUTH: Duty.ACT,
        Input.REQUEST: Duty.ACT,
        Input.JUDGE: Duty.ACT,
        Input.ANSWER: Duty.ACT,
        Input.CHANGE: Duty.ACT,
    },
    State.HELD: {
        Input.PING: Duty.ACT,
        Input.AUTH: Duty.WAIT,
        Input.REQUEST: Duty.WAIT,
        Input.ANSWER: Duty.WAIT,
        Input.HOLD: Duty.IGNORE,  # One hold is enough.
        Input.CHANGE: Duty.ACT,
    },
    State.CLOSED: {
        Input.PING: Duty.IGNORE,
        Input.AUTH: Duty.IGNORE,
        Input.REQUEST: Duty.IGNORE,
        Input.HOLD: Duty.IGNORE,
        Input.RELEASE: Duty.IGNORE,
        Input.CHANGE: Duty.IGNORE,
        Input.END: Duty.IGNORE,
    },
}
_MOVES: Final[dict[tuple[State, Input], State]] = {
    (State.AWAITING, Input.JUDGE): State.JUDGING,
    (State.AWAITING, Input.ADMIT): State.OPEN,  # By the handshake.
    (State.JUDGING, Input.ADMIT): State.OPEN,
    (State.OPEN, Input.HOLD): State.HELD,
    (State.HELD, Input.RELEASE): State.OPEN,
    **{(state, Input.END): State.CLOSED for state in State if state is not State.CLOSED},
}

TABLE: Final[dict[tuple[State, Input], tuple[Duty, State]]] = {
    **{
        (state, heard): (duty, state)
        for state, row in _STAYS.items()
        for heard, duty in row.items()
    },
    **{pair: (Duty.ACT, then) for pair, then in _MOVES.items()},
}
