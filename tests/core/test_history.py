"""The memory that keeps history, and what a new subscription gets of it, against naive models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsbus.core.actions import Outcome
from wsbus.core.channels import parse_channel
from wsbus.core.errors import UsageError
from wsbus.core.events import Position
from wsbus.core.families import Families, History
from wsbus.core.history import (
    IDEMPOTENCY_SECONDS,
    HistoryRead,
    MemoryHistory,
    offset_of,
)
from wsbus.core.messages import Publication, Since
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.recovery import (
    MAX_LATEST,
    MAX_RECOVERED,
    MAX_REPLAY,
    MAX_REPLAY_BYTES,
    Wanted,
    reads_of,
    recover,
)

NAMES: Final = ("a", "b", "a.a", "a.b", "b.a", "a.a.b")
PATTERNS: Final = ("*", "a", "b", "a.a", "a.*", "a.+", "+", "*.b", "a.*.b", "+.a", "c")


def publication(channel: str, data: bytes = b"1", number: int = 0) -> Publication:
    return Publication(parse_channel(channel), "update", data, 1e9, None, "node", number)


class Entry(NamedTuple):
    """A publication that was kept some time."""

    publication: Publication
    ends: float
    size: int


class HistoryMachine(RuleBasedStateMachine):
    """A list of everything that was ever kept, and the question which of it is still there.

    The class says: "a publication is kept until its channel has `size` newer ones, until its `ttl`
    is over, or until a bound of the whole store drops what was published longest ago".
    """

    max_channels = 100
    max_bytes = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.history = MemoryHistory("e", max_channels=self.max_channels, max_bytes=self.max_bytes)
        self.now = 0.0
        self.ever: list[Entry] = []
        self.gone: set[int] = set()
        self.keys: dict[str, tuple[float, Position]] = {}
        self.policies: dict[str, History] = {}

    @rule(
        channel=st.sampled_from(NAMES),
        size=st.sampled_from([1, 2, 3, 50]),
        ttl=st.sampled_from([1.0, 5.0, 1000.0]),
        key=st.sampled_from([None, None, "k", "l"]),
        length=st.integers(0, 30),
    )
    def keep(self, channel: str, size: int, ttl: float, key: str | None, length: int) -> None:
        """A publication has the next offset, and the one before it on its channel."""
        history = self.policies.setdefault(channel, History(size=size, ttl=ttl))
        if key is not None:
            end, position = self.keys.get(key, (0.0, None))
            expected = position if self.now < end else None
            assert self.history.repeated(key, self.now) == expected
            if expected is not None:
                return
        kept = self.history.keep(publication(channel, b"x" * length), history, self.now, key)
        offset = len(self.ever) + 1
        assert kept.position == Position("e", offset)
        before = [offset_of(e.publication) for e in self.ever if e.publication.channel == channel]
        if before and self.remembers(channel):
            assert kept.previous == Position("e", before[-1])
        self.ever.append(Entry(kept, self.now + history.ttl, history.size))
        if key is not None:
            assert kept.position is not None
            self.keys[key] = (self.now + IDEMPOTENCY_SECONDS, kept.position)
        self.look()

    def remembers(self, channel: str) -> bool:
        return True

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.5, 60.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        self.look()

    @rule()
    def expire(self) -> None:
        """To drop what is too old changes no answer."""
        self.history.expire(self.now)

    def look(self) -> None:
        """Note what is gone, by the law."""
        for channel in NAMES:
            own = [e for e in self.ever if e.publication.channel == channel]
            for index, entry in enumerate(own):
                if len(own) - index > own[-1].size or entry.ends <= self.now:
                    self.gone.add(offset_of(entry.publication))

    @rule(
        pattern=st.sampled_from(PATTERNS),
        after=st.none() | st.integers(0, 40),
        before=st.none() | st.integers(0, 40),
        limit=st.integers(1, 8),
        newest=st.none() | st.integers(1, 3),
        is_from_end=st.booleans(),
        epoch=st.sampled_from(["e", "e", "e", "other"]),
    )
    def read(
        self,
        pattern: str,
        after: int | None,
        before: int | None,
        limit: int,
        newest: int | None,
        is_from_end: bool,  # Hypothesis names it
        epoch: str,
    ) -> None:
        """An answer is what the list says."""
        parsed = parse_pattern(pattern)
        first = None if after is None else Position(epoch, after)
        last = None if before is None else Position(epoch, before)
        asked = HistoryRead(parsed, first, last, limit, newest, is_from_end)
        page = self.history.read(asked, self.now)
        head = len(self.ever)
        assert page.head == self.history.head == Position("e", head)
        is_known = after is None or (epoch == "e" and after <= head)
        start = after if after is not None and is_known else 0
        end = before if before is not None and epoch == "e" else head + 1
        match = [e.publication for e in self.ever if parsed.matches(e.publication.channel)]
        missing = [p for p in match if offset_of(p) > start and offset_of(p) in self.gone]
        there = [p for p in match if start < offset_of(p) < end and offset_of(p) not in self.gone]
        if newest is not None:
            there = [
                p
                for p in there
                if len([q for q in there if q.channel == p.channel and offset_of(q) > offset_of(p)])
                < newest
            ]
        chosen = there[-limit:] if is_from_end else there[:limit]
        assert list(page.publications) == chosen
        assert page.has_more == (len(there) > limit)
        if after is not None:
            self.check_complete(page.is_complete, is_known and not missing)
        else:
            assert page.is_complete

    def check_complete(self, is_complete: bool, expected: bool) -> None:
        """Compare what is said to be complete."""
        assert is_complete == expected

    @invariant()
    def sizes(self) -> None:
        """The bytes are those of what is kept, or of what is too old and not dropped yet."""
        there = sum(
            len(e.publication.data) for e in self.ever if offset_of(e.publication) not in self.gone
        )
        assert there <= self.history.size <= sum(len(e.publication.data) for e in self.ever)


class SmallHistoryMachine(HistoryMachine):
    """A store whose own bounds are small, too."""

    max_channels = 3
    max_bytes = 60

    def remembers(self, channel: str) -> bool:
        recent = dict.fromkeys(reversed([e.publication.channel for e in self.ever]))
        return channel in [*recent][: self.max_channels] and self.is_there(channel)

    def is_there(self, channel: str) -> bool:
        return any(
            offset_of(e.publication) not in self.gone
            for e in self.ever
            if e.publication.channel == channel
        )

    def look(self) -> None:
        """What the bounds drop is what the store says; it must be the oldest, and no more."""
        super().look()
        page = self.history.read(HistoryRead(parse_pattern("*"), limit=10_000), self.now)
        there = {offset_of(each) for each in page.publications}
        assert not there & self.gone
        dropped = {offset_of(e.publication) for e in self.ever} - there - self.gone
        if dropped and self.ever:
            assert len(self.ever) not in dropped or len(self.ever[-1].publication.data) == 0
        self.gone |= dropped
        assert len(self.history) <= self.max_channels
        newest = len(self.ever[-1].publication.data) if self.ever else 0
        assert self.history.size <= max(self.max_bytes, newest)

    def check_complete(self, is_complete: bool, expected: bool) -> None:
        """Nothing that is missing is said to be there."""
        assert expected or not is_complete


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestSmallHistory = SmallHistoryMachine.TestCase
TestSmallHistory.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_channel_that_was_forgotten_is_not_complete() -> None:
    """A channel that comes back after it was forgotten does not hide what was dropped meanwhile."""
    history, policy = MemoryHistory("e", max_channels=1), History()
    for channel in ("a", "a", "b", "a"):
        history.keep(publication(channel), policy, 0)
    exact = parse_pattern("a")
    assert not history.read(HistoryRead(exact, Position("e", 1)), 0).is_complete
    assert history.read(HistoryRead(exact, Position("e", 3)), 0).is_complete


# --- families --------------------------------------------------------------------------------

SEGMENTS: Final = st.lists(st.sampled_from(["a", "b", "*", "+"]), min_size=1, max_size=3)
ALPHABET: Final = [
    ".".join(segments) for length in (1, 2, 3, 4, 5) for segments in product("abc", repeat=length)
]
"""Every wildcard of three segments can be told from every name by one of these channels."""


@given(
    st.lists(st.tuples(SEGMENTS.map(".".join), st.booleans()), max_size=5),
    SEGMENTS.map(".".join),
)
@settings(max_examples=150, deadline=None)
def test_families_over_a_pattern(declared: list[tuple[str, bool]], text: str) -> None:
    """What is said of a pattern is true of the channels that it matches, each looked up alone."""
    families = Families()
    for name, keeps in declared:
        try:
            families.declare(name, history=History() if keeps else None)
        except UsageError:
            continue
    pattern = parse_pattern(text)
    found = [families.find(channel) for channel in ALPHABET if pattern.matches(channel)]
    over = families.over(pattern)
    assert {each.pattern.text for each in found if each is not None} <= {
        each.pattern.text for each in over
    }
    keeps_some = any(each is not None and each.history is not None for each in found)
    keeps_each = all(each is not None and each.history is not None for each in found)
    assert families.keeps_any(pattern) or not keeps_some
    assert not families.keeps_all(pattern) or keeps_each
    # A family that others hide may be named, so that the answer may be no where yes were true.
    hidden = [each for each in over if each not in found]
    if not hidden:
        assert families.keeps_any(pattern) == keeps_some
        assert families.keeps_all(pattern) == keeps_each


# --- recovery --------------------------------------------------------------------------------


def family_sets() -> Iterator[Families]:
    """Return families: all channels are kept, a part, and with latest values."""
    everything, part, latest = Families(), Families(), Families()
    everything.declare("*", history=History(size=50))
    part.declare("a.*", history=History(size=3))
    part.declare("b", history=History(size=50))
    latest.declare("a.*", history=History(size=4, latest=True), key="k")
    latest.declare("*", history=History(size=1))
    yield everything
    yield part
    yield latest


FAMILIES: Final = [*family_sets()]
PUBLISHED: Final = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([b'{"k":1}', b'{"k":2}', b"{}"])),
    max_size=30,
)


def is_dropped(entry: Publication, ever: list[Publication], families: Families) -> bool:
    """Tell whether so many came after it that its channel does not keep it."""
    history = families.history_of(entry.channel)
    assert history is not None
    own = [e for e in ever if e.channel == entry.channel and offset_of(e) > offset_of(entry)]
    return len(own) >= history.size


def check_outcomes(
    wanted: list[Wanted], outcomes: Sequence[Outcome], families: Families, ever: list[Publication]
) -> dict[str, int]:
    """Check the outcome of each pattern; return the marks that its client keeps."""
    head, received = Position("e", len(ever)), dict[str, int]()
    for (pattern, since), outcome in zip(wanted, outcomes, strict=True):
        if not families.keeps_any(pattern):
            assert outcome == Outcome(is_recovered=None if since is None else False)
            continue
        if since is None:
            assert outcome == Outcome(position=head)
            continue
        at = since.position.offset
        missed = [e for e in ever if pattern.matches(e.channel) and offset_of(e) > at]
        missed = [e for e in missed if families.history_of(e.channel) is not None]
        is_whole = at <= head.offset and not any(is_dropped(e, ever, families) for e in missed)
        assert outcome.is_recovered == (is_whole and families.keeps_all(pattern))
        assert outcome.position == (since.position if is_whole else head)
        assert outcome.is_replayed == is_whole
        is_quiet = is_whole and not missed and at < head.offset
        assert outcome.until == (head if is_quiet else None)
        if is_whole:
            received[pattern.text] = at
    return received


def latest_of(ever: list[Publication], fresh: list[Pattern], families: Families) -> set[int]:
    """Return the latest of each channel, or of each key, that new subscriptions begin with."""
    latest: dict[object, int] = {}
    for each in ever:
        family = families.find(each.channel)
        assert family is not None
        assert family.history is not None
        is_wanted = family.history.gives_latest and any(p.matches(each.channel) for p in fresh)
        if is_wanted and not is_dropped(each, ever, families):
            key = None if family.key is None else family.key_in(each.data)
            latest[each.channel, key] = offset_of(each)
    return {*latest.values()}


@given(
    st.sampled_from(FAMILIES),
    PUBLISHED,
    st.dictionaries(st.sampled_from(PATTERNS), st.none() | st.integers(0, 32), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_recovery(
    families: Families, published: list[tuple[str, bytes]], names: dict[str, int | None]
) -> None:
    """A client that knows what it has got is given the rest, each once and in order, or a gap."""
    store = MemoryHistory("e")
    ever: list[Publication] = []
    for channel, data in published:
        policy = families.history_of(channel)
        if policy is not None:
            ever.append(store.keep(publication(channel, data), policy, 0))
    wanted = [
        Wanted(parse_pattern(name), None if at is None else Since(Position("e", at)))
        for name, at in names.items()
    ]
    pages = [store.read(read, 0) for read in reads_of(wanted, families)]
    brought = recover(wanted, pages, families, store.head)
    replay = [offset_of(each) for each in brought.replay]
    latest = [offset_of(each) for each in brought.latest]
    assert replay == sorted(set(replay))
    assert latest == sorted(set(latest))
    assert not {*replay} & {*latest}
    received = check_outcomes(wanted, brought.outcomes, families, ever)
    # What a subscriber of the client lacks: publications after a mark of a pattern that matches.
    lacks = [
        offset_of(each)
        for each in ever
        if (
            marks := [
                at for name, at in received.items() if parse_pattern(name).matches(each.channel)
            ]
        )
        and offset_of(each) > min(marks)
    ]
    assert replay == lacks
    # The latest of each channel, or of each key, of names that begin anew.
    fresh = [
        pattern
        for (pattern, _), outcome in zip(wanted, brought.outcomes, strict=True)
        if outcome.position is not None and pattern.text not in received
    ]
    assert latest == sorted(latest_of(ever, fresh, families) - {*replay})


@pytest.mark.parametrize("missed", [MAX_REPLAY, MAX_REPLAY + 1])
def test_more_than_the_most_is_a_gap(missed: int) -> None:
    """Up to the bound all is replayed; above it nothing is, and the position is the head."""
    families = Families()
    families.declare("a", history=History(size=1000))
    store, policy = MemoryHistory("e"), History(size=1000)
    for _ in range(missed):
        store.keep(publication("a"), policy, 0)
    wanted = [Wanted(parse_pattern("a"), Since(Position("e", 0)))]
    pages = [store.read(read, 0) for read in reads_of(wanted, families)]
    brought = recover(wanted, pages, families, store.head)
    [outcome] = brought.outcomes
    assert outcome.is_recovered == (missed <= MAX_REPLAY)
    assert len(brought.replay) == (missed if outcome.is_recovered else 0)
    assert outcome.position == (Position("e", 0) if outcome.is_recovered else store.head)


def test_only_so_many_patterns_of_a_request_are_recovered() -> None:
    """And only so many bytes: the rest begins at the head, and is a gap."""
    families = Families()
    families.declare("*", history=History(size=10))
    store, policy = MemoryHistory("e"), History(size=10)
    names = [f"a.{number}" for number in range(MAX_RECOVERED + 1)]
    for name in names:
        store.keep(publication(name), policy, 0)
    starts = [0] * MAX_RECOVERED + [1]
    wanted = [
        Wanted(parse_pattern(name), Since(Position("e", start)))
        for name, start in zip(names, starts, strict=True)
    ]
    pages = [store.read(read, 0) for read in reads_of(wanted, families)]
    assert len(pages) == MAX_RECOVERED
    brought = recover(wanted, pages, families, store.head)
    assert [each.is_recovered for each in brought.outcomes] == [True] * MAX_RECOVERED + [False]
    assert len(brought.replay) == MAX_RECOVERED

    # With one position for all of them they share the bound instead.
    wanted = [Wanted(parse_pattern(name), Since(Position("e", 0))) for name in names]
    reads = reads_of(wanted, families)
    assert sum(read.limit or 0 for read in reads) <= MAX_RECOVERED * MAX_REPLAY
    pages = [store.read(read, 0) for read in reads]
    brought = recover(wanted, pages, families, store.head)
    assert all(each.is_recovered for each in brought.outcomes)
    assert len(brought.replay) == len(names)

    large = b'"' + b"x" * (MAX_REPLAY_BYTES // 2) + b'"'
    for name in ("b.1", "b.2"):
        store.keep(publication(name, large), policy, 0)
    wanted = [Wanted(parse_pattern(name), Since(Position("e", 0))) for name in ("b.1", "b.2")]
    pages = [store.read(read, 0) for read in reads_of(wanted, families)]
    brought = recover(wanted, pages, families, store.head)
    assert [each.is_recovered for each in brought.outcomes] == [True, False]
    assert [each.position for each in brought.outcomes] == [Position("e", 0), store.head]


def test_latest_values_are_bounded() -> None:
    """A pattern begins with the newest of its channels, at most so many."""
    families = Families()
    families.declare("*", history=History(size=1))
    store = MemoryHistory("e")
    for number in range(MAX_LATEST + 5):
        store.keep(publication(f"a.{number}"), History(size=1), 0)
    wanted = [Wanted(parse_pattern("*"))]
    pages = [store.read(read, 0) for read in reads_of(wanted, families)]
    brought = recover(wanted, pages, families, store.head)
    offsets = [offset_of(each) for each in brought.latest]
    assert offsets == [*range(6, MAX_LATEST + 6)]
