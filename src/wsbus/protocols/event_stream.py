"""``wsbus.v1`` over HTTP: the same messages, each as one event of a ``text/event-stream``.

A reader has one position for all that it reads, since a store numbers everything in one sequence.
Its text form, a *token*, is the ``id`` of an event; browsers send it back as ``Last-Event-ID``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from ..core import messages as core
from ..core.errors import ErrorCode, UsageError
from ..core.events import ChannelLoss, Gap, GapCause, Position
from ..core.frame import Frame
from ..core.instant import Instant
from ..core.returning import return_in
from .native import Native

__all__ = [
    "EVENT_STREAM",
    "NO_POSITION",
    "EventFrame",
    "EventStream",
    "InvalidToken",
    "StartFrame",
    "Unreadable",
    "close_event",
    "position_of",
    "subscribe_text",
    "token_of",
]

MAX_TOKEN: Final = 200
"""Characters of the longest token."""

NO_POSITION: Final = "1"
"""The token of a reader whose channels keep no history."""

_VERSION: Final = "1"
_TOKEN: Final = re.compile(r"1\.([^.]{1,190})\.(\d{1,16})(?:\.([^.]{1,190}))?")
_MAX_OFFSET: Final = 2**53 - 1
_PING: Final = b": ping\n\n"
_WILD: Final = frozenset("*+")


class InvalidToken(UsageError):
    """A text is not a token of this version."""


def token_of(position: Position) -> str:
    """Return the text form of a position."""
    parts = [_VERSION, _escaped(position.epoch), str(position.offset)]
    if position.tag:
        parts.append(_escaped(position.tag))
    return ".".join(parts)


def _escaped(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def position_of(token: str) -> Position | None:
    """Return the position of a token; None for :data:`NO_POSITION`.

    Raises:
        InvalidToken: It is not one.
    """
    if token == NO_POSITION:
        return None
    found = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN and token.isascii() else None
    if found is None:
        raise InvalidToken("this is no position: give one that this server sent, as it was")
    try:
        texts = [unquote(found[each] or "", errors="strict") for each in (1, 3)]
    except UnicodeError:
        raise InvalidToken("this is no position: it is not UTF-8") from None
    offset = int(found[2])
    if offset > _MAX_OFFSET or max(map(len, texts)) > 128:
        raise InvalidToken("this is no position: it is out of range")
    return Position(texts[0], offset, texts[1])


class _StartAt(msgspec.Struct, frozen=True, omit_defaults=True):
    epoch: str
    offset: int
    tag: str = ""
    strict: bool = False


class _Asking(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="subscribe"):
    channels: Sequence[str]
    since: dict[str, _StartAt] = {}
    max_rate: dict[str, float] = {}


class _CloseEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="close"):
    code: int
    reason: str
    retry: float | None = None


def subscribe_text(
    names: Sequence[str], since: Position | None, *, strict: bool, max_rate: float | None = None
) -> str:
    """Return the request of a reader, as a client of ``wsbus.v1`` would send it."""
    start = {}
    if since is not None:
        start = dict.fromkeys(names, _StartAt(since.epoch, since.offset, since.tag, strict))
    rates = {} if max_rate is None else dict.fromkeys(names, max_rate)
    return msgspec.json.encode(_Asking(names, start, rates)).decode()


def close_event(code: int, reason: str) -> bytes:
    """Return the last event of a stream; the advice to come again is a field, and SSE's, too.

    Args:
        code: The close code that a WebSocket would get.
        reason: The text that goes with it.
    """
    retry = return_in(reason)
    event = b"data: %b\n\n" % msgspec.json.encode(_CloseEvent(code, reason, retry))
    return event if retry is None else b"retry: %d\n%b" % (max(1, round(retry * 1000)), event)


class EventFrame(Frame):
    """One event of a stream.

    Args:
        message: The message of ``wsbus.v1``.
        token: The position that a reader has reached with it; None: it moves none.
        is_greeting: Whether it says nothing of any channel.
        before: An event that goes before it.
    """

    __slots__ = ("_start", "is_greeting", "token")

    def __init__(
        self,
        message: bytes,
        token: str | None = None,
        *,
        is_greeting: bool = False,
        before: bytes = b"",
    ) -> None:
        head = b"data: " if token is None else b"id: %b\ndata: " % token.encode()
        head = before + head
        super().__init__(b"%b%b\n\n" % (head, message))
        self._start: Final = len(head)
        self.token: Final = token
        self.is_greeting: Final = is_greeting

    @property
    def message(self) -> bytes:
        """The message of ``wsbus.v1``."""
        return self.payload[self._start : -2]


class Unreadable(NamedTuple):
    """Why nothing of what was asked for can be read."""

    code: str
    message: str


class StartFrame(EventFrame):
    """The first thing that a reader learns of its channels: ``subscribed``, and perhaps a gap.

    Args:
        message: ``subscribed``.
        token: The position from which the reader goes on; None: its channels have no history.
        gap: The event that publications are missing; None: none are. It goes first: a reader that
            is cut between the two gets it again.
        refusal: Why there is nothing to read; None: there is something.
    """

    __slots__ = ("gap", "refusal")

    def __init__(
        self, message: bytes, token: str | None, gap: EventFrame | None, refusal: Unreadable | None
    ) -> None:
        super().__init__(message, token, before=b"" if gap is None else gap.payload)
        self.gap: Final = gap
        self.refusal: Final = refusal


class EventStream(Native):
    """The dialect of readers over HTTP; they answer no pings."""

    name = "wsbus.v1.events"
    joins = False
    is_one_way: ClassVar[bool] = True

    def encode(self, reply: core.ServerMessage, at: Instant) -> Frame | None:
        """Return the event for ``reply``; a ping is a comment."""
        if type(reply) is core.Ping:
            return Frame(_PING)
        frame = super().encode(reply, at)
        if frame is None:
            return None
        if isinstance(reply, core.Subscribed):
            return self._start(reply, frame.payload, at)
        return EventFrame(frame.payload, is_greeting=isinstance(reply, core.Greeting))

    def encode_publication(self, publication: core.Publication) -> Frame:
        """Return the event for a publication; what is kept has its position as ``id``."""
        position = publication.position
        token = None if position is None else token_of(position)
        return EventFrame(super().encode_publication(publication).payload, token)

    def encode_latest(self, publication: core.Publication) -> Frame:
        """Return the event for the latest publication of a channel, which moves no position."""
        return EventFrame(super().encode_latest(publication).payload)

    def _start(self, reply: core.Subscribed, message: bytes, at: Instant) -> Frame:
        token = None
        if reply.positions:
            # A name to which nothing came draws the others back no further than to now.
            starts = (each.until or each.position for each in reply.positions)
            token = token_of(min(starts, key=lambda at: at.offset))
        # What is never kept is lost while a reader is away, without a gap.
        missing = [
            each.name
            for each in reply.positions
            if each.is_recovered is False and not each.is_replayed
        ]
        gap = None
        if missing:
            is_exact = not any(_WILD.intersection(name) for name in missing)
            channels = dict.fromkeys(missing, ChannelLoss(None)) if is_exact else None
            told = Gap(None, GapCause.RECONNECT, channels)
            encoded = super().encode(told, at)
            gap = None if encoded is None else EventFrame(encoded.payload)
        return StartFrame(message, token, gap, _refusal_of(reply))


def _refusal_of(reply: core.Subscribed) -> Unreadable | None:
    """Return why nothing is read: nothing was accepted, or a position that had to hold is lost."""
    lost = [each for each in reply.rejected if each.code == ErrorCode.POSITION_LOST]
    first = next(iter(lost or reply.rejected), None)
    if first is None or (reply.names and not lost):
        return None
    return Unreadable(first.code, f"{first.name}: {first.message}")


EVENT_STREAM: Final = EventStream()
"""The one instance, so that a publication is encoded once for all readers."""
