"""The subscription table: interest, order, cache, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product

import pytest

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.patterns import parse_pattern
from wsbus.core.subscriptions import SubscriptionTable, TableStatistics, _Node


class Tables:
    """A table of names, and the searches it made."""

    def __init__(self, cache_size: int = 1024) -> None:
        self.searched: list[str] = []
        self.table = SubscriptionTable[str, tuple[str, ...]](self.arrange, cache_size=cache_size)

    def arrange(self, channel: Channel, members: Collection[str]) -> tuple[str, ...]:
        """Note the search and keep the order."""
        self.searched.append(channel)
        return tuple(members)

    def add(self, *pairs: str) -> list[bool]:
        """Add ``pattern=member`` pairs; tell which were first."""
        split = [pair.split("=") for pair in pairs]
        return [self.table.add(parse_pattern(pattern), member) for pattern, member in split]

    def discard(self, *pairs: str) -> list[bool]:
        """Discard ``pattern=member`` pairs; tell which were last."""
        split = [pair.split("=") for pair in pairs]
        return [self.table.discard(parse_pattern(pattern), member) for pattern, member in split]

    def match(self, channel: str) -> tuple[str, ...]:
        """Match by text."""
        return self.table.match(parse_channel(channel))


def nodes(node: _Node[str]) -> Iterator[_Node[str]]:
    """Walk the trie."""
    yield node
    for child in [*(node.children or {}).values(), *([node.wild] if node.wild else [])]:
        yield from nodes(child)


def test_first_and_last_interest_are_told_per_pattern() -> None:
    """Only the first add and the last discard of a pattern are told, whoever does them."""
    t = Tables()
    for pattern in ("a.b", "a.*", "a.+.c", "*"):
        assert t.add(f"{pattern}=x", f"{pattern}=x", f"{pattern}=y") == [True, False, False]
        assert t.discard(f"{pattern}=x", f"{pattern}=x", f"{pattern}=y") == [False, False, True]
        assert t.discard(f"{pattern}=y") == [False]


def test_patterns_that_mean_the_same_are_two() -> None:
    """Giving up one spelling of a wildcard leaves the other in force."""
    t = Tables()
    assert t.add("a.*.c=x", "a.+.c=x") == [True, True]
    assert len(t.table) == 2
    assert t.discard("a.*.c=x") == [True]
    assert t.match("a.b.c") == ("x",)
    assert t.discard("a.+.c=x") == [True]
    assert t.match("a.b.c") == ()


def test_overlapping_patterns_give_a_member_once() -> None:
    """A member stands once in an answer, at the place of its first matching subscription."""
    t = Tables()
    t.add("*=z", "a.*=y", "a.b=x", "a.+=y", "+.b=z", "a.b=z", "*.b=w", "c=v")
    assert t.match("a.b") == ("z", "y", "x", "w")


def test_the_order_is_that_of_subscriptions_across_patterns() -> None:
    """Which of several patterns a member matches by does not change its turn."""
    t = Tables()
    t.add("a.b=1", "a.*=2", "a.b=3", "*=4", "a.b=5")
    assert t.match("a.b") == ("1", "2", "3", "4", "5")
    t.discard("a.*=2")
    t.add("a.b=2")
    assert t.match("a.b") == ("1", "3", "4", "5", "2")


def test_members_are_those_of_exactly_this_pattern() -> None:
    """Members of a pattern are listed in order, without those of patterns that overlap."""
    t = Tables()
    t.add("a.*=2", "a.*=1", "a.b=3", "*=4")
    assert t.table.members(parse_pattern("a.*")) == ("2", "1")
    assert t.table.members(parse_pattern("a.+")) == ()


def test_a_hit_is_not_arranged_again() -> None:
    """A channel whose interest has not changed is searched once."""
    t = Tables()
    t.add("a.*=x", "a.b=y")
    assert [t.match("a.b") for _ in range(3)] == [("x", "y")] * 3
    assert t.searched == ["a.b"]
    assert t.table.statistics() == TableStatistics(
        patterns=2, subscriptions=2, cached=1, hits=2, misses=1
    )


@pytest.mark.parametrize("kept", [None, (), 0])
def test_any_arrangement_is_kept(kept: object) -> None:
    """An arrangement that looks like nothing is an answer like any other."""
    table = SubscriptionTable[str, object](lambda *_: kept)
    table.add(parse_pattern("a"), "x")
    assert [table.match(parse_channel("a")) for _ in range(2)] == [kept, kept]
    assert table.statistics().hits == 1


def test_an_exact_change_drops_just_its_channel() -> None:
    """Exact interest that comes or goes leaves every other answer in the cache."""
    t = Tables()
    t.add("a=x", "b=x")
    for change in (t.add, t.discard):
        t.match("a")
        t.match("b")
        t.searched.clear()
        change("a=y")
        t.match("a")
        t.match("b")
        assert t.searched == ["a"]


def test_an_exact_change_drops_its_channel_from_the_older_generation_too() -> None:
    """An answer that is about to be forgotten is not given after interest has changed."""
    t = Tables(cache_size=2)
    t.add("*=x")
    for change, expected in ((t.add, ("x", "y")), (t.discard, ("x",))):
        t.match("a")
        t.match("b")
        change("a=y")
        assert t.match("a") == expected


def test_a_wildcard_change_drops_the_answers_it_may_touch() -> None:
    """Interest by a wildcard shows at once on channels that were cached."""
    t = Tables()
    t.add("a.b=x")
    assert t.match("a.b") == ("x",)
    t.add("a.*=y")
    assert t.match("a.b") == ("x", "y")
    t.discard("a.*=y")
    assert t.match("a.b") == ("x",)


def test_changes_that_change_nothing_keep_the_cache() -> None:
    """A repeated add and an unknown discard drop nothing."""
    t = Tables()
    t.add("a.*=x")
    t.match("a.b")
    t.add("a.*=x")
    t.discard("a.*=y", "b.*=x")
    t.match("a.b")
    assert t.searched == ["a.b"]


def test_channels_without_members_are_not_kept() -> None:
    """Unknown names do not displace busy ones."""
    t = Tables(cache_size=4)
    t.add("a=x")
    t.match("a")
    for i in range(100):
        assert t.match(f"unknown.{i}") == ()
    t.match("a")
    assert t.searched.count("a") == 1
    assert t.table.statistics().cached == 1


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10])
def test_the_cache_is_bounded_and_keeps_what_is_used(size: int) -> None:
    """Never more than the bound is kept; a channel used all the time is searched once."""
    t = Tables(cache_size=size)
    t.add("*=x")
    for i in range(100):
        t.match("busy")
        t.match(f"rare.{i}")
        assert t.table.statistics().cached <= size
    assert (t.searched.count("busy") == 1) == (size >= 2)


def test_invalidate_searches_again() -> None:
    """After invalidate every channel is arranged anew."""
    t = Tables()
    t.add("*=x")
    t.match("a")
    t.table.invalidate()
    assert t.table.statistics().cached == 0
    t.match("a")
    assert t.searched == ["a", "a"]


def test_interest_is_known_without_arranging() -> None:
    """Asking whether anybody is interested neither arranges nor counts."""
    t = Tables(cache_size=2)
    t.add("a.*=x", "b=y")
    channels = list(map(parse_channel, ("a.b", "b", "a", "c")))
    assert [t.table.interested(c) for c in channels] == [True, True, False, False]
    assert t.searched == []
    t.match("a.b")
    t.match("b")
    assert [t.table.interested(c) for c in channels] == [True, True, False, False]
    assert t.table.statistics().misses == 2


def test_small_tables_against_enumeration() -> None:
    """With every small pattern in the table, every small channel finds those that match it."""
    t = Tables(cache_size=0)
    patterns = [".".join(p) for n in (1, 2, 3) for p in product("ab*+", repeat=n)]
    t.add(*(f"{pattern}={pattern}" for pattern in patterns))
    for channel in (".".join(c) for n in range(1, 5) for c in product("abc", repeat=n)):
        expected = tuple(p for p in patterns if parse_pattern(p).matches(channel))
        assert t.match(channel) == expected


def test_a_hundred_thousand_patterns_leave_nothing_behind() -> None:
    """A table that was filled and emptied is as empty as a new one, and finds few among many."""
    t = Tables()
    shapes = ("grid.{}.*", "grid.*.e{}", "grid.{}.status", "backtest.+.b{}.x")
    pairs = [shape.format(i) + f"={i}" for i in range(25_000) for shape in shapes]
    assert all(t.add(*pairs))
    assert len(t.table) == 100_000
    assert t.match("grid.7.e9") == ("7", "9")
    assert t.match("grid.7.status") == ("7",)
    assert t.match("backtest.any.b3.x") == ("3",)
    assert all(t.discard(*reversed(pairs)))
    assert t.table.statistics() == TableStatistics(
        patterns=0, subscriptions=0, cached=0, hits=0, misses=3
    )
    assert len(list(nodes(t.table._root))) == 1
    assert t.table._root.is_empty()


def test_pruning_spares_what_others_use() -> None:
    """Nodes go with the last pattern through them, and no sooner."""
    t = Tables()
    t.add("a.*.c.*=x", "a.*.c=x", "a.*=x")
    for pair, left in [("a.*.c.*=x", 4), ("a.*.c=x", 2), ("a.*=x", 1)]:
        t.discard(pair)
        assert len(list(nodes(t.table._root))) == left
    t.add("a.*.c=x", "a.*.c.d.+=x")
    t.discard("a.*.c=x")
    assert t.match("a.b.c.d.e") == ("x",)


def test_many_wildcards_in_one_pattern() -> None:
    """A pattern of sixteen wildcards is found by sixteen segments and by no fewer."""
    t = Tables()
    t.add(".".join("+" * 16) + "=x", ".".join("*" * 16) + "=y")
    assert t.match(".".join("abcdefghijklmnop")) == ("x", "y")
    assert t.match(".".join("abcdefghijklmno")) == ()
