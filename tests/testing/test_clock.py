"""A clock that a test moves, and what happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import create_task_group

from tests.testing.test_client import EVERYTHING, changed_to
from wsbus import (
    Bus,
    Handshake,
    HeartbeatPolicy,
    History,
    Identity,
    Limits,
    PositionLost,
    UsageError,
)
from wsbus.client import Connected, Reconnecting, RemoteError, Retry
from wsbus.testing import ManualClock, MemoryNetwork, client, expect


def ticket(clock: ManualClock, seconds: float) -> Any:
    """Return an authenticator whose tokens hold for so long after they are shown."""

    def judge(token: str | None, handshake: Handshake) -> Identity | None:
        return Identity("ann", EVERYTHING, clock().wall + seconds) if token else None

    return judge


async def test_a_client_outlives_many_heartbeats() -> None:
    """Pings go both ways in their time, and the connection stays the same."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    async with bus, client(bus) as c:
        first, began = c.connection_id, clock()
        await clock.pass_time(600)
        assert clock().monotonic == began.monotonic + 600
        assert clock().wall == began.wall + 600
        assert c.connection_id == first
        (info,) = bus.connections()
        assert info.last_ping is not None
        assert info.last_ping > began.wall + 560


async def test_a_silent_client_is_ended() -> None:
    """4408 from the server; the client notices, too, and comes again when it can."""
    clock, network, ended = ManualClock(), MemoryNetwork(), list[int | None]()
    bus = Bus(clock=clock)
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    endpoint = bus.endpoint(heartbeat=HeartbeatPolicy())
    async with bus, client(bus, endpoint=endpoint, network=network, ping_timeout=900) as c:
        changes = c.changes()
        network.freeze()
        await clock.pass_time(30)
        assert not ended
        await clock.pass_time(40)
        assert ended == [4408]
        network.restore()
        assert "heartbeat" in str((await changed_to(changes, Reconnecting)).error).lower()
        await clock.pass_time(40)
        await changed_to(changes, Connected)


async def test_a_client_gives_a_silent_server_up() -> None:
    """After its ping timeout it dials anew."""
    clock, network = ManualClock(), MemoryNetwork()
    bus = Bus(clock=clock)
    async with bus, client(bus, network=network) as c:
        changes = c.changes()
        network.freeze()
        await clock.pass_time(50)
        await changed_to(changes, Reconnecting)
        network.restore()
        await clock.pass_time(60)
        await changed_to(changes, Connected)
        assert network.dialled > 1


async def test_a_token_expires_in_its_second() -> None:
    """Not before it, and the connection is ended with it."""
    clock, ended = ManualClock(), list[int | None]()
    bus = Bus(clock=clock)
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    endpoint = bus.endpoint(authenticator=ticket(clock, 100))
    never = Retry(attempts=0)
    async with (
        bus,
        client(bus, endpoint=endpoint, token="t", retry=never) as c,
        c.subscribe("a") as events,
    ):
        await clock.pass_time(99)
        assert not ended
        await clock.pass_time(1)
        assert ended == [4401]
        with pytest.raises(RemoteError):
            await anext(events)


async def test_a_token_is_refreshed_in_time() -> None:
    """A function is asked again before the end of each token, over the same connection."""
    clock, asked = ManualClock(), list[float]()

    async def fetch() -> str:
        asked.append(clock().monotonic)
        return "t"

    bus = Bus(clock=clock)
    endpoint = bus.endpoint(authenticator=ticket(clock, 100))
    async with bus, client(bus, endpoint=endpoint, token=fetch) as c:
        first = c.connection_id
        await clock.pass_time(300)
        assert c.connection_id == first
        assert len(asked) >= 4


async def test_history_grows_old() -> None:
    """Before its time it is there, afterwards it is not."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    bus.family("kept.*", history=History(size=10, ttl=60))
    async with bus, client(bus) as c:
        await bus.publish("kept.a", 1)
        start = (await c.history("kept.a")).events[0].position
        await bus.publish("kept.a", 2)
        await clock.pass_time(59)
        assert len((await c.history("kept.a")).events) == 2
        await clock.pass_time(2)
        assert (await c.history("kept.a")).events == ()
        with pytest.raises(PositionLost):
            async with c.subscribe("kept.a", since=start):
                pass


async def test_a_rate_allows_more_later() -> None:
    """Commands beyond the rate wait in the client, until time has passed."""
    clock = ManualClock()
    bus = Bus(clock=clock)

    @bus.command("now")
    def now() -> float:
        return clock().monotonic

    endpoint = bus.endpoint(limits=Limits(commands_per_second=2))
    async with bus, client(bus, endpoint=endpoint) as c:
        done: list[float] = []

        async def call() -> None:
            done.append(await c.command("now", returns=float))

        async with create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
            await clock.pass_time(0)
            assert 1 <= len(done) <= 2
            await clock.pass_time(2)
            assert len(done) == 3


async def test_a_thinned_subscription_gets_the_newest_in_time() -> None:
    """What its rate holds back comes when its time has passed."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    async with bus, client(bus) as c, c.subscribe("a", max_rate=0.1) as events:
        for number in range(5):
            await bus.publish("a", number)
        await expect(events).receive(0)
        await expect(events).nothing()
        await clock.pass_time(9)
        await expect(events).nothing()
        await clock.pass_time(1)
        await expect(events).receive(4)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "1"])
async def test_only_seconds_pass(seconds: Any) -> None:
    """Anything else is a mistake."""
    with pytest.raises(UsageError, match="seconds"):
        await ManualClock().pass_time(seconds)
    with pytest.raises(UsageError, match="seconds"):
        ManualClock().advance(seconds)
