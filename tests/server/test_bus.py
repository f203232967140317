from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from anyio import (
    CancelScope,
    Event,
    create_task_group,
    fail_after,
    move_on_after,
    to_thread,
    wait_all_tasks_blocked,
)
from anyio.lowlevel import checkpoint

from tests.server.clients import UNLIMITED, connecting, judge, quiet
from wsbus import (
    Bus,
    ChannelLoss,
    CloseCode,
    Endpoint,
    Gap,
    GapCause,
    Handshake,
    InvalidChannel,
    Limits,
    NotStarted,
    Overflow,
    Receipt,
    TransportClosed,
    UsageError,
)
from wsbus.bus import host_of
from wsbus.endpoint import Admission, Refusal
from wsbus.testing import DirectMemoryTransport, MemoryTransport

NESTED: list[Any] = []
for _ in range(64):
    NESTED = [NESTED]

UNSENDABLE = [object(), math.nan, {"x": [math.inf]}, -math.inf, "\ud800", {"\ud800": 1}, NESTED]


@pytest.fixture(params=[True, False], ids=["direct", "awaited"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Run a test over transports that write at once, and over those that only await."""
    return bool(request.param)


def door(bus: Bus, **options: Any) -> Endpoint:
    """Return an endpoint where everybody is who they say, without rate limits."""
    defaults: dict[str, Any] = {
        "authenticator": judge,
        "query_token": "token",
        "limits": UNLIMITED,
    }
    return bus.endpoint(**defaults | options)


# --- life ------------------------------------------------------------------------------------


async def test_a_bus_runs_as_often_as_it_is_started() -> None:
    """A bus that has stopped can be started again, and works."""
    bus = Bus()
    for _ in range(2):
        async with bus, connecting(door(bus)) as connect:
            client = await connect("ann")
            await client.subscribe("a")
            await bus.publish("a", 1)

            assert await client.events() == [1]
        assert not bus.is_running


async def test_a_running_bus_is_not_started() -> None:
    """To start a bus that runs is a mistake, and leaves it running."""
    async with Bus() as bus:
        with pytest.raises(UsageError):
            await bus.__aenter__()

        assert bus.is_running


async def test_setup_and_cleanup_may_happen_in_different_tasks() -> None:
    """A bus outlives the task that has started it, and stops in any."""
    bus = Bus()
    async with create_task_group() as tasks:
        tasks.start_soon(bus.__aenter__)
    async with connecting(door(bus)) as connect:
        await (await connect("ann")).subscribe("a")
        assert (await bus.publish("a")).local_matched == 1
        async with create_task_group() as tasks:
            tasks.start_soon(bus.aclose)

    assert not bus.is_running


async def test_a_bus_that_is_not_running_refuses_connections() -> None:
    """The handshake gets 503; a connection that was admitted before is closed with 1001."""
    bus = Bus()
    endpoint = bus.endpoint()
    refusal = await endpoint.admit(Handshake(path="/"))
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503

    async with bus:
        admission = await endpoint.admit(Handshake(path="/"))
    assert isinstance(admission, Admission)
    transport = MemoryTransport()
    await endpoint.run(transport, admission)

    assert transport.peer.closed is not None
    assert transport.peer.closed.code == CloseCode.GOING_AWAY


@pytest.mark.parametrize(
    "use",
    [
        lambda bus: bus.publish_soon("a"),
        lambda bus: bus.publish_threadsafe("a"),
        lambda bus: bus.connections(),
        lambda bus: bus.connection("x"),
        lambda bus: bus.statistics(),
        lambda bus: bus.disconnect("ann"),
    ],
    ids=["publish_soon", "threadsafe", "connections", "connection", "statistics", "disconnect"],
)
async def test_a_bus_that_is_not_running_says_so(use: Callable[[Bus], object]) -> None:
    """Whatever needs a running bus raises NotStarted before the start, and after the stop."""
    bus = Bus()
    for _ in range(2):
        with pytest.raises(NotStarted):
            use(bus)
        with pytest.raises(NotStarted):
            await bus.publish("a")
        with pytest.raises(NotStarted):
            await bus.send("a", to="ann")
        with pytest.raises(NotStarted):
            await bus.subscribe("a").__aenter__()
        async with bus:
            pass


async def test_closing_is_idempotent() -> None:
    """Everybody who closes a bus returns once it is closed."""
    async with Bus() as bus:
        async with create_task_group() as tasks:
            tasks.start_soon(bus.aclose)
            tasks.start_soon(bus.aclose)
        await bus.aclose()

        assert not bus.is_running


async def test_a_stop_gives_everybody_what_they_are_owed(direct: bool) -> None:
    """At the stop all that was published arrives first, then 1012 with a word of why."""
    bus = Bus()
    async with create_task_group() as tasks:
        async with bus:
            endpoint = door(bus)
            admission = await endpoint.admit(Handshake("/", "token=ann"))
            assert isinstance(admission, Admission)
            transport = DirectMemoryTransport() if direct else MemoryTransport()
            tasks.start_soon(endpoint.run, transport, admission)
            transport.peer.send('{"type":"subscribe","channels":["a"]}')
            await quiet()
            for number in range(50):
                bus.publish_soon("a", number)
            await bus.aclose(code=CloseCode.SERVICE_RESTART)
        text = "\n".join(str(frame) for frame in transport.peer.received)

        assert text.count('"event"') >= 50
        assert transport.peer.closed is not None
        assert transport.peer.closed.code == CloseCode.SERVICE_RESTART
        assert transport.peer.closed.reason


async def test_an_endpoint_that_is_drained_takes_connections_again() -> None:
    """Draining ends the connections of one endpoint; the others, and later ones, live."""
    async with Bus() as bus:
        first, second = door(bus), door(bus)
        async with connecting(first) as connect, connecting(second) as connect_other:
            ann, ben = await connect("ann"), await connect_other("ben")
            await first.drain()

            assert (await ann.peer.wait_closed()).code == CloseCode.GOING_AWAY
            assert await ben.events() == []
            assert await (await connect("ann")).events() == []


async def test_a_drained_bus_accepts_no_connection_and_goes_on() -> None:
    """It publishes, and is not healthy, so that no new client is sent to it; it starts anew."""
    bus = Bus()
    async with bus, connecting(endpoint := door(bus)) as connect:
        ann = await connect("ann")
        async with bus.subscribe("a") as events:
            async with create_task_group() as tasks:
                tasks.start_soon(bus.drain)
                await bus.drain()

            assert (await ann.peer.wait_closed()).code == CloseCode.SERVICE_RESTART
            refusal = await endpoint.admit(Handshake("/", "token=ann"))
            assert isinstance(refusal, Refusal)
            assert (refusal.status, bus.is_running, bus.healthy) == (503, True, False)
            await bus.publish("a", 1)
            assert (await anext(events)).data == 1
    await bus.drain()  # There is nothing to do.
    async with bus:
        assert bus.healthy
        assert isinstance(await endpoint.admit(Handshake("/", "token=ann")), Admission)


@pytest.mark.parametrize("dialect", ["zigquant-v2", "wsbus.v1", "wsbus.v1.single"])
async def test_only_dialects_of_the_bus_advise_when_to_come_again(dialect: str) -> None:
    """``zigquant-v2`` stays as it is on the wire, its close frames too."""
    async with Bus() as bus, create_task_group() as tasks:
        endpoint = bus.endpoint(protocols=["wsbus.v1", "zigquant-v2"])
        admission = await endpoint.admit(Handshake("/", subprotocols=(dialect,)))
        assert isinstance(admission, Admission)
        transport = MemoryTransport()
        tasks.start_soon(endpoint.run, transport, admission)
        await quiet()
        await bus.drain(1)

        assert transport.peer.closed is not None
        reason, _, advice = transport.peer.closed.reason.partition("; ")
        assert reason == "the server is shutting down"
        assert advice.startswith("retry=0.") is (dialect != "zigquant-v2")


@pytest.mark.parametrize(
    "wrong",
    [{"window": -1}, {"window": 3601}, {"window": "5"}, {"deadline": -1}, {"code": 1005}],
    ids=str,
)
async def test_a_drain_on_wrong_terms_changes_nothing(wrong: dict[str, Any]) -> None:
    """A window or a deadline out of its range, or a code that may not be sent, is refused."""
    async with Bus() as bus:
        with pytest.raises(UsageError):
            await bus.drain(**wrong)
        assert bus.healthy


# --- publishing ------------------------------------------------------------------------------


async def test_publications_arrive_in_the_order_of_the_calls(direct: bool) -> None:
    """``publish``, ``publish_soon`` and ``send`` share one order."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a", "b")
        for number in range(0, 600, 3):
            await bus.publish("a", number)
            bus.publish_soon("b", number + 1)
            await bus.send("c", number + 2, to="ann")

        assert await client.events() == list(range(600))


async def test_a_turn_is_one_write() -> None:
    """What is published in one turn of the loop is joined: far fewer writes than messages."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        transport = client.transport
        assert isinstance(transport, DirectMemoryTransport)
        before = transport.writes
        for number in range(160):
            await bus.publish("a", number)

        assert await client.events() == list(range(160))
        assert transport.writes - before <= 5


@pytest.mark.parametrize("interval", [0.0, 0.005])
@pytest.mark.parametrize("size", [1, 20_000])
async def test_a_tight_publisher_loses_nothing_for_readers_that_keep_up(
    direct: bool, size: int, interval: float
) -> None:
    """A loop that only publishes overflows no queue of a reader that keeps up."""
    count = 3000 if size == 1 else 300
    bus = Bus(flush_interval=interval)
    async with bus, connecting(door(bus, overflow=Overflow.CLOSE), direct=direct) as join:
        client = await join("ann")
        await client.subscribe("a")
        async with bus.subscribe("a", overflow=Overflow.CLOSE) as events, create_task_group() as tg:
            seen: list[str] = []

            async def read() -> None:
                async for event in events:
                    seen.append(event.event)
                    if len(seen) == count:
                        return

            tg.start_soon(read)
            for number in range(count):
                await bus.publish("a", "x" * size, event=str(number))

        assert seen == [str(number) for number in range(count)]
        assert len(await client.events()) == count


@pytest.mark.parametrize("interval", [-0.1, 1.5, float("nan"), float("inf")])
async def test_a_flush_interval_is_at_most_a_second(interval: float) -> None:
    """Nobody means to hold back publications for longer."""
    with pytest.raises(UsageError):
        Bus(flush_interval=interval)


async def test_a_cancelled_publish_is_accepted_already(direct: bool) -> None:
    """Cancelling ``publish`` while it waits for a flush takes nothing back, and breaks nothing."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        for number in range(200):
            with CancelScope() as scope:
                scope.cancel()
                await bus.publish("a", number)

        assert await client.events() == list(range(200))


@pytest.mark.parametrize("verb", ["publish", "send", "broadcast"])
async def test_every_verb_that_is_awaited_lets_readers_drain(verb: str, direct: bool) -> None:
    """A tight loop over it loses nothing for a reader that keeps up."""
    async with Bus() as bus:
        endpoint = door(bus, broadcast="all", limits=UNLIMITED)
        async with connecting(endpoint, direct=direct) as connect:
            client = await connect("ann")
            await client.subscribe("a")
            for number in range(3000):
                if verb == "publish":
                    await bus.publish("a", number)
                elif verb == "send":
                    await bus.send("a", number, to="ann")
                else:
                    await bus.broadcast(number)

            assert await client.events() == list(range(3000))
            assert bus.statistics().dropped == 0


async def test_a_thread_that_the_loop_waits_for_is_not_waited_for(direct: bool) -> None:
    """A thread that publishes while the loop is blocked gets an error; nobody gets its data."""
    outcomes: list[Exception] = []

    def publish(bus: Bus) -> None:
        try:
            bus.publish_threadsafe("a", "late", timeout=0.1)
        except UsageError as exc:
            outcomes.append(exc)

    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        thread = threading.Thread(target=publish, args=(bus,))
        thread.start()
        thread.join()  # As the stop() of many libraries does.

        (error,) = outcomes
        assert "wait=False" in str(error)
        await bus.publish("a", "next")
        assert await client.events() == ["next"]


async def test_a_thread_may_publish_without_waiting(direct: bool) -> None:
    """It works while the loop is blocked; what is wrong with the arguments is told at once."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a")

        def publish() -> None:
            for number in range(3):
                bus.publish_threadsafe("a", number, wait=False)
            bus.send_threadsafe("a", 3, to="ann", wait=False)
            with pytest.raises(InvalidChannel):
                bus.publish_threadsafe("a.*", wait=False)
            with pytest.raises(UsageError):
                bus.publish_threadsafe("a", object(), wait=False)

        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
        with fail_after(5):
            while bus.statistics().publications < 4:
                await checkpoint()

        assert await client.events() == [0, 1, 2, 3]


async def test_sends_come_from_sync_code_and_threads_too(direct: bool) -> None:
    """``send_soon`` and ``send_threadsafe`` reach whom ``send`` reaches, in one order."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        assert await bus.send("x", 1, to="ann") == Receipt(1, 1)
        assert bus.send_soon("x", 2, to="ann") == Receipt(1, 1)
        call = partial(bus.send_threadsafe, "x", 3, to="ann")
        assert await to_thread.run_sync(call) == Receipt(1, 1)
        with pytest.raises(UsageError, match="send_soon"):
            bus.send_threadsafe("x", 4, to="ann")

        assert await client.events() == [1, 2, 3]


async def test_any_verb_excludes_by_connection_connections_or_subject(direct: bool) -> None:
    """Whoever is excluded gets nothing, however it is named."""
    async with Bus() as bus:
        endpoint = door(bus, broadcast="all")
        async with connecting(endpoint, direct=direct) as connect:
            clients = [await connect(name) for name in ("ann", "ann", "ben")]
            for client in clients:
                await client.subscribe("a")
            ann = [
                c for c in bus.local_subscribers("a") if c.identity and c.identity.subject == "ann"
            ]
            calls: list[Callable[[Any], Any]] = [
                lambda who: bus.publish("a", 1, exclude=who),
                lambda who: bus.broadcast(1, exclude=who),
                lambda who: bus.send("a", 1, to=bus.local_subscribers("a"), exclude=who),
                lambda who: bus.publish_soon("a", 1, exclude=who),
                lambda who: bus.send_soon("a", 1, to=bus.local_subscribers("a"), exclude=who),
                lambda who: to_thread.run_sync(partial(bus.publish_threadsafe, "a", exclude=who)),
            ]
            for call in calls:
                for who, left in ((ann[0], 2), (ann, 1), (iter(ann), 1), ("ann", 1), ("eve", 3)):
                    receipt = call(who)
                    matched = receipt if isinstance(receipt, Receipt) else await receipt
                    assert matched == Receipt(left, left)


@pytest.mark.parametrize("who", [5, None, [5], ["ann"], [None], [[]], object()])
async def test_who_is_named_wrongly_is_told_with_a_sentence(who: Any) -> None:
    """What is neither a connection, nor several, nor a subject is a mistake."""
    async with Bus() as bus:
        for call in (
            partial(bus.publish_soon, "a", exclude=who),
            partial(bus.send_soon, "a", to=who),
            partial(bus.send_soon, "a", to="ann", exclude=who),
            partial(bus.disconnect, who),
        ):
            with pytest.raises(UsageError, match="a connection, several, or the subject"):
                call()


async def test_words_may_be_given_as_text(direct: bool) -> None:
    """A policy means the same as text; what is none of the words is refused with a list of them."""
    async with Bus() as bus:
        assert door(bus, overflow="close").overflow is Overflow.CLOSE
        with pytest.raises(UsageError, match="`conflate`"):
            door(bus, overflow="conflat")
        with pytest.raises(UsageError, match="`reject`"):
            door(bus, on_duplicate="rejct")
        with pytest.raises(UsageError, match="HeartbeatPolicy"):
            door(bus, heartbeat=30)
        with pytest.raises(UsageError, match="`drop_newest`"):
            bus.subscribe("a", overflow="newest")
        with pytest.raises(UsageError, match="key must be"):
            await bus.publish("a", key=5)  # type: ignore[arg-type]
        async with bus.subscribe("a", overflow="conflate") as events:
            await bus.publish("a", 1)
            await bus.publish("a", 2)
            event = await anext(events)
            assert (event.data, event.gap) == (2, None)


async def test_one_task_iterates_over_a_subscription() -> None:
    """A second one is refused, and the first goes on."""
    async with Bus() as bus, bus.subscribe("a") as events, create_task_group() as tasks:
        seen: list[Any] = []

        async def read() -> None:
            seen.append((await anext(events)).data)

        tasks.start_soon(read)
        await wait_all_tasks_blocked()
        with pytest.raises(UsageError, match="one task"):
            await anext(events)
        await bus.publish("a", 1)
        await wait_all_tasks_blocked()
        assert seen == [1]
        await bus.publish("a", 2)
        assert (await anext(events)).data == 2


async def test_losses_add_up_until_they_are_told() -> None:
    """What was lost before a batch that held nothing else is told with the next event."""
    async with Bus() as bus, bus.subscribe("a", max_messages=1, overflow="drop_newest") as events:
        await bus.publish("a", 1)
        await bus.publish("a", 2)
        with move_on_after(5):
            first = await anext(events)
        await bus.publish("a", "x" * (2 << 20))  # Larger than the queue: it leaves an empty batch.
        with CancelScope() as scope:
            scope.cancel()
            await anext(events)
        await bus.publish("a", "y" * (2 << 20))
        with CancelScope() as scope:
            scope.cancel()
            await anext(events)
        await bus.publish("a", 3)
        second = await anext(events)

        assert (first.data, first.gap) == (1, None)
        assert (second.data, second.gap) == (3, Gap(3, GapCause.BUFFER, {"a": ChannelLoss(3)}))


async def test_a_broadcast_reaches_every_endpoint_that_has_a_channel(direct: bool) -> None:
    """Each endpoint with a channel of its own gets it."""
    async with Bus() as bus:
        doors = [door(bus, broadcast="one"), door(bus, broadcast="two"), door(bus)]
        async with (
            connecting(doors[0], direct=direct) as first,
            connecting(doors[1], direct=direct) as second,
            connecting(doors[2], direct=direct) as third,
        ):
            clients = [await connect("ann") for connect in (first, second, third)]
            assert await bus.broadcast(1) == Receipt(2, 2)
            assert [await client.events() for client in clients] == [[1], [1], []]


async def test_nobody_publishes_from_another_thread_by_mistake() -> None:
    """``publish_soon`` belongs to the loop's thread, ``publish_threadsafe`` to all others."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        with pytest.raises(UsageError):
            await to_thread.run_sync(bus.publish_soon, "a")
        with pytest.raises(UsageError):
            bus.publish_threadsafe("a")
        with pytest.raises(InvalidChannel):
            await to_thread.run_sync(bus.publish_threadsafe, "a.*")
        receipt = await to_thread.run_sync(bus.publish_threadsafe, "a", "from afar")

        assert receipt == Receipt(1, 1)
        assert await client.events() == ["from afar"]


async def test_whoever_is_excluded_does_not_get_it(direct: bool) -> None:
    """``exclude`` takes one connection or several out of one publication."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        ann, ben, cem = [await connect(name) for name in ("ann", "ben", "cem")]
        for client in (ann, ben, cem):
            await client.subscribe("a")
        one = await bus.publish("a", 1, exclude=ann.connection)
        two = bus.publish_soon("a", 2, exclude=[ann.connection, ben.connection])

        assert (one, two) == (Receipt(2, 2), Receipt(1, 1))
        assert await ann.events() == []
        assert await ben.events() == [1]
        assert await cem.events() == [1, 2]


async def test_what_is_sent_to_somebody_needs_no_subscription(direct: bool) -> None:
    """``send`` reaches one connection, or all of an identity, and nobody else."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        phone, desk, ben = [await connect(name) for name in ("ann", "ann", "ben")]

        assert await bus.send("you", 1, to=phone.connection) == Receipt(1, 1)
        assert await bus.send("you", 2, to="ann") == Receipt(2, 2)
        assert await bus.send("you", 3, to="nobody") == Receipt(0, 0)
        assert await phone.events() == [1, 2]
        assert await desk.events() == [2]
        assert await ben.events() == []


async def test_a_connection_that_is_gone_is_sent_nothing() -> None:
    """To send to, or to disconnect, a connection that has ended finds nobody."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        ann = await connect("ann")
        gone = ann.connection
        ann.peer.close()
        await quiet()

        assert await bus.send("you", to=gone) == Receipt(0, 0)
        assert await bus.send("you", to="ann") == Receipt(0, 0)
        assert bus.disconnect(gone) == 0


async def test_a_broadcast_reaches_everybody_who_is_somebody(direct: bool) -> None:
    """Everyone authenticated gets it, once; who has yet to authenticate does not."""
    async with Bus() as bus, connecting(door(bus, broadcast="all"), direct=direct) as connect:
        ann, stranger = await connect("ann"), await connect()
        await ann.subscribe("all", "*")
        first = await bus.broadcast(1)
        stranger.say("auth", token="ben")
        await stranger.hear("auth_result")
        second = await bus.broadcast(2, event="news")

        assert (first.local_matched, second.local_matched) == (1, 2)
        assert await ann.events() == [1, 2]
        assert await stranger.events() == [2]


async def test_a_broadcast_needs_a_channel() -> None:
    """Without an endpoint that has a broadcast channel it is a mistake."""
    async with Bus() as bus:
        bus.endpoint()
        with pytest.raises(UsageError):
            await bus.broadcast(1)


@pytest.mark.parametrize("data", UNSENDABLE, ids=map(str, range(len(UNSENDABLE))))
async def test_what_json_has_no_form_for_reaches_nobody(data: object) -> None:
    """It raises before anybody is touched: remote subscribers, local ones and the counters."""
    async with Bus() as bus, connecting(door(bus)) as connect, bus.subscribe("a") as events:
        client = await connect("ann")
        await client.subscribe("a")
        with pytest.raises(UsageError):
            await bus.publish("a", data)
        with pytest.raises(UsageError):
            bus.publish_soon("a", data)
        with pytest.raises(UsageError):
            await bus.send("a", data, to="ann")

        assert await client.events() == []
        assert bus.statistics().publications == 0
        await bus.publish("a", "fine")
        assert (await anext(events)).data == "fine"


@pytest.mark.parametrize("name", ["", "a.*", "*", "a.+", "a..b", "a b", "x" * 256, 7])
async def test_only_a_channel_can_be_published_to(name: Any) -> None:
    """A pattern, or what is no name at all, is refused as a channel."""
    async with Bus() as bus:
        with pytest.raises(InvalidChannel):
            await bus.publish(name)


@pytest.mark.parametrize("event", ["a\nb", "\x00", "\ud800", None])
async def test_an_event_is_a_printable_text(event: Any) -> None:
    """What could break a frame is refused as the name of an event."""
    async with Bus() as bus:
        with pytest.raises(UsageError):
            await bus.publish("a", event=event)


# --- subscriptions inside the process ----------------------------------------------------------


async def test_a_local_subscriber_gets_what_a_remote_one_would() -> None:
    """The same publications, in the same order, as data decoded from the same JSON."""
    async with Bus() as bus, connecting(door(bus)) as connect, bus.subscribe("a.+") as events:
        client = await connect("ann")
        await client.subscribe("a.+")
        data = {"list": (1, 2), "text": "雀"}
        await bus.publish("a.b", data, event="one")
        await bus.publish("a.b.c", "too deep")
        await bus.publish("a.c", None, event="two")
        first, second = await anext(events), await anext(events)

        assert (first.channel, first.event, first.gap) == ("a.b", "one", None)
        assert first.data == {"list": [1, 2], "text": "雀"}
        assert (second.channel, second.event, second.data) == ("a.c", "two", None)
        assert await client.events() == [first.data, second.data]


async def test_a_local_subscriber_that_falls_behind_is_told() -> None:
    """The first event after a loss says how many are missing; all are accounted for."""
    async with Bus() as bus, bus.subscribe("a", max_messages=3) as events:
        receipts = [await bus.publish("a", number) for number in range(10)]
        got = [await anext(events) for _ in range(3)]

        gap = Gap(7, GapCause.BUFFER, {"a": ChannelLoss(7)})
        assert [event.data for event in got] == [7, 8, 9]
        assert [event.gap for event in got] == [gap, None, None]
        assert events.lost == 7
        assert all(receipt == Receipt(1, 1) for receipt in receipts)


async def test_a_family_conflates_by_a_field_of_the_data() -> None:
    """The newest is kept for each value of the field, and the newest one without the field.

    families.md: "a newer publication replaces the waiting one of the same channel, event and value
    of this field", and "`publish(…, key=…)` goes before the family's `key`".
    """
    bus = Bus()
    bus.family("book.*", overflow="conflate", key="level")
    async with bus, bus.subscribe("book.*") as events:
        for level, price in ((1, 10), (2, 20), (1, 11)):
            await bus.publish("book.a", {"level": level, "price": price})
        await bus.publish("book.b", {"level": 1, "price": 12})
        await bus.publish("book.a", {"level": 1, "price": 13}, event="trade")
        await bus.publish("book.a", {"level": 1, "price": 14}, key="other")
        await bus.publish("book.a", "no level")
        await bus.publish("book.a", "none again")
        with fail_after(5):
            got = [(await anext(events)).data for _ in range(6)]

    assert [d["price"] for d in got if isinstance(d, dict)] == [20, 11, 12, 13, 14]
    assert got[-1] == "none again"


async def test_drop_newest_tells_the_publisher() -> None:
    """A full queue that takes no more is matched, and not accepted."""
    bus = Bus()
    async with bus, bus.subscribe("a", max_messages=1, overflow=Overflow.DROP_NEWEST) as events:
        assert await bus.publish("a", 1) == Receipt(1, 1)
        assert await bus.publish("a", 2) == Receipt(1, 0)
        assert (await anext(events)).data == 1
        assert events.lost == 1


async def test_a_local_subscriber_may_ask_to_be_ended_rather_than_to_miss_one() -> None:
    """With ``close`` the iterator ends where it would have to skip."""
    bus = Bus()
    async with bus, bus.subscribe("a", max_messages=3, overflow=Overflow.CLOSE) as events:
        for number in range(10):
            bus.publish_soon("a", number)
        await quiet()

        assert [event async for event in events] == []
        assert bus.statistics().patterns == 0


async def test_a_local_subscription_ends_with_the_bus() -> None:
    """Whoever iterates when the bus stops comes to the end."""
    bus = Bus()
    ended = Event()
    async with create_task_group() as tasks:

        async def read() -> None:
            async with bus.subscribe("a") as events:
                async for _ in events:
                    pass
            ended.set()

        async with bus:
            tasks.start_soon(read)
            await quiet()
        with fail_after(1):
            await ended.wait()


async def test_a_cancelled_step_loses_nothing() -> None:
    """What comes while a step of the iteration is cancelled is there for the next."""
    async with Bus() as bus, bus.subscribe("a") as events:
        with move_on_after(0) as scope:
            await anext(events)
        assert scope.cancelled_caught
        await bus.publish("a", 1)
        with CancelScope() as scope:
            scope.cancel()
            bus.publish_soon("a", 2)
            assert (await anext(events)).data == 1

        assert (await anext(events)).data == 2


async def test_a_local_subscription_is_entered_once() -> None:
    """It must be entered before it is read, and not twice."""
    async with Bus() as bus:
        events = bus.subscribe("a")
        with pytest.raises(UsageError):
            await anext(events)
        async with events:
            with pytest.raises(UsageError):
                await events.__aenter__()
        with pytest.raises(UsageError):
            await events.__aenter__()


# --- connections -------------------------------------------------------------------------------


async def test_an_identity_is_disconnected_everywhere(direct: bool) -> None:
    """``disconnect`` ends all connections of an identity after what they are owed."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        phone, desk, ben = [await connect(name) for name in ("ann", "ann", "ben")]
        await phone.subscribe("a")
        await bus.publish("a", "last")

        assert bus.disconnect("ann", reason="bye") == 2
        assert (await phone.hear("event"))["data"] == "last"
        for client in (phone, desk):
            closed = await client.peer.wait_closed()
            assert (closed.code, closed.reason) == (CloseCode.DISCONNECTED, "bye")
        assert await ben.events() == []
        assert bus.disconnect("ann") == 0


async def test_a_reason_is_cut_to_what_fits_a_close_frame() -> None:
    """123 bytes of UTF-8 are left of a long reason (RFC 6455, section 5.5.1), characters whole."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.connection.disconnect(4999, "é" * 100)

        assert (await client.peer.wait_closed()).reason == "é" * 61


async def test_the_server_subscribes_on_its_own_account(direct: bool) -> None:
    """What the server subscribes a client cannot give up, nor the server what the client did."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        connection = client.connection
        connection.subscribe("a")
        connection.subscribe("a")
        await client.subscribe("a")
        client.say("unsubscribe", channels=["a"])
        await client.hear("unsubscribed")
        await bus.publish("a", "the server's")
        assert await client.events() == ["the server's"]

        await client.subscribe("a")
        connection.unsubscribe("a")
        connection.unsubscribe("a")
        await bus.publish("a", "the client's")
        assert await client.events() == ["the client's"]
        assert connection.info().subscriptions == ("a",)

        client.say("unsubscribe", channels=["a"])
        await client.hear("unsubscribed")
        assert await bus.publish("a") == Receipt(0, 0)


async def test_what_is_known_of_connections() -> None:
    """``connections`` tells who is there, oldest first, and what each did."""
    async with Bus() as bus, connecting(door(bus), client=("10.0.0.1", 99)) as connect:
        ann, _ = await connect("ann"), await connect(path="/other")
        await ann.subscribe("a", "b.*")
        await bus.publish("a", 1)
        await ann.events()
        first, second = bus.connections()

        assert (first.connection_id, first.subject, first.protocol) == (ann.id, "ann", "wsbus.v1")
        assert (first.client, first.path) == (("10.0.0.1", 99), "/ws")
        assert first.subscriptions == ("a", "b.*")
        assert (first.message_count, first.messages_received) == (1, 2)
        assert first.is_alive
        assert first.connected_at <= first.last_pong
        assert (second.subject, second.path) == (None, "/other")


async def test_what_was_not_understood_is_counted() -> None:
    """``malformed`` tells how many messages their dialect could not read, whatever was answered."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        received = bus.statistics().messages_received
        for frame in ("hello", '{"type":"nothing"}', '{"type":"ping"}', '{"type":"subscribe"}'):
            client.peer.send(frame)
        await client.hear("pong")

        assert bus.statistics().malformed == 3
        assert bus.statistics().messages_received == received + 4


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_every_delivery_is_accounted_for(direct: bool, overflow: Overflow) -> None:
    """Matched is sent, queued, dropped, refused and discarded: read, blocked, or gone."""
    limits = Limits(queue_messages=5, messages_per_second=None)

    def balance(bus: Bus) -> int:
        s = bus.statistics()
        return s.matched - s.sent - s.queued - s.dropped - s.refused - s.discarded

    async with (
        Bus() as bus,
        connecting(door(bus, limits=limits, overflow=overflow), direct=direct) as connect,
        bus.subscribe("a", max_messages=7, overflow=overflow) as events,
    ):
        reader, slow, leaver = [await connect(name) for name in ("ann", "ben", "cem")]
        for client in (reader, slow, leaver):
            await client.subscribe("a")
        slow.peer.stop_reading()
        leaver.peer.stop_reading()
        for number in range(20):
            await bus.publish("a", number)
            await quiet()
            assert balance(bus) == 0
        leaver.peer.close()
        await quiet()
        assert balance(bus) == 0
        slow.peer.read_on()
        async with create_task_group() as tasks:
            tasks.start_soon(anext, events, None)
        await quiet()

        assert balance(bus) == 0
        assert bus.statistics().queued == 0
        assert await reader.events() == list(range(20))


async def test_a_stuck_connection_delays_no_stop() -> None:
    """One whose transport takes nothing is aborted at once when the bus stops."""
    bus = Bus()
    async with create_task_group() as tasks:
        async with bus:
            endpoint = door(bus)
            admission = await endpoint.admit(Handshake("/", "token=ann"))
            assert isinstance(admission, Admission)
            transport = DirectMemoryTransport()
            tasks.start_soon(endpoint.run, transport, admission)
            transport.peer.send('{"type":"subscribe","channels":["a"]}')
            await quiet()
            transport.peer.stop_reading()
            await bus.publish("a", 1)
            await quiet()
            with fail_after(0.5):
                await bus.aclose()

        assert transport.peer.closed is not None
        assert transport.peer.closed.code == CloseCode.ABNORMAL


async def test_an_aborted_connection_hears_nothing_more() -> None:
    """``abort`` ends it without a close frame, and the application sees 1006."""
    bus = Bus()
    ended: list[int | None] = []
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.connection.abort()
        await quiet()
        with pytest.raises(TransportClosed):
            await client.hear()

        assert ended == [CloseCode.ABNORMAL]


async def test_only_connections_are_blocked() -> None:
    """A subscription inside the process goes by its queue always, and is not counted."""
    async with Bus() as bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        async with bus.subscribe("a"), bus.subscribe("b"):
            assert bus.statistics().blocked == 0
            transport = client.transport
            transport.peer.stop_reading()
            for _ in range(100):
                await bus.publish("a", "x" * 10_000)
            assert bus.statistics().blocked == 1


async def test_a_log_line_says_which_connection_it_is_and_whose() -> None:
    """Id, subject and path, with what the client chose escaped."""

    def name(handshake: Handshake) -> str:
        return handshake.path.removeprefix("/")

    async with Bus() as bus, connecting(door(bus, name_connection=name)) as connect:
        await connect("ann", path="/a\nb")
        await connect(path="/c")
        drivers: list[Any] = host_of(bus).services.registry.connected()
        said = [driver.describe() for driver in drivers]

        assert said == [
            "the connection a\\nb of ann, on /a\\nb,",
            "the connection c without a subject, on /c,",
        ]
