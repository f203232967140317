"""History over real sockets: nothing twice, nothing missing that nobody told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from anyio import create_task_group, fail_after

from tests.client.servers import Latch, Proxy, Server, through_proxy, wait_until
from wsbus import Position
from wsbus.client import (
    Client,
    CommandError,
    Connected,
    ConnectionLost,
    Events,
    GapCause,
    PositionLost,
    Retry,
    UnexpectedData,
    UsageError,
    connect,
    sync,
)

SOON: Final = Retry(base=0.01, cap=0.02)
LONG: Final = 30
COUNT: Final = 1000


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[tuple[Client, Proxy, Latch]]:
    """Give a client behind a network that fails, the network, and the client's changes."""
    changes = Latch()
    defaults: dict[str, Any] = {"token": "ada", "retry": SOON, "on_change": changes}
    async with through_proxy(server) as proxy, connect(proxy.url, **defaults | options) as client:
        with fail_after(LONG):
            yield client, proxy, changes


async def taken(events: Events[Any], count: int) -> list[Any]:
    """Return the data of the next events."""
    return [(await anext(events)).data for _ in range(count)]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_under_load_everything_comes_once_and_in_order(server: Server) -> None:
    """A connection that is reset in mid-stream, again and again, costs its subscriber nothing."""
    got: list[int] = []
    async with (
        connected(server) as (client, proxy, _),
        client.subscribe("chat.*", buffer=COUNT) as events,
        client.subscribe("chat.room", buffer=COUNT) as room,
        create_task_group() as tasks,
    ):

        async def publish() -> None:
            async with connect(server.url, token="eve") as other:
                for number in range(COUNT // 10):
                    ten = range(10 * number, 10 * number + 10)
                    server.publish("chat.room", *ten)
                    if number % 20 == 10:
                        proxy.cut()
                    await other.command("add", {"a": 1, "b": 2}, idempotent=True)

        tasks.start_soon(publish)
        async for event in events:
            assert event.gap is None
            got.append(event.data)
            if len(got) == COUNT:
                break
        assert got == list(range(COUNT))
        assert await taken(room, COUNT) == got


async def test_all_that_was_missed_takes_two_messages(server: Server) -> None:
    """The token, and one request that brings 100 publications of two channels, each once."""
    async with (
        connected(server) as (client, proxy, _),
        client.subscribe("chat.a") as one,
        client.subscribe("chat.b") as other,
    ):
        for events in (one, other):
            server.publish(events.pattern, 0)
            assert await taken(events, 1) == [0]
        proxy.muted = proxy.accepted
        for events in (one, other):
            server.publish(events.pattern, *range(1, 51))
        proxy.cut()
        for events in (one, other):
            assert await taken(events, 50) == [*range(1, 51)]

        async def newest() -> int:
            return server.bus.connections()[-1].messages_received

        assert server.run(newest) <= 2


async def test_what_is_not_kept_any_more_is_a_gap(server: Server) -> None:
    """More was published meanwhile than the channel keeps."""
    async with (
        connected(server) as (client, proxy, changes),
        client.subscribe("short.a") as events,
    ):
        server.publish("short.a", 1)
        assert await taken(events, 1) == [1]
        proxy.muted = proxy.accepted
        server.publish("short.a", 2, 3, 4, 5)
        proxy.cut()
        await changes.next(Connected, 2)
        await wait_until(lambda: client.subscriptions == ["short.a"])
        server.publish("short.a", 6)
        event = await anext(events)

    assert event.gap is not None
    assert event.gap.cause is GapCause.RECONNECT
    assert event.data == 6


async def test_a_subscription_begins_where_the_application_says(server: Server) -> None:
    """The replay comes first; the position of the subscription is that of what was taken."""
    async with connected(server) as (client, _, _):
        first = await client.publish("chat.room", 1)
        await client.publish("chat.room", 2)
        async with client.subscribe("chat.room", since=first.position) as events:
            assert events.position == first.position
            event = await anext(events)
            assert (event.data, event.is_latest) == (2, False)
            assert events.position == event.position
            with pytest.raises(UsageError, match="already"):
                await client.subscribe("chat.room", since=first.position).__aenter__()
        async with client.subscribe("chat.room", since=events.position) as again:
            await client.publish("chat.room", 3)
            assert await taken(again, 1) == [3]


async def test_a_position_that_is_not_kept_is_refused(server: Server) -> None:
    """Entering raises, and the client goes on."""
    async with connected(server) as (client, _, _):
        with pytest.raises(PositionLost, match="not kept"):
            await client.subscribe("chat.room", since=Position("other", 3)).__aenter__()
        async with client.subscribe("chat.room") as events:
            await client.publish("chat.room", 1)
            assert await taken(events, 1) == [1]


async def test_a_new_subscription_begins_with_the_latest(server: Server) -> None:
    """It says so, and what follows is new."""
    async with connected(server) as (client, _, _):
        await client.publish("state.a", 1)
        async with client.subscribe("state.*") as events, client.subscribe("*") as everything:
            await client.publish("state.a", 2)
            found = [await anext(events) for _ in range(2)]
            assert [(event.data, event.is_latest) for event in found] == [(1, True), (2, False)]
            found = [await anext(everything) for _ in range(2)]
            assert [(event.data, event.is_latest) for event in found] == [(1, True), (2, False)]


async def test_a_publication_has_a_position_and_comes_once(server: Server) -> None:
    """The same key publishes once."""
    async with connected(server) as (client, _, _), client.subscribe("chat.room") as events:
        first = await client.publish("chat.room", 1, idempotency_key="k")
        again = await client.publish("chat.room", 1, idempotency_key="k")
        await client.publish("chat.room", 2)

        assert first.position == again.position
        assert (first.repeated, again.repeated) == (False, True)
        assert await taken(events, 2) == [1, 2]


@pytest.mark.parametrize("channel", ["chat.room", "live"])
async def test_a_publication_in_flight_is_repeated(server: Server, channel: str) -> None:
    """Where history tells it apart, it is published once; elsewhere nobody knows."""
    outcomes: list[object] = []
    async with (
        connect(server.url, token="eve") as other,
        other.subscribe(channel) as events,
        connected(server) as (client, proxy, _),
        create_task_group() as tasks,
    ):

        async def publish() -> None:
            try:
                outcomes.append(await client.publish(channel, 1))
            except ConnectionLost as exc:
                outcomes.append(exc)

        proxy.muted = proxy.accepted
        tasks.start_soon(publish)
        assert await taken(events, 1) == [1]  # It was published, and the answer is lost.
        proxy.cut()
        await wait_until(lambda: bool(outcomes))
        await other.publish(channel, 2)
        assert await taken(events, 1) == [2]
        (outcome,) = outcomes
        assert isinstance(outcome, ConnectionLost) is (channel == "live")
        assert channel == "live" or getattr(outcome, "repeated", None) is True


async def test_history_is_read_in_pages(server: Server) -> None:
    """From the end, before a page and after one; with types, and with errors of its own."""
    async with connected(server) as (client, _, _):
        receipts = [await client.publish("chat.room", number) for number in range(5)]
        last = await client.history("chat.room", int, limit=2)
        assert [event.data for event in last.events] == [3, 4]
        assert (last.more, last.head) == (True, receipts[-1].position)
        before = await client.history("chat.room", before=last.events[0].position)
        assert [event.data for event in before.events] == [0, 1, 2]
        assert not before.more
        after = await client.history("chat.room", after=receipts[0].position, limit=1)
        assert [event.data for event in after.events] == [1]
        assert after.more

        with pytest.raises(PositionLost):
            await client.history("chat.room", after=Position("other", 1))
        with pytest.raises(CommandError, match="NO_HISTORY"):
            await client.history("live")
        with pytest.raises(UnexpectedData):
            await client.history("chat.room", str)
        with pytest.raises(UsageError, match="limit"):
            await client.history("chat.room", limit=0)


async def test_a_dialect_without_positions_has_none(server: Server) -> None:
    """``zigquant-v2`` refuses what it cannot do, before anything is sent."""
    async with connected(server, protocol="zigquant-v2") as (client, _, _):
        with pytest.raises(UsageError, match=r"wsbus\.v1"):
            client.subscribe("chat.room", since=Position("e", 1))
        with pytest.raises(UsageError, match=r"wsbus\.v1"):
            await client.history("chat.room")


def test_code_without_a_loop_has_the_same(server: Server) -> None:
    """Positions, pages and keys."""
    with sync.connect(server.url, token="ada") as client:
        first = client.publish("chat.room", 1, idempotency_key="k")
        client.publish("chat.room", 2)
        with client.subscribe("chat.room", since=first.position) as events:
            assert events.get(LONG).data == 2
            assert events.position is not None
        page = client.history("chat.room", limit=1)

    assert [event.data for event in page.events] == [2]
