from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final

import anyio
import pytest
from anyio import Event
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from tests.server.clients import UNLIMITED, Client, connecting, judge, quiet
from wsbus import Bus, Connection, Grants, Handshake, Identity, UsageError
from wsbus.core.errors import InvalidChannel
from wsbus.server.connection import driver_of


def note_all(bus: Bus, *, waits: bool = False) -> list[str]:
    """Have all hooks of a bus note their calls; `waits`: they are async, and note their end too."""
    told: list[str] = []

    def register(on: Callable[[Any], Any], kind: str) -> None:
        def noted(connection: Connection, *pattern: str) -> None:
            told.append(" ".join([kind, *pattern]))

        async def noted_async(connection: Connection, *pattern: str) -> None:
            told.append("(" + " ".join([kind, *pattern]))
            await checkpoint()
            told.append(" ".join([kind, *pattern]) + ")")

        on(noted_async if waits else noted)

    register(bus.on_connect, "connect")
    register(bus.on_authenticated, "authenticated")
    register(bus.on_subscribe, "subscribe")
    register(bus.on_unsubscribe, "unsubscribe")
    register(bus.on_disconnect, "disconnect")
    return told


def closed(told: Sequence[str]) -> list[str]:
    """Return the calls of async hooks, which must not overlap."""
    assert all(end == f"{begin[1:]})" for begin, end in zip(told[::2], told[1::2], strict=True))
    return [end[:-1] for end in told[1::2]]


@pytest.fixture(params=[True, False], ids=["direct", "awaited"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Run a test over transports that write at once, and over those that only await."""
    return bool(request.param)


# --- who it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shown_in", ["query", "message", "nothing"])
@pytest.mark.parametrize("waits", [False, True], ids=["def", "async"])
async def test_authenticated_is_told_once_however_it_came(shown_in: str, *, waits: bool) -> None:
    """After ``on_connect``, with the identity, for a token, and where the endpoint takes none."""
    bus = Bus()
    told = note_all(bus, waits=waits)
    subjects: list[str] = []

    @bus.on_authenticated
    def who(connection: Connection) -> None:
        assert connection.identity is not None
        subjects.append(connection.identity.subject)

    takes = {} if shown_in == "nothing" else {"authenticator": judge, "query_token": "token"}
    endpoint = bus.endpoint(**takes)  # type: ignore[arg-type]
    async with bus, connecting(endpoint) as connect:
        client = await connect("ann" if shown_in == "query" else None)
        if shown_in == "message":
            await quiet()
            assert subjects == []
            client.say("auth", token="ann")
        client.say("auth", token="ann")  # A newer token of the same client calls nothing.
        client.say("ping", id="1")
        assert (await client.hear("pong"))["id"] == "1"
        await quiet()
    await quiet()

    calls = closed(told) if waits else told
    assert calls == ["connect", "authenticated", "disconnect"]
    assert subjects == ["anonymous" if shown_in == "nothing" else "ann"]


async def test_a_client_whose_token_is_refused_is_not_authenticated() -> None:
    """It connected, and ended."""
    bus = Bus()
    told = note_all(bus)
    async with bus, connecting(bus.endpoint(authenticator=judge)) as connect:
        client = await connect()
        client.say("auth", token="bad")
        await client.peer.wait_closed()
    await quiet()

    assert told == ["connect", "disconnect"]


@pytest.mark.parametrize("waits", [False, True], ids=["def", "async"])
@pytest.mark.parametrize("shown_in", ["query", "message"])
async def test_what_the_authenticated_hook_sends_comes_after_the_clients_own_answer(
    shown_in: str, *, waits: bool
) -> None:
    """The client knows who it is before it gets anything, and gets it before what it asks next."""
    bus = Bus()

    def greet(connection: Connection) -> None:
        connection.subscribe("inbox")
        bus.send_soon("inbox", "welcome", to=connection)

    async def greet_slowly(connection: Connection) -> None:
        await checkpoint()
        greet(connection)

    bus.on_authenticated(greet_slowly if waits else greet)
    endpoint = bus.endpoint(authenticator=judge, query_token="token")
    async with bus, connecting(endpoint) as connect:
        client = await connect("ann" if shown_in == "query" else None)
        if shown_in == "message":
            client.say("auth", token="ann")
        client.say("ping")  # Answered at once: no order is promised for it.
        client.say("subscribe", channels=["a"])
        heard = [await client.hear() for _ in range(3 + (shown_in == "message"))]
        kinds = [message["type"] for message in heard if message["type"] != "pong"]

        assert kinds == ["auth_result"] * (shown_in == "message") + ["event", "subscribed"]


# --- what it is subscribed to --------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True], ids=["def", "async"])
async def test_subscriptions_are_told_when_they_begin_and_when_they_end(*, waits: bool) -> None:
    """A pattern that the client and the server hold is told once, and ended with the last."""
    bus = Bus()
    told = note_all(bus, waits=waits)
    async with bus, connecting(bus.endpoint(broadcast="all")) as connect:
        client = await connect()
        await client.subscribe("a", "b")
        client.connection.subscribe("a")
        client.connection.subscribe("c")
        await client.subscribe("c")
        client.say("unsubscribe", channels=["a", "b", "none"])
        await client.hear("unsubscribed")
        client.connection.unsubscribe("a")
        client.connection.unsubscribe("c")
        await quiet()
        client.peer.close()
        await quiet()

    calls = closed(told) if waits else told
    assert calls == [
        "connect",
        "authenticated",
        "subscribe all",
        "subscribe a",
        "subscribe b",
        "subscribe c",
        "unsubscribe b",
        "unsubscribe a",
        "unsubscribe c",
        "unsubscribe all",
        "disconnect",
    ]


async def test_the_patterns_that_are_left_at_the_end_are_told_in_order() -> None:
    """Those of the client first, then the server's, each in the order in which they began."""
    bus = Bus()
    told = note_all(bus)
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        client.connection.subscribe("z")
        client.connection.subscribe("y")
        await client.subscribe("c", "a", "b")
        client.peer.close()
        await quiet()

    ends = [call for call in told if call.startswith("unsubscribe")]
    assert ends == [f"unsubscribe {name}" for name in "cabzy"]


async def test_what_a_def_hook_sends_comes_between_the_answer_and_the_first_event() -> None:
    """So the last messages of a channel are sent on joining, none twice and none left out."""
    bus = Bus()
    kept: list[int] = []

    @bus.on_subscribe
    def replay(connection: Connection, pattern: str) -> None:
        for number in kept[-20:]:
            bus.send_soon(pattern, number, to=connection)

    async def publish() -> None:
        for number in range(200):
            kept.append(number)
            bus.publish_soon("room.1", number)
            await checkpoint()

    async with bus, connecting(bus.endpoint()) as connect, anyio.create_task_group() as tasks:
        client = await connect()
        tasks.start_soon(publish)
        for _ in range(100):
            await checkpoint()
        client.say("subscribe", channels=["room.1"])
        assert (await client.hear())["type"] == "subscribed"
        numbers = [(await client.hear("event"))["data"]]
        while numbers[-1] < 199:
            numbers.append((await client.hear("event"))["data"])

        assert numbers[0] > 0
        assert numbers == list(range(numbers[0], 200))


async def test_messages_wait_for_an_async_hook_and_pings_do_not() -> None:
    """What the client sends after its request is acted on when the hook has returned."""
    bus = Bus()
    may_go = Event()

    @bus.on_subscribe
    async def slow(connection: Connection, pattern: str) -> None:
        await may_go.wait()

    @bus.command("look")
    def look() -> str:
        return "done"

    async with bus, connecting(bus.endpoint()) as connect:
        client, other = await connect(), await connect()
        client.say("subscribe", channels=["a"])
        client.say("command", id="1", action="look")
        client.say("ping", id="2")
        assert (await client.hear())["type"] == "subscribed"
        assert (await client.hear())["type"] == "pong"
        assert await other.command("look")
        await bus.publish("a", 1)
        assert (await client.hear())["type"] == "event"

        may_go.set()
        assert (await client.hear())["type"] == "response"


async def test_what_a_hook_brings_about_is_told_when_it_has_returned() -> None:
    """Calls for one connection never overlap, nor do they stand on each other."""
    bus = Bus()
    told: list[str] = []

    @bus.on_subscribe
    def joined(connection: Connection, pattern: str) -> None:
        told.append(f"({pattern}")
        if pattern == "a":
            connection.subscribe("b")
            connection.revoke("a")
        told.append(f"{pattern})")

    @bus.on_unsubscribe
    def left(connection: Connection, pattern: str) -> None:
        told.append(f"-{pattern}")

    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.subscribe("a")
        client.say("get_status")
        status = await client.hear("status")

        assert told == ["(a", "a)", "(b", "b)", "-a"]
        assert status["data"]["subscriptions"] == []
        assert client.connection.info().assigned == ("b",)


async def test_what_a_hook_raises_costs_that_call_only(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its name; the other hooks are called, and the client notices nothing."""
    bus = Bus()

    @bus.on_authenticated
    @bus.on_disconnect
    def fails(connection: Connection) -> None:
        raise LookupError

    @bus.on_subscribe
    @bus.on_unsubscribe
    async def fails_too(connection: Connection, pattern: str) -> None:
        await checkpoint()
        raise LookupError

    told = note_all(bus)
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.subscribe("a")
        client.peer.close()
        await quiet()

    assert told == ["connect", "authenticated", "subscribe a", "unsubscribe a", "disconnect"]
    names = [record.getMessage().rpartition(".")[2] for record in caplog.records]
    assert names == ["fails failed", "fails_too failed", "fails_too failed", "fails failed"]
    assert {record.name for record in caplog.records} == {"wsbus.hooks"}
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_each_call_of_a_hook_has_a_context_of_its_own() -> None:
    """It sees what the handshake left, and nothing that another call has set."""
    bus = Bus()
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen: list[str] = []

    @bus.on_subscribe
    def sync(connection: Connection, pattern: str) -> None:
        seen.append(variable.get())
        variable.set("sync")

    @bus.on_subscribe
    async def slow(connection: Connection, pattern: str) -> None:
        seen.append(variable.get())
        variable.set("slow")
        await checkpoint()
        assert variable.get() == "slow"

    variable.set("handshake")
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        variable.set("test")
        await client.subscribe("a", "b")
        client.say("get_status")
        await client.hear("status")

    assert seen == ["handshake"] * 4


async def test_no_hook_costs_an_idle_connection_anything() -> None:
    """What makes the calls is there only while one is due."""
    bus = Bus()
    note_all(bus, waits=True)
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.subscribe("a")
        await quiet()
        driver: Any = driver_of(client.connection)

        assert driver._calls is None


def test_hooks_that_cannot_be_called_are_refused_when_registered() -> None:
    """The error says what the hook is called with."""
    bus = Bus()

    def one(connection: Connection) -> None: ...

    def two(connection: Connection, pattern: str) -> None: ...

    for register in (bus.on_subscribe, bus.on_unsubscribe):
        assert register(two) is two
        with pytest.raises(
            UsageError, match=r"on_.*subscribe is called as one\(connection, pattern\)"
        ):
            register(one)  # type: ignore[type-var]
    for register_one in (bus.on_connect, bus.on_authenticated, bus.on_disconnect):
        assert register_one(one) is one
        with pytest.raises(UsageError, match=r"is called as two\(connection\)"):
            register_one(two)  # type: ignore[type-var]


# --- taken away ----------------------------------------------------------------------------------


async def test_a_client_is_taken_out_of_one_channel(direct: bool) -> None:
    """It gets nothing more there, hears why, and keeps the rest; it may ask again."""
    bus = Bus()
    told = note_all(bus)
    async with bus, connecting(bus.endpoint(), direct=direct) as connect:
        client = await connect()
        await client.subscribe("room.1", "room.2")
        await bus.publish("room.1", "before")
        assert client.connection.revoke("room.1", "banned for an hour")
        await bus.publish("room.1", "after")
        await bus.publish("room.2", "still")
        heard = [await client.hear() for _ in range(3)]

        assert [m["data"] for m in heard if m["type"] == "event"] == ["before", "still"]
        assert heard[1]["type"] == "unsubscribed"
        assert "id" not in heard[1]
        assert heard[1]["data"] == {
            "channels": ["room.1"],
            "active_subscriptions": 1,
            "reason": "banned for an hour",
        }
        assert told[-1] == "unsubscribe room.1"
        assert not client.connection.revoke("room.1")
        assert await client.events() == []
        await client.subscribe("room.1")


async def test_all_connections_of_a_subject_are_taken_out() -> None:
    """``bus.revoke`` says how many had it."""
    bus = Bus()
    endpoint = bus.endpoint(authenticator=judge, query_token="token")
    async with bus, connecting(endpoint) as connect:
        first, second, other = [await connect(name) for name in ("bob", "bob", "ann")]
        for client in (first, other):
            await client.subscribe("room.1")

        assert bus.revoke("bob", "room.1") == 1
        assert (await first.hear())["data"] == {"channels": ["room.1"], "active_subscriptions": 0}
        assert bus.local_subscribers("room.1") == [other.connection]
        assert bus.revoke(other.connection, "room.1", reason="you, too") == 1
        with pytest.raises(InvalidChannel, match=r"'room\.\.1'"):
            bus.revoke("bob", "room..1")
        assert await second.events() == []


@pytest.mark.parametrize("reason", [b"x", 5, "\ud800"], ids=["bytes", "number", "surrogate"])
async def test_a_reason_is_a_text_that_can_be_sent(reason: Any) -> None:
    """A mistake is the caller's, and takes nothing away."""
    bus = Bus()
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        await client.subscribe("a")
        with pytest.raises(UsageError, match="reason"):
            client.connection.revoke("a", reason)

        assert client.connection.info().subscriptions == ("a",)


async def test_a_command_that_waited_sees_what_the_connection_has_by_then() -> None:
    """What it subscribes stays, though the client unsubscribes the same right behind it."""
    bus = Bus(authorize=lambda identity, action, name: True)

    @bus.command("assign")
    def assign(connection: Connection) -> None:
        connection.subscribe("a")

    async with bus, connecting(bus.endpoint(limits=UNLIMITED)) as connect:
        client = await connect()
        client.say("subscribe", channels=["a"])
        client.say("command", id="1", action="assign")
        client.say("unsubscribe", channels=["a"])
        await client.hear("unsubscribed")
        await bus.publish("a", 1)

        assert (await client.hear("event"))["data"] == 1


async def test_what_the_server_subscribed_is_listed() -> None:
    """Apart from what the client did, for operators; the client's own status is its own."""
    bus = Bus()
    async with bus, connecting(bus.endpoint(broadcast="all")) as connect:
        client = await connect()
        await client.subscribe("a")
        client.connection.subscribe("room.2")
        client.connection.subscribe("room.1")
        (info,) = bus.connections()

        assert info.subscriptions == ("a",)
        assert info.assigned == ("all", "room.2", "room.1")
        client.say("get_status")
        assert (await client.hear("status"))["data"]["subscriptions"] == ["a"]


# --- the law -------------------------------------------------------------------------------------

PATTERNS: Final = ["a", "b", "a.*", "*"]
Step = tuple[str, Any]
steps: Final = st.lists(
    st.tuples(st.just("subscribe"), st.lists(st.sampled_from(PATTERNS), max_size=3))
    | st.tuples(st.just("unsubscribe"), st.lists(st.sampled_from(PATTERNS), max_size=3))
    | st.tuples(
        st.sampled_from(["assign", "unassign", "revoke", "change in a hook"]),
        st.sampled_from(PATTERNS),
    )
    | st.tuples(st.just("refresh"), st.booleans())
    | st.tuples(st.just("wait"), st.integers(0, 3)),
    max_size=15,
)
ends: Final = st.sampled_from(["peer", "close", "disconnect", "abort", "bad frame", "bus"])


async def test_the_bus_waits_for_hooks_at_its_end() -> None:
    """The page: the bus waits for the hooks of its connections."""
    bus = Bus()
    told: list[str] = []

    @bus.on_subscribe
    @bus.on_unsubscribe
    async def slow(connection: Connection, pattern: str) -> None:
        told.append(f"({pattern}")
        for _ in range(5):
            await checkpoint()
        told.append(f"{pattern})")

    async with connecting(bus.endpoint()) as connect:
        async with bus:
            client = await connect()
            client.say("subscribe", channels=["a"])
            while not told:
                await checkpoint()
        assert told == ["(a", "a)", "(a", "a)"]


class Watcher:
    """Keeps who is there as an application would, and doubts each call."""

    def __init__(self, bus: Bus, *, waits: bool, fails: bool) -> None:
        self.waits, self.fails = waits, fails
        self.calls: list[str] = []
        self.there: list[str] = []
        self.changes: list[str] = []
        self.faults: list[str] = []
        self.is_called = False
        for on in (bus.on_connect, bus.on_authenticated, bus.on_disconnect):
            on(self.hook(on.__name__))
        for on_pattern in (bus.on_subscribe, bus.on_unsubscribe):
            on_pattern(self.hook(on_pattern.__name__))

    def hook(self, kind: str) -> Callable[..., Any]:
        def sync(connection: Connection, *pattern: str) -> None:
            self.begin(connection, kind, *pattern)
            self.is_called = False
            if self.fails:
                raise LookupError

        async def slow(connection: Connection, *pattern: str) -> None:
            self.begin(connection, kind, *pattern)
            await checkpoint()
            self.is_called = False
            if self.fails:
                raise LookupError

        return slow if self.waits else sync

    def doubt(self, is_right: object, fault: str) -> None:
        """Note what is wrong: a hook that raises harms nobody, so an assertion would be lost."""
        if not is_right:
            self.faults.append(fault)

    def begin(self, connection: Connection, kind: str, *pattern: str) -> None:
        """Take note of a call. The page: calls come one after another."""
        self.doubt(not self.is_called, "two calls at once")
        self.is_called = True
        self.calls.append(kind)
        name = pattern[0] if pattern else ""
        match kind:
            case "on_connect":
                self.doubt(self.calls == ["on_connect"], "connect is not the first")
            case "on_authenticated":
                first = ["on_connect", "on_authenticated"]
                self.doubt(self.calls == first, "authenticated is not the second")
            case "on_subscribe":
                self.doubt(name not in self.there, "subscribed twice")
                self.there.append(name)
            case "on_unsubscribe":
                self.doubt(name in self.there, "unsubscribed twice")
                self.there.remove(name)
            case _:
                self.doubt(self.there == [], "one is left that was never taken back")
        if self.changes:
            name = self.changes.pop()
            connection.revoke(name)
            connection.subscribe(name)


async def play(
    todo: list[Step], end: str, *, waits: bool, fails: bool, asks: bool, shown: bool
) -> None:
    authorize = (lambda identity, action, name: True) if asks else None
    bus = Bus(authorize=authorize)
    watcher = Watcher(bus, waits=waits, fails=fails)
    everything = Grants.of(admin=True)
    less = Grants.of(subscribe=["a"])

    def judge_grants(token: str | None, handshake: Handshake) -> Identity | None:
        return None if token is None else Identity("u", less if token == "less" else everything)

    endpoint = bus.endpoint(
        authenticator=judge_grants, query_token="token", limits=UNLIMITED, broadcast="b"
    )
    async with connecting(endpoint) as connect:
        async with bus:
            client = await connect("ann" if shown else None)
            if not shown:
                client.say("auth", token="ann")
            await quiet()
            connection = client.connection
            for step in todo:
                await take(step, client, connection, watcher)
            match end:
                case "peer":
                    client.peer.close()
                case "close":
                    client.peer.close(4999, "bye")
                case "disconnect":
                    connection.disconnect()
                case "abort":
                    connection.abort()
                case "bad frame":
                    client.peer.send(b"\x00")
            if end != "bus":
                await quiet()
                await quiet()
                assert watcher.calls[-1] == "on_disconnect"
        client.peer.close()
        await quiet()
    assert watcher.faults == []
    assert watcher.calls.count("on_authenticated") == 1
    assert watcher.calls.count("on_subscribe") == watcher.calls.count("on_unsubscribe")
    assert watcher.calls[-1] == "on_disconnect"
    assert watcher.there == []


async def take(step: Step, client: Client, connection: Connection, watcher: Watcher) -> None:
    match step:
        case ("subscribe" | "unsubscribe") as verb, names:
            client.say(verb, channels=names)
        case "assign", name:
            connection.subscribe(name)
        case "unassign", name:
            connection.unsubscribe(name)
        case "revoke", name:
            connection.revoke(name)
        case "change in a hook", name:
            watcher.changes.append(name)
        case "refresh", is_less:
            client.say("auth", token="less" if is_less else "more")
        case "wait", turns:
            for _ in range(turns):
                await checkpoint()
            if turns == 3:
                await quiet()
                told = sorted(watcher.there)
                assert told == sorted(
                    {*connection.info().subscriptions, *connection.info().assigned}
                )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(
    todo=steps,
    end=ends,
    waits=st.booleans(),
    fails=st.booleans(),
    asks=st.booleans(),
    shown=st.booleans(),
)
def test_calls_balance_in_order_for_every_way_out(
    backend: str, todo: list[Step], end: str, waits: bool, fails: bool, asks: bool, shown: bool
) -> None:
    """Whoever adds on ``on_subscribe`` and removes on ``on_unsubscribe`` knows who is there."""

    async def run() -> None:
        await play(todo, end, waits=waits, fails=fails, asks=asks, shown=shown)

    logging.disable(logging.ERROR)
    try:
        anyio.run(run, backend=backend)
    finally:
        logging.disable(logging.NOTSET)
