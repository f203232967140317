"""Envelopes of a bounded size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.envelope import (
    Addressed,
    Dismissed,
    Turn,
    encode_item,
    largest_item,
    open_envelope,
    read_items,
)
from wsbus.core.feeds import Feed

MOST = 512


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), max_size=40))
def test_envelopes_have_at_most_so_many_bytes(items: list[tuple[str, int]]) -> None:
    """Each envelope keeps the bound, and all items of a feed come in order, none twice."""
    turn = Turn("0123456789abcdef", 2**40, 1.7e9)
    sent: dict[Feed, list[Dismissed]] = {}
    for channel, size in items:
        item = Dismissed(Addressed(), len(sent), "x" * size)
        encoded = encode_item(item)
        assert len(encoded) <= largest_item(MOST)
        turn.add(Feed("=" + channel), encoded)
        sent.setdefault(Feed("=" + channel), []).append(item)

    read: dict[Feed, list[object]] = {}
    for feed, message in turn.messages(spread=False, most=MOST):
        assert len(message) <= MOST
        envelope = open_envelope(message)
        assert envelope is not None
        read.setdefault(feed, []).extend(read_items(envelope)[0])
    assert read == sent


def test_an_item_that_is_too_large_is_alone() -> None:
    """It is not lost and not cut: only its envelope exceeds the bound."""
    turn = Turn("node", 1, 0.0)
    for size in (10, 1000, 10):
        turn.add(Feed("=a"), encode_item(Dismissed(Addressed(), 1, "x" * size)))
    sizes = [len(message) for _, message in turn.messages(spread=False, most=MOST)]
    assert [size > MOST for size in sizes] == [False, True, False]
