"""Members by pattern: an exact map, a trie for wildcards, and a bounded cache of answers.

An exact pattern is found by its text. A pattern with wildcards lies in a trie of segments; both
wildcards for one segment are the same edge there. Nodes without members below them are removed at
once. Patterns with a wildcard below the fifth segment, other than the last, do not lie in the trie
but in :class:`.DeepPatterns`, so that a search visits at most 463 nodes, whatever patterns clients
make up. What :meth:`SubscriptionTable.match` found is kept by :class:`.MatchCache`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import msgspec

from .channels import Channel
from .deep_patterns import Block, DeepPatterns
from .matching import MatchCache, Matched
from .patterns import Pattern

__all__ = ["SubscriptionTable", "TableStatistics"]

M = TypeVar("M", bound=Hashable)
"""A member: what subscribes."""
A = TypeVar("A", bound=Collection[Any])
"""An arrangement: members of one channel in the form that is wanted at delivery."""


class TableStatistics(msgspec.Struct, frozen=True):
    """The contents and counters of a :class:`SubscriptionTable`."""

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


_WILDCARDS: Final = frozenset("*+")
_SHALLOW: Final = 5
"""Segments in which patterns of the trie may have wildcards, besides the last one."""
_FEW: Final = 1024
"""Matching subscriptions up to which their order is worth a sort."""


class _Node(Generic[M]):
    """A place in the trie, reached by the first segments of all patterns in and below it.

    What most nodes lack is None: at 100,000 patterns empty dicts cost more than all else.
    """

    __slots__ = ("children", "ends", "lasts", "tails", "wild")

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
        self.lasts: dict[str, dict[M, int]] | None = None
        """Members of the patterns that go on with a last ``+``."""

    def is_empty(self) -> bool:
        return not (self.children or self.wild or self.ends or self.tails or self.lasts)

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
        if pattern.segments[-1] == "+":
            if self.lasts is None:
                self.lasts = {}
            return self.lasts
        if self.ends is None:
            self.ends = {}
        return self.ends


class SubscriptionTable(Generic[M, A]):
    """Pairs of pattern and member, searched by channel.

    Not safe for threads. Members are compared by ``==`` and must be hashable.

    Args:
        arrange: Makes what :meth:`match` answers from the distinct members. It must depend on
            nothing else and must not change the table.
        cache_size: The most channels whose answer is kept; 0 and 1 switch the cache off.
        cache_places: The most members that are kept, over all different answers.
        edit: Makes an answer from one that was right before some members came and others went; see
            :class:`.MatchCache`. None: it is arranged anew.
        narrow: Takes out of an answer who does not get a channel. If that is nobody it returns the
            same object, or one that shares its members. :meth:`touch` says that it would answer
            otherwise now.
    """

    def __init__(
        self,
        arrange: Callable[[Collection[M]], A],
        cache_size: int = 1024,
        *,
        cache_places: int = 1 << 19,
        edit: Callable[[A, Collection[M], Collection[M]], A] | None = None,
        narrow: Callable[[Channel, A], A] | None = None,
    ) -> None:
        # By text, exact or not; each member with the serial number of its subscription, which
        # keeps the order across patterns.
        self._members: Final[dict[str, dict[M, int]]] = {}
        self._root: Final[_Node[M]] = _Node()
        self._deep: Final = DeepPatterns[M](lambda text: self._members[text])
        self._cache: Final = MatchCache[M, A](
            self._find, arrange, edit=edit, narrow=narrow, size=cache_size, places=cache_places
        )
        self.match: Final = self._cache.match
        """Return the arrangement of all members with a pattern that matches a channel.

        Each stands in it once, however many of its patterns match. The order is that of the first
        of them if one pattern matches, or at most 1,024 subscriptions and no deep pattern, and
        nothing was edited; else there is no particular order.
        Empty results are not cached: unknown names must not displace busy ones.

        Cost: one look-up if cached and unchanged. Else a comparison for each change since, and a
        search if one of them matches. See ``docs/explanation/performance.md``.
        """
        self._serial = 0
        self._subscriptions = 0

    def add(self, pattern: Pattern, member: M) -> bool:
        """Note that ``member`` is interested in ``pattern``; noted already, nothing changes.

        Returns:
            Whether it is the first interest in this pattern.

        Cost: O(segments).
        """
        members = self._members.get(pattern.text)
        is_first = members is None
        if members is None:
            members = self._members[pattern.text] = {}
            if not (pattern.is_exact or _is_deep(pattern)):
                self._grow(pattern, members)
        elif member in members:
            return False
        self._serial += 1
        members[member] = self._serial
        self._subscriptions += 1
        if pattern.is_exact:
            self._cache.note_exact(pattern.text, member)  # type: ignore[arg-type]  # it is one
        else:
            if _is_deep(pattern):
                self._deep.add(pattern, member)
            self._cache.note(pattern, member)
        return is_first

    def discard(self, pattern: Pattern, member: M) -> bool:
        """Note that ``member`` is not interested in ``pattern`` any more; idempotent.

        Returns:
            Whether it was the last interest in this pattern.

        Cost: O(segments).
        """
        members = self._members.get(pattern.text)
        if members is None or members.pop(member, None) is None:
            return False
        self._subscriptions -= 1
        if not members:
            del self._members[pattern.text]
        if pattern.is_exact:
            self._cache.note_exact(pattern.text, member)  # type: ignore[arg-type]  # it is one
            return not members
        if _is_deep(pattern):
            self._deep.discard(pattern, member, is_last=not members)
        elif not members:
            self._prune(pattern)
        self._cache.note(pattern, member)
        return not members

    def interested(self, channel: Channel) -> bool:
        """Tell whether anybody has a pattern that matches ``channel``."""
        return self._cache.holds(channel) or self._find(channel) is not None

    def members(self, pattern: Pattern) -> Collection[M]:
        """Return the members of exactly this pattern, in the order of subscription."""
        return tuple(self._members.get(pattern.text, ()))

    def held(self) -> list[tuple[str, int]]:
        """Return each pattern that is subscribed, with the number of its members.

        Cost: O(patterns).
        """
        return [(text, len(members)) for text, members in self._members.items()]

    def touch(self, member: M) -> None:
        """Note that ``narrow`` may answer otherwise where this member is interested."""
        self._cache.note(None, member)

    def settle(self) -> None:
        """Let go of members that are gone: forget the answers that they may be part of."""
        self._cache.settle()

    def invalidate(self) -> None:
        """Forget all answers."""
        self._cache.clear()

    def statistics(self) -> TableStatistics:
        """Return a snapshot of the counts."""
        return TableStatistics(
            patterns=len(self._members),
            subscriptions=self._subscriptions,
            cached=len(self._cache),
            hits=self._cache.hits,
            misses=self._cache.misses,
        )

    def __len__(self) -> int:
        """Return the number of distinct patterns."""
        return len(self._members)

    def _find(self, channel: Channel) -> Matched[M] | None:
        """Return the members with a pattern that matches.

        Cost: at most 463 nodes and, for each 4,096 deep patterns, 16 ANDs.
        """
        if not self._members:  # The node only publishes.
            return None
        exact = self._members.get(channel)
        segments = channel.split(".")
        held = self._search(segments)
        blocks = self._deep.search(segments) if len(self._deep) else []
        if exact is None and not held and not blocks:
            return None
        # Two channels have equal keys if the same patterns match them.
        key = (
            None if exact is None else channel,
            *map(id, held),
            *[part for block, bits in blocks for part in (id(block), bits)],
        )
        found = _Found(exact, held, blocks)
        return Matched(key, (exact, held, blocks), found.members, found.__contains__)

    def _search(self, segments: list[str]) -> list[dict[str, dict[M, int]]]:
        """Return what the nodes that match hold: members by the texts of patterns."""
        found = []
        nodes = [self._root]
        last = len(segments) - 1
        for i, segment in enumerate(segments):
            reached = []
            for node in nodes:
                if node.tails:
                    found.append(node.tails)
                if i == last and node.lasts:
                    found.append(node.lasts)
                if node.wild:
                    reached.append(node.wild)
                if node.children and (child := node.children.get(segment)):
                    reached.append(child)
            nodes = reached
            if not nodes:
                break
        found += [node.ends for node in nodes if node.ends]
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


def _is_deep(pattern: Pattern) -> bool:
    segments = pattern.segments
    return (
        len(segments) > _SHALLOW + 1
        and not pattern.is_exact
        and not _WILDCARDS.isdisjoint(segments[_SHALLOW:-1])
    )


def _way(pattern: Pattern) -> tuple[str, ...]:
    """Return the segments that lead to the pattern's node."""
    return pattern.segments[:-1] if pattern.segments[-1] in _WILDCARDS else pattern.segments


class _Found(Generic[M]):
    """The result of a search: members by the texts of patterns, and blocks of deep patterns."""

    __slots__ = ("_blocks", "_exact", "_held")

    def __init__(
        self,
        exact: dict[M, int] | None,
        held: list[dict[str, dict[M, int]]],
        blocks: list[tuple[Block[M], int]],
    ) -> None:
        self._exact = exact
        self._held = held
        self._blocks = blocks

    def members(self) -> Collection[M]:
        """Return the distinct members. Cost: O(subscriptions that match)."""
        found = [members for held in self._held for members in held.values()]
        if self._exact is not None:
            found.append(self._exact)
        if not self._blocks and (len(found) == 1 or sum(map(len, found)) <= _FEW):
            return _merge(found)
        deep = [m for block, bits in self._blocks for m, own in block.members.items() if own & bits]
        return tuple(dict.fromkeys(chain(*found, deep)))

    def __contains__(self, member: M) -> bool:
        return (
            (self._exact is not None and member in self._exact)
            or any(member in each for held in self._held for each in held.values())
            or any(block.members.get(member, 0) & bits for block, bits in self._blocks)
        )


def _merge(found: list[dict[M, int]]) -> Collection[M]:
    """Return the distinct members in the order of their subscriptions."""
    if len(found) <= 1:
        return tuple(found[0]) if found else ()
    numbered = [pair for members in found for pair in members.items()]
    numbered.sort(key=itemgetter(1))
    return tuple(dict.fromkeys([member for member, _ in numbered]))
