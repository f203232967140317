"""Feeds: what a node asks its broker for, and the fewest that bring what it wants.

A publication on ``a.b.c`` belongs to the feed of its channel, and to one feed for each literal
start: everything, ``a.…``, ``a.b.…``. An exact channel is wanted by its own feed, so that it costs
a node exactly what is published on it. A pattern with wildcards is wanted by the feed of the
segments before its first wildcard, and the node's own table picks what matches: ``a.+.c`` costs
what is published below ``a``, and nothing outside. No broker has to match a pattern.

:class:`Cover` keeps the widest of the wanted feeds. None of them lies within another, so that no
publication comes twice while they stay the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final, NewType

from .patterns import Pattern

__all__ = [
    "ALL_NODES",
    "Cover",
    "Feed",
    "feed_of",
    "feeds_around",
    "is_prefix",
    "is_within",
]

Feed = NewType("Feed", str)
"""``=a.b`` is the channel ``a.b``; ``~a.`` is all channels below ``a``, and ``~`` all channels;
``!all`` goes to all nodes."""

ALL_NODES: Final = Feed("!all")
"""The feed of what concerns nodes, not channels."""


def feed_of(pattern: Pattern) -> Feed:
    """Return the narrowest feed with everything that a pattern matches."""
    if pattern.is_exact:
        return Feed("=" + pattern.text)
    literal = []
    for segment in pattern.segments:
        if segment in {"*", "+"}:
            break
        literal.append(segment + ".")
    return Feed("~" + "".join(literal))


def is_prefix(feed: Feed) -> bool:
    """Whether it is the feed of all channels below a name."""
    return feed.startswith("~")


@lru_cache(4096)
def feeds_around(feed: Feed) -> tuple[Feed, ...]:
    """Return the feeds that hold everything that is in this one; the widest first, without it."""
    if feed.startswith("!"):
        return ()
    head, _, _ = feed[1:].removesuffix(".").rpartition(".")
    wider = [Feed("~")] if feed != "~" else []
    if head:
        start = ""
        for segment in head.split("."):
            start += segment + "."
            wider.append(Feed("~" + start))
    return tuple(wider)


class Cover:
    """The widest of the feeds that are wanted.

    Law: :attr:`wanted` is every feed that was added and not taken back as often, but those within
    another such feed.
    """

    def __init__(self) -> None:
        self._counts: Final[Counter[Feed]] = Counter()
        self._wanted: Final[set[Feed]] = set()

    @property
    def wanted(self) -> AbstractSet[Feed]:
        """The feeds to ask a broker for."""
        return self._wanted

    def add(self, feed: Feed) -> None:
        """Want a feed once more.

        Cost: O(segments) for a channel, O(feeds) for a new prefix.
        """
        self._counts[feed] += 1
        if self._counts[feed] > 1 or any(wider in self._counts for wider in feeds_around(feed)):
            return
        self._wanted.difference_update([*_within(feed, self._wanted)])
        self._wanted.add(feed)

    def discard(self, feed: Feed) -> None:
        """Want a feed once less; it was added before."""
        self._counts[feed] -= 1
        if self._counts[feed]:
            return
        del self._counts[feed]
        if feed not in self._wanted:
            return
        self._wanted.discard(feed)
        for narrower in _within(feed, self._counts):
            if not any(wider in self._counts for wider in feeds_around(narrower)):
                self._wanted.add(narrower)


def is_within(feed: Feed, feeds: Collection[Feed]) -> bool:
    """Whether one of these feeds brings everything that is in this one."""
    return feed in feeds or any(wider in feeds for wider in feeds_around(feed))


def _within(prefix: Feed, feeds: Collection[Feed]) -> Iterator[Feed]:
    """Yield those of the feeds that lie within a prefix."""
    if is_prefix(prefix):
        start = prefix[1:]
        for feed in feeds:
            if feed != prefix and feed[0] != "!" and feed.startswith(start, 1):
                yield feed
