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
        self.table = SubscriptionTable[str, tuple[str, ...]](
            tuple, cache_size=cache_size, narrow=self.narrow
        )

    def narrow(self, channel: Channel, members: tuple[str, ...]) -> tuple[str, ...]:
        """Note the search and take nobody out."""
        self.searched.append(channel)
        return members

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


def test_an_empty_arrangement_is_kept() -> None:
    """An arrangement that looks like nothing is an answer like any other."""
    table = SubscriptionTable[str, tuple[str, ...]](lambda _: ())
    table.add(parse_pattern("a"), "x")
    assert [table.match(parse_channel("a")) for _ in range(2)] == [(), ()]
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


def test_ten_thousand_patterns_leave_nothing_behind() -> None:
    """A table that was filled and emptied is as empty as a new one, and finds few among many."""
    t = Tables()
    shapes = ("grid.{}.*", "grid.*.e{}", "grid.{}.status", "backtest.+.b{}.x")
    pairs = [shape.format(i) + f"={i}" for i in range(2_500) for shape in shapes]
    assert all(t.add(*pairs))
    assert len(t.table) == 10_000
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


class Edits:
    """A table that tells how its answers were made."""

    def __init__(self, cache_places: int = 1 << 19) -> None:
        self.arranged = 0
        self.edits: list[tuple[list[str], list[str]]] = []
        self.table = SubscriptionTable[str, tuple[str, ...]](
            self.arrange, cache_places=cache_places, edit=self.edit
        )

    def arrange(self, members: Collection[str]) -> tuple[str, ...]:
        """Count."""
        self.arranged += 1
        return tuple(members)

    def edit(
        self, base: tuple[str, ...], come: Collection[str], gone: Collection[str]
    ) -> tuple[str, ...]:
        """Note what changed."""
        self.edits.append((list(come), list(gone)))
        return tuple(dict.fromkeys([m for m in base if m not in gone] + list(come)))

    def match(self, channel: str) -> tuple[str, ...]:
        """Match by text."""
        return self.table.match(parse_channel(channel))


def test_a_change_that_does_not_match_costs_no_search() -> None:
    """A client that subscribes elsewhere, by a wildcard or not, leaves an answer as it is."""
    t = Edits()
    t.table.add(parse_pattern("hot.*"), "x")
    answer = t.match("hot.a")
    for text in ("nobody.*", "*.b", "hot.a.*", "cold", "+.+.+"):
        t.table.add(parse_pattern(text), "y")
        assert t.match("hot.a") is answer
        t.table.discard(parse_pattern(text), "y")
        assert t.match("hot.a") is answer
    assert (t.arranged, t.edits, t.table.statistics().misses) == (1, [], 1)


@pytest.mark.parametrize("text", ["hot.*", "*.a", "+.a", "hot.a", "*", "+.+"])
def test_a_change_that_matches_edits_the_answer(text: str) -> None:
    """A member that comes or goes is put in or taken out; the others are not arranged again."""
    t = Edits()
    t.table.add(parse_pattern("hot.*"), "x")
    assert t.match("hot.a") == ("x",)
    t.table.add(parse_pattern(text), "y")
    assert t.match("hot.a") == ("x", "y")
    t.table.discard(parse_pattern(text), "y")
    assert t.match("hot.a") == ("x",)
    assert t.arranged == 1
    assert t.edits == [(["y"], []), ([], ["y"])]


def test_a_member_stays_while_one_of_its_patterns_matches() -> None:
    """To give up one of several patterns that match changes nothing."""
    t = Edits()
    for text in ("hot.*", "hot.a", "*.a"):
        t.table.add(parse_pattern(text), "x")
    for text in ("hot.*", "hot.a"):
        assert t.match("hot.a") == ("x",)
        t.table.discard(parse_pattern(text), "x")
    assert t.match("hot.a") == ("x",)
    t.table.discard(parse_pattern("*.a"), "x")
    assert t.match("hot.a") == ()


@pytest.mark.parametrize("text", ["*.elsewhere{}", "hot.a"])
def test_an_answer_that_is_far_behind_is_made_anew(text: str) -> None:
    """After more changes than it is worth to follow, a search tells the truth."""
    t = Edits()
    t.table.add(parse_pattern("hot.*"), "x")
    t.match("hot.a")
    for i in range(300):
        t.table.add(parse_pattern(text.format(i)), f"y{i}")
    t.table.add(parse_pattern("hot.+"), "z")
    expected = {"x", "z"} | ({f"y{i}" for i in range(300)} if text == "hot.a" else set())
    assert set(t.match("hot.a")) == expected
    assert t.arranged == 2


def test_a_wildcard_elsewhere_leaves_answers_alone() -> None:
    """Only channels that begin as the pattern does are looked at again."""
    t = Edits()
    t.table.add(parse_pattern("hot.*"), "x")
    t.table.add(parse_pattern("cold.a"), "y")
    t.match("hot.a")
    t.match("cold.a")
    for _ in range(200):
        t.table.add(parse_pattern("cold.*"), "z")
        t.table.discard(parse_pattern("cold.*"), "z")
        t.table.settle()
    assert t.table._cache.holds(parse_channel("hot.a"))
    assert not t.table._cache.holds(parse_channel("cold.a"))
    assert (t.match("hot.a"), t.match("cold.a")) == (("x",), ("y",))
    t.table.add(parse_pattern("+.a"), "z")
    assert set(t.match("hot.a")) == {"x", "z"}


@pytest.mark.parametrize("text", ["hot.*", "*.a", "*", "+.+"])
def test_a_member_that_comes_and_goes_again_and_again_costs_no_search(text: str) -> None:
    """Both answers, with it and without it, are at hand after a few times, also past a sweep."""
    t = Edits()
    pattern = parse_pattern(text)
    t.table.add(parse_pattern("hot.a"), "x")
    t.table.add(parse_pattern("cold.a"), "x")
    answers = []
    for turn in range(400):
        t.table.add(pattern, "y")
        answers.append(t.match("hot.a"))
        t.table.discard(pattern, "y")
        answers.append(t.match("hot.a"))
        t.match("cold.a")
        if turn % 100 == 50:
            t.table.settle()
    assert set(answers[::2]) == {("x", "y")}
    assert set(answers[1::2]) == {("x",)}
    assert t.table.statistics().misses < 12


def test_a_change_of_another_member_shows_in_answers_that_were_set_aside() -> None:
    """While one member comes and goes, others are put in and taken out of both answers."""
    t = Edits()
    flipping = parse_pattern("hot.*")
    t.table.add(parse_pattern("hot.a"), "x")
    for turn in range(40):
        t.table.add(flipping, "y")
        assert set(t.match("hot.a")) == {"x", "y"} | ({"z"} if turn % 8 > 3 else set())
        text = "hot.a" if turn % 16 < 8 else "*.a"
        if turn % 8 in {3, 7}:
            change = t.table.add if turn % 8 == 3 else t.table.discard
            change(parse_pattern(text), "z")
        t.table.discard(flipping, "y")
        assert set(t.match("hot.a")) == {"x"} | ({"z"} if turn % 8 in {3, 4, 5, 6} else set())


def test_an_answer_that_only_was_set_aside_hears_of_exact_changes() -> None:
    """A channel that is not at hand now does not come back as it was before a sweep."""
    t = Edits()
    flipping = parse_pattern("hot.*")
    t.table.add(parse_pattern("hot.a"), "x")
    t.table.add(parse_pattern("hot.b"), "x")
    for _ in range(3):
        t.table.add(flipping, "y")
        assert t.match("hot.a") == ("x", "y")
        t.table.discard(flipping, "y")
        assert t.match("hot.b") == ("x",)
    t.table.settle()
    t.table.add(parse_pattern("hot.a"), "z")
    t.table.add(flipping, "y")
    assert set(t.match("hot.a")) == {"x", "y", "z"}


def test_answers_that_were_set_aside_are_let_go() -> None:
    """Two sweeps after the last change no answer holds a member that is gone."""
    t = Edits()
    t.table.add(parse_pattern("hot.a"), "x")
    for _ in range(4):
        t.table.add(parse_pattern("hot.*"), "y")
        t.match("hot.a")
        t.table.discard(parse_pattern("hot.*"), "y")
        t.match("hot.a")
    assert t.table._cache.places == 3
    t.table.settle()
    t.table.settle()
    assert t.table._cache.places == 1


def test_channels_that_the_same_patterns_match_share_an_answer() -> None:
    """Memory grows with the different answers, not with channels times members."""
    t = Edits()
    for i in range(500):
        t.table.add(parse_pattern("chat.*"), f"x{i}")
    answers = [t.match(f"chat.{i}") for i in range(400)]
    assert {id(answer) for answer in answers} == {id(answers[0])}
    assert (t.arranged, t.table._cache.places) == (1, 500)
    t.table.discard(parse_pattern("chat.*"), "x7")
    assert len({id(t.match(f"chat.{i}")) for i in range(400)}) == 1
    assert (t.arranged, t.table._cache.places) == (1, 499)


def test_the_cache_is_bounded_by_members_too() -> None:
    """Answers that differ from channel to channel take up a bounded number of places."""
    t = Edits(cache_places=1000)
    for i in range(100):
        t.table.add(parse_pattern("*"), f"x{i}")
    for i in range(50):
        t.table.add(parse_pattern(f"a.{i}.*"), f"y{i}")
    for i in range(50):
        assert len(t.match(f"a.{i}.b")) == 101
        assert t.table._cache.places <= 1000 + 2 * 101
    assert t.table.statistics().cached >= 5


def test_a_hostile_table_is_searched_in_few_steps() -> None:
    """Every spelling of wildcards in the trie leads a search to at most 463 nodes."""
    t = Tables(cache_size=0)
    segments = ["a"] * 16
    for length in range(1, 17):
        for head in product("a*", repeat=min(length, 5)):
            t.add(".".join([*head, *segments[len(head) : length]]) + "=x")
    visited = 0
    level = [t.table._root]
    for _ in segments:
        visited += len(level)
        level = [
            child
            for node in level
            for child in (node.wild, (node.children or {}).get("a"))
            if child is not None
        ]
    assert visited + len(level) <= 463
    assert t.match(".".join(segments)) == ("x",)


def test_deep_patterns_against_enumeration() -> None:
    """Patterns with wildcards far down are found, also after others have come and gone."""
    t = Tables(cache_size=0)
    texts = [".".join([*"aaaaa", *p]) for n in (2, 3) for p in product("ab*+", repeat=n)]
    channels = [".".join([*"aaaaa", *c]) for n in range(1, 5) for c in product("ab", repeat=n)]
    for texts_now in (texts, texts[::2], texts[1::3]):
        t.add(*(f"{text}={text}" for text in texts_now))
        for channel in channels:
            expected = {text for text in texts_now if parse_pattern(text).matches(channel)}
            assert set(t.match(channel)) == expected
            assert len(t.match(channel)) == len(expected)
        t.discard(*(f"{text}={text}" for text in texts_now))
    assert len(t.table) == len(t.table._deep) == 0


def test_deep_patterns_that_come_and_go_take_up_no_room() -> None:
    """The place of a pattern that is gone is used again in the end."""
    t = Tables(cache_size=4)
    t.add("a.b.c.d.e.*.g=stays")
    for i in range(10_000):
        t.add(f"a.b.c.d.e.*.f{i}=x")
        assert t.discard(f"a.b.c.d.e.*.f{i}=x") == [True]
    assert t.match("a.b.c.d.e.f.g") == ("stays",)
    (block,) = t.table._deep._blocks
    assert block.used < 4096
    assert block.fits[7].bit_length() <= 4096
