"""History: the publications that a family's channels keep, and the memory that keeps them.

A store numbers everything that it keeps in one sequence, whatever the channel. So the offsets of a
channel grow and skip, each publication names the one before it on its channel (``previous``), and
one position is enough to say what a subscriber of any pattern has got.

:class:`MemoryHistory` is the store of a bus without a broker, and the model of all others: what it
answers to a read is what they answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import count, islice, repeat
from typing import Final, NamedTuple

from .channels import Channel
from .events import Position
from .families import History
from .messages import Publication
from .patterns import Pattern

__all__ = [
    "IDEMPOTENCY_SECONDS",
    "HistoryPage",
    "HistoryRead",
    "MemoryHistory",
    "Stored",
    "cut",
    "offset_of",
]

IDEMPOTENCY_SECONDS: Final = 120.0
"""How long an idempotency key is remembered."""

_MAX_KEYS: Final = 100_000


class HistoryRead(NamedTuple):
    """A question to a store. The offsets of its positions are compared if their epochs fit."""

    pattern: Pattern
    after: Position | None = None
    """Only what was published after it; None: from the oldest that is kept."""
    before: Position | None = None
    """Only what was published before it."""
    limit: int = 300
    """The most publications of an answer."""
    newest: int | None = None
    """Of each channel only the newest so many; None: all."""
    is_from_end: bool = False
    """Whether an answer that is cut holds the newest publications, not the oldest."""


class HistoryPage(NamedTuple):
    """The answer to a :class:`HistoryRead`."""

    publications: tuple[Publication, ...]
    """In the order of their offsets."""
    head: Position
    """The position of the store: what is kept later comes after it."""
    is_complete: bool
    """Whether nothing that was kept after :attr:`HistoryRead.after` is gone: that position belongs
    to this store, and no publication after it was dropped because of size or age. Those that the
    limit cut off are not gone."""
    has_more: bool = False
    """Whether the limit cut the answer."""


class Stored(NamedTuple):
    """The outcome of one publication that a store was given."""

    position: Position
    is_repeated: bool = False
    """Its idempotency key was used before: this is the position of that publication, and nothing
    was published."""


class MemoryHistory:
    """Keeps history in the memory of this process.

    Law: a publication is kept until its channel has ``size`` newer ones, until its ``ttl`` is over,
    or until a bound of the whole store drops what was published longest ago.

    Args:
        epoch: Identifies this store; another one never has the same.
        max_channels: Channels that are remembered at most.
        max_bytes: Bytes of data that are kept at most.
    """

    def __init__(
        self, epoch: str, *, max_channels: int = 100_000, max_bytes: int = 256 << 20
    ) -> None:
        self._max_channels: Final = max_channels
        self._max_bytes: Final = max_bytes
        self._positions: Final = map(Position, repeat(epoch), count(1))
        self.head: Position = Position(epoch, 0)
        """The position of the store: what is kept later comes after it."""
        self._bytes = 0
        self._kept: Final[dict[str, deque[tuple[float, Publication]]]] = {}
        """By channel, each with the time of its end, in the order of offsets."""
        self._last: Final[dict[str, Position]] = {}
        """The last position of each channel, in the order of offsets."""
        self._floor = 0
        """No channel that is not remembered has a greater offset."""
        self._keys: Final[dict[str, tuple[float, Position]]] = {}
        """Idempotency keys, the oldest first, with the time of their end."""

    @property
    def size(self) -> int:
        """The bytes of data that are kept."""
        return self._bytes

    def __len__(self) -> int:
        """Return the number of channels that are remembered."""
        return len(self._last)

    def repeated(self, key: str, now: float) -> Position | None:
        """Return the position of the publication that had this idempotency key; None: none had."""
        end, position = self._keys.get(key, (0.0, None))
        return position if now < end else None

    def keep(
        self,
        publication: Publication,
        history: History,
        now: float,
        idempotency_key: str | None = None,
    ) -> Publication:
        """Number a publication and keep it. Cost: O(1), but for what the bounds drop.

        What is too old is dropped by :meth:`read` and :meth:`expire`. Ask :meth:`repeated` before:
        a key that was used is used again here.

        Args:
            publication: What was accepted.
            history: How long it is kept.
            now: Seconds, of any clock that does not go back.
            idempotency_key: A text that a repetition of this publication will have, too.

        Returns:
            The same publication with its position.
        """
        channel, last = publication.channel, self._last
        position = self.head = next(self._positions)
        previous = last.pop(channel, None)
        last[channel] = position
        kept = Publication(  # A call of `replace` takes longer.
            channel,
            publication.event,
            publication.data,
            publication.timestamp,
            publication.key,
            publication.node,
            publication.number,
            position,
            previous,
            publication.packed,
            publication.trace_parent,
        )
        entries = self._kept.get(channel)
        if entries is None:
            entries = self._kept[channel] = deque()
        entries.append((now + history.ttl, kept))
        size = self._bytes + len(kept.data)
        while len(entries) > history.size:
            size -= len(entries.popleft()[1].data)
        self._bytes = size
        if size > self._max_bytes or (previous is None and len(last) > self._max_channels):
            self._make_room(channel)
        if idempotency_key is not None:
            self._remember(idempotency_key, position, now)
        return kept

    def read(self, read: HistoryRead, now: float) -> HistoryPage:
        """Answer a question. Cost: O(channels that changed since, and what is read)."""
        after, before, head = read.after, read.before, self.head
        is_known = after is None or (after.epoch == head.epoch and after.offset <= head.offset)
        start = after.offset if after is not None and is_known else 0
        end = head.offset + 1
        if before is not None and before.epoch == head.epoch:
            end = before.offset
        is_complete = is_known
        parts: list[list[Publication]] = []
        for channel in self._changed(read.pattern, start):
            found = self._fresh(channel, now, start)
            if after is not None and not _follows(found, start, self._floor):
                is_complete = False
            if before is not None:
                found = [p for p in found if offset_of(p) < end]
            if read.newest is not None:
                found = found[-read.newest :]
            parts.append(found)
        if after is not None and start < self._floor and self._may_have_forgotten(read.pattern):
            is_complete = False
        publications, has_more = cut(parts, read)
        return HistoryPage(publications, head, is_complete, has_more)

    def expire(self, now: float) -> None:
        """Drop what is too old. Cost: O(channels)."""
        for channel in [*self._kept]:
            self._fresh(channel, now, self.head.offset)
        for key in [key for key, (end, _) in self._keys.items() if end <= now]:
            del self._keys[key]

    def _changed(self, pattern: Pattern, start: int) -> Iterator[str]:
        """Yield the channels that match and have something after an offset."""
        if pattern.is_exact:
            last = self._last.get(pattern.text)
            if last is not None and last.offset > start:
                yield pattern.text
            return
        for channel in reversed(self._last):
            if self._last[channel].offset <= start:
                return
            if pattern.matches(channel):
                yield channel

    def _may_have_forgotten(self, pattern: Pattern) -> bool:
        return not pattern.is_exact or pattern.text not in self._last

    def _fresh(self, channel: str, now: float, start: int = 0) -> list[Publication]:
        """Drop what is too old on a channel, and return what comes after an offset.

        Cost: O(what it drops and returns).
        """
        kept = self._kept.get(channel)
        if kept is None:
            return []
        while kept and kept[0][0] <= now:
            self._drop_first(kept)
        if not kept:
            del self._kept[channel]
        found: list[Publication] = []
        for _, publication in reversed(kept):
            if offset_of(publication) <= start:
                break
            found.append(publication)
        found.reverse()
        return found

    def _drop_first(self, kept: deque[tuple[float, Publication]]) -> None:
        self._bytes -= len(kept.popleft()[1].data)

    def _make_room(self, newest: Channel) -> None:
        """Forget the channels that were published on longest ago, but not the newest one."""
        for channel in [*islice(self._last, len(self._last) - 1)]:
            if len(self._last) <= self._max_channels and self._bytes <= self._max_bytes:
                return
            for _, publication in self._kept.pop(channel, ()):
                self._bytes -= len(publication.data)
            self._floor = self._last.pop(channel).offset
        kept = self._kept[newest]
        while self._bytes > self._max_bytes and len(kept) > 1:
            self._drop_first(kept)

    def _remember(self, key: str, position: Position, now: float) -> None:
        self._keys.pop(key, None)
        self._keys[key] = (now + IDEMPOTENCY_SECONDS, position)
        while len(self._keys) > _MAX_KEYS or next(iter(self._keys.values()))[0] <= now:
            del self._keys[next(iter(self._keys))]


def offset_of(publication: Publication) -> int:
    """Return the offset of a publication that is kept."""
    assert publication.position is not None
    return publication.position.offset


def cut(
    parts: Iterable[list[Publication]], read: HistoryRead
) -> tuple[tuple[Publication, ...], bool]:
    """Merge what is kept on several channels by offset, up to the limit of a read.

    Returns:
        The publications, and whether there are more.
    """
    parts = [*parts]
    if len(parts) == 1:  # Most patterns are exact.
        (part,), limit = parts, read.limit
        start = max(len(part) - limit, 0) if read.is_from_end else 0
        return tuple(part[start : start + limit]), len(part) > limit
    if read.is_from_end:
        newest = [
            *islice(merge(*map(reversed, parts), key=offset_of, reverse=True), read.limit + 1)
        ]
        return tuple(reversed(newest[: read.limit])), len(newest) > read.limit
    oldest = [*islice(merge(*parts, key=offset_of), read.limit + 1)]
    return tuple(oldest[: read.limit]), len(oldest) > read.limit


def _follows(found: list[Publication], start: int, floor: int) -> bool:
    """Tell whether nothing is missing between an offset and what was found after it.

    A channel that has none before it may have been forgotten up to the floor.
    """
    if not found:
        return False
    previous = found[0].previous
    return floor <= start if previous is None else previous.offset <= start
