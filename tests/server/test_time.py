"""What time brings, in time that passes as soon as everybody waits (trio only)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from anyio import create_task_group, sleep
from trio.testing import MockClock

from tests.server.clients import EVERYTHING, UNLIMITED, Client, connecting, judge
from wsbus import (
    Bus,
    CloseCode,
    Connection,
    Endpoint,
    Handshake,
    HeartbeatPolicy,
    Identity,
    Limits,
    Overflow,
)
from wsbus.core.returning import return_in
from wsbus.endpoint import Admission
from wsbus.protocols import Instant
from wsbus.testing import MemoryTransport

EPOCH = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Run every test here in time that jumps."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


@pytest.fixture(params=[True, False], ids=["direct", "awaited"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Run a test over transports that write at once, and over those that only await."""
    return bool(request.param)


class Clock:
    """The loop's time, and a wall clock that can be set."""

    def __init__(self) -> None:
        self.wall_is_off = 0.0
        self.stood_still = 0.0

    def __call__(self) -> Instant:
        now = trio.current_time() + self.stood_still
        return Instant(now, EPOCH + now + self.wall_is_off)


def door(bus: Bus, **options: Any) -> Endpoint:
    """Return an endpoint where everybody is who they say, without limits, and nobody pings."""
    defaults: dict[str, Any] = {
        "authenticator": judge,
        "query_token": "token",
        "limits": UNLIMITED,
        "heartbeat": HeartbeatPolicy.client_drives(),
    }
    return bus.endpoint(**defaults | options)


async def end_of(client: Client) -> tuple[int, float]:
    """Return how a connection ends, and when."""
    closed = await client.peer.wait_closed()
    return closed.code, trio.current_time()


# --- heartbeat -------------------------------------------------------------------------------


async def test_the_server_pings_at_its_interval() -> None:
    """Every 30 s after the first, which comes within one interval; the client sees when."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy())) as connect:
        client = await connect("ann")
        times = []
        for _ in range(5):
            assert (await client.hear())["type"] == "ping"
            times.append(trio.current_time())
            client.say("pong")
        gaps = [later - earlier for earlier, later in pairwise(times)]

        assert 14 <= times[0] <= 32
        assert all(30 <= gap <= 32 for gap in gaps)
        info = client.connection.info()
        assert info.last_ping is not None
        assert info.last_ping - info.connected_at <= trio.current_time()


async def test_who_is_silent_is_closed(direct: bool) -> None:
    """4408 after 60 s in which nothing came."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy()), direct=direct) as connect:
        client = await connect("ann")
        began = trio.current_time()
        code, ended = await end_of(client)

        assert code == CloseCode.HEARTBEAT_TIMEOUT
        assert 60 <= ended - began <= 62


async def test_a_first_ping_need_not_be_spread() -> None:
    """Without spreading it comes when the interval is over, and a quick heartbeat is kept."""
    policy = HeartbeatPolicy(interval=0.9, timeout=None, spreads=False)
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, heartbeat=policy)) as connect:
        client = await connect("ann")
        began = trio.current_time()
        times = []
        for _ in range(5):
            await client.hear("ping")
            times.append(trio.current_time() - began)

        assert 0.9 <= times[0] <= 2.0  # the sweeper learns of its first connection
        assert all(0.9 <= later - earlier <= 1.3 for earlier, later in pairwise(times))


async def test_another_heartbeat_takes_effect_at_the_next_sweep() -> None:
    """A policy assigned to an endpoint is that of its open connections, too."""
    bus = Bus(clock=Clock())
    endpoint = door(bus, heartbeat=HeartbeatPolicy(interval=None, timeout=1000))
    async with bus, connecting(endpoint) as connect:
        client = await connect("ann")
        await sleep(100)
        endpoint.heartbeat = HeartbeatPolicy(interval=None, timeout=103)
        code, ended = await end_of(client)

        assert code == CloseCode.HEARTBEAT_TIMEOUT
        assert 103 <= ended <= 106


async def test_any_frame_is_life() -> None:
    """A client that sends anything at all within the timeout stays."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy())) as connect:
        client = await connect("ann")
        for _ in range(20):
            client.peer.send("not even JSON")
            await sleep(50)

        assert client.connection.info().is_alive


async def test_a_slow_command_delays_no_heartbeat() -> None:
    """Pings of both sides go on while a command takes its time."""
    bus = Bus(clock=Clock())

    @bus.command("slow", timeout=100)
    async def slow() -> str:
        await sleep(90)
        return "done"

    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy())) as connect:
        client = await connect("ann")
        client.say("command", id="1", action="slow")
        pings = 0
        while (message := await client.hear())["type"] != "response":
            pings += message["type"] == "ping"
            client.say("pong")

        assert message["data"] == "done"
        assert pings >= 2


# --- clocks ----------------------------------------------------------------------------------


def short_lived(seconds: float) -> Callable[[str | None, Handshake], Identity | None]:
    """Return an authenticator whose tokens expire so long after the test began."""

    def knows(token: str | None, handshake: Handshake) -> Identity | None:
        until = EPOCH + (float(token) if token and token.isdigit() else seconds)
        return Identity("ann", EVERYTHING, until) if token else None

    return knows


async def test_a_connection_ends_with_its_token() -> None:
    """4401 once the wall clock shows the expiry."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, authenticator=short_lived(100))) as connect:
        code, ended = await end_of(await connect("ann"))

        assert code == CloseCode.TOKEN_EXPIRED
        assert 100 <= ended <= 102


async def test_a_refreshed_token_keeps_the_connection() -> None:
    """With a new token over the same socket it lives until that one expires."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, authenticator=short_lived(100))) as connect:
        client = await connect("ann")
        await sleep(90)
        client.say("auth", token="200")
        assert (await client.hear("auth_result"))["data"]["expires_at"] == (EPOCH + 200) * 1000
        code, ended = await end_of(client)

        assert code == CloseCode.TOKEN_EXPIRED
        assert 200 <= ended <= 202


@pytest.mark.parametrize(("change", "due"), [(50.0, 50), (-50.0, 150)])
async def test_expiry_goes_by_the_wall_clock(change: float, due: float) -> None:
    """A wall clock that is set, forward or back, moves the expiry with it."""
    clock = Clock()
    bus = Bus(clock=clock)
    async with bus, connecting(door(bus, authenticator=short_lived(100))) as connect:
        client = await connect("ann")
        await sleep(10)
        clock.wall_is_off = change
        code, ended = await end_of(client)

        assert code == CloseCode.TOKEN_EXPIRED
        assert due <= ended <= due + 2


@pytest.mark.parametrize("change", [86400.0, -86400.0])
async def test_setting_the_wall_clock_disconnects_nobody(change: float) -> None:
    """Durations go by the other clock: no heartbeat ends for it, none is put off."""
    clock = Clock()
    bus = Bus(clock=clock)
    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy())) as connect:
        client = await connect("ann")
        await sleep(10)
        clock.wall_is_off = change
        await sleep(10)
        assert client.connection.info().is_alive
        code, ended = await end_of(client)

        assert code == CloseCode.HEARTBEAT_TIMEOUT
        assert 60 <= ended <= 62


async def test_nobody_is_blamed_for_a_process_that_stood_still(direct: bool) -> None:
    """After a stop of the process silence and stuck writes are judged anew."""
    clock = Clock()
    bus = Bus(clock=clock)
    limits = Limits(messages_per_second=None, write_deadline=50)
    endpoint = door(bus, heartbeat=HeartbeatPolicy(), limits=limits)
    async with bus, connecting(endpoint, direct=direct) as connect:
        client, stuck = await connect("ann"), await connect("ben")
        await stuck.subscribe("a")
        stuck.peer.stop_reading()
        await bus.publish("a")
        await sleep(5)
        clock.stood_still = 600
        await sleep(20)
        assert bus.statistics().connections == 2

        code, ended = await end_of(client)
        assert code == CloseCode.HEARTBEAT_TIMEOUT
        assert ended <= 64
        assert stuck.peer.closed is not None


# --- deadlines -------------------------------------------------------------------------------


async def test_who_does_not_authenticate_in_time_is_closed() -> None:
    """4500 after 10 s; what it says in between changes nothing."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus)) as connect:
        client = await connect()
        for _ in range(9):
            client.say("ping")
            assert (await client.hear())["error"]["code"] == "UNAUTHENTICATED"
            await sleep(1)
        code, ended = await end_of(client)

        assert code == CloseCode.TOKEN_REFUSED
        assert 10 <= ended <= 12


async def test_a_slow_authenticator_is_bounded() -> None:
    """The handshake waits for it no longer than for a client: then it is 503."""

    async def sleeps(token: str | None, handshake: Handshake) -> Identity | None:
        await sleep(1000)
        return None

    bus = Bus(clock=Clock())
    async with bus:
        verdict = await door(bus, authenticator=sleeps).admit(Handshake("/"))

        assert not isinstance(verdict, Admission)
        assert verdict.status == 503
        assert trio.current_time() <= 12


async def test_a_command_has_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """After 25 s, or its own limit, it is cancelled and answered TIMEOUT."""
    bus = Bus(clock=Clock())
    cancelled: list[float] = []

    async def slow() -> None:
        try:
            await sleep(1000)
        finally:
            cancelled.append(trio.current_time())

    bus.command("slow")(slow)
    bus.command("slower", timeout=40)(slow)
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("command", id="a", action="slower")
        client.say("command", id="b", action="slow")
        answers = [await client.hear("response") for _ in range(2)]

        assert [answer["id"] for answer in answers] == ["b", "a"]
        assert {answer["error"]["code"] for answer in answers} == {"TIMEOUT"}
        assert [round(at) for at in cancelled] == [25, 40]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_a_slow_question_is_a_no() -> None:
    """``authorize`` has the time of a command, then it has refused."""

    async def authorize(identity: Identity, action: str, pattern: str) -> bool:
        await sleep(1000)
        return True

    bus = Bus(clock=Clock(), authorize=authorize)
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("subscribe", channels=["a"])
        answer = await client.hear("subscribed")

        assert answer["data"]["rejected"][0]["code"] == "FORBIDDEN"
        assert 25 <= trio.current_time() <= 26


async def test_hooks_are_bounded() -> None:
    """A hook that never returns costs its connection the time of a command, and nobody else."""
    bus = Bus(clock=Clock())

    @bus.on_connect
    @bus.on_disconnect
    async def sleeps(connection: Connection) -> None:
        await sleep(1000)

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        assert 25 <= trio.current_time() <= 26
        client.peer.close()
        await sleep(26)

        assert bus.statistics().connections == 0


async def test_who_takes_nothing_is_aborted_at_the_write_deadline(direct: bool) -> None:
    """After 5 s without progress; who reads slowly, but reads, stays."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus), direct=direct) as connect:
        stuck, slow = await connect("ann"), await connect("ben")
        for client in (stuck, slow):
            await client.subscribe("a")
            client.peer.stop_reading()
        began = trio.current_time()
        async with create_task_group() as tasks:

            async def read_now_and_then() -> None:
                while stuck.peer.closed is None:
                    await sleep(2)
                    slow.peer.read_on()
                    await sleep(0.01)
                    slow.peer.stop_reading()

            tasks.start_soon(read_now_and_then)
            while stuck.peer.closed is None:
                await bus.publish("a")
                await sleep(0.1)
        slow.peer.read_on()

        assert (await stuck.peer.wait_closed()).code == CloseCode.ABNORMAL
        assert 5 <= trio.current_time() - began <= 9
        assert slow.peer.closed is None
        assert bus.statistics().failures == 1


async def test_a_flooder_that_never_reads_is_gone_in_the_end(direct: bool) -> None:
    """First it is not read any more, and at the write deadline it is aborted."""
    bus = Bus(clock=Clock())
    limits = Limits(control_bytes=5000, messages_per_second=None)
    async with bus, connecting(door(bus, limits=limits), direct=direct) as connect:
        flooder = await connect("ann")
        flooder.peer.stop_reading()
        for _ in range(1000):
            flooder.say("ping")
        code, ended = await end_of(flooder)

        assert code == CloseCode.ABNORMAL
        assert 5 <= ended <= 7
        assert flooder.peer.unread > 800


async def test_who_keeps_exceeding_a_rate_is_closed() -> None:
    """Each excess message is refused; 4429 after 10 s of them."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus, limits=Limits(messages_per_second=10))) as connect:
        client = await connect("ann")
        while client.peer.closed is None:
            client.say("ping")
            await sleep(0.02)

        assert client.peer.closed.code == CloseCode.RATE_ABUSE
        assert 10 <= trio.current_time() <= 13


async def test_a_queue_that_must_not_lose_ends_its_connection(direct: bool) -> None:
    """With ``close`` a reader that falls behind is closed, or aborted if nothing can be said."""
    bus = Bus(clock=Clock())
    limits = Limits(queue_messages=5)
    ended: list[int | None] = []
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    endpoint = door(bus, limits=limits, overflow=Overflow.CLOSE)
    async with bus, connecting(endpoint, direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        client.peer.stop_reading()
        for number in range(10):
            await bus.publish("a", number)
            await sleep(0.1)
        await client.peer.wait_closed()
        await sleep(1)

        assert ended == [CloseCode.TOO_SLOW]
        assert trio.current_time() < 8


# --- the stop --------------------------------------------------------------------------------


class Deaf(MemoryTransport):
    """A transport whose closing handshake nobody answers."""

    async def close(self, code: int, reason: str) -> None:
        """Wait for a peer that never answers."""
        await sleep(1000)


@pytest.mark.parametrize(("deadline", "close_timeout"), [(3.0, 5.0), (10.0, 2.0)])
async def test_a_stop_has_a_deadline(deadline: float, close_timeout: float) -> None:
    """Whoever does not end by themselves is aborted, by the deadline at the latest."""
    bus = Bus(clock=Clock())
    transport = Deaf()
    endpoint = door(bus, limits=Limits(close_timeout=close_timeout))
    async with create_task_group() as tasks:
        await bus.__aenter__()
        admission = await endpoint.admit(Handshake("/", "token=ann"))
        assert isinstance(admission, Admission)
        tasks.start_soon(endpoint.run, transport, admission)
        await sleep(1)
        began = trio.current_time()
        await bus.aclose(deadline=deadline)
        took = trio.current_time() - began

    assert transport.peer.closed is not None
    assert transport.peer.closed.code == CloseCode.ABNORMAL
    assert took <= min(deadline, close_timeout) + 0.1


async def test_a_stop_aborts_who_is_stuck_within_a_second(direct: bool) -> None:
    """Blocked connections do not hold up a stop, whatever its deadline."""
    bus = Bus(clock=Clock())
    async with bus, connecting(door(bus), direct=direct) as connect:
        stuck, reader = await connect("ann"), await connect("ben")
        for client in (stuck, reader):
            await client.subscribe("a")
        stuck.peer.stop_reading()
        await bus.publish("a")
        await sleep(0.5)
        began = trio.current_time()
        await bus.aclose(deadline=100)

        assert trio.current_time() - began <= 1.1
        assert stuck.peer.closed is not None
        assert reader.peer.closed is not None
        assert reader.peer.closed.code == CloseCode.GOING_AWAY


# --- draining with advice ------------------------------------------------------------------------


async def test_a_drain_spreads_the_return_of_clients_over_the_window(direct: bool) -> None:
    """Each client of ``wsbus.v1`` gets a time of its own, evenly spread; all are gone soon."""
    bus = Bus(clock=Clock())
    count, window = 400, 20.0
    async with bus, connecting(door(bus), direct=direct) as connect:
        clients = [await connect("ann") for _ in range(count)]
        began = trio.current_time()
        returns: list[float] = []

        async def await_end(client: Client) -> None:
            closed = await client.peer.wait_closed()
            assert closed.code == CloseCode.SERVICE_RESTART
            seconds = return_in(closed.reason)
            assert seconds is not None
            returns.append(trio.current_time() - began + seconds)

        async with create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(await_end, client)
            await bus.drain(window)
        took = trio.current_time() - began

    assert 0 < took <= 9
    assert sorted(returns) == pytest.approx(
        [window * (number + 0.5) / count for number in range(count)], abs=0.06
    )


@pytest.mark.parametrize("window", [0.0, 3600.0])
async def test_a_drain_never_takes_longer_than_ten_seconds(window: float) -> None:
    """A client that does not end by itself is cut at the deadline, whatever the window."""
    bus = Bus(clock=Clock())
    transport = Deaf()
    endpoint = door(bus, limits=Limits(close_timeout=100))
    async with create_task_group() as tasks, bus:
        admission = await endpoint.admit(Handshake("/", "token=ann"))
        assert isinstance(admission, Admission)
        tasks.start_soon(endpoint.run, transport, admission)
        await sleep(1)
        began = trio.current_time()
        await bus.drain(window)

        assert trio.current_time() - began <= 10
        assert transport.peer.closed is not None
        assert transport.peer.closed.code == CloseCode.ABNORMAL


async def test_a_stop_during_a_drain_advises_the_rest() -> None:
    """SIGTERM does not wait for the batches; those that are left get their advice all the same."""
    bus = Bus(clock=Clock())
    async with create_task_group() as tasks, bus, connecting(door(bus)) as connect:
        clients = [await connect("ann") for _ in range(120)]
        tasks.start_soon(bus.drain, 100.0)
        await sleep(0.01)
        assert sum(client.peer.closed is None for client in clients) > 0
        await bus.aclose()

        advised = [return_in((await client.peer.wait_closed()).reason) for client in clients]
        assert None not in advised
        assert len(set(advised)) == len(advised)


# --- flush interval ------------------------------------------------------------------------------


async def test_publications_wait_for_others_no_longer_than_the_flush_interval(
    direct: bool,
) -> None:
    """What is published within the interval after the first leaves with it, in order."""
    bus = Bus(clock=Clock(), flush_interval=0.5)
    async with bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        began = trio.current_time()
        for number in range(3):
            await bus.publish("a", number)
            await sleep(0.2)
        assert [(await client.hear("event"))["data"] for _ in range(3)] == [0, 1, 2]
        assert 0.49 <= trio.current_time() - began <= 0.7

        began = trio.current_time()
        await bus.publish("a", 3)
        assert (await client.hear("event"))["data"] == 3
        assert 0.49 <= trio.current_time() - began <= 0.6


async def test_a_reply_with_nothing_before_it_waits_for_no_interval() -> None:
    """Only what follows publications waits with them."""
    bus = Bus(clock=Clock(), flush_interval=0.5)

    @bus.command("now")
    def now() -> float:
        return trio.current_time()

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        began = trio.current_time()
        assert (await client.command("now"))["success"]
        assert trio.current_time() == began
