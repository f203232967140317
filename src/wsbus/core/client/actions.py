"""What a client session hears and what it wants done.

It hears replies (:mod:`wsbus.core.messages`), and where a reply says too little for a client, what
stands here. Its driver performs the actions in order, with nothing in between.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from ..errors import WsbusError
from ..events import Gap
from ..messages import (
    AuthRefused,
    Greeting,
    Ping,
    Pong,
    Refused,
    Request,
    Response,
    Status,
    Subscribed,
    Unsubscribed,
)

__all__ = [
    "Admitted",
    "Answer",
    "ClientAction",
    "Confirm",
    "Cut",
    "Dial",
    "Dismiss",
    "FetchToken",
    "HangUp",
    "Heard",
    "Lose",
    "Say",
    "Stop",
    "TellConnected",
    "TellReconnecting",
    "TellRefreshFailed",
]

# --- heard ---------------------------------------------------------------------------------------


class Admitted(msgspec.Struct, frozen=True):
    """The token is valid; :class:`.AuthAccepted` without the server's clock."""

    subject: str
    lifetime: float | None
    """Seconds until it expires, by the server's own clock; None: never."""
    ref: str | None = None


Heard: TypeAlias = (
    Greeting
    | Admitted
    | AuthRefused
    | Subscribed
    | Unsubscribed
    | Response
    | Refused
    | Ping
    | Pong
    | Gap
    | Status
)

# --- wanted --------------------------------------------------------------------------------------


class FetchToken(msgspec.Struct, frozen=True):
    """Ask the application for a token; answer with :meth:`.ClientSession.handle_token`."""

    generation: int


class Dial(msgspec.Struct, frozen=True):
    """Open a connection; answer with ``opened`` or ``failed``."""

    token: str | None
    """To be shown in the query; None: none is."""


class Say(msgspec.Struct, frozen=True):
    """Send this to the server."""

    command: Request


class HangUp(msgspec.Struct, frozen=True):
    """End the connection, if there is one, with a close frame; wait a limited time for its own."""

    code: int
    reason: str


class Cut(msgspec.Struct, frozen=True):
    """Abort the connection, then call ``lost()``."""


class Answer(msgspec.Struct, frozen=True):
    """A request is answered, now and never again."""

    key: Any
    outcome: Response | Status | WsbusError


class Confirm(msgspec.Struct, frozen=True):
    """From now on the holder gets what matches."""

    holder: Any


class Dismiss(msgspec.Struct, frozen=True):
    """The holder's subscription was refused, or taken away: it gets nothing any more."""

    holder: Any
    error: WsbusError


class Lose(msgspec.Struct, frozen=True):
    """Publications are missing for the holder, right here."""

    holder: Any
    gap: Gap


class TellConnected(msgspec.Struct, frozen=True):
    """It is connected, and known to the server."""

    connection_id: str | None
    subject: str | None
    is_again: bool


class TellReconnecting(msgspec.Struct, frozen=True):
    """It is not connected, and will try again."""

    attempt: int
    delay: float
    error: WsbusError


class TellRefreshFailed(msgspec.Struct, frozen=True):
    """No newer token could be shown; the old one is in force while it lasts."""

    why: str


class Stop(msgspec.Struct, frozen=True):
    """It is over; always the last action there is."""

    error: WsbusError | None
    """Why; None: it was closed."""


ClientAction: TypeAlias = (
    FetchToken
    | Dial
    | Say
    | HangUp
    | Cut
    | Answer
    | Confirm
    | Dismiss
    | Lose
    | TellConnected
    | TellReconnecting
    | TellRefreshFailed
    | Stop
)
