"""The messages between clients and the bus, independent of any dialect.

A client sends requests, replies answer them, publications travel on channels. A protocol
(:mod:`wsbus.protocols`) turns frames into requests, and messages of the server and publications
into frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from .events import Gap, Position
from .presence import Occupant

# By these names from here, too; they are described there.
from .publications import Publication as Publication  # noqa: PLC0414
from .publications import Receipt as Receipt  # noqa: PLC0414
from .publications import is_event as is_event  # noqa: PLC0414

__all__ = [
    "Auth",
    "AuthAccepted",
    "AuthRefused",
    "CancelStream",
    "Command",
    "Excess",
    "Gap",
    "GetPresence",
    "GetStatus",
    "Greeting",
    "HistoryResult",
    "Malformed",
    "Notice",
    "Ping",
    "Pong",
    "PresenceChanged",
    "PresenceResult",
    "Publish",
    "ReadHistory",
    "Refused",
    "Rejection",
    "Reply",
    "Request",
    "Response",
    "ServerMessage",
    "Since",
    "StartPosition",
    "Status",
    "Subscribe",
    "Subscribed",
    "Unsubscribe",
    "Unsubscribed",
]

# --- requests: client → server --------------------------------------------------------------


class Auth(msgspec.Struct, frozen=True):
    """The client sends a token."""

    token: str
    ref: str | None = None


class Since(msgspec.Struct, frozen=True, gc=False):
    """The position where a subscriber goes on."""

    position: Position
    is_strict: bool = False
    """Whether the subscription is rejected if that is not possible."""


class Subscribe(msgspec.Struct, frozen=True):
    """The client wants the publications that match any of ``names``, as it spelled them."""

    names: tuple[str, ...]
    ref: str | None = None
    since: Mapping[str, Since] = {}
    """The positions where it goes on, by name."""
    rates: Mapping[str, float] = {}
    """The events a second that it wants of each key at most, by name; others: all events."""


class Unsubscribe(msgspec.Struct, frozen=True):
    """The client gives subscriptions up; matched as exact text."""

    names: tuple[str, ...]
    ref: str | None = None


class Command(msgspec.Struct, frozen=True):
    """The client calls a command."""

    action: str
    params: bytes = b"{}"
    """JSON text in UTF-8, or :class:`.Packed`; the command decodes it."""
    ref: str | None = None


class Publish(msgspec.Struct, frozen=True):
    """The client publishes; the protocol has checked ``data``, which is safe in any frame."""

    channel: str
    event: str
    data: bytes
    ref: str | None = None
    idempotency_key: str | None = None
    """A text that a repetition of this message has, too."""
    is_retry: bool = False
    """The client has sent it before, and does not know if it was acted on."""
    packed: bytes | None = None
    """As :attr:`.Publication.packed`."""


class ReadHistory(msgspec.Struct, frozen=True):
    """The client asks for what was published on a channel."""

    channel: str
    limit: int
    before: Position | None = None
    """Only what was published before it; None: up to now."""
    after: Position | None = None
    """Only what was published after it."""
    ref: str | None = None


class GetPresence(msgspec.Struct, frozen=True):
    """The client asks which connections are on a channel."""

    channel: str
    watch: bool | None = None
    """Whether it wants to hear of changes from now on; None: as before."""
    ref: str | None = None


class CancelStream(msgspec.Struct, frozen=True):
    """The client asks the producer of a stream to cancel it."""

    channel: str
    ref: str | None = None


class Ping(msgspec.Struct, frozen=True):
    """A question whether the peer is there, in both directions."""

    ref: str | None = None


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping, in both directions."""

    ref: str | None = None


class GetStatus(msgspec.Struct, frozen=True):
    """The client asks for the status of its connection."""

    ref: str | None = None


class Malformed(msgspec.Struct, frozen=True):
    """A message that the dialect did not understand; the session answers with ``code``."""

    code: str
    message: str
    ref: str | None = None
    is_call: bool = False
    """Whether it was a command with a usable ref, so that the answer must be a response."""


class Excess(msgspec.Struct, frozen=True):
    """A message over the rate, which is not decoded; the session refuses it."""

    ref: str | None = None
    is_call: bool = False
    """As in :class:`Malformed`."""


Request: TypeAlias = (
    Auth
    | Subscribe
    | Unsubscribe
    | Command
    | Publish
    | ReadHistory
    | GetPresence
    | CancelStream
    | Ping
    | Pong
    | GetStatus
    | Malformed
    | Excess
)

# --- server → client ----------------------------------------------------------------


class Greeting(msgspec.Struct, frozen=True):
    """The first message of a connection, sent once it is attached."""

    connection_id: str
    subject: str | None
    """The subject of its identity; None: not authenticated yet."""
    ping_interval: float | None
    """Seconds between the server's pings; None: it sends none."""
    timeout: float | None
    """Seconds of silence after which the server closes; None: it never does."""
    max_message_bytes: int | None = None
    """The largest frame that the server reads; here and below None: not announced."""
    max_names: int | None = None
    """Names in one subscribe or unsubscribe request."""
    messages_per_second: float | None = None
    """None also if any number is taken."""
    commands_per_second: float | None = None
    """The same for commands."""


class AuthAccepted(msgspec.Struct, frozen=True):
    """The token is valid."""

    subject: str
    expires_at: float | None
    """Seconds since the epoch."""
    ref: str | None = None


class AuthRefused(msgspec.Struct, frozen=True):
    """The token is not valid."""

    message: str
    code: str = "UNAUTHENTICATED"
    ref: str | None = None


class Rejection(msgspec.Struct, frozen=True):
    """One name of a subscribe request that was refused."""

    name: str
    code: str
    message: str


class StartPosition(msgspec.Struct, frozen=True, gc=False):
    """The position of a subscription before what is replayed."""

    name: str
    position: Position
    is_recovered: bool | None = None
    """Whether nothing is missing since the client's position; None: it gave none."""
    is_replayed: bool = False
    """Whether all that is kept since the client's position is replayed."""
    until: Position | None = None
    """The later position up to which there was nothing to replay; None: that is not known."""


class Subscribed(msgspec.Struct, frozen=True):
    """The answer to one subscribe request: accepted names, in order, and rejected ones."""

    names: tuple[str, ...]
    active: int
    """Subscriptions of the connection after this request."""
    rejected: tuple[Rejection, ...] = ()
    ref: str | None = None
    positions: tuple[StartPosition, ...] = ()
    """Those of the accepted names that have history."""


class Unsubscribed(msgspec.Struct, frozen=True):
    """These names are not subscribed any more.

    It comes without a request when a refresh took grants away, or the application revoked them.
    """

    names: tuple[str, ...]
    active: int
    ref: str | None = None
    reason: str | None = None
    """The application's reason for a revocation, for people; None: there is none."""


class Response(msgspec.Struct, frozen=True):
    """A command was carried out."""

    data: bytes
    """JSON text, UTF-8; or :class:`.Packed`, if the command was."""
    ref: str | None = None


class Refused(msgspec.Struct, frozen=True):
    """A message was not acted on, or a command failed."""

    code: str
    message: str
    ref: str | None = None
    is_call: bool = False
    """Whether it answers a command with a usable ref, so that dialects must pair it with that."""


class Status(msgspec.Struct, frozen=True):
    """The status of a connection."""

    connection_id: str
    subject: str | None
    connected_at: float
    """Seconds since the epoch."""
    subscriptions: tuple[str, ...]
    """The client's own, in the order subscribed."""
    message_count: int
    """Publications sent to this connection."""
    dropped: int
    ref: str | None = None


class PresenceResult(msgspec.Struct, frozen=True):
    """The connections on a channel."""

    channel: str
    members: tuple[Occupant, ...]
    """Those that were there longest, up to the bound of the family."""
    total: int
    """How many there are."""
    is_watched: bool
    """Whether the client hears of changes."""
    ref: str | None = None


class PresenceChanged(msgspec.Struct, frozen=True):
    """Connections have joined a channel that the client watches, or left it."""

    channel: str
    joined: tuple[Occupant, ...]
    left: tuple[Occupant, ...]
    """Both are empty if there are too many to name."""
    total: int
    """How many there are now."""
    is_watched: bool = True
    """False: the client hears of no more changes, since its grants do not cover it any more."""


class HistoryResult(msgspec.Struct, frozen=True):
    """Publications on a channel, as far as they are kept."""

    channel: str
    publications: tuple[Publication, ...]
    """The oldest first."""
    position: Position
    """The position of the store: what is published later comes after it."""
    has_more: bool
    """Whether there are more: older ones, or newer ones if the client gave ``after``."""
    ref: str | None = None


Reply: TypeAlias = (
    AuthAccepted
    | AuthRefused
    | Subscribed
    | Unsubscribed
    | Response
    | Refused
    | Pong
    | Status
    | HistoryResult
    | PresenceResult
)
"""Answers to requests. :class:`Unsubscribed` and :class:`Refused` also come without a request."""

Notice: TypeAlias = Greeting | Gap | Ping | PresenceChanged
"""Messages of the server that answer no request."""

ServerMessage: TypeAlias = Reply | Notice
"""Messages of the server to one client. Publications go to many; see :class:`.Publication`."""
