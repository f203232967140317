"""Mistakes in calls are refused by the call, with what to write instead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import pytest

from tests.mistakes.rows import Row, check, table
from tests.server.clients import Client, connecting, judge
from wsbus import Bus, Grants, Identity
from wsbus.core.errors import InvalidChannel, NotStarted

Do = Callable[[Bus], Any]


async def outcome(do: Callable[[], Any]) -> Exception:
    """Return the error of a call, awaited if it can be."""
    try:
        result = do()
        if isawaitable(result):
            await result
    except Exception as exc:  # noqa: BLE001  # the row knows which
        return exc
    pytest.fail("it was accepted")


async def step(bus: Bus) -> None:
    """Take an event of a subscription that was not entered."""
    await anext(bus.subscribe("a"))


async def enter_twice(bus: Bus) -> None:
    """Enter a subscription again."""
    events = bus.subscribe("a")
    async with events:
        pass
    async with events:
        pass


async def start_again(bus: Bus) -> None:
    """Enter a bus that runs."""
    async with bus:
        pass


def in_thread_of(verb: str) -> Do:
    """Return what calls a verb in a thread, and raises here what it raises there."""

    def run(bus: Bus) -> None:
        errors: list[Exception] = []

        def target() -> None:
            try:
                getattr(bus, verb)(*(["a"] if "publish" in verb else []))
            except Exception as exc:  # noqa: BLE001  # raised below
                errors.append(exc)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        raise errors[0]

    return run


def circle() -> list[Any]:
    """Return a list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


ADA = Identity("ada", Grants.open())

STOPPED: list[tuple[str, Do]] = [
    ("publish", lambda bus: bus.publish("a")),
    ("publish_soon", lambda bus: bus.publish_soon("a")),
    ("publish_threadsafe", lambda bus: bus.publish_threadsafe("a")),
    ("send", lambda bus: bus.send("a", to="ada")),
    ("send_soon", lambda bus: bus.send_soon("a", to="ada")),
    ("send_threadsafe", lambda bus: bus.send_threadsafe("a", to="ada")),
    ("disconnect", lambda bus: bus.disconnect("ada")),
    ("connection", lambda bus: bus.connection("x")),
    ("connections", lambda bus: bus.connections()),
    ("subscribers", lambda bus: bus.local_subscribers("a")),
    ("statistics", lambda bus: bus.statistics()),
]


@pytest.mark.parametrize("do", [pytest.param(do, id=what) for what, do in STOPPED])
async def test_a_bus_that_does_not_run_says_how_to_run_it(do: Do) -> None:
    """Before its start and after its stop, for every verb."""
    bus = Bus()
    before = await outcome(lambda: do(bus))
    async with bus:
        pass
    after = await outcome(lambda: do(bus))

    for error in (before, after):
        assert isinstance(error, NotStarted)
        assert "not running" in str(error)
        assert "async with bus:" in str(error)


ROWS = [
    Row("publish(pattern)", lambda bus: bus.publish("a.*"), ("'a.*'", "wildcards"), InvalidChannel),
    Row("publish(empty)", lambda bus: bus.publish(""), ("''", "empty"), InvalidChannel),
    Row("publish(None)", lambda bus: bus.publish(None), ("text", "not None"), InvalidChannel),
    Row("publish(list)", lambda bus: bus.publish(["a"]), ("text", "list"), InvalidChannel),
    Row("publish(number)", lambda bus: bus.publish(5), ("text", "int"), InvalidChannel),
    Row("publish(f-string)", lambda bus: bus.publish("a.b c"), ("'a.b c'", "white space")),
    Row("event=number", lambda bus: bus.publish("a", event=5), ("event", "printable", "5")),
    Row("event=newline", lambda bus: bus.publish("a", event="a\n"), ("event", "'a\\n'")),
    Row("event=lone surrogate", lambda bus: bus.publish("a", event="\ud800"), ("event",)),
    Row("three in a row", lambda bus: bus.publish("a", "event", 1), ("publish()",), TypeError),
    Row("exclude=None", lambda bus: bus.publish("a", exclude=None), ("exclude", "NoneType")),
    Row("exclude=[text]", lambda bus: bus.publish("a", exclude=["bob"]), ("exclude", "str in it")),
    Row(
        "overflow=",
        lambda bus: bus.publish("a", overflow="conflate"),
        ("publish()", "overflow"),
        TypeError,
    ),
    Row("family while it runs", lambda bus: bus.family("a"), ("before the bus runs",)),
    Row("key=number", lambda bus: bus.publish("a", key=5), ("key", "int")),
    Row("a function as data", lambda bus: bus.publish("a", len), ("enc_hook", "data: builtin")),
    Row(
        "an object inside the data",
        lambda bus: bus.publish("a", {"rows": [1, object()]}),
        ("data.rows[1]: object", "enc_hook"),
    ),
    Row("a generator as data", lambda bus: bus.publish("a", (x for x in [1])), ("generator",)),
    Row("a tuple as key", lambda bus: bus.publish("a", {(1, 2): 3}), ("a key of type tuple",)),
    Row("NaN", lambda bus: bus.publish("a", float("nan")), ("finite", "JSON")),
    Row("data in itself", lambda bus: bus.publish("a", circle()), ("itself",)),
    Row("to=None", lambda bus: bus.send("a", to=None), ("to", "connection", "NoneType")),
    Row("to=number", lambda bus: bus.send("a", to=5), ("to", "subject", "int")),
    Row("to=[text]", lambda bus: bus.send("a", to=["ada"]), ("to", "subject")),
    Row("to=Identity", lambda bus: bus.send("a", to=ADA), ("to", "subject", "Identity")),
    Row(
        "endpoint=bus", lambda bus: bus.send("a", to="x", endpoint=bus), ("bus.endpoint(…)", "Bus")
    ),
    Row("broadcast", lambda bus: bus.broadcast(1), ("bus.endpoint(broadcast=…)",)),
    Row("disconnect(None)", lambda bus: bus.disconnect(None), ("who", "NoneType")),
    Row("disconnect(code=99)", lambda bus: bus.disconnect("x", code=99), ("99", "4000 to 4999")),
    Row("disconnect(code=1006)", lambda bus: bus.disconnect("x", code=1006), ("1006", "RFC 6455")),
    Row("disconnect(code=text)", lambda bus: bus.disconnect("x", code="bye"), ("'bye'", "code")),
    Row("aclose(deadline=text)", lambda bus: bus.aclose(deadline="1"), ("deadline", "'1'")),
    Row("aclose(deadline=-1)", lambda bus: bus.aclose(deadline=-1), ("deadline", "-1")),
    Row("aclose(code=99)", lambda bus: bus.aclose(code=99), ("99", "4000 to 4999")),
    Row("drain(deadline=None)", lambda bus: bus.endpoint().drain(deadline=None), ("deadline",)),
    Row("subscribers(pattern)", lambda bus: bus.local_subscribers("a.*"), ("'a.*'", "wildcards")),
    Row("a step without async with", step, ("async with bus.subscribe(…)",)),
    Row("a subscription entered twice", enter_twice, ("entered once",)),
    Row("a bus started twice", start_again, ("running already",)),
    Row("threadsafe in the loop", lambda bus: bus.publish_threadsafe("a"), ("publish_soon",)),
    Row("send in the loop", lambda bus: bus.send_threadsafe("a", to="x"), ("send_soon",)),
    Row("soon in a thread", in_thread_of("publish_soon"), ("thread", "publish_threadsafe")),
    Row("connections in a thread", in_thread_of("connections"), ("thread",)),
]


@table(ROWS)
async def test_a_mistake_in_a_call_is_refused_in_words(row: Row) -> None:
    """The error names the argument and what may be written; the bus goes on."""
    bus = Bus()
    async with bus:
        error = await outcome(lambda: row.do(bus))

        assert isinstance(error, row.error)
        check(row, str(error))
        assert bus.healthy
        assert (await bus.publish("a")).local_matched == 0


async def test_an_id_is_no_subject(caplog: pytest.LogCaptureFixture) -> None:
    """Who sends to the id of a connection reaches nobody, and is told so in the log, once."""
    bus = Bus()
    endpoint = bus.endpoint(authenticator=judge, query_token="token")
    async with bus, connecting(endpoint) as connect:
        client: Client = await connect("ann")
        for _ in range(2):
            assert (await bus.send("a", to=client.id)).local_matched == 0
            assert bus.disconnect(client.id) == 0
        assert (await bus.send("a", to="nobody")).local_matched == 0

        told = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.name for record in told] == ["wsbus.bus"]
        assert "id of a connection" in told[0].getMessage()
        assert "to=bus.connection(id)" in told[0].getMessage()


async def test_a_connection_refuses_mistakes_too() -> None:
    """What an application holds of a client checks its arguments as the bus does."""
    bus = Bus()
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        connection: Any = client.connection
        calls: list[tuple[Callable[[], Any], str]] = [
            (lambda: connection.subscribe("a..b"), "'a..b'"),
            (lambda: connection.subscribe(["a"]), "list"),
            (lambda: connection.unsubscribe(None), "not None"),
            (lambda: connection.disconnect(5), "4000 to 4999"),
            (lambda: connection.disconnect("bye"), "'bye'"),
        ]
        for do, words in calls:
            assert words in str(await outcome(do))
        assert await client.events() == []
