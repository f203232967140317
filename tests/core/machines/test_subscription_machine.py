"""Tables with a large, a tiny and no cache against a list."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.subscriptions import SubscriptionTable, _Node

CACHE_SIZES = (0, 2, 6, 1024)
CHANNELS = list(map(parse_channel, ("a", "b", "a.a", "a.b", "b.a", "a.b.a", "b.b.a")))
WILDCARDS = st.lists(st.sampled_from("ab*+"), min_size=1, max_size=3).map(".".join)
PATTERNS = (st.sampled_from(CHANNELS) | WILDCARDS).map(parse_pattern)
MEMBERS = st.integers(0, 2)


class SubscriptionMachine(RuleBasedStateMachine):
    """Adds, discards and matches in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Pattern, int]] = []
        self.muted: set[int] = set()
        self.tables = [
            SubscriptionTable[int, tuple[int, ...]](self.arrange, cache_size=size)
            for size in CACHE_SIZES
        ]
        self.matches = 0

    def arrange(self, channel: Channel, members: Collection[int]) -> tuple[int, ...]:
        """Leave out whom something outside of the table mutes."""
        assert channel in CHANNELS
        return tuple(member for member in members if member not in self.muted)

    def expected(self, channel: Channel) -> tuple[int, ...]:
        """Answer from the list: distinct members in the order of their first match."""
        found = dict.fromkeys(m for pattern, m in self.pairs if pattern.matches(channel))
        return tuple(member for member in found if member not in self.muted)

    def interest(self, pattern: Pattern) -> bool:
        """Tell whether the list holds the pattern."""
        return any(held == pattern for held, _ in self.pairs)

    @rule(pattern=PATTERNS, member=MEMBERS)
    def add(self, pattern: Pattern, member: int) -> None:
        """The first interest is told, and a pair counts once."""
        first = not self.interest(pattern)
        if (pattern, member) not in self.pairs:
            self.pairs.append((pattern, member))
        assert [table.add(pattern, member) for table in self.tables] == [first] * len(CACHE_SIZES)

    @rule(pattern=PATTERNS, member=MEMBERS)
    def discard_any(self, pattern: Pattern, member: int) -> None:
        """The last interest is told, and what is unknown changes nothing."""
        self.discard(pattern, member)

    @rule(data=st.data())
    def discard_known(self, data: st.DataObject) -> None:
        """Pairs that are in the table are taken out as often as they are put in."""
        if self.pairs:
            self.discard(*data.draw(st.sampled_from(self.pairs)))

    def discard(self, pattern: Pattern, member: int) -> None:
        """Discard everywhere."""
        known = (pattern, member) in self.pairs
        self.pairs = [pair for pair in self.pairs if pair != (pattern, member)]
        last = known and not self.interest(pattern)
        assert [table.discard(pattern, member) for table in self.tables] == [last] * len(
            CACHE_SIZES
        )

    @rule(channel=st.sampled_from(CHANNELS))
    def match(self, channel: Channel) -> None:
        """Every table answers what the list answers, whatever it has cached."""
        self.matches += 1
        assert [table.match(channel) for table in self.tables] == [self.expected(channel)] * len(
            CACHE_SIZES
        )

    @rule(member=MEMBERS)
    def mute(self, member: int) -> None:
        """A change outside of the table shows after it is told."""
        self.muted ^= {member}
        for table in self.tables:
            table.invalidate()

    @rule()
    def match_all(self) -> None:
        """Every channel is answered right, with caches in whatever state."""
        for channel in CHANNELS:
            self.match(channel)

    @invariant()
    def interest_is_right(self) -> None:
        """Interest and members are those of the list."""
        for table in self.tables:
            for channel in CHANNELS:
                expected = any(pattern.matches(channel) for pattern, _ in self.pairs)
                assert table.interested(channel) == expected
            for pattern in {pattern for pattern, _ in self.pairs}:
                expected_members = tuple(m for held, m in self.pairs if held == pattern)
                assert table.members(pattern) == expected_members

    @invariant()
    def counts_add_up(self) -> None:
        """Patterns, subscriptions and matches are counted; the cache stays within its bound."""
        for size, table in zip(CACHE_SIZES, self.tables, strict=True):
            statistics = table.statistics()
            assert statistics.patterns == len(table) == len({p for p, _ in self.pairs})
            assert statistics.subscriptions == len(self.pairs)
            assert statistics.hits + statistics.misses == self.matches
            assert statistics.cached <= min(size, len(CHANNELS))

    @invariant()
    def no_node_is_empty(self) -> None:
        """Every node but the root leads to a member, and holds nothing that is empty."""
        for table in self.tables:
            root = table._root
            assert root.is_empty() == all(pattern.is_exact for pattern, _ in self.pairs)
            for node in below(root):
                assert not node.is_empty()
                for members in [*(node.ends or {}).values(), *(node.tails or {}).values()]:
                    assert members


def below(node: _Node[int]) -> Iterator[_Node[int]]:
    """Walk the trie below a node."""
    for child in [*(node.children or {}).values(), *([node.wild] if node.wild else [])]:
        yield child
        yield from below(child)


TestSubscriptionMachine = SubscriptionMachine.TestCase
TestSubscriptionMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
