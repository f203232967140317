from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.feeds import ALL_NODES, Cover, Feed, feed_of, feeds_around, is_prefix, is_within
from wsbus.core.patterns import Pattern, parse_pattern

SEGMENTS = ("a", "b", "ab")
# Every channel of up to two segments, and one longer for each feed that holds longer ones.
CHANNELS = [".".join(parts) for size in (1, 2, 3) for parts in product(SEGMENTS, repeat=size)]
NAMES = [name for name in CHANNELS if name.count(".") < 2]
FEEDS = [Feed("~"), *[Feed(f"~{name}.") for name in NAMES], *[Feed("=" + name) for name in NAMES]]


def content(feed: Feed) -> frozenset[str]:
    """Return the channels of a feed, from what its type says of it."""
    if feed.startswith("="):
        return frozenset([feed[1:]])
    return frozenset([name for name in CHANNELS if name.startswith(feed[1:])])


CONTENT = {feed: content(feed) for feed in FEEDS}

feeds = st.sampled_from([ALL_NODES, *FEEDS])
segments = st.sampled_from([*SEGMENTS, "*", "+"])
patterns = st.lists(segments, min_size=1, max_size=4).map(".".join).map(parse_pattern)


def test_the_feeds_around_a_feed_hold_all_of_it() -> None:
    """The feeds around one are all prefix feeds with everything in it, the widest first."""
    for feed in FEEDS:
        around = feeds_around(feed)
        wider = {f for f in FEEDS if is_prefix(f) and f != feed and CONTENT[feed] <= CONTENT[f]}
        assert {*around} == wider
        sizes = [len(CONTENT[f]) for f in around]
        assert sizes == sorted(sizes, reverse=True)
    assert feeds_around(ALL_NODES) == ()


@given(patterns)
def test_a_feed_brings_what_its_pattern_matches(pattern: Pattern) -> None:
    """Whatever a pattern matches is in its feed, which is that of its literal start."""
    feed = feed_of(pattern)
    matched = {name for name in CHANNELS if pattern.matches(name)}
    assert {name for name in matched if is_within(Feed("=" + name), {feed})} == matched
    if pattern.is_exact:
        assert feed == "=" + pattern.text
    else:
        literal = pattern.text.replace("+", "*").partition("*")[0]
        assert feed == "~" + literal


@given(feeds, st.sets(feeds))
def test_within_is_within_one_of_them(feed: Feed, others: set[Feed]) -> None:
    """A feed is within others if one of them holds all of its channels."""
    is_held = feed in others or any(
        is_prefix(other) and CONTENT[feed] <= CONTENT[other]
        for other in others
        if ALL_NODES not in {feed, other}
    )
    assert is_within(feed, others) == is_held


@given(st.lists(st.tuples(feeds, st.booleans()), max_size=60))
def test_a_cover_wants_the_widest(steps: list[tuple[Feed, bool]]) -> None:
    """``wanted`` is what was added and not taken back as often, but those within another."""
    cover, counts = Cover(), Counter[Feed]()
    for feed, is_added in steps:
        if is_added or not counts:
            cover.add(feed)
            counts[feed] += 1
        else:
            gone = feed if feed in counts else min(counts)
            cover.discard(gone)
            counts -= Counter([gone])
        assert cover.wanted == {feed for feed in counts if not is_within(feed, {*counts} - {feed})}
