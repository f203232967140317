from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from anyio import Event, fail_after

from tests.drivers.clients import EVERYTHING, UNLIMITED, connecting, judge, quiet
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
    TransportClosed,
    Unauthenticated,
    UsageError,
)
from wsbus.endpoint import Admission, Refusal
from wsbus.life import _sweep_once
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
        assert (await bus.publish("a")).matched == 0


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
    assert bus._life is not None
    services = bus._life.services
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
        assert bus._life is not None
        assert bus._life.services is not None
        _sweep_once(bus._life.services, last, clock())

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
