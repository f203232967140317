"""Subscriptions with a rate, over transports without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import fail_after

from tests.server.clients import UNLIMITED, Client, Connect, connecting, judge
from wsbus import Bus, Grants, Handshake, History, Identity, UsageError
from wsbus.core.frame import Frame
from wsbus.core.messages import Publication
from wsbus.protocols.native import Native

NEVER = 0.01
"""A rate whose interval no test outlasts."""


@asynccontextmanager
async def stage(
    bus: Bus | None = None, *, direct: bool = True
) -> AsyncIterator[tuple[Bus, Connect]]:
    """Run a bus with an endpoint where everybody is who they say."""
    bus = Bus() if bus is None else bus
    endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=UNLIMITED)
    async with bus, connecting(endpoint, direct=direct) as connect:
        with fail_after(20):
            yield bus, connect


async def subscribe(client: Client, *names: str, **fields: Any) -> None:
    """Subscribe, and wait for the answer, before which no event comes."""
    client.say("subscribe", channels=names, **fields)
    assert (await client.hear("subscribed"))["data"]["channels"] == [*names]


def agrees(bus: Bus) -> bool:
    """Tell whether every publication that matched somebody is accounted for."""
    s = bus.statistics()
    return s.matched == s.sent + s.dropped + s.refused + s.discarded + s.queued


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "awaited"])
async def test_the_newest_wins_and_the_last_one_comes(direct: bool) -> None:
    """Of a burst the first event comes at once and the last one an interval later, without a gap.

    Others get all of it, and all of it is accounted for.
    """
    async with stage(direct=direct) as (bus, connect):
        slow, other = await connect("slow"), await connect("other")
        await subscribe(slow, "prices.*", max_rate={"prices.*": 5})
        await subscribe(other, "prices.*")
        for number in range(50):
            await bus.publish("prices.a", number)
            await bus.publish("prices.b", -number)
        assert await slow.events() == [0, 0]
        assert agrees(bus)
        assert bus.statistics().queued == 2
        last = [await slow.hear(), await slow.hear()]
        assert [(each["type"], each["data"]) for each in last] == [("event", 49), ("event", -49)]
        assert len(await other.events()) == 100
        assert agrees(bus)
        info = slow.connection.info()
        assert (info.thinned, info.dropped) == (96, 0)
        assert bus.statistics().conflated == 96


async def test_one_event_of_each_key_comes() -> None:
    """The key is that of the publication, or the family's field, or the channel."""
    bus = Bus()
    bus.family("book.*", key="level")
    async with stage(bus) as (_, connect):
        client = await connect("ann")
        await subscribe(client, "book.*", max_rate={"book.*": 10})
        for price in (1, 2, 3):
            for level in (1, 2):
                await bus.publish("book.a", {"level": level, "price": price})
            await bus.publish("book.a", {"level": 1, "own": price}, key="own")
        got = [(await client.hear("event"))["data"] for _ in range(6)]
        assert got[-3:] == [
            {"level": 1, "price": 3},
            {"level": 2, "price": 3},
            {"level": 1, "own": 3},
        ]


@pytest.mark.parametrize("rate", [0, -1, 0.001, 1001, "5", None, True, [], {"a": 1}])
async def test_a_bad_rate_is_refused(rate: object) -> None:
    """The request is refused whole, with a reason, and the connection lives on."""
    async with stage() as (bus, connect):
        client = await connect("ann")
        client.say("subscribe", id="1", channels=["a"], max_rate={"a": rate})
        answer = await client.hear()
        assert (answer["type"], answer["error"]["code"]) == ("error", "INVALID_MESSAGE")
        assert "max_rate" in answer["error"]["message"]
        await bus.publish("a", 1)
        assert await client.events() == []


async def test_names_without_a_rate_get_everything() -> None:
    """What a name without a rate matches comes whole, each event once and in order."""
    async with stage() as (bus, connect):
        client = await connect("ann")
        await subscribe(client, "a.*", "b", max_rate={"a.*": NEVER, "other": NEVER})
        await subscribe(client, "a.all")
        for number in range(5):
            for channel in ("a.some", "a.all", "b"):
                await bus.publish(channel, [channel, number])
        got = await client.events()
        assert got == [
            ["a.some", 0],
            *[[channel, number] for number in range(5) for channel in ("a.all", "b")],
        ]


async def test_rates_change_with_the_last_request() -> None:
    """A request sets the rates of its names; what is held then comes before the answer."""
    async with stage() as (bus, connect):
        client = await connect("ann")
        await subscribe(client, "a", "b", max_rate={"a": NEVER, "b": NEVER})
        for number in range(3):
            await bus.publish("a", number)
            await bus.publish("b", number)
        assert await client.events() == [0, 0]
        client.say("unsubscribe", channels=["b"])
        kinds = [await client.hear() for _ in range(2)]
        assert [(each["type"], each.get("channel")) for each in kinds] == [
            ("event", "a"),
            ("unsubscribed", None),
        ]
        await subscribe(client, "a")
        for number in range(3, 6):
            await bus.publish("a", number)
        assert await client.events() == [3, 4, 5]
        assert agrees(bus)
        await subscribe(client, "a", max_rate={"a": NEVER})
        await bus.publish("a", 6)
        await bus.publish("a", 7)
        assert await client.events() == [6]


async def test_what_is_held_comes_before_the_end() -> None:
    """A connection that the server closes gets the last event first."""
    async with stage() as (bus, connect):
        client = await connect("ann")
        await subscribe(client, "a", max_rate={"a": NEVER})
        for number in range(3):
            await bus.publish("a", number)
        client.connection.disconnect()
        assert [(await client.hear("event"))["data"] for _ in range(2)] == [0, 2]


async def test_a_rate_goes_around_no_rule() -> None:
    """Denies, exclusions and direct messages hold as for everybody else."""
    bus = Bus()

    def limited(token: str | None, handshake: Handshake) -> Identity | None:
        return Identity("ann", Grants.of(subscribe=["*"], deny_subscribe=["a.secret"]))

    endpoint = bus.endpoint(authenticator=limited, query_token="token", limits=UNLIMITED)
    async with bus, connecting(endpoint) as connect:
        client = await connect("ann")
        await subscribe(client, "a.*", max_rate={"a.*": NEVER})
        await bus.publish("a.secret", "secret")
        await bus.publish("a.open", "not for ann", exclude="ann")
        assert await client.events() == []
        assert bus.local_subscribers("a.open") == [client.connection]
        await bus.publish("a.open", 1)
        await bus.publish("a.open", 2)
        await bus.send("a.open", "direct", to="ann")
        assert await client.events() == [1, "direct"]


async def test_positions_hold_after_a_reconnect() -> None:
    """No event comes after a newer one, so that a client goes on where it is.

    Of what it has missed it gets the newest of each key.
    """
    bus = Bus()
    bus.family("chat.*", history=History(size=100))
    async with stage(bus) as (_, connect):
        client = await connect("ann")
        await subscribe(client, "chat.*", max_rate={"chat.*": 10})
        await subscribe(client, "chat.b")
        for number in range(9):
            await bus.publish(f"chat.{'abc'[number % 3]}", number)
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["data"] < 8:
            seen.append(await client.hear("event"))
        offsets = [each["position"]["offset"] for each in seen]
        assert offsets == sorted(offsets)
        assert {1, 4, 6, 7, 8} <= {each["data"] for each in seen}

        again = await connect("ann")
        position = {name: seen[0]["position"][name] for name in ("epoch", "offset")}
        await subscribe(again, "chat.*", since={"chat.*": position}, max_rate={"chat.*": NEVER})
        assert await again.events() == [6, 7, 8]


class Faulty(Native):
    """A dialect that fails at some data."""

    name = "faulty"

    def encode_publication(self, publication: Publication) -> Frame:
        if publication.data == b'"bad"':
            raise RuntimeError(self.name)
        return super().encode_publication(publication)


async def test_a_dialect_that_fails_costs_its_own_receivers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The timer for held events goes on for everybody else."""
    bus = Bus()
    endpoint = bus.endpoint(
        authenticator=judge,
        query_token="token",
        limits=UNLIMITED,
        protocols=["wsbus.v1", Faulty()],
    )
    async with bus, connecting(endpoint) as connect:
        faulty, sound = await connect("ann", subprotocols=["faulty"]), await connect("bob")
        for client in (faulty, sound):
            await subscribe(client, "a", max_rate={"a": 20})
        with fail_after(20):
            for data in (1, "bad", 3):
                await bus.publish("a", data)
                assert (await sound.hear("event"))["data"] == data
            assert [(await faulty.hear("event"))["data"] for _ in range(2)] == [1, 3]
        assert bus.healthy
    assert "an event of a subscription with a rate cannot be encoded" in caplog.text


async def test_a_subscription_inside_the_process_has_a_rate() -> None:
    """It gets what a remote one would; what was replaced is counted, and is no gap."""
    async with Bus() as bus, bus.subscribe("a.*", max_rate=20) as events:
        with fail_after(20):
            for number in range(10):
                await bus.publish("a.b", number)
            got = [await anext(events), await anext(events)]
        assert [(each.data, each.gap) for each in got] == [(0, None), (9, None)]
        assert (events.thinned, events.lost) == (8, 0)
        assert agrees(bus)
        for rate in (0, -1, 1001, "5", True, float("nan")):
            with pytest.raises(UsageError, match=r"max_rate is 0\.01 to 1000"):
                bus.subscribe("a", max_rate=rate)  # type: ignore[arg-type]
