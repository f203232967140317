"""Tables with a large, a tiny and no cache against a list."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.subscriptions import SubscriptionTable, _is_deep, _Node


def edit(base: tuple[int, ...], come: Collection[int], gone: Collection[int]) -> tuple[int, ...]:
    """Put at the end who comes and is not there."""
    return tuple(dict.fromkeys([m for m in base if m not in gone] + list(come)))


TABLES = (
    (0, 1000, None),
    (2, 1000, None),
    (6, 1000, edit),
    (1024, 1000, None),
    (1024, 1000, edit),
    (1024, 8, edit),
)
"""Cache size, places, and how answers are edited."""
CHANNELS = list(
    map(parse_channel, ("a", "b", "a.a", "a.b", "b.a", "a.b.a", "b.b.a", "a.a.a.a.a.a.a.a"))
)
WILDCARDS = st.lists(st.sampled_from("ab*+"), min_size=1, max_size=3).map(".".join)
DEEP = st.lists(st.sampled_from("a*+"), min_size=7, max_size=8).map(".".join)
PATTERNS = (st.sampled_from(CHANNELS) | WILDCARDS | DEEP).map(parse_pattern)
MEMBERS = st.integers(0, 2)
WATCHED = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=4)


class SubscriptionMachine(RuleBasedStateMachine):
    """Adds, discards and matches in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Pattern, int]] = []
        self.muted: set[int] = set()
        self.tables = [
            SubscriptionTable[int, tuple[int, ...]](
                tuple, cache_size=size, cache_places=places, edit=edit, narrow=self.narrow
            )
            for size, places, edit in TABLES
        ]
        self.matches = 0

    def narrow(self, channel: Channel, members: tuple[int, ...]) -> tuple[int, ...]:
        """Leave out whom something outside of the table mutes, on some channels."""
        assert channel in CHANNELS
        if channel[0] == "a" and self.muted.intersection(members):
            return tuple(member for member in members if member not in self.muted)
        return members

    def expected(self, channel: Channel) -> tuple[tuple[int, ...], bool]:
        """Answer from the list: distinct members in the order of their first match.

        And tell whether a deep pattern is among those that match.
        """
        found = [(pattern, m) for pattern, m in self.pairs if pattern.matches(channel)]
        members = dict.fromkeys(m for _, m in found)
        heard = tuple(m for m in members if m not in self.muted or channel[0] != "a")
        return heard, any(_is_deep(pattern) for pattern, _ in found)

    def interest(self, pattern: Pattern) -> bool:
        """Tell whether the list holds the pattern."""
        return any(held == pattern for held, _ in self.pairs)

    @initialize(pairs=st.lists(st.tuples(PATTERNS, MEMBERS), max_size=8))
    def fill(self, pairs: list[tuple[Pattern, int]]) -> None:
        """Begin with some interest."""
        for pattern, member in pairs:
            self.add(pattern, member, [])

    @rule(pattern=PATTERNS, member=MEMBERS, watched=WATCHED)
    def add(self, pattern: Pattern, member: int, watched: list[Channel]) -> None:
        """The first interest is told, a pair counts once, and answers at hand are renewed."""
        self.match(*watched)
        first = not self.interest(pattern)
        if (pattern, member) not in self.pairs:
            self.pairs.append((pattern, member))
        assert {table.add(pattern, member) for table in self.tables} == {first}
        self.match(*watched)

    @rule(pattern=PATTERNS, member=MEMBERS, watched=WATCHED)
    def discard(self, pattern: Pattern, member: int, watched: list[Channel]) -> None:
        """The last interest is told, what is unknown changes nothing, answers are renewed."""
        self.match(*watched)
        known = (pattern, member) in self.pairs
        self.pairs = [pair for pair in self.pairs if pair != (pattern, member)]
        last = known and not self.interest(pattern)
        assert {table.discard(pattern, member) for table in self.tables} == {last}
        self.match(*watched)

    @rule(
        flipping=st.lists(st.tuples(PATTERNS, MEMBERS), min_size=1, max_size=3, unique=True),
        times=st.integers(2, 9),
        data=st.data(),
    )
    def flip(self, flipping: list[tuple[Pattern, int]], times: int, data: st.DataObject) -> None:
        """Members that come and go by the same patterns, in any order, are where they are."""
        for _ in range(times):
            pattern, member = data.draw(st.sampled_from(flipping))
            change = self.discard if (pattern, member) in self.pairs else self.add
            change(pattern, member, data.draw(st.lists(st.sampled_from(CHANNELS), max_size=4)))

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), watched=WATCHED)
    def discard_known(self, data: st.DataObject, watched: list[Channel]) -> None:
        """Pairs that are in the table are taken out as often as they are put in."""
        pattern, member = data.draw(st.sampled_from(self.pairs))
        self.discard(pattern, member, watched)

    @rule(watched=WATCHED)
    def look(self, watched: list[Channel]) -> None:
        """Every table answers what the list answers, whatever it has cached."""
        self.match(*watched)

    def match(self, *channels: Channel) -> None:
        """Compare the answers."""
        for channel in channels:
            self.matches += 1
            expected, is_deep = self.expected(channel)
            for table, (_, _, edit) in zip(self.tables, TABLES, strict=True):
                answer = table.match(channel)
                if edit is None and not is_deep:
                    assert answer == expected
                else:  # In no particular order.
                    assert len(answer) == len(set(answer))
                    assert set(answer) == set(expected)

    @rule(member=MEMBERS)
    def mute(self, member: int) -> None:
        """A change outside of the table shows after it is told."""
        self.muted ^= {member}
        for table in self.tables:
            table.touch(member)

    @rule(settles=st.booleans())
    def forget(self, *, settles: bool) -> None:
        """What is forgotten is found again."""
        for table in self.tables:
            (table.settle if settles else table.invalidate)()

    @invariant()
    def interest_is_right(self) -> None:
        """Interest and members are those of the list."""
        held = dict[Pattern, tuple[int, ...]]()
        for pattern, member in self.pairs:
            held[pattern] = (*held.get(pattern, ()), member)
        for channel in CHANNELS:
            expected = any(pattern.matches(channel) for pattern in held)
            assert all(table.interested(channel) == expected for table in self.tables)
        for pattern, members in held.items():
            assert all(table.members(pattern) == members for table in self.tables)

    @invariant()
    def counts_add_up(self) -> None:
        """Patterns, subscriptions and matches are counted; the cache stays within its bound."""
        patterns = len({pattern for pattern, _ in self.pairs})
        for (size, places, _), table in zip(TABLES, self.tables, strict=True):
            statistics = table.statistics()
            assert statistics.patterns == len(table) == patterns
            assert statistics.subscriptions == len(self.pairs)
            assert statistics.hits + statistics.misses == self.matches
            assert statistics.cached <= min(size, len(CHANNELS))
            assert table._cache.places <= places + 2 * 2 * 3  # One more answer in each generation.

    @invariant()
    def no_node_is_empty(self) -> None:
        """Every node but the root leads to a member, and holds nothing that is empty."""
        patterns = {pattern for pattern, _ in self.pairs}
        deep = sum(map(_is_deep, patterns))
        is_empty = all(pattern.is_exact or _is_deep(pattern) for pattern in patterns)
        for table in self.tables:
            root = table._root
            assert root.is_empty() == is_empty
            assert len(table._deep) == deep
            for node in below(root):
                assert not node.is_empty()
                for held in (node.ends, node.tails, node.lasts):
                    assert all((held or {}).values())


def below(node: _Node[int]) -> Iterator[_Node[int]]:
    """Walk the trie below a node."""
    for child in [*(node.children or {}).values(), *([node.wild] if node.wild else [])]:
        yield child
        yield from below(child)


TestSubscriptionMachine = SubscriptionMachine.TestCase
