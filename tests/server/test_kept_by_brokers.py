"""History that a broker keeps: two nodes over one board, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from anyio import CancelScope, create_task_group, current_time, fail_after, sleep
from trio.testing import MockClock

from tests.server.clients import UNLIMITED, connecting
from tests.server.kept_world import World as KeptWorld
from tests.server.kept_world import in_virtual_time
from tests.server.switchboard import Board, Switch
from wsbus import (
    BrokerUnavailable,
    Bus,
    ConnectionId,
    Event,
    Gap,
    GapCause,
    Grants,
    History,
    Limits,
    Position,
    PositionLost,
    Receipt,
    UsageError,
)
from wsbus.brokers import MemoryBroker
from wsbus.core.instant import Instant
from wsbus.emitter import Emitter


def clock() -> Instant:
    return Instant(current_time(), 1e9 + current_time())


class World:
    """Two nodes, whose families keep ``kept.*``."""

    def __init__(self) -> None:
        self.board = Board()
        self.switches = [Switch(self.board), Switch(self.board)]
        self.buses = [Bus(broker=switch, clock=clock) for switch in self.switches]
        for bus in self.buses:
            bus.family("kept.*", history=History(size=50))

    async def cut(self, node: int, seconds: float = 3.0) -> None:
        """Take the link of a node away for a while."""
        switch = self.switches[node]
        switch.refuses = True
        switch.lose()
        await sleep(seconds)

    async def join(self, node: int) -> None:
        """Let the link of a node come back, and wait until it is there."""
        self.switches[node].refuses = False
        await sleep(5)
        assert self.buses[node].healthy


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        async with AsyncExitStack() as stack:
            for bus in world.buses:
                await stack.enter_async_context(bus)
            with fail_after(600):
                await test(world)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def take(events: Any, count: int) -> list[Event[Any]]:
    with fail_after(10):
        return [await anext(events) for _ in range(count)]


def test_a_receipt_has_the_position_that_every_node_delivers() -> None:
    """One order for all: what is published comes back with its position, here and elsewhere."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with one.subscribe("kept.a") as here, two.subscribe("kept.*") as there:
            receipts = [await bus.publish("kept.a", n) for n, bus in enumerate((one, two, one))]
            positions = [receipt.position for receipt in receipts]
            assert [p.offset for p in positions if p is not None] == [1, 2, 3]
            assert receipts[0] == Receipt(1, 1, positions[0])
            for events in (here, there):
                got = await take(events, 3)
                assert [event.data for event in got] == [0, 1, 2]
                assert [event.position for event in got] == positions

    run(test)


def test_nothing_is_delivered_before_the_broker_has_kept_it() -> None:
    """While no link is there, publishing raises, and subscribers of no node get anything."""

    async def test(world: World) -> None:
        one, _ = world.buses
        async with one.subscribe("kept.a") as events:
            await world.cut(0)
            with pytest.raises(BrokerUnavailable) as caught:
                await one.publish("kept.a", "lost")
            assert not caught.value.may_have_arrived
            with pytest.raises(BrokerUnavailable):
                one.publish_soon("kept.a", "lost, too")
            await world.join(0)
            await one.publish("kept.a", "kept")
            (event,) = await take(events, 1)
            assert (event.data, event.gap) == ("kept", None)

    run(test)


def test_a_publication_under_way_as_its_link_is_lost_may_have_arrived() -> None:
    """Its publisher learns that, and can repeat it with the same key: it is published once."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with two.subscribe("kept.a") as events:
            world.switches[0].seconds = 1.0
            async with create_task_group() as tasks:

                async def publish() -> None:
                    with pytest.raises(BrokerUnavailable) as caught:
                        await one.publish("kept.a", 1, idempotency_key="k")
                    assert caught.value.may_have_arrived

                tasks.start_soon(publish)
                await sleep(1.5)
                world.switches[0].lose()
            world.switches[0].seconds = 0.0
            await world.join(0)
            receipt = await one.publish("kept.a", 1, idempotency_key="k")
            assert (receipt.repeated, receipt.local_matched) == (True, 0)
            again = await two.publish("kept.a", 2)
            assert [event.data for event in await take(events, 2)] == [1, 2]
            assert again.position is not None

    run(test)


def test_a_node_that_loses_its_link_gets_what_it_missed() -> None:
    """In order and without a gap; subscribers of live channels get a gap."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with one.subscribe("kept.*") as kept, one.subscribe("live") as live:
            await two.publish("kept.a", 0)
            await take(kept, 1)
            await world.cut(0)
            for n in range(1, 30):
                await two.publish(f"kept.{'ab'[n % 2]}", n)
            await world.join(0)
            await two.publish("kept.a", 30)
            await two.publish("live", "x")
            got = await take(kept, 30)
            assert [event.data for event in got] == [*range(1, 31)]
            assert {event.gap for event in got} == {None}
            (event,) = await take(live, 1)
            assert event.gap is not None
            assert event.gap.cause is GapCause.BROKER

    run(test)


def test_what_is_not_kept_any_more_is_a_gap() -> None:
    """A node that missed more than a channel keeps tells it, and goes on in order."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with one.subscribe("kept.a") as events:
            await world.cut(0)
            for n in range(60):
                await two.publish("kept.a", n)
            await world.join(0)
            await two.publish("kept.a", 60)
            (event,) = await take(events, 1)
            assert event.data == 60
            assert event.gap == Gap(None, GapCause.BROKER)

    run(test)


def test_a_store_that_is_emptied_is_noticed_without_traffic() -> None:
    """Within six seconds subscribers of channels with history get a gap; others do not."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with one.subscribe("kept.a") as kept, one.subscribe("live") as live:
            await two.publish("kept.a", 0)
            await take(kept, 1)
            world.board.flush()
            await sleep(6)
            start = await one.position("kept.a")
            assert start == Position("epoch-1", 0)
            await two.publish("kept.a", 1)
            await two.publish("live", 1)
            (event,) = await take(kept, 1)
            assert event.gap is not None
            assert (await take(live, 1))[0].gap is None

    run(test)


def test_a_subscription_goes_on_where_another_one_ended() -> None:
    """``since`` brings what was missed, then what is live, each once; a lost position is told."""

    async def test(world: World) -> None:
        one, two = world.buses
        start = await one.position("kept.a")
        for n in range(5):
            await two.publish("kept.a", n)
        async with create_task_group() as tasks:

            async def publish() -> None:
                for n in range(5, 40):
                    await two.publish("kept.a", n)
                    await sleep(0.01)

            world.switches[0].seconds = 0.05
            world.switches[0].latency = 0.07
            tasks.start_soon(publish)
            async with one.subscribe("kept.a", since=start) as events:
                got = await take(events, 40)
                assert [event.data for event in got] == [*range(40)]
                assert events.position == got[-1].position
        for n in range(60):
            await two.publish("kept.a", n)
        with pytest.raises(PositionLost):
            async with one.subscribe("kept.a", since=start):
                pass
        page = await one.history("kept.a", limit=2)
        assert [event.data for event in page.events] == [58, 59]
        assert page.more

    run(test)


@pytest.mark.parametrize("max_rate", [None, 1.0])
def test_a_subscription_begins_where_the_store_stands(max_rate: float | None) -> None:
    """What is kept already and comes to this node later is not for it, even if it is held back."""

    async def test(world: World) -> None:
        one, two = world.buses
        async with one.subscribe("kept.*"):
            world.switches[0].latency = 1.0
            for n in range(2):
                await two.publish("kept.a", n)
            async with one.subscribe("kept.*", max_rate=max_rate) as events:
                for n in range(2, 4):
                    await two.publish("kept.b", n)
                    (event,) = await take(events, 1)
                    assert event.data == n
                    await sleep(3)

    run(test)


def test_a_subscription_that_cannot_be_recovered_in_time_leaves_nothing_behind() -> None:
    """It raises at the deadline; neither a member nor an interest stays."""

    async def test(world: World) -> None:
        one, _ = world.buses
        start = await one.position("kept.a")
        await world.cut(0)
        before = current_time()
        with pytest.raises(BrokerUnavailable):
            async with one.subscribe("kept.a", since=start):
                pass
        assert 4 < current_time() - before < 7
        await sleep(3)
        assert one.statistics().patterns == 0
        await world.join(0)

    run(test)


def test_a_broker_without_history_is_a_mistake_of_setting_up() -> None:
    """A bus whose families keep history does not run over a broker that keeps none."""

    class Plain:
        address = "plain:"

        def connect(self, receive: Any) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *exc: object) -> None:
            """Nothing is there to end."""

        async def publish(self, turn: Any) -> None:
            """Nobody gets it."""

        async def follow(self, feeds: Any) -> None:
            """Nothing comes."""

        unfollow = follow
        has_others = True

        def is_wanted(self, feed: Any) -> bool:
            return True

    async def main() -> None:
        bus = Bus(broker=Plain())
        bus.family("kept.*", history=History())
        with pytest.raises(UsageError, match="keeps no history"):
            async with bus:
                pass

    trio.run(main)


def test_an_emitter_keeps_what_its_families_say(caplog: pytest.LogCaptureFixture) -> None:
    """It gets the position, or publishes live and unkept, which every node logs."""

    async def scenario(world: KeptWorld) -> None:
        emitter = Emitter(Switch(world.board))
        with pytest.raises(UsageError, match="history"):
            async with emitter:
                await emitter.publish("kept.a", 0, idempotency_key="k")
        async with world.buses[0].subscribe("kept.a") as events:
            async with emitter:
                receipt = await emitter.publish("kept.a", "unkept")
                assert receipt.position is None
                with pytest.raises(UsageError, match="before"):
                    emitter.family("kept.*", history=History())
            emitter.family("kept.*", history=History())
            async with emitter:
                first = await emitter.publish("kept.a", "kept", idempotency_key="k")
                again = await emitter.publish("kept.a", "kept", idempotency_key="k")
                async with emitter.batch() as batch:
                    batch.publish("kept.a", "more")
                    batch.publish("live", "more")
            assert again.repeated
            assert again.position == first.position == Position("epoch-0", 1)
            got = await take(events, 3)
            assert [event.data for event in got] == ["unkept", "kept", "more"]
            assert [event.position is None for event in got] == [True, False, False]

    in_virtual_time(scenario, backend="asyncio")
    assert "a publication on kept.a is not kept" in caplog.text


def test_what_is_not_kept_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines a minute, on however many channels."""

    async def scenario(world: KeptWorld) -> None:
        async with (
            Emitter(Switch(world.board)) as emitter,
            world.buses[0].subscribe("kept.*") as events,
        ):
            for number in range(20):
                await emitter.publish(f"kept.{number}", number)
            await take(events, 20)

    in_virtual_time(scenario, backend="asyncio")
    assert caplog.text.count("is not kept") == 10


@pytest.mark.parametrize("count", [200, 400], ids=["kept", "too many"])
@pytest.mark.parametrize("broker", [True, False], ids=["broker", "alone"])
def test_a_slow_reader_gets_what_its_queue_lost(broker: bool, count: int) -> None:
    """In its place and in order, and so it gets no gap; what is more than a replay is a gap."""

    async def main() -> None:
        bus = Bus(broker=Switch(Board()) if broker else None, clock=clock)
        bus.family("kept.*", history=History(size=1000))
        way_in = bus.endpoint(limits=Limits(queue_messages=10, messages_per_second=None))
        async with bus, connecting(way_in) as connect:
            client = await connect()
            await client.subscribe("kept.a", "kept.b")
            client.peer.stop_reading()
            for n in range(count):
                bus.publish_soon(f"kept.{'ab'[n % 2]}", n)
            await sleep(1)
            client.peer.read_on()
            heard: list[dict[str, Any]] = []
            with fail_after(5):
                while not heard or heard[-1].get("data") != count - 1:
                    heard.append(await client.hear())
            numbers = [each["data"] for each in heard if each["type"] == "event"]
            gaps = [each["data"] for each in heard if each["type"] == "gap"]
            if count == 200:
                assert numbers == [*range(count)]
                assert gaps == []
                assert bus.statistics().dropped == 0
            else:
                assert numbers[-10:] == [*range(count - 10, count)]
                (gap,) = gaps
                newest = {each["channel"]: each["position"]["offset"] for each in gap["channels"]}
                assert newest == {"kept.a": count - 11, "kept.b": count - 10}

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_slow_recovery_holds_up_nobody() -> None:
    """While the store is read for one request, other requests and other members are served.

    And one request brings all of the 100 that a client has missed.
    """

    async def main() -> None:
        switch = Switch(Board())
        bus = Bus(broker=switch, clock=clock)
        bus.family("kept.*", history=History(size=200))
        way_in = bus.endpoint(limits=UNLIMITED)
        async with bus, connecting(way_in) as connect:
            client, other = await connect(), await connect()
            await other.subscribe("kept.a", "live")
            start = await bus.position("kept.a")
            for n in range(100):
                await bus.publish("kept.a", n)
            assert await other.events() == [*range(100)]
            switch.seconds = 1.0
            since = {"kept.a": {"epoch": start.epoch, "offset": start.offset}}
            client.say("subscribe", id="s", channels=["kept.a"], since=since)
            with fail_after(10):
                client.say("ping", id="p")
                assert (await client.hear())["type"] == "pong"
                bus.publish_soon("live", "meanwhile")
                assert await other.events() == ["meanwhile"]
                answer = await client.hear()
                assert answer["type"] == "subscribed"
                assert [each["recovered"] for each in answer["data"]["positions"]] == [True]
                heard = [await client.hear() for _ in range(100)]
            assert [each["data"] for each in heard] == [*range(100)]
            assert client.connection.messages_received == 2

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("count", [200, 400], ids=["kept", "too many"])
@pytest.mark.parametrize("broker", [True, False], ids=["broker", "alone"])
def test_a_slow_subscription_gets_what_its_queue_lost(broker: bool, count: int) -> None:
    """What a subscription inside the process has lost comes from history, in its place."""

    async def main() -> None:
        bus = Bus(broker=Switch(Board()) if broker else None, clock=clock)
        bus.family("kept.*", history=History(size=1000))
        async with bus, bus.subscribe("kept.*", max_messages=10) as events:
            for n in range(count):
                bus.publish_soon(f"kept.{'ab'[n % 2]}", n)
            await sleep(1)
            got: list[Event[Any]] = []
            with CancelScope() as scope:  # A step that is cancelled loses nothing.
                scope.cancel()
                got.append(await anext(events))
            rest = (count if count == 200 else 10) - len(got)
            got += await take(events, rest)
            if count == 200:
                assert [event.data for event in got] == [*range(count)]
                assert [event.gap for event in got] == [None] * count
                assert events.lost == 0
            else:
                assert [event.data for event in got] == [*range(count - 10, count)]
                assert got[0].gap is not None
                assert got[0].gap.lost == events.lost == count - 10

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_thousand_that_come_back_ask_a_few_times() -> None:
    """About one pattern a store is asked at most once in 100 ms, whoever asks, and whence."""

    async def test(world: World) -> None:
        one, two = world.buses
        starts = [await one.position("kept.a")]
        for n in range(20):
            await two.publish("kept.a", n)
            starts.append(await one.position("kept.a"))
        world.board.reads.clear()
        got: list[int] = []

        async def come_back(number: int) -> None:
            start = number % len(starts)
            async with one.subscribe("kept.a", since=starts[start]) as events:
                await two.publish("kept.b", "other")
                for n in range(start, 20):
                    assert (await anext(events)).data == n
                got.append(number)

        async with create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(come_back, number)
        assert len(got) == 1000
        assert sum(len(reads) for reads in world.board.reads) <= 3

    run(test)


async def test_exclude_holds_where_it_is_published_and_elsewhere() -> None:
    """A connection that is left out gets nothing; one of the same name on another node does."""
    broker = MemoryBroker()
    buses = [Bus(broker=broker), Bus(broker=broker)]
    ways_in = []
    for bus in buses:
        bus.family("kept.*", history=History())
        ways_in.append(bus.endpoint(limits=UNLIMITED, name_connection=lambda _: "ada"))
    async with AsyncExitStack() as stack:
        for bus in buses:
            await stack.enter_async_context(bus)
        connects = [await stack.enter_async_context(connecting(way)) for way in ways_in]
        here, there = [await connect() for connect in connects]
        for client in (here, there):
            await client.subscribe("kept.a")
        receipts = [
            await buses[0].publish("kept.a", 1, exclude=here.connection),
            await buses[0].publish("kept.a", 2, exclude=ConnectionId("ada")),
            await buses[1].publish("kept.a", 3),
        ]
        assert [receipt.local_matched for receipt in receipts] == [0, 0, 1]
        with fail_after(5):
            assert (await here.hear("event"))["data"] == 3
            assert [(await there.hear("event"))["data"] for _ in range(2)] == [1, 3]


async def test_a_client_is_answered_with_the_position() -> None:
    """A publish request is answered once the broker keeps it; a repetition is told as such."""
    broker = MemoryBroker()
    bus = Bus(broker=broker)
    bus.family("kept.*", history=History())
    grants = Grants.of(admin=True, publish=["*"], subscribe=["*"])
    async with bus, connecting(bus.endpoint(limits=UNLIMITED, anonymous=grants)) as connect:
        client = await connect()
        await client.subscribe("kept.a")
        request = {"channel": "kept.a", "data": 1, "idempotency_key": "k"}
        with fail_after(5):
            client.say("publish", id="1", **request)
            heard = [await client.hear("event", "response") for _ in range(2)]
            (answer,) = [each for each in heard if each["type"] == "response"]
            (event,) = [each for each in heard if each["type"] == "event"]
            assert answer["data"]["position"] == event["position"]
            client.say("publish", id="2", retry=True, **request)
            again = await client.hear("event", "response")
            assert again["data"]["repeated"] is True
            assert again["data"]["position"] == event["position"]
