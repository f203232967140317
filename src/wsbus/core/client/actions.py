"""The inputs and the actions of a client session.

Inputs are messages of the server (:mod:`wsbus.core.messages`), and for some of them a class here
that has more for a client. The driver performs the actions in order, with nothing in between.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from ..errors import WsbusError
from ..events import Gap, Position
from ..messages import (
    AuthRefused,
    Greeting,
    HistoryResult,
    Ping,
    Pong,
    PresenceChanged,
    PresenceResult,
    Publication,
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
    "LatestPublication",
    "Lose",
    "RequestAnswer",
    "Say",
    "Stop",
    "TellConnected",
    "TellPresence",
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
    | HistoryResult
    | PresenceResult
    | PresenceChanged
)


class LatestPublication(Publication, frozen=True, eq=False, gc=False):
    """An event that is older than the subscription, and came because it is its channel's latest."""


# --- wanted --------------------------------------------------------------------------------------


RequestAnswer: TypeAlias = Response | Status | HistoryResult | PresenceResult
"""The answers to requests that the application makes."""


class FetchToken(msgspec.Struct, frozen=True):
    """Ask the application for a token; answer with :meth:`.ClientSession.handle_token`."""

    generation: int


class Dial(msgspec.Struct, frozen=True):
    """Open a connection; answer with ``opened`` or ``failed``."""

    token: str | None
    """The token for the handshake; None: it is not sent there."""


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
    """Give a request its only outcome."""

    key: Any
    outcome: RequestAnswer | WsbusError


class Confirm(msgspec.Struct, frozen=True):
    """The server has confirmed the holder's subscription."""

    holder: Any
    position: Position | None
    """The position that what comes is after; None: the pattern has no history."""


class Dismiss(msgspec.Struct, frozen=True):
    """The holder's subscription was refused, or taken away."""

    holder: Any
    error: WsbusError


class Lose(msgspec.Struct, frozen=True):
    """Publications are missing for the holder at this point."""

    holder: Any
    gap: Gap


class TellConnected(msgspec.Struct, frozen=True):
    """Report that the server has accepted the client."""

    connection_id: str | None
    subject: str | None
    is_again: bool


class TellPresence(msgspec.Struct, frozen=True):
    """Report the connections that have joined a watched channel, or left it."""

    change: PresenceChanged


class TellReconnecting(msgspec.Struct, frozen=True):
    """Report that the client is not connected, and tries again."""

    attempt: int
    delay: float
    error: WsbusError


class TellRefreshFailed(msgspec.Struct, frozen=True):
    """Report that no newer token could be sent; the old one is used until it expires."""

    why: str


class Stop(msgspec.Struct, frozen=True):
    """The session has ended; always the last action."""

    error: WsbusError | None
    """The reason; None: the application closed the client."""


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
    | TellPresence
    | TellReconnecting
    | TellRefreshFailed
    | Stop
)
