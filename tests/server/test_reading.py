"""``bus.position`` and ``bus.history``: what channels keep, without a broker and with one."""

from __future__ import annotations

from typing import Any

import pytest

from wsbus import Bus, History, InvalidChannel, NotStarted, Position, PositionLost, UsageError


def numbers(page: Any) -> list[int]:
    return [event.data for event in page.events]


async def test_history_is_the_newest_events_in_the_order_of_publishing() -> None:
    """Without a position it is the newest ones; ``more`` says that older ones are kept, too."""
    bus = Bus()
    bus.family("chat.*", history=History(size=10))
    async with bus:
        receipts = [await bus.publish("chat.a", n, event="line") for n in range(5)]
        await bus.publish("chat.b", "other")
        page = await bus.history("chat.a", limit=3)
        assert numbers(page) == [2, 3, 4]
        assert page.more
        assert page.events[0].event == "line"
        assert [event.position for event in page.events] == [r.position for r in receipts[2:]]
        assert page.head == await bus.position("chat.a")
        assert not (await bus.history("chat.a")).more


async def test_history_before_and_after_a_position() -> None:
    """``before`` gives the page before another one, ``after`` the one that follows it."""
    bus = Bus()
    bus.family("chat.*", history=History(size=10))
    async with bus:
        for n in range(8):
            await bus.publish("chat.a", n)
        newest = await bus.history("chat.a", limit=3)
        before = await bus.history("chat.a", limit=3, before=newest.events[0].position)
        assert numbers(before) == [2, 3, 4]
        assert before.more
        after = await bus.history("chat.a", limit=2, after=before.events[0].position)
        assert numbers(after) == [3, 4]
        assert after.more
        assert numbers(await bus.history("chat.a", after=newest.head)) == []


async def test_a_position_that_is_not_kept_any_more_is_an_error() -> None:
    """What follows a position is told in full, or the caller learns that it cannot be."""
    bus = Bus()
    bus.family("chat.*", history=History(size=2))
    async with bus:
        start = await bus.position("chat.a")
        for n in range(3):
            await bus.publish("chat.a", n)
        with pytest.raises(PositionLost, match="not kept"):
            await bus.history("chat.a", after=start)
        with pytest.raises(PositionLost):
            await bus.history("chat.a", after=Position("another", 1))
        assert numbers(await bus.history("chat.a")) == [1, 2]


async def test_a_position_is_where_a_subscription_goes_on() -> None:
    """What is published after it is what a subscription since there gets."""
    bus = Bus()
    bus.family("chat.*", history=History())
    async with bus:
        await bus.publish("chat.a", "before")
        start = await bus.position("chat.a")
        await bus.publish("chat.a", "after")
        async with bus.subscribe("chat.a", since=start) as events:
            assert (await anext(events)).data == "after"


@pytest.mark.parametrize(
    ("channel", "options", "error"),
    [
        ("live", {}, UsageError),
        ("chat.*", {}, InvalidChannel),
        ("chat.a", {"limit": 0}, UsageError),
        ("chat.a", {"limit": 1001}, UsageError),
        ("chat.a", {"limit": True}, UsageError),
        ("chat.a", {"after": 7}, UsageError),
        ("chat.a", {"before": "x"}, UsageError),
    ],
    ids=["live", "pattern", "none", "many", "bool", "number", "text"],
)
async def test_a_wrong_question_is_an_error(
    channel: str, options: dict[str, Any], error: type[Exception]
) -> None:
    """Each wrong argument is refused, and so is a channel that keeps nothing."""
    bus = Bus()
    bus.family("chat.*", history=History())
    with pytest.raises(NotStarted):
        await bus.history("chat.a")
    async with bus:
        with pytest.raises(error):
            await bus.history(channel, **options)


async def test_what_a_slow_subscription_lost_comes_from_history_in_its_place() -> None:
    """In order and once; the consumer sees no gap."""
    bus = Bus()
    bus.family("chat.*", history=History(size=100))
    async with bus, bus.subscribe("*", max_messages=3) as events:
        for n in range(10):
            await bus.publish("chat.a", n)
        seen = [await anext(events) for _ in range(10)]
        assert [event.data for event in seen] == list(range(10))
        assert {event.gap for event in seen} == {None}
        assert events.lost == 0
        await bus.publish("chat.a", 10)
        assert (await anext(events)).data == 10


async def test_what_history_does_not_have_is_a_gap() -> None:
    """A loss that is kept in part, or stands among others, is reported, as it always is."""
    bus = Bus()
    bus.family("chat.*", history=History(size=2))
    async with bus, bus.subscribe("*", max_messages=3) as events:
        for n in range(10):
            await bus.publish("chat.a", n)
        first = await anext(events)
        assert (first.data, first.gap and first.gap.lost) == (7, 7)
        for n in range(2):
            await bus.publish("live", n)
            await bus.publish("chat.a", n)
        await anext(events)
        await anext(events)
        late = await anext(events)
        assert late.gap is not None
