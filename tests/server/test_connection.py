from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from anyio import Event, fail_after
from anyio.lowlevel import checkpoint

from tests.server.clients import EVERYTHING, UNLIMITED, connecting, judge, quiet
from wsbus import (
    Bus,
    CommandError,
    Connection,
    Endpoint,
    Grants,
    Handshake,
    HeartbeatPolicy,
    Identity,
    Limits,
    Overflow,
    TransportClosed,
    Unauthenticated,
    UsageError,
)
from wsbus.bus import host_of
from wsbus.core.messages import Excess, Request, Response, ServerMessage
from wsbus.endpoint import Admission, Refusal
from wsbus.protocols import Frame, Instant, Native
from wsbus.server.lifecycle import _sweep_once
from wsbus.testing import ManualClock


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


# --- hooks -----------------------------------------------------------------------------------


async def test_nothing_is_acted_on_before_the_connect_hooks_have_returned(direct: bool) -> None:
    """A client's first message waits for ``on_connect``, which sees the connection attached."""
    bus = Bus()
    may_go = Event()
    seen: list[str] = []

    @bus.on_connect
    async def greet(connection: Connection) -> None:
        await may_go.wait()
        connection.state.name = connection.identity.subject if connection.identity else ""
        seen.append(f"hook {connection.state.name}")

    @bus.command("look")
    def look(connection: Connection) -> str:
        seen.append("command")
        return str(connection.state.name)

    async with bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        client.say("command", id="1", action="look")
        await quiet()
        assert seen == []

        may_go.set()
        assert (await client.hear("response"))["data"] == "ann"
        assert seen == ["hook ann", "command"]


async def test_failing_hooks_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What a hook raises is logged; the connection, and the other hooks, go on."""
    bus = Bus()
    called: list[str] = []

    @bus.on_connect
    def fails(connection: Connection) -> None:
        raise LookupError

    @bus.on_connect
    async def works(connection: Connection) -> None:
        called.append("connect")

    @bus.on_disconnect
    async def fails_too(connection: Connection) -> None:
        raise LookupError

    @bus.on_disconnect
    def works_too(connection: Connection) -> None:
        called.append(f"disconnect {connection.close_code} {connection.close_reason}")

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        await client.subscribe("a")
        client.peer.close(4999, "done")
        await quiet()

        assert called == ["connect", "disconnect 4999 done"]
        assert bus.statistics().connections == 0
    told = [record.getMessage().rpartition(".")[2] for record in caplog.records]
    assert told == ["fails failed", "fails_too failed"]


async def test_a_hook_may_end_the_connection() -> None:
    """A connection that ``on_connect`` disconnects is not read."""
    bus = Bus()

    @bus.on_connect
    def refuse(connection: Connection) -> None:
        connection.disconnect(4999, "not today")

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("command", id="1", action="none")
        with pytest.raises(TransportClosed) as closed:
            await client.hear("response")

        assert closed.value.code == 4999


# --- commands --------------------------------------------------------------------------------


class Grid(msgspec.Struct):
    """What a command may take as a whole."""

    pair: str
    upper_price: float
    lower_price: float = 1.0


def plain(a: int, b: int = 2) -> int:
    return a + b


async def twice(text: str) -> str:
    return text * 2


def thrice(text: str) -> str:
    return text * 3


def start(grid: Grid) -> dict[str, object]:
    if grid.upper_price <= grid.lower_price:
        raise CommandError("VALIDATION_ERROR", "upper_price must be greater than lower_price")
    return {"pair": grid.pair}


async def whoami(connection: Connection, loud: bool = False) -> list[object]:
    assert connection.identity is not None
    name = connection.identity.subject
    return [name.upper() if loud else name, connection.handshake.path, connection.id]


def fails() -> None:
    raise LookupError("secret detail")


async def fails_async() -> None:
    raise LookupError("secret detail")


def refuses() -> None:
    raise CommandError("NO_GRID", "there is no such grid")


def commanding() -> Bus:
    """Return a bus with commands of every kind."""
    bus = Bus()
    bus.command("threaded", threaded=True)(thrice)
    functions: dict[str, Callable[..., Any]] = {
        "plain": plain,
        "async": twice,
        "grid.start": start,
        "whoami": whoami,
        "fails": fails,
        "fails.async": fails_async,
        "unsendable": lambda: {"an object": object()},
        "refuses": refuses,
        "nothing": lambda: None,
    }
    for action, function in functions.items():
        bus.command(action)(function)
    return bus


@pytest.mark.parametrize(
    ("action", "params", "result"),
    [
        ("plain", {"a": 1}, 3),
        ("plain", {"a": 1, "b": 5, "more": None}, 6),
        ("async", {"text": "雀"}, "雀雀"),
        ("threaded", {"text": "x"}, "xxx"),
        ("grid.start", {"pair": "BTC/USDT", "upper_price": 2}, {"pair": "BTC/USDT"}),
        ("nothing", {}, None),
    ],
)
async def test_a_command_is_a_function(action: str, params: dict[str, Any], result: object) -> None:
    """Params are spread over typed parameters or taken as a whole; the result is the answer."""
    bus = commanding()
    async with bus, connecting(door(bus)) as connect:
        response = await (await connect("ann")).command(action, **params)

        assert (response["success"], response.get("data"), response["id"]) == (True, result, action)


async def test_a_command_may_ask_for_the_caller(direct: bool) -> None:
    """A parameter annotated as Connection is given the caller, and is none of the client's."""
    bus = commanding()
    async with bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann", path="/grids")

        response = await client.command("whoami", loud=True, connection="forged")
        assert response["data"] == ["ANN", "/grids", client.id]


@pytest.mark.parametrize(
    ("action", "params", "code", "part"),
    [
        ("plain", {"a": "1"}, "VALIDATION_ERROR", "$.params.a"),
        ("plain", {}, "VALIDATION_ERROR", "`a`"),
        ("grid.start", {"pair": "x", "upper_price": 0}, "VALIDATION_ERROR", "must be greater"),
        ("none", {}, "UNKNOWN_ACTION", ""),
        ("refuses", {}, "NO_GRID", "there is no such grid"),
        ("fails", {}, "INTERNAL_ERROR", ""),
        ("fails.async", {}, "INTERNAL_ERROR", ""),
        ("unsendable", {}, "INTERNAL_ERROR", ""),
    ],
)
async def test_a_command_that_is_refused_says_why(
    action: str, params: dict[str, Any], code: str, part: str
) -> None:
    """Each refusal has its code; params are judged with their place; no detail of a failure."""
    bus = commanding()
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        response = await client.command(action, **params)

        assert not response["success"]
        assert response["error"]["code"] == code
        assert part in response["error"]["message"]
        assert "secret" not in str(response)
        assert await client.events() == []


async def test_a_failing_command_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The operator gets what the client does not."""
    bus = commanding()
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        assert await client.is_refused("fails") == "INTERNAL_ERROR"
        assert await client.is_refused("fails.async") == "INTERNAL_ERROR"

    assert [record.getMessage() for record in caplog.records] == [
        "the command fails failed",
        "the command fails.async failed",
    ]
    assert all(record.exc_info for record in caplog.records)


async def test_a_command_needs_a_grant() -> None:
    """FORBIDDEN comes before UNKNOWN_ACTION: nobody learns what there is."""
    grants = Grants.of(command=["grid.*"])
    bus = commanding()
    async with bus, connecting(bus.endpoint(anonymous=grants)) as connect:
        client = await connect()

        assert await client.is_refused("plain", a=1) == "FORBIDDEN"
        assert await client.is_refused("none") == "FORBIDDEN"
        assert await client.is_refused("grid.none") == "UNKNOWN_ACTION"
        assert await client.is_refused("grid.start", pair="x", upper_price=2) is None


async def test_commands_that_do_not_fit_are_not_registered() -> None:
    """An action is registered once; an ``async def`` is not threaded; parameters have names."""
    bus = commanding()

    async def runs(a: int) -> None: ...

    def takes(*things: int) -> None: ...

    for action, function, options in (
        ("plain", runs, {}),
        ("new", runs, {"threaded": True}),
        ("new", takes, {}),
    ):
        with pytest.raises(UsageError):
            bus.command(action, **options)(function)


async def test_a_slow_command_delays_nothing(direct: bool) -> None:
    """While one waits, pings, events and other commands go on; answers carry their id."""
    bus = commanding()
    may_end = Event()

    @bus.command("slow")
    async def slow() -> str:
        await may_end.wait()
        return "at last"

    async with bus, connecting(door(bus), direct=direct) as connect:
        client = await connect("ann")
        client.say("command", id="s", action="slow")
        await client.subscribe("a")
        await bus.publish("a", 1)
        assert await client.events() == [1]
        assert (await client.command("async", text="x"))["data"] == "xx"

        may_end.set()
        response = await client.hear("response")
        assert (response["id"], response["data"]) == ("s", "at last")


async def test_only_so_many_commands_run_at_once() -> None:
    """What is beyond ``max_running_commands`` is refused; room is made by those that end."""
    bus = Bus()
    may_end = Event()
    running: list[int] = []

    @bus.command("slow")
    async def slow(n: int) -> int:
        running.append(n)
        await may_end.wait()
        return n

    limits = Limits(max_running_commands=3, messages_per_second=None, commands_per_second=None)
    async with bus, connecting(door(bus, limits=limits)) as connect:
        client = await connect("ann")
        for number in range(5):
            client.say("command", id=str(number), action="slow", params={"n": number})
        refused = [await client.hear("response") for _ in range(2)]
        assert [answer["error"]["code"] for answer in refused] == ["RATE_LIMITED"] * 2
        assert [answer["id"] for answer in refused] == ["3", "4"]
        assert running == [0, 1, 2]

        may_end.set()
        assert {(await client.hear("response"))["data"] for _ in range(3)} == {0, 1, 2}
        assert (await client.command("slow", n=9))["data"] == 9


async def test_a_command_outlives_its_connection_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A command whose client has left ends as it will; nobody is told."""
    bus = Bus()
    may_end, ended = Event(), Event()

    @bus.command("slow")
    async def slow() -> None:
        await may_end.wait()
        ended.set()

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("command", id="1", action="slow")
        await quiet()
        client.peer.close()
        await quiet()
        may_end.set()
        with fail_after(1):
            await ended.wait()
        await quiet()

    assert caplog.records == []


# --- questions -------------------------------------------------------------------------------


async def test_authorize_has_the_last_word() -> None:
    """Asked about all that the grants allow; only True is a yes, and what fails is a no."""
    asked: list[tuple[str, str, str]] = []

    async def authorize(identity: Identity, action: str, pattern: str) -> bool:
        asked.append((identity.subject, action, pattern))
        if pattern.startswith("broken"):
            raise LookupError
        return pattern.startswith("mine")

    bus = Bus(authorize=authorize)
    bus.command("mine.do")(lambda: "done")
    grants = Grants.of(subscribe=["mine.*", "other.*", "broken.*"], publish=["*"], command=["*"])

    def knows(token: str | None, handshake: Handshake) -> Identity | None:
        return Identity(token, grants) if token else None

    async with bus, connecting(door(bus, authenticator=knows)) as connect:
        client = await connect("ann")
        client.say("subscribe", channels=["mine.*", "other.a", "secret.a", "broken.a", "a..b"])
        data = (await client.hear("subscribed"))["data"]
        assert data["channels"] == ["mine.*"]
        assert [(r["channel"], r["code"]) for r in data["rejected"]] == [
            ("other.a", "FORBIDDEN"),
            ("secret.a", "FORBIDDEN"),
            ("broken.a", "FORBIDDEN"),
            ("a..b", "INVALID_CHANNEL"),
        ]
        assert (await client.command("mine.do"))["data"] == "done"
        assert await client.is_refused("other.do") == "FORBIDDEN"
        client.say("publish", id="p", channel="mine.a", data=1)
        assert (await client.hear("response"))["data"] == {"matched": 1, "accepted": 1}
        client.say("publish", id="p", channel="other.a", data=1)
        assert (await client.hear("response"))["error"]["code"] == "FORBIDDEN"

        assert ("ann", "subscribe", "mine.*") in asked
        assert ("ann", "subscribe", "secret.a") not in asked
        assert ("ann", "command", "mine.do") in asked
        assert ("ann", "publish", "mine.a") in asked


async def test_a_slow_question_delays_no_ping_and_keeps_order() -> None:
    """While ``authorize`` thinks, pings are answered and all else waits in order."""
    may_answer = Event()

    async def authorize(identity: Identity, action: str, pattern: str) -> bool:
        await may_answer.wait()
        return True

    bus = Bus(authorize=authorize)
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("subscribe", id="1", channels=["a"])
        client.say("unsubscribe", id="2", channels=["a"])
        client.say("ping", id="3")
        assert (await client.hear())["type"] == "pong"

        may_answer.set()
        assert [(await client.hear())["id"] for _ in range(2)] == ["1", "2"]
        assert (await bus.publish("a")).local_matched == 0


async def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    """A question answered after the connection has ended joins nothing and raises nothing."""
    may_answer = Event()

    async def authorize(identity: Identity, action: str, pattern: str) -> bool:
        await may_answer.wait()
        return True

    bus = Bus(authorize=authorize)
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("subscribe", channels=["a"])
        await quiet()
        client.peer.close()
        await quiet()
        may_answer.set()
        await quiet()

        assert bus.statistics().patterns == 0


async def test_an_authenticator_may_be_async() -> None:
    """At the handshake and for ``auth``; while it thinks, other messages wait in order."""
    may_answer = Event()

    async def knows(token: str | None, handshake: Handshake) -> Identity | None:
        if token == "slow":
            await may_answer.wait()
        if token == "bad":
            raise Unauthenticated("go away")
        return Identity(token, EVERYTHING) if token else None

    bus = Bus()
    async with bus, connecting(door(bus, authenticator=knows)) as connect:
        assert (await connect("ann")).connection.identity is not None
        client = await connect()
        client.say("auth", id="1", token="slow")
        client.say("subscribe", id="2", channels=["a"])
        client.say("ping", id="3")
        assert (await client.hear())["id"] == "3"
        may_answer.set()
        assert [(await client.hear())["id"] for _ in range(2)] == ["1", "2"]

        refused = await connect()
        refused.say("auth", token="bad")
        assert (await refused.hear("auth_result"))["error"]["message"] == "go away"
        assert (await refused.peer.wait_closed()).code == 4500


async def test_a_broken_authenticator_is_not_the_clients_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The handshake gets 503, an open connection 1012, the operator the traceback."""

    def breaks(token: str | None, handshake: Handshake) -> Identity | None:
        if token is None:
            return None
        raise OSError("the database is down")

    bus = Bus()
    endpoint = door(bus, authenticator=breaks)
    async with bus, connecting(endpoint) as connect:
        verdict = await endpoint.admit(Handshake("/", "token=x"))
        assert isinstance(verdict, Refusal)
        assert verdict.status == 503

        client = await connect()
        client.say("auth", token="x")
        assert (await client.peer.wait_closed()).code == 1012
    told = {record.getMessage().rpartition(".")[2] for record in caplog.records}
    assert told == {"breaks failed"}


# --- time (the rest of it is in test_time.py) --------------------------------------------------


def sweep(bus: Bus, clock: ManualClock, seconds: float) -> None:
    """Let time pass, second by second, and do what it demands."""
    services = host_of(bus).services
    assert services is not None
    for _ in range(round(seconds)):
        last = clock()
        clock.advance(1)
        _sweep_once(services, last, clock())


async def test_the_sweeper_pings_and_ends_who_is_silent(direct: bool) -> None:
    """A ping every 30 s at the latest; 4408 at 60 s, unless any frame came."""
    clock = ManualClock()
    bus = Bus(clock=clock)
    async with bus, connecting(door(bus, heartbeat=HeartbeatPolicy()), direct=direct) as connect:
        quiet_one, talker = await connect("ann"), await connect("ben")
        sweep(bus, clock, 31)
        talker.peer.send("not even JSON")
        await talker.hear("error")
        assert (await quiet_one.hear())["type"] == "ping"
        sweep(bus, clock, 28)
        assert quiet_one.connection.info().is_alive
        sweep(bus, clock, 1)

        assert (await quiet_one.peer.wait_closed()).code == 4408
        assert talker.connection.info().is_alive


async def test_the_sweeper_goes_by_the_wall_clock_for_tokens_only() -> None:
    """A wall clock that is set forward ends what it shows as expired, and nothing else."""
    clock = ManualClock()
    until = clock().wall + 3600

    def knows(token: str | None, handshake: Handshake) -> Identity | None:
        return Identity(token, EVERYTHING, until if token == "ann" else None) if token else None

    bus = Bus(clock=clock)
    async with bus, connecting(door(bus, authenticator=knows)) as connect:
        ann, ben = await connect("ann"), await connect("ben")
        last = clock()
        clock.set_wall(until + 1)
        _sweep_once(host_of(bus).services, last, clock())

        assert (await ann.peer.wait_closed()).code == 4401
        assert await ben.events() == []


# --- bad behaviour -----------------------------------------------------------------------------


async def test_who_commands_and_never_reads_is_not_read_either(direct: bool) -> None:
    """Above the bound of unread answers the server stops reading; the others go on."""
    limits = Limits(control_bytes=10_000, messages_per_second=None, commands_per_second=None)
    async with Bus() as bus, connecting(door(bus, limits=limits), direct=direct) as connect:
        flooder, other = await connect("ann"), await connect("ben")
        flooder.peer.stop_reading()
        for number in range(2000):
            flooder.say("ping", id=str(number))
        await other.subscribe("a")
        left = 2000
        while flooder.peer.unread != left:
            left = flooder.peer.unread
            await quiet()
        assert left > 1500
        await bus.publish("a", 1)
        assert await other.events() == [1]
        assert flooder.peer.unread == left

        flooder.peer.read_on()
        for number in range(2000):
            assert (await flooder.hear("pong"))["id"] == str(number)


JUNK: Final = {
    "not JSON": "0\n" * 32_767,
    "no type": "{}\n" * 21_845,
    "blank lines": "\n" * 65_535,
    "pings": '{"type":"ping"}\n' * 4_000,
    "pings with ids": '{"type":"ping","id":"1"}\n' * 2_600,
    "ids alone": '{"id":"1"}\n' * 5_900,
    "subscribes to nothing": '{"type":"subscribe","channels":[]}\n' * 1_800,
    "subscribes to what is no name": '{"type":"subscribe","channels":["",""]}\n' * 1_600,
    "too many names": json.dumps({"type": "subscribe", "channels": [""] * 16_000}),
    "commands that are not there": '{"type":"command","action":"a","id":"1"}\n' * 1_500,
    "publishes": '{"type":"publish","channel":"a","data":1}\n' * 1_500,
    "statuses": '{"type":"get_status"}\n' * 2_900,
    "tokens": '{"type":"auth","token":""}\n' * 2_400,
    "deep": "[" * 65_000,
    "one long text": '{"type":"' + "x" * 65_000 + '"}',
}
"""Frames of 64 KiB at most."""
MOST: Final = 256
"""Messages between two turns: twice what is acted on in one, as trio runs tasks in any order."""


async def sees(endpoint: Endpoint, frames: list[str], direct: bool) -> tuple[int, int]:
    """Have one client send frames, and a neighbour play ping pong with the server meanwhile.

    Returns:
        The bytes that the frames brought back, and the most messages that were acted on between
        two turns of the event loop.
    """
    async with connecting(endpoint, direct=direct) as connect:
        flooder = await connect("ann")
        await flooder.subscribe(*(f"{n:03}." + "x" * 240 for n in range(128)))
        for frame in frames:
            flooder.peer.send(frame)
        count, most = flooder.connection.messages_received, 0
        turns_left = 3  # In which nothing more happens.
        while turns_left:
            await checkpoint()
            now = flooder.connection.messages_received
            most, turns_left = max(most, now - count), turns_left - 1 if now == count else 3
            count = now
        assert flooder.peer.closed is None
        assert flooder.peer.unread == 0
        return sum(len(message) for message in flooder.peer.received), most


@pytest.mark.parametrize("name", JUNK)
async def test_a_frame_holds_up_nobody_and_brings_little_back(name: str, direct: bool) -> None:
    """A frame of 64 KiB, whatever it holds, leaves others their turns, and is answered briefly.

    protocol.md: "Its answers are never more than four times as large." So it is with rates, and,
    on the other way to write, without.
    """
    rates: dict[str, Any] = (
        {} if direct else {"messages_per_second": None, "commands_per_second": None}
    )
    async with Bus() as bus:
        frame = JUNK[name]
        back, most = await sees(door(bus, limits=Limits(**rates)), [frame], direct)

    assert most <= MOST
    assert back <= 4 * 65536


async def test_tiny_frames_hold_up_nobody(direct: bool) -> None:
    """Frames that a library holds already are acted on in turns with everybody else's, too."""
    async with Bus() as bus:
        _, most = await sees(door(bus), ["{}"] * 1_500, direct)

    assert most <= MOST


class Reading(Native):
    """A dialect that counts the characters that it has read."""

    name = "test-reading"
    read = 0

    def understand(self, text: str | bytes) -> Request:
        """Read one message."""
        self.read += len(text)
        return super().understand(text)

    def glance(self, message: str | bytes) -> Excess:
        """Look at one message."""
        self.read += len(message)
        return super().glance(message)


@pytest.mark.parametrize("rate", [None, 1], ids=["any rate", "over the rate"])
async def test_a_turn_reads_8_kib_or_one_message(
    rate: float | None, direct: bool, anyio_backend_name: str
) -> None:
    """What is larger than what is left of a turn waits for the next one, in frames and in lines."""
    message = '{"type":"ping","id":"1","x":"' + "a" * 5_000 + '"}'
    dialect, most, idle = Reading(), 0, 0
    limits = Limits(messages_per_second=rate)
    async with Bus() as bus:
        endpoint = door(bus, protocols=[dialect], limits=limits)
        async with connecting(endpoint, direct=direct) as connect:
            client = await connect("ann")
            for frame in [message] * 20 + ["\n".join([message] * 10)] * 2:
                client.peer.send(frame)
            while idle < 10:
                before = dialect.read
                await checkpoint()
                most = max(most, dialect.read - before)
                idle = 0 if dialect.read > before else idle + 1

    assert dialect.read == 40 * len(message)
    assert most <= 8192 * (2 if anyio_backend_name == "trio" else 1)  # Which has any order.


async def test_of_excess_in_a_frame_what_has_an_id_is_answered() -> None:
    """protocol.md: each excess message with an ``id`` is refused, and the first without one."""
    lines = ['{"type":"pong"}'] * 10
    lines += ['{"type":"ping"}', '{"type":"ping"}', "nonsense", '{"type":"command","id":"c"}']
    lines += ['{"type":"get_status","id":"s"}', '{"type":"ping"}', "\n", '{"id":"\\u0031"}']
    limits = Limits(messages_per_second=10)
    async with Bus() as bus, connecting(door(bus, limits=limits)) as connect:
        client = await connect("ann")
        client.peer.send("\n".join(lines))
        await quiet()
        heard = [json.loads(message) for message in client.peer.received]

    assert {message["error"]["code"] for message in heard} == {"RATE_LIMITED"}
    assert [(message["type"], message.get("id")) for message in heard] == [
        ("error", None),
        ("response", "c"),
        ("error", "s"),
        ("error", "1"),
    ]


async def test_after_rate_abuse_nothing_is_read(direct: bool) -> None:
    """protocol.md: after 4429 "nothing more is read", and the connection ends."""
    clock = ManualClock()
    limits = Limits(messages_per_second=1, rate_abuse_seconds=1)
    bus = Bus(clock=clock)
    async with bus, connecting(door(bus, limits=limits), direct=direct) as connect:
        client = await connect("ann")
        connection = client.connection
        for _ in range(5):
            client.say("ping")
            client.say("ping")
            await quiet()
            clock.advance(0.25)
        for _ in range(10):
            client.say("ping")
        assert (await client.peer.wait_closed()).code == 4429
        await quiet()

        assert client.peer.unread == 10
        assert connection.messages_received == 10
        assert bus.statistics().connections == 0


class Tongue(Native):
    """A dialect that fails to say what a command returned."""

    name = "test-tongue"

    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        if type(reply) is Response:
            raise LookupError("unspeakable")
        return super().encode(reply, at)


@pytest.mark.parametrize("action", ["sync", "async"])
async def test_an_answer_that_cannot_be_sent_ends_the_connection(
    action: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If a dialect fails, its client is closed with 1011 and does not wait for ever."""
    bus = Bus()

    @bus.command("sync")
    def works() -> None:
        pass

    @bus.command("async")
    async def works_later() -> None:
        pass

    async with bus, connecting(door(bus, protocols=[Tongue()])) as connect:
        client = await connect("ann")
        client.say("command", id="1", action=action)

        assert (await client.peer.wait_closed()).code == 1011
    assert "unspeakable" in caplog.text


@pytest.mark.parametrize(
    "junk", [object(), {"sub": "ann"}, 1, "ann"], ids=["object", "dict", "number", "text"]
)
async def test_what_is_no_identity_leaves_nobody_waiting(junk: Any) -> None:
    """Whatever an authenticator makes of an ``auth`` message: it is answered, or the end comes."""

    def judges(token: str | None, handshake: Handshake) -> Any:
        return None if token is None else junk

    endpoint = None
    async with Bus() as bus:
        endpoint = door(bus, authenticator=judges, query_token=None)
        async with connecting(endpoint) as connect:
            client = await connect()
            client.say("auth", token="t")
            with fail_after(5):
                closed = await client.peer.wait_closed()

            assert closed.code in {1011, 1012, 4500}
            await quiet()
            assert bus.statistics().connections == 0


async def test_a_client_that_is_too_slow_loses_what_waited() -> None:
    """protocol.md: 4409, "what waited is lost": the close frame stands behind none of it."""
    limits = Limits(queue_messages=5)
    async with Bus() as bus:
        endpoint = door(bus, limits=limits, overflow=Overflow.CLOSE)
        async with connecting(endpoint) as connect:
            client = await connect("ann")
            await client.subscribe("a")
            client.peer.stop_reading()
            for n in range(5):
                await bus.publish("a", n)
            await quiet()
            bus.publish_soon("a", 5)
            await quiet()
            client.peer.read_on()
            closed = await client.peer.wait_closed()

            assert closed.code == 4409
            assert not client.peer.received


async def test_one_message_a_frame(direct: bool) -> None:
    """At an endpoint that does not join, each frame is one JSON text, whatever the traffic."""
    async with Bus() as bus:
        endpoint = door(bus, joins=False)
        assert [p.name for p in endpoint.protocols] == ["wsbus.v1", "wsbus.v1.single"]
        async with connecting(endpoint, direct=direct) as connect:
            client = await connect("ann")
            await client.subscribe("a")
            for n in range(5):
                bus.publish_soon("a", n)
            client.say("ping")
            client.peer.send('{"type":"ping"}\n{"type":"ping"}')
            await quiet()
            frames = [json.loads(frame) for frame in client.peer.received]

            assert [frame["data"] for frame in frames if frame["type"] == "event"] == [*range(5)]
            assert [frame["type"] for frame in frames].count("pong") == 3


TRANSCRIPT: Final = """
{"type":"connected","timestamp":1700000000000,"data":{"connection_id":"c","subject":"ann",…}}
{"type":"subscribed","timestamp":1700000000000,"data":{"channels":["a"],"active_subscriptions":1}}
{"type":"event","channel":"a","event":"message","timestamp":1700000000000,"data":0}
{"type":"event","channel":"a","event":"message","timestamp":1700000000000,"data":"x\\ny"}
{"type":"pong","id":"1","timestamp":1700000000000}
{"type":"unsubscribed","timestamp":1700000000000,"data":{"channels":["a"],"active_subscriptions":0}}
"""


async def test_a_client_that_asks_for_it_gets_one_message_a_frame(direct: bool) -> None:
    """With ``wsbus.v1.single`` it hears the same, word for word, as with ``wsbus.v1`` beside it."""
    clock = ManualClock()
    async with Bus(clock=clock) as bus, connecting(door(bus), direct=direct) as connect:
        joins = await connect("ann")
        single = await connect("ann", hears=False, subprotocols=["wsbus.v1.single"])
        for client in (joins, single):
            client.say("subscribe", channels=["a"])
        await quiet()
        bus.publish_soon("a", 0)
        bus.publish_soon("a", "x\ny")
        await quiet()
        for client in (joins, single):
            client.peer.send('{"type":"ping","id":"1"}\n{"type":"unsubscribe","channels":["a"]}')
        await quiet()
        frames = [str(frame) for frame in single.peer.received]
        lines = "\n".join(map(str, joins.peer.received)).split("\n")
        terms = re.compile(r'(?<="subject":"ann",)[^}]*|(?<="connection_id":")\w+')
        heard = [terms.sub(lambda m: "c" if m[0].isalnum() else "…", frame) for frame in frames]

        assert heard == TRANSCRIPT.split("\n")[1:-1]
        assert len(joins.peer.received) < len(lines)
        assert lines == frames[1:]
        assert [info.protocol for info in bus.connections()] == ["wsbus.v1", "wsbus.v1.single"]


async def test_connected_tells_the_limits() -> None:
    """A client learns from the first message what it may send."""
    limits = Limits(max_message_bytes=1000, max_names=10, messages_per_second=None)
    async with Bus() as bus, connecting(door(bus, limits=limits)) as connect:
        client = await connect("ann", hears=False)
        told = (await client.hear("connected"))["data"]
        client.id = told["connection_id"]

        assert [*told.items()][-3:] == [
            ("max_message_bytes", 1000),
            ("max_names", 10),
            ("commands_per_second", 10),
        ]


async def test_binary_ends_a_connection_of_text() -> None:
    """Binary where text is spoken is 1003, and the application learns it."""
    codes: list[int | None] = []
    bus = Bus()
    bus.on_disconnect(lambda connection: codes.append(connection.close_code))
    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.peer.send(b"{}")
        assert (await client.peer.wait_closed()).code == 1003
        await quiet()

        assert codes == [1003]


async def test_a_client_that_publishes_waits_for_readers(direct: bool) -> None:
    """What one client publishes in a tight loop another one that keeps up gets in full."""
    async with Bus() as bus, connecting(door(bus), direct=direct) as connect:
        reader, writer = await connect("ann"), await connect("ben")
        await reader.subscribe("a")
        for first in range(0, 3000, 1000):
            lines = [
                f'{{"type":"publish","channel":"a","data":{number}}}'
                for number in range(first, first + 1000)
            ]
            writer.peer.send("\n".join(lines))
        writer.say("ping")
        await writer.hear("pong")

        assert await reader.events() == list(range(3000))


async def test_poison_of_one_reaches_nobody_else() -> None:
    """What a client may publish is checked before it is spliced into the frames of others."""
    grants = Grants.of(subscribe=["*"], publish=["*"], admin=True)
    async with Bus() as bus, connecting(bus.endpoint(anonymous=grants)) as connect:
        villain, victim = await connect(), await connect()
        await victim.subscribe("a")
        for data in ('"\\ud800"', "1e999", "NaN", "[" * 65 + "]" * 65, '"a\nb"', "{", ""):
            villain.peer.send(f'{{"type":"publish","id":"1","channel":"a","data":{data}}}')
        villain.say("publish", channel="a", data={"fine": "雀"})

        assert await villain.events() == []
        assert await victim.events() == [{"fine": "雀"}]


async def test_logs_hold_no_token_and_no_payload(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails, no line has a token, a payload, or a control character of the client's."""
    caplog.set_level(logging.DEBUG, "wsbus")
    bus = commanding()
    endpoint = door(bus, origins=["http://friend"])
    async with bus, connecting(endpoint) as connect:
        evil = "http://x\r\nERROR wsbus: all is lost\x1b[2J"
        refused = await endpoint.admit(Handshake("/ws", "token=TOKEN", {"origin": evil}))
        assert isinstance(refused, Refusal)
        assert isinstance(await endpoint.admit(Handshake("/ws", "token=badTOKEN")), Refusal)
        assert isinstance(await endpoint.admit(Handshake("/ws", "token=TOKEN")), Admission)
        client = await connect("TOKEN")
        for text in ("PAYLOAD", '{"type":"PAYLOAD"}', '{"type":"command","params":"PAYLOAD"}'):
            client.peer.send(text)
        client.say("auth", token="badTOKEN")
        client.say("command", id="x", action="PAYLOAD\n", params={"PAYLOAD": 1})
        client.say("command", id="x", action="plain", params={"a": "PAYLOAD"})
        client.say("command", id="x", action="fails")
        await client.events()
    formatted = [logging.Formatter().format(record) for record in caplog.records]

    assert any("origin" in line for line in formatted)
    for line, record in zip(formatted, caplog.records, strict=True):
        assert "TOKEN" not in line
        assert "PAYLOAD" not in line
        assert record.getMessage().isprintable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_awaits_what_was_cancelled_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """It is not cancelled itself: the client is told, and a question is answered with no."""

    async def stray(*args: object) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async def authorize(identity: Identity, action: str, name: str) -> bool:
        return await stray() if name == "a" else True

    bus = Bus(authorize=authorize)
    bus.on_connect(stray)

    @bus.command("stray")
    async def command() -> bool:
        return await stray()

    async with bus, connecting(door(bus)) as connect:
        client = await connect("ann")
        client.say("subscribe", channels=["a", "b"])
        subscribed = await client.hear("subscribed")

        assert subscribed["data"]["channels"] == ["b"]
        assert await client.is_refused("stray") == "INTERNAL_ERROR"
        assert bus.is_running
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 3


# --- requests that take time ---------------------------------------------------------------------


async def test_a_slow_permission_stops_only_its_own_name() -> None:
    """The page: "All else is acted on at once"."""
    answer = Event()

    async def authorize(_identity: Identity, action: str, name: str) -> bool:
        if (action, name) == ("subscribe", "slow"):
            await answer.wait()
        return True

    bus = Bus(authorize=authorize)
    bus.command("go")(lambda: 1)
    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        client = await connect()
        client.say("subscribe", id="slow", channels=["slow"])
        client.say("unsubscribe", id="after", channels=["slow"])
        client.say("subscribe", id="other", channels=["other"])
        await quiet()
        client.say("get_status", id="status")
        client.say("ping", id="ping")
        seen = [(await client.hear())["id"] for _ in range(3)]
        assert seen == ["other", "status", "ping"]
        answer.set()
        assert [(await client.hear())["id"] for _ in range(2)] == ["slow", "after"]


async def test_too_many_pending_requests_are_not_read_and_not_refused() -> None:
    """The page: "Then it is not read until one of them is answered; nothing is refused"."""
    answers = [Event() for _ in range(60)]
    begun: list[int] = []

    async def authorize(_identity: Identity, _action: str, name: str) -> bool:
        begun.append(int(name[1:]))
        await answers[int(name[1:])].wait()
        return True

    bus = Bus(authorize=authorize)
    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        client = await connect()
        for n in range(60):
            client.say("subscribe", id=str(n), channels=[f"n{n}"])
        await quiet()
        assert begun == [*range(16)]
        assert client.peer.unread > 0
        for n in range(60):
            answers[n].set()
            reply = await client.hear()
            assert (reply["type"], reply["id"]) == ("subscribed", str(n))
        assert client.peer.unread == 0


@pytest.mark.parametrize("end", ["disconnect", "abort", "close"])
async def test_a_connection_that_is_not_read_ends(end: str) -> None:
    """Neither the server nor the bus waits for what is pending."""

    async def authorize(_identity: Identity, _action: str, _name: str) -> bool:
        await Event().wait()
        return True

    bus = Bus(authorize=authorize)
    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        client = await connect()
        for n in range(40):
            client.say("subscribe", id=str(n), channels=[f"n{n}"])
        await quiet()
        match end:
            case "disconnect":
                client.connection.disconnect()
            case "abort":
                client.connection.abort()
            case _:
                await bus.aclose(deadline=1)
        await client.peer.wait_closed()
        await quiet()
        assert end == "close" or bus.connection(client.id) is None
