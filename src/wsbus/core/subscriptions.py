"""Who is interested in what: an exact map, a trie for wildcards, and a bounded cache of answers.

An exact pattern is found by its text. A pattern with wildcards lies in a trie of segments; both
wildcards for one segment are the same edge there. Nodes without members below them are removed at
once. What :meth:`SubscriptionTable.match` found is kept, arranged, until somebody's interest in
the channel changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from enum import Enum
from operator import itemgetter
from typing import Final, Generic, TypeVar

import msgspec

from .channels import Channel
from .patterns import Pattern

__all__ = ["SubscriptionTable", "TableStatistics"]

M = TypeVar("M", bound=Hashable)
"""A member: whoever subscribes."""
A = TypeVar("A")
"""An arrangement: members of one channel in the form that is wanted at delivery."""


class TableStatistics(msgspec.Struct, frozen=True):
    """What a :class:`SubscriptionTable` holds and has done."""

    patterns: int
    """Distinct patterns somebody subscribed to."""
    subscriptions: int
    """Pairs of pattern and member."""
    cached: int
    """Channels whose answer is at hand; never more than the cache size."""
    hits: int
    """Matches answered from the cache."""
    misses: int
    """Matches that had to be searched, those that found nobody among them."""


class _Absent(Enum):
    ABSENT = "absent"


_ABSENT: Final = _Absent.ABSENT
_WILDCARDS: Final = frozenset("*+")


class _Node(Generic[M]):
    """A place in the trie, reached by the first segments of all patterns in and below it.

    What most nodes lack is None: at 100,000 patterns empty dicts cost more than all else.
    """

    __slots__ = ("children", "ends", "tails", "wild")

    def __init__(self) -> None:
        self.children: dict[str, _Node[M]] | None = None
        """Below, by a literal segment."""
        self.wild: _Node[M] | None = None
        """Below, by any one segment."""
        # Both by text: `a.*.c` and `a.+.c` are two patterns and end at the same node.
        self.ends: dict[str, dict[M, int]] | None = None
        """Members of the patterns that end here."""
        self.tails: dict[str, dict[M, int]] | None = None
        """Members of the patterns that go on with a last ``*``."""

    def is_empty(self) -> bool:
        return not (self.children or self.wild or self.ends or self.tails)

    def step(self, segment: str) -> _Node[M]:
        """Go down one segment of a pattern; the node there is made if missing."""
        if segment in _WILDCARDS:
            if self.wild is None:
                self.wild = _Node()
            return self.wild
        children = self.literals()
        child = children.get(segment)
        if child is None:
            child = children[segment] = _Node()
        return child

    def cut(self, segment: str) -> None:
        """Take off what is below one segment of a pattern."""
        if segment in _WILDCARDS:
            self.wild = None
        else:
            del self.literals()[segment]

    def literals(self) -> dict[str, _Node[M]]:
        """Return the children, for a change."""
        if self.children is None:
            self.children = {}
        return self.children

    def held(self, pattern: Pattern) -> dict[str, dict[M, int]]:
        """Return where the members of a pattern that leads here belong."""
        if pattern.has_tail:
            if self.tails is None:
                self.tails = {}
            return self.tails
        if self.ends is None:
            self.ends = {}
        return self.ends


class SubscriptionTable(Generic[M, A]):
    """Pairs of pattern and member, searched by channel.

    Not safe for threads. Members are compared by ``==`` and must be hashable.

    Args:
        arrange: Makes what :meth:`match` answers from the distinct members, given in the order of
            their subscriptions. It must depend on nothing else, or :meth:`invalidate` be called
            when that changes. It must not change the table.
        cache_size: The most channels whose answer is kept. The cache is two generations of half
            that size: when the younger is full the older is forgotten, so that what is used stays.
            0 and 1 switch it off.
    """

    def __init__(
        self, arrange: Callable[[Channel, Collection[M]], A], cache_size: int = 1024
    ) -> None:
        self._arrange: Final = arrange
        self._generation_size: Final = cache_size // 2
        # By text, exact or not; each member with the serial number of its subscription, which
        # keeps the order across patterns.
        self._members: Final[dict[str, dict[M, int]]] = {}
        self._root: Final[_Node[M]] = _Node()
        self._recent: dict[Channel, A] = {}
        self._older: dict[Channel, A] = {}
        self._serial = 0
        self._subscriptions = 0
        self._hits = 0
        self._misses = 0

    def add(self, pattern: Pattern, member: M) -> bool:
        """Note that ``member`` is interested in ``pattern``; noted already, nothing changes.

        Returns:
            Whether it is the first interest in this pattern.

        Cost: O(segments); a pattern with wildcards also empties the cache.
        """
        members = self._members.get(pattern.text)
        is_first = members is None
        if members is None:
            members = self._members[pattern.text] = {}
            if not pattern.is_exact:
                self._grow(pattern, members)
        elif member in members:
            return False
        self._serial += 1
        members[member] = self._serial
        self._subscriptions += 1
        self._forget(pattern)
        return is_first

    def discard(self, pattern: Pattern, member: M) -> bool:
        """Note that ``member`` is not interested in ``pattern`` any more; idempotent.

        Returns:
            Whether it was the last interest in this pattern.

        Cost: O(segments); a pattern with wildcards also empties the cache.
        """
        members = self._members.get(pattern.text)
        if members is None or members.pop(member, None) is None:
            return False
        self._subscriptions -= 1
        self._forget(pattern)
        if members:
            return False
        del self._members[pattern.text]
        if not pattern.is_exact:
            self._prune(pattern)
        return True

    def match(self, channel: Channel) -> A:
        """Return the arrangement of all members with a pattern that matches ``channel``.

        Each stands in it once, however many of its patterns match, in the order of the first of
        them. Nobody's arrangement is not kept: unknown names must not displace busy ones.

        Cost: one look-up if cached; else O(nodes whose segments match), then ``arrange``.
        """
        found = self._recent.get(channel, _ABSENT)
        if found is not _ABSENT:
            self._hits += 1
            return found
        return self._match_older(channel)

    def interested(self, channel: Channel) -> bool:
        """Tell whether anybody has a pattern that matches ``channel``."""
        if channel in self._recent or channel in self._older:
            return True
        return bool(self._search(channel))

    def members(self, pattern: Pattern) -> Collection[M]:
        """Return who is interested in exactly this pattern, in the order of subscription."""
        return tuple(self._members.get(pattern.text, ()))

    def held(self) -> list[tuple[str, int]]:
        """Return each pattern that is subscribed, with the number of its members.

        Cost: O(patterns).
        """
        return [(text, len(members)) for text, members in self._members.items()]

    def invalidate(self) -> None:
        """Forget all arrangements, because something else they depend on has changed."""
        self._recent = {}
        self._older = {}

    def statistics(self) -> TableStatistics:
        """Return a snapshot of the counts."""
        return TableStatistics(
            patterns=len(self._members),
            subscriptions=self._subscriptions,
            cached=len(self._recent) + len(self._older),
            hits=self._hits,
            misses=self._misses,
        )

    def __len__(self) -> int:
        """Return the number of distinct patterns."""
        return len(self._members)

    def _match_older(self, channel: Channel) -> A:
        found = self._older.pop(channel, _ABSENT)
        if found is not _ABSENT:
            self._hits += 1
            self._keep(channel, found)
            return found
        self._misses += 1
        members = _merge(self._search(channel))
        arranged = self._arrange(channel, members)
        if members and self._generation_size:
            self._keep(channel, arranged)
        return arranged

    def _keep(self, channel: Channel, arranged: A) -> None:
        if len(self._recent) >= self._generation_size:
            self._older = self._recent
            self._recent = {}
        self._recent[channel] = arranged

    def _forget(self, pattern: Pattern) -> None:
        if pattern.is_exact:
            channel = Channel(pattern.text)
            self._recent.pop(channel, None)
            self._older.pop(channel, None)
        elif self._recent or self._older:
            # To look for the channels it matches would cost each subscriber a look at them all;
            # to forget them costs one search per channel, and only if it is published on again.
            self.invalidate()

    def _search(self, channel: Channel) -> list[dict[M, int]]:
        """Return the members of each pattern that matches; none is empty."""
        exact = self._members.get(channel)
        found = [] if exact is None else [exact]
        nodes = [self._root]
        for segment in channel.split("."):
            reached = []
            for node in nodes:
                if node.tails:
                    found += node.tails.values()
                if node.wild:
                    reached.append(node.wild)
                if node.children and (child := node.children.get(segment)):
                    reached.append(child)
            nodes = reached
            if not nodes:
                break
        for node in nodes:
            if node.ends:
                found += node.ends.values()
        return found

    def _grow(self, pattern: Pattern, members: dict[M, int]) -> None:
        node = self._root
        for segment in _way(pattern):
            node = node.step(segment)
        node.held(pattern)[pattern.text] = members

    def _prune(self, pattern: Pattern) -> None:
        way = list(_way(pattern))
        path = [self._root]
        for segment in way:
            path.append(path[-1].step(segment))
        del path[-1].held(pattern)[pattern.text]
        while way and path[-1].is_empty():
            path.pop()
            path[-1].cut(way.pop())


def _way(pattern: Pattern) -> tuple[str, ...]:
    """Return the segments that lead to the pattern's node."""
    return pattern.segments[:-1] if pattern.has_tail else pattern.segments


def _merge(found: list[dict[M, int]]) -> Collection[M]:
    """Return the distinct members in the order of their subscriptions."""
    if len(found) <= 1:
        return tuple(found[0]) if found else ()
    numbered = [pair for members in found for pair in members.items()]
    numbered.sort(key=itemgetter(1))
    return tuple(dict.fromkeys([member for member, _ in numbered]))
