"""What expectations accept, and what they say where they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from wsbus import Bus
from wsbus.brokers import MemoryBroker
from wsbus.client import Events
from wsbus.server.subscription import Subscription
from wsbus.testing import ANYTHING, client, expect

Source = Events[object] | Subscription[object]


@asynccontextmanager
async def subscribed(kind: str, pattern: str = "a.*") -> AsyncIterator[tuple[Bus, Source]]:
    """Give a running bus and a subscription: of a client, or inside the process."""
    async with Bus() as bus:
        if kind == "local":
            async with bus.subscribe(pattern) as local:
                yield bus, local
        else:
            async with client(bus) as c, c.subscribe(pattern) as events:
                yield bus, events


@pytest.fixture(params=["client", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    """Run a test with both kinds of subscriptions."""
    return str(request.param)


async def test_the_next_events_are_received(kind: str) -> None:
    """In order, with whatever part of them is named; parts of the data may be anything."""
    async with subscribed(kind) as (bus, events):
        for number in range(5):
            await bus.publish(f"a.{number}", {"number": number}, event="count")
        event = await expect(events).receive({"number": 0}, channel="a.0", event="count")
        assert event.channel == "a.0"
        await expect(events).receive()
        await expect(events).receive({"number": ANYTHING})
        both = await expect(events).receive_all({"number": 3}, {"number": 4}, event="count")
        assert [event.channel for event in both] == ["a.3", "a.4"]


async def test_what_came_instead_is_shown(kind: str) -> None:
    """The message has what was expected, what came, and what followed."""
    async with subscribed(kind) as (bus, events):
        for number in range(3):
            await bus.publish("a.b", number, event="count")
        with pytest.raises(AssertionError) as caught:
            await expect(events).receive(1, channel="a.c")
    assert str(caught.value) == (
        "expected an event on a.c with 1\n"
        "     got an event on a.b (count) with 0\n"
        "    then an event on a.b (count) with 1\n"
        "    then an event on a.b (count) with 2"
    )


@pytest.mark.parametrize("other", [{"channel": "a.c"}, {"event": "other"}])
async def test_channel_and_event_must_fit(kind: str, other: dict[str, str]) -> None:
    """Each is looked at by itself."""
    async with subscribed(kind) as (bus, events):
        await bus.publish("a.b", 1)
        with pytest.raises(AssertionError, match="expected an event"):
            await expect(events).receive(1, **other)  # type: ignore[arg-type]  # texts only


async def test_that_nothing_came_is_said(kind: str) -> None:
    """It waits as long as it may."""
    async with subscribed(kind) as (_, events):
        with pytest.raises(AssertionError, match=r"nothing came within 0\.01 s"):
            await expect(events).receive(1, within=0.01)


async def test_nothing_is_proved(kind: str) -> None:
    """Whatever was published before is seen; what matches no pattern is nothing."""
    async with subscribed(kind) as (bus, events):
        await bus.publish("b", 1)
        await expect(events).nothing()
        await bus.publish("a.b", 2)
        with pytest.raises(AssertionError, match=r"on a\.b \(message\) with 2"):
            await expect(events).nothing()
        await expect(events).nothing()


async def test_nothing_waits_for_other_buses_of_the_process(kind: str) -> None:
    """What another bus has published through a broker in memory is on its way."""
    broker = MemoryBroker()
    async with (
        Bus(broker=broker) as other,
        Bus(broker=broker) as bus,
        client(bus) as c,
        c.subscribe("a") as remote,
        bus.subscribe("a") as local,
    ):
        await other.publish("a", 1)
        with pytest.raises(AssertionError, match="with 1"):
            await expect(remote if kind == "client" else local).nothing()


async def test_an_ended_subscription_is_no_silence(kind: str) -> None:
    """Nothing can come, so nothing is proved."""
    async with subscribed(kind) as (_, events):
        events.close()
        with pytest.raises(AssertionError, match="ended"):
            await expect(events).nothing()
        with pytest.raises(AssertionError, match="closed"):
            await expect(events).receive(1)


async def test_the_reason_of_an_end_is_shown() -> None:
    """A subscription that the server takes away says why."""
    async with subscribed("client") as (bus, events):
        connection = bus.connection(bus.connections()[0].connection_id)
        assert connection is not None
        connection.revoke("a.*", "not any more")
        with pytest.raises(AssertionError, match="not any more"):
            await expect(events).receive(1)
