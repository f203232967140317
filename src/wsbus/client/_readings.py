"""Streams of names that a client reads over HTTP, and how far each has got; pure.

The server's side is :mod:`wsbus.protocols.event_stream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from anyio import CancelScope, Event, move_on_after

from ..core.events import Position
from ..core.patterns import Pattern, parse_pattern
from ..protocols.event_stream import NO_POSITION, position_of, token_of

__all__ = [
    "HttpRefusal",
    "NameStream",
    "PollAnswer",
    "ReadingGroup",
    "StartGiven",
    "StreamEnded",
    "StreamMessage",
    "groups_of",
    "texts_of",
    "understand",
]

MAX_NAMES: Final = 50
"""Names of one stream: servers have a bound for them."""
MAX_CHARS: Final = 4096
"""Characters of the names of one stream, which go into an address: many servers and proxies take
8 KiB of it, and the rest of the address and a token need some, too."""
_NAME_CHARS: Final = len("&channel=")
_OVERLAP: Final = 1000
"""Events that two streams of the same channels may be apart."""
HELD_SECONDS: Final = 5.0
"""A stream that has not begun by then is held back by a proxy."""


class HttpRefusal(Exception):
    """The server does not take a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status: Final = status
        self.code: Final = code
        self.message: Final = message


class StreamEnded(Exception):
    """The server ends the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code: Final = code
        self.reason: Final = reason


class StartGiven(msgspec.Struct, frozen=True):
    """The position at which a name begins."""

    epoch: str
    offset: int
    tag: str = ""
    strict: bool = False

    @property
    def position(self) -> Position:
        """The position."""
        return Position(self.epoch, self.offset, self.tag)


class ReadingGroup(NamedTuple):
    """Names that share a stream."""

    names: Mapping[str, StartGiven | None]
    """Each with the position at which it begins; None: now."""
    max_rate: float | None

    @property
    def first(self) -> StartGiven | None:
        """The position at which all of them can begin."""
        starts = [start for start in self.names.values() if start is not None]
        return min(starts, key=lambda start: start.offset, default=None)


def groups_of(
    names: Sequence[str], since: Mapping[str, StartGiven], rates: Mapping[str, float]
) -> list[ReadingGroup]:
    """Return the streams that a request needs.

    A stream has one position, and one rate. A position that must hold has a stream of its own, for
    the server refuses all of a stream or nothing.
    """
    found: dict[object, dict[str, StartGiven | None]] = {}
    for name in dict.fromkeys(names):
        start, rate = since.get(name), rates.get(name)
        kind: object = (rate, start and (start.epoch, start.tag))
        if start is not None and start.strict:
            kind = (rate, name)
        found.setdefault(kind, {})[name] = start
    return [
        ReadingGroup(part, rates.get(next(iter(part))))
        for each in found.values()
        for part in _parts_of(each)
    ]


def _parts_of(names: Mapping[str, StartGiven | None]) -> Iterator[dict[str, StartGiven | None]]:
    """Yield names as far as they fit into one address."""
    part: dict[str, StartGiven | None] = {}
    size = 0
    for name, start in names.items():
        length = len(quote(name, safe="")) + _NAME_CHARS
        if part and (len(part) >= MAX_NAMES or size + length > MAX_CHARS):
            yield part
            part, size = {}, 0
        part[name] = start
        size += length
    yield part


class _At(msgspec.Struct, frozen=True):
    epoch: str = ""
    offset: int = -1


class _Names(msgspec.Struct, frozen=True):
    channels: tuple[str, ...] = ()


class StreamMessage(msgspec.Struct, frozen=True):
    """The part of a message that its stream needs."""

    type: str = ""
    channel: str = ""
    position: _At | None = None
    code: Any = None
    reason: str = ""
    retry: float | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")

    @property
    def offset(self) -> int:
        """The offset of its position; -1: it has none."""
        return -1 if self.position is None else self.position.offset

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it is about."""
        try:
            return msgspec.json.decode(self.data, type=_Names).channels
        except msgspec.MsgspecError:
            return ()

    @property
    def advice(self) -> str:
        """The reason of a close event, with the time to come again as a close frame has it."""
        if self.retry is None or "retry=" in self.reason:
            return self.reason
        return f"{self.reason}; retry={self.retry:g}"


def understand(text: str) -> StreamMessage:
    """Read a message as far as its stream needs it; an unknown form has no type."""
    try:
        return msgspec.json.decode(text, type=StreamMessage)
    except (msgspec.MsgspecError, RecursionError):
        return StreamMessage()


class PollAnswer(msgspec.Struct, frozen=True):
    """The answer to a poll."""

    messages: tuple[msgspec.Raw, ...] = ()
    position: str = NO_POSITION


class _Placed(msgspec.Struct, frozen=True):
    channel: str = ""
    epoch: str = ""
    offset: int = 0
    recovered: bool = False


class _Accepted(msgspec.Struct, frozen=True):
    channels: tuple[str, ...] = ()
    rejected: tuple[dict[str, Any], ...] = ()
    positions: tuple[dict[str, Any], ...] = ()


class NameStream:
    """One stream: its names, and how far it has got.

    Args:
        group: What it asks for.
    """

    def __init__(self, group: ReadingGroup) -> None:
        self._group: Final = group
        first = group.first
        self.token: str = NO_POSITION if first is None else token_of(first.position)
        """The position that it has reached, in its text form."""
        self.is_due = first is not None
        """Whether the server is to know the position."""
        self.names: Final[dict[str, Pattern]] = {}
        """Those that the server has accepted, and that are wanted."""
        self.rejected: Sequence[dict[str, Any]] = ()
        self.positions: list[dict[str, Any]] = []
        self.early: Final[list[str]] = []
        """Messages that came before the answer to the request."""
        self.refused: HttpRefusal | None = None
        """Why nothing of it is read; None: something is, or that is not known yet."""
        self.begun: Final = Event()
        """Set once it has begun, or cannot."""
        self.may_go_on: Final = Event()
        """Set once the answer to the request is out."""
        self.scope: Final = CancelScope()
        self.ahead: Final = deque[tuple[Hashable, str, str]](maxlen=_OVERLAP)
        """Events that an older stream is to bring first: what they are known by, channel, text."""
        self.owed: Final = deque[Hashable](maxlen=_OVERLAP)
        """Events that another stream has brought first, so that they are skipped here."""
        self._is_caught_up = False

    @property
    def asked(self) -> Sequence[str]:
        """The names that it asks for."""
        return tuple(self._group.names)

    @property
    def max_rate(self) -> float | None:
        """Events of one key a second; None: all."""
        return self._group.max_rate

    @property
    def is_spread(self) -> bool:
        """Whether its names begin at different positions."""
        return len({start and start.offset for start in self._group.names.values()}) > 1

    def query(self) -> list[tuple[str, str]]:
        """Return the parameters of a request for what comes next."""
        found = self.terms([*(self.names or self._group.names)])
        if self.is_due:
            found.append(("since", self.token))
        first = self._group.first
        if first is not None and first.strict and not self.begun.is_set():
            found.append(("strict", "1"))
        return found

    def terms(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return the parameters for some of its names, without a position."""
        found = [("channel", name) for name in names]
        if self._group.max_rate is not None:
            found.append(("max_rate", f"{self._group.max_rate:g}"))
        return found

    def start_of(self, name: str) -> str:
        """Return the position at which a name begins, in its text form."""
        start = self._group.names[name]
        return NO_POSITION if start is None else token_of(start.position)

    def begin_at(self, answer: PollAnswer) -> None:
        """Learn which names the server accepts, and begin with all of them where it is now."""
        for message in answer.messages:
            text = bytes(message).decode()
            if understand(text).type == "subscribed":
                self.begin(text)
        self.early.clear()  # The latest events are for names that begin anew.
        self.token, self.is_due, self._is_caught_up = answer.position, True, True

    def add_missed(self, name: str, messages: Sequence[str]) -> None:
        """Take what came for a name since its own position."""
        start = self._group.names[name]
        is_lost = any(understand(each).type == "gap" for each in messages)
        for at in self.positions:
            if at.get("channel") != name or start is None:
                continue
            if not is_lost:
                at.update(epoch=start.epoch, offset=start.offset, tag=start.tag)
            at["recovered"] = not is_lost
        events = [each for each in messages if understand(each).type == "event"]
        together = dict.fromkeys([*self.early, *events])  # Names may overlap.
        self.early[:] = sorted(together, key=lambda each: understand(each).offset)

    def held(self) -> AbstractContextManager[CancelScope]:
        """Return the bound of the wait for its beginning."""
        return move_on_after(HELD_SECONDS)

    def begin(self, text: str) -> bool:
        """Take a message from before the beginning; tell whether it is the beginning.

        Raises:
            InvalidChannel: It accepts a name that is none.
            msgspec.MsgspecError: It says the beginning in another form.
        """
        said = understand(text)
        if said.type == "subscribed" and self._is_caught_up:
            return True
        if said.type == "subscribed":
            data = msgspec.json.decode(said.data, type=_Accepted)
            self.names.update({name: parse_pattern(name, plus=True) for name in data.channels})
            self.rejected = data.rejected
            self.positions = [self._at(each) for each in data.positions]
            # A gap before the beginning says what the positions say.
            self.early[:] = [each for each in self.early if understand(each).type != "gap"]
            return True
        if said.type != "connected":
            self.early.append(text)
        return False

    def begin_now(self) -> None:
        """Begin although the server did not say what it accepted: it did so at an earlier poll."""
        if not self.names and self.refused is None:
            self.names.update({name: parse_pattern(name, plus=True) for name in self.asked})
            position = position_of(self.token)
            if position is not None:
                at = {"epoch": position.epoch, "offset": position.offset, "tag": position.tag}
                self.positions = [
                    self._at({"channel": name, **at, "recovered": True}) for name in self.asked
                ]

    def _at(self, position: dict[str, Any]) -> dict[str, Any]:
        """Return where a name begins: it shares a stream with names that begin before it."""
        said = msgspec.convert(position, _Placed)
        start = self._group.names.get(said.channel)
        if start is None or start.epoch != said.epoch or not said.recovered:
            return position
        return {**position, "offset": max(start.offset, said.offset)}

    def matches(self, channel: str) -> bool:
        """Tell whether one of its names matches a channel."""
        return any(pattern.matches(channel) for pattern in self.names.values())

    def wants(self, channel: str) -> bool:
        """Tell whether it brings a channel, or will once it has begun."""
        if self.begun.is_set():
            return self.matches(channel)
        return any(parse_pattern(name, plus=True).matches(channel) for name in self.asked)

    def is_new(self, said: StreamMessage) -> bool:
        """Tell whether an event comes after the position of one of the names that match it."""
        at = said.position
        if at is None or self._group.first is None:
            return True
        starts = [
            self._group.names.get(name)
            for name, pattern in self.names.items()
            if pattern.matches(said.channel)
        ]
        return any(s is None or s.epoch != at.epoch or s.offset < at.offset for s in starts)


async def texts_of(
    chunks: AsyncIterator[bytes], reading: NameStream, max_bytes: int
) -> AsyncIterator[str]:
    """Yield the messages of an event stream; note its positions.

    Raises:
        HttpRefusal: An event is larger than ``max_bytes``.
    """
    rest = b""
    async for chunk in chunks:
        *events, rest = (rest + chunk).split(b"\n\n")
        if max(map(len, (rest, *events))) > max_bytes:
            raise HttpRefusal(0, "MESSAGE_TOO_LARGE", f"an event is larger than {max_bytes} bytes")
        for event in events:
            text = None
            for line in event.decode().split("\n"):
                field, _, value = line.partition(": ")
                if field == "data":
                    text = value
                elif field == "id":
                    reading.token, reading.is_due = value, True
            if text is not None:
                yield text
