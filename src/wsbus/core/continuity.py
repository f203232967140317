"""Continuity: whether what a broker brings of a store is all that the store has published.

A node follows feeds, and its link brings what is kept on them in the order of offsets. The *mark*
is the greatest offset that the node has taken. Each item names the one before it on its channel, so
that a hole shows with the next item. Two feeds may bring the same item, and a link that is back may
bring what was read from the store meanwhile: such copies have offsets that were taken already.

The *base* is an offset up to which everything was delivered, or subscribers were told of a gap. On
a channel of which nothing was taken yet it stands for the last offset, if its feed has been
followed since then.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from .envelope import Kept
from .events import Position
from .feeds import Feed, is_within

__all__ = ["Continuity", "Verdict"]

_MAX_CHANNELS: Final = 65_536


class Verdict(Enum):
    """The meaning of a kept item for the node that it is brought to."""

    NEXT = auto()
    """It follows what was delivered."""
    COPY = auto()
    """It was delivered, or its subscribers were told of a gap."""
    HOLE = auto()
    """It follows something on its channel that was not brought."""
    LATE = auto()
    """Later ones came before it. To deliver it now would break the order."""
    ANEW = auto()
    """The store has begun a new epoch: whether it follows what was delivered cannot be known."""


class Continuity:
    """The part of a store that a node has taken.

    Cost: O(1) for an item; the last offsets of at most so many channels are remembered.

    Args:
        max_channels: Channels whose last offset is remembered.
    """

    def __init__(self, max_channels: int = _MAX_CHANNELS) -> None:
        self._max_channels: Final = max_channels
        self._last: Final[dict[str, int]] = {}
        self._base = 0
        self._floor = 0
        """No channel whose last offset was forgotten had a greater one."""
        self._continuous: frozenset[Feed] = frozenset()
        """Feeds that have been followed since the base."""
        self.mark: Position | None = None
        """The position of what was taken last; None: nothing is known of the store yet."""

    def covers(self, feed: Feed) -> bool:
        """Whether everything on a feed that comes after the mark is brought."""
        return is_within(feed, self._continuous)

    def take(self, kept: Kept) -> Verdict:
        """Judge an item, and note that it was taken."""
        mark, channel, offset = self.mark, kept.published.channel, kept.offset
        if mark is None or kept.epoch != mark.epoch:
            self.restart(Position(kept.epoch, 0), ())
            self._note(channel, kept)
            return Verdict.ANEW
        if offset <= self._base:
            return Verdict.COPY
        last = self._last.get(channel)
        if last is not None and offset <= last:
            return Verdict.COPY
        if offset <= mark.offset:
            self._last[channel] = offset
            return Verdict.LATE
        if last is None and is_within(Feed("=" + channel), self._continuous):
            last = max(self._base, self._floor)
        self._note(channel, kept)
        return Verdict.HOLE if last is not None and kept.previous > last else Verdict.NEXT

    def restart(self, head: Position, feeds: Collection[Feed]) -> None:
        """Begin at a position of the store: everything before it was delivered, or told of.

        Args:
            head: The position.
            feeds: What has been followed since before the store was asked for it.
        """
        self._last.clear()
        self._floor = 0
        self._base, self.mark = head.offset, head
        self._continuous = frozenset(feeds)

    def confirm(self, head: Position, feeds: Collection[Feed]) -> None:
        """Note that everything up to a position has been brought.

        Args:
            head: A position of the same epoch.
            feeds: What has been followed since before the store was asked for it.
        """
        mark = self.mark
        if mark is None or mark.epoch != head.epoch or head.offset < self._base:
            return
        self._base = head.offset
        self._continuous = frozenset(feeds)
        if head.offset > mark.offset:
            self.mark = head

    def forget(self, feeds: Collection[Feed], followed: Collection[Feed]) -> None:
        """Note that feeds are given up: nothing is known of channels that no other one brings."""
        self._continuous = self._continuous.difference(feeds)
        if all(feed.startswith("=") for feed in feeds):
            channels = [feed[1:] for feed in feeds]
        else:
            channels = [*self._last]
        for channel in channels:
            if not is_within(Feed("=" + channel), followed):
                self._last.pop(channel, None)

    def _note(self, channel: str, kept: Kept) -> None:
        self.mark = kept.position
        self._last.pop(channel, None)
        self._last[channel] = kept.offset
        if len(self._last) > self._max_channels:
            self._floor = self._last.pop(next(iter(self._last)))
