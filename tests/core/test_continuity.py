"""Continuity: copies, holes, and what comes too late, told apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.continuity import Continuity, Verdict
from wsbus.core.envelope import Kept, Published
from wsbus.core.events import Position
from wsbus.core.feeds import Feed

FEEDS = {Feed("=a"), Feed("~b.")}
CHANNELS = ["a", "b.x", "b.y"]


def kept(channel: str, offset: int, previous: int = 0, epoch: str = "e") -> Kept:
    return Kept(Published(1, channel, "event", b"1", 1.0), "node", epoch, offset, previous)


def begun(offset: int = 10) -> Continuity:
    continuity = Continuity()
    continuity.restart(Position("e", offset), FEEDS)
    return continuity


@given(
    st.lists(st.tuples(st.sampled_from(CHANNELS), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 3),
)
def test_each_hole_is_seen_with_the_next_item(
    script: list[tuple[str, bool, bool]], most: int
) -> None:
    """Of a store's items some are lost, some come twice: the next one on a channel tells.

    It is so, too, for a channel that was forgotten, unless others of its age were: a hole may then
    be missed by what is remembered of them, and nothing is seen that is not there.
    """
    continuity = Continuity(max_channels=most)
    continuity.restart(Position("e", 0), FEEDS)
    last: dict[str, int] = {}
    lost: set[str] = set()
    for offset, (channel, is_lost, is_doubled) in enumerate(script, 1):
        item = kept(channel, offset, last.get(channel, 0))
        last[channel] = offset
        if is_lost:
            lost.add(channel)
            continue
        verdict = continuity.take(item)
        if channel not in lost:
            assert verdict is Verdict.NEXT
        elif most == len(CHANNELS):
            assert verdict is Verdict.HOLE
        lost.discard(channel)
        if is_doubled:
            assert continuity.take(item) is Verdict.COPY
        assert continuity.mark == Position("e", offset)


def test_what_comes_behind_later_ones_is_late() -> None:
    """To deliver it would break the order; it is told instead, once."""
    continuity = begun()
    assert continuity.take(kept("a", 12)) is Verdict.NEXT
    assert continuity.take(kept("b.x", 11)) is Verdict.LATE
    assert continuity.take(kept("b.x", 11)) is Verdict.COPY
    assert continuity.take(kept("b.x", 13, 11)) is Verdict.NEXT


def test_a_new_epoch_is_seen_and_begins_anew() -> None:
    """Its offsets may be smaller; nothing of the old one is compared with them."""
    continuity = begun()
    assert continuity.take(kept("a", 11)) is Verdict.NEXT
    assert continuity.take(kept("a", 1, epoch="f")) is Verdict.ANEW
    assert continuity.take(kept("a", 2, 1, epoch="f")) is Verdict.NEXT


def test_what_is_followed_later_is_covered_once_that_is_confirmed() -> None:
    """Before, a channel may have been published on while nobody here followed it."""
    continuity = begun()
    assert not continuity.covers(Feed("=c"))
    assert continuity.take(kept("c", 13, 12)) is Verdict.NEXT
    continuity.confirm(Position("e", 20), {*FEEDS, Feed("=c")})
    assert continuity.covers(Feed("=c"))
    assert continuity.covers(Feed("=b.x"))
    assert continuity.mark == Position("e", 20)
    assert continuity.take(kept("b.x", 23, 22)) is Verdict.HOLE


def test_what_is_not_followed_any_more_is_forgotten() -> None:
    """What was published meanwhile is no hole, unless another feed has brought it."""
    continuity = begun()
    continuity.take(kept("a", 11))
    continuity.take(kept("b.x", 12))
    continuity.forget([Feed("=a"), Feed("=b.x")], {Feed("~b.")})
    assert not continuity.covers(Feed("=a"))
    assert continuity.take(kept("a", 20, 15)) is Verdict.NEXT
    assert continuity.take(kept("b.x", 21, 16)) is Verdict.HOLE
