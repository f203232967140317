"""Sharing: the answer to one question holds those of many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import parse_channel
from wsbus.core.events import Position
from wsbus.core.families import History
from wsbus.core.history import HistoryRead, MemoryHistory
from wsbus.core.messages import Publication
from wsbus.core.patterns import parse_pattern
from wsbus.core.sharing import part_of, shared

CHANNELS = ("a.x", "a.y", "b")


@given(
    st.lists(st.sampled_from(CHANNELS), max_size=30),
    st.lists(
        st.tuples(st.sampled_from(["a.x", "a.*", "*"]), st.integers(0, 32), st.sampled_from("ef")),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_a_part_of_a_shared_answer_is_the_answer(
    published: list[str], asked: list[tuple[str, int, str]], size: int, limit: int
) -> None:
    """Whatever is told from a wider answer is what the store says when it is asked for that.

    Where it has more than the limit, or not all, the publications do not count: they are a gap.
    """
    store = MemoryHistory("e")
    for channel in published:
        store.keep(Publication(parse_channel(channel), "e", b"1", 1.0), History(size=size), 0.0)
    reads = [
        HistoryRead(parse_pattern(pattern), Position(epoch, offset), limit=limit)
        for pattern, offset, epoch in asked
    ]
    put = shared(reads)
    assert len({put[read].pattern for read in reads}) == len({read.pattern for read in reads})
    for read in reads:
        part = part_of(store.read(put[read], 0.0), put[read], read)
        if part is None:
            continue
        alone = store.read(read, 0.0)
        assert (part.head, part.is_complete) == (alone.head, alone.is_complete)
        if alone.is_complete:
            assert part.has_more == alone.has_more
            if not alone.has_more:
                assert part.publications == alone.publications


def test_a_position_with_a_tag_is_recognised_or_asked_for() -> None:
    """A tag that the answer does not hold is for the store to judge."""
    store = MemoryHistory("e")
    for _ in range(5):
        store.keep(Publication(parse_channel("a"), "e", b"1", 1.0), History(), 0.0)
    pattern = parse_pattern("a")
    plain = HistoryRead(pattern, Position("e", 1))
    tagged = HistoryRead(pattern, Position("e", 3, "turn"))
    put = shared([plain, tagged])
    page = store.read(put[plain], 0.0)
    assert part_of(page, put[plain], plain) is not None
    assert part_of(page, put[tagged], tagged) is None


def test_questions_of_other_kinds_are_put_by_themselves() -> None:
    """The latest publications, a page of history, and what has no position share nothing."""
    pattern = parse_pattern("a")
    reads = [
        HistoryRead(pattern, limit=5, newest=1, is_from_end=True),
        HistoryRead(pattern, before=Position("e", 5)),
        HistoryRead(pattern),
    ]
    assert shared(reads) == dict(zip(reads, reads, strict=True))
