"""Finite streams: answers and jobs that grow, end once, and can be read from any point in time.

A stream is what one *producer* publishes on a channel of a family with ``stream=Stream(…)``. Each
entry is an event of that channel, whose name says the kind (:class:`StreamEvent`): an ``append``
adds to the value, a ``whole`` holds all of it so far, and ``end``, ``fail`` and ``cancel`` end it.

A producer publishes a ``whole`` first, and again after :data:`WHOLE_ENTRIES` appends or
:data:`WHOLE_BYTES`. So the newest :data:`STREAM_NEWEST` entries of a channel always hold one, and
what they come to is the value (:func:`compacted`). That is how a late reader gets everything in one
event, and a store needs to know nothing of streams.

:class:`StreamFold` is the value as a reader knows it. It takes an entry only if that names the
entry before it as its predecessor, so that nothing is lost or doubled, whatever happens on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from .channels import Channel
from .errors import StreamCancelled, StreamFailed
from .events import Position
from .families import Compact
from .publications import Publication

__all__ = [
    "STREAM_NEWEST",
    "TABLE",
    "WHOLE_BYTES",
    "WHOLE_ENTRIES",
    "StreamDuty",
    "StreamEvent",
    "StreamFold",
    "StreamPart",
    "StreamPhase",
    "Whole",
    "compacted",
    "is_open",
    "lost_stream",
    "producer_of",
]

WHOLE_ENTRIES: Final = 256
"""Appends after which a producer publishes the whole value again."""

WHOLE_BYTES: Final = 64 << 10
"""The same in bytes of appends, or as many as the value had then, if that is more: so all of these
events together take twice the space of the value."""

STREAM_NEWEST: Final = 2 * WHOLE_ENTRIES
"""The newest entries of a channel, which are read for a late reader."""


class StreamPhase(StrEnum):
    """The state of a stream, as readers know it."""

    OPEN = "open"
    """More may come."""
    ENDED = "ended"
    """It is complete."""
    FAILED = "failed"
    """Its producer has failed, or is gone."""
    CANCELLED = "cancelled"
    """It was cancelled, by its producer or on request."""


class StreamEvent(StrEnum):
    """The kinds of entries, which are the names of their events."""

    APPEND = "append"
    """Adds its data to the value."""
    WHOLE = "whole"
    """Holds the value so far, see :class:`Whole`; for late readers also the end."""
    END = "end"
    """The value is complete."""
    FAIL = "fail"
    """There will be no more of it."""
    CANCEL = "cancel"
    """The same, because someone wanted that."""
    CANCELLING = "cancelling"
    """A reader asks the producer to cancel it; means nothing to other readers."""


class StreamDuty(Enum):
    """The ways in which a reader deals with an entry."""

    JOIN = "join it to the value"
    REPLACE = "replace the value"
    CLOSE = "note how it ended"
    IGNORE = "nothing"
    ASK = "ask for the whole value: entries are missing before it"


_OPEN, *_FINAL = StreamPhase
_ACTS: Final = {
    StreamEvent.APPEND: (StreamDuty.JOIN, StreamPhase.OPEN),
    StreamEvent.WHOLE: (StreamDuty.REPLACE, StreamPhase.OPEN),  # Or the state that it holds.
    StreamEvent.END: (StreamDuty.CLOSE, StreamPhase.ENDED),
    StreamEvent.FAIL: (StreamDuty.CLOSE, StreamPhase.FAILED),
    StreamEvent.CANCEL: (StreamDuty.CLOSE, StreamPhase.CANCELLED),
    StreamEvent.CANCELLING: (StreamDuty.IGNORE, StreamPhase.OPEN),
}
TABLE: Final[dict[tuple[StreamPhase, StreamEvent], tuple[StreamDuty, StreamPhase]]] = {
    **{(_OPEN, event): then for event, then in _ACTS.items()},
    **{(state, event): (StreamDuty.IGNORE, state) for state in _FINAL for event in StreamEvent},
}
"""The duties and states that follow from an entry that comes next. An end is final: nothing follows
from any later entry."""

_KINDS: Final[dict[str, StreamEvent]] = {kind.value: kind for kind in StreamEvent}
_ENDS: Final = (StreamEvent.END, StreamEvent.FAIL, StreamEvent.CANCEL)

_GONE: Final = "the stream is not kept any more"
_UNFIT: Final = "the parts of the stream cannot be joined"
_ANEW: Final = "another stream has begun on its channel"


class Whole(msgspec.Struct, frozen=True):
    """The data of a ``whole``."""

    value: Any
    """All deltas, joined."""
    state: StreamPhase = StreamPhase.OPEN
    result: Any = UNSET
    """The producer's result; left out if the stream has not ended."""
    message: str | UnsetType | None = UNSET
    """The reason of a failure or a cancellation; left out otherwise."""


class _End(msgspec.Struct, frozen=True):
    result: Any = None


class _Reason(msgspec.Struct, frozen=True):
    message: str | None = None


class StreamPart(msgspec.Struct, frozen=True):
    """The news of a stream."""

    delta: str
    """The text that is new; empty where the values are no texts."""
    value: Any
    """All that there is so far."""

    @property
    def text(self) -> str:
        """All text so far; empty where the values are no texts."""
        return self.value if isinstance(self.value, str) else ""


_encode: Final = msgspec.json.Encoder().encode
_any: Final = msgspec.json.Decoder().decode
_whole: Final = msgspec.json.Decoder(Whole).decode
_end: Final = msgspec.json.Decoder(_End).decode
_message: Final = msgspec.json.Decoder(_Reason).decode


class StreamFold:
    """The value of a stream, as its entries make it.

    Law: a text only grows, and is a prefix of what the producer has appended; the state is final
    once.

    Args:
        compact: Joins values that are no texts, as :attr:`.Stream.compact` does.
    """

    def __init__(self, compact: Compact | None = None) -> None:
        self.state: StreamPhase = StreamPhase.OPEN
        self.has_begun: bool = False
        """Whether anything of the stream has come."""
        self.is_stale: bool = False
        """Whether entries are missing: only the whole value helps."""
        self.result: Any = None
        """The producer's result, at the end."""
        self.message: str | None = None
        """The reason of a failure or a cancellation."""
        self.is_unfit: bool = False
        """Whether it counts as failed because its deltas cannot be joined."""
        self._compact: Final = compact
        self._value: Any = None
        self._pieces: list[str] = []
        """Text that is not joined yet."""
        self._last: Position | None = None

    @property
    def value(self) -> Any:
        """All deltas, joined; None: there are none yet, and it is not known to be a text."""
        if self._pieces:
            self._value = "".join([self._value or "", *self._pieces])
            self._pieces = []
        return self._value

    @property
    def text(self) -> str:
        """The value, if it is a text; else empty."""
        value = self.value
        return value if isinstance(value, str) else ""

    @property
    def is_over(self) -> bool:
        """Whether it is in a final state."""
        return self.state is not StreamPhase.OPEN

    def lose(self) -> None:
        """Note that entries are missing."""
        self.is_stale = not self.is_over

    def part_after(self, before: str) -> StreamPart:
        """Return what is new since a reader had this text."""
        return StreamPart(self.text[len(before) :], self.value)

    def check(self) -> None:
        """Raise the error of a stream that did not end well.

        Raises:
            StreamFailed: It failed.
            StreamCancelled: It was cancelled.
        """
        if self.state is StreamPhase.FAILED:
            raise StreamFailed(self.message or "the stream failed")
        if self.state is StreamPhase.CANCELLED:
            raise StreamCancelled(self.message or "the stream was cancelled")

    def take(self, publication: Publication) -> StreamDuty:
        """Take the next entry that comes; return what was done with it."""
        kind, position, last = _KINDS.get(publication.event), publication.position, self._last
        if position is None or self.is_over:
            return StreamDuty.IGNORE
        if last is not None and last.epoch == position.epoch:
            offset = last.offset - (kind is StreamEvent.WHOLE)
            if position.offset <= offset:
                return StreamDuty.IGNORE  # A copy.
        if kind is StreamEvent.WHOLE:
            return self._replace(publication, position)
        follows = not self.is_stale and _follows(publication.previous, last)
        self._last = position
        if not follows:
            self.is_stale = True
            return StreamDuty.ASK
        if kind is None:
            return StreamDuty.IGNORE
        duty, state = TABLE[self.state, kind]
        try:
            if duty is StreamDuty.JOIN:
                self.join(publication.data)
            elif duty is StreamDuty.CLOSE:
                self._close(kind, publication.data)
        except Exception:  # noqa: BLE001  # whatever a publisher wrote, or `compact` makes of it
            self.is_unfit = True
            self._fail(_UNFIT)
            return StreamDuty.CLOSE
        self.has_begun, self.state = True, state
        return duty

    def whole(self) -> bytes:
        """Return the data of a ``whole``."""
        value = "" if self.value is None and self._compact is None else self.value
        whole = Whole(value, self.state)
        if self.state is StreamPhase.ENDED:
            whole = Whole(value, self.state, self.result)
        elif self.is_over:
            whole = Whole(value, self.state, UNSET, self.message)
        return _encode(whole)

    def join(self, data: bytes) -> None:
        """Join a delta to the value.

        Raises:
            TypeError: It is no text, and there is no ``compact``; or whatever that raises.
        """
        delta = _any(data)
        if self._compact is not None:
            self._value = self._compact(self._value, delta)
        elif isinstance(delta, str) and (self._value is None or isinstance(self._value, str)):
            self._pieces.append(delta)
        else:
            raise TypeError("a delta is a text, unless Stream(compact=…) joins other values")

    def _close(self, kind: StreamEvent, data: bytes) -> None:
        if kind is StreamEvent.END:
            self.result = _end(data).result
        else:
            self.message = _message(data).message

    def _replace(self, publication: Publication, position: Position) -> StreamDuty:
        try:
            whole = _whole(publication.data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self._last, self.is_stale = position, True
            return StreamDuty.ASK
        text, value = self.text, whole.value
        if value or whole.state is not StreamPhase.FAILED:  # A failure may come without it.
            if text and not (isinstance(value, str) and value.startswith(text)):
                self._fail(_ANEW)  # A text does not shrink.
                return StreamDuty.CLOSE
            self._value, self._pieces = value, []
        self._last, self.is_stale = position, False
        self.has_begun, self.state = True, whole.state
        self.result = None if whole.result is UNSET else whole.result
        self.message = None if isinstance(whole.message, UnsetType) else whole.message
        return StreamDuty.REPLACE

    def _fail(self, message: str) -> None:
        self.has_begun, self.is_stale = True, False
        self.state, self.message = StreamPhase.FAILED, message


def compacted(entries: Sequence[Publication], compact: Compact | None = None) -> Publication | None:
    """Return one ``whole`` for the newest entries of a channel; None: there is no stream.

    Args:
        entries: In the order of their offsets, up to the newest one, whose position it has.
        compact: Joins values that are no texts.
    """
    kinds = [_KINDS.get(entry.event) for entry in entries]
    until = next((at for at, kind in enumerate(kinds) if kind in _ENDS), len(entries))
    wholes = [at for at, kind in enumerate(kinds[:until]) if kind is StreamEvent.WHOLE]
    if not wholes and (not entries or entries[0].previous is not None):
        return None
    fold = StreamFold(compact)
    for entry in entries[wholes[-1] if wholes else 0 : until + 1]:
        fold.take(entry)
    if not fold.has_begun:
        return None
    return msgspec.structs.replace(
        entries[-1], event=StreamEvent.WHOLE.value, data=fold.whole(), key=None
    )


def lost_stream(channel: Channel, head: Position) -> Publication:
    """Return a ``whole`` for a reader that had a part of a stream of which nothing is kept."""
    data = _encode(Whole("", StreamPhase.FAILED, UNSET, _GONE))
    return Publication(channel, StreamEvent.WHOLE.value, data, 0.0, position=head)


def is_open(whole: Publication) -> bool:
    """Tell whether a stream is open, by what :func:`compacted` returns."""
    return _whole(whole.data).state is StreamPhase.OPEN


def producer_of(entries: Sequence[Publication]) -> str | None:
    """Return the node whose producer has written the newest entries; None: there is none."""
    makes = (StreamEvent.APPEND, StreamEvent.WHOLE)
    found = (entry.node for entry in reversed(entries) if _KINDS.get(entry.event) in makes)
    return next(found, None)


def _follows(previous: Position | None, last: Position | None) -> bool:
    """Tell whether nothing is between an entry and the one that came last."""
    if last is None or previous is None:
        return last is previous
    return last.epoch == previous.epoch and last.offset == previous.offset
