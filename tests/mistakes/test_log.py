"""What only clients notice is in the log at WARNING or higher, with its cause and its cure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from anyio import sleep_forever

from tests.server.clients import Client, connecting, judge, quiet
from wsbus import (
    JWT,
    Bus,
    Connection,
    Endpoint,
    Grants,
    Handshake,
    Identity,
    Limits,
    Unauthenticated,
)
from wsbus._log import BoundedLog
from wsbus.endpoint import Refusal

SECRET = "change me: at least 32 bytes long"
TOKEN = "eyJhbGciOiJub25lIn0.c2VjcmV0LXBheWxvYWQ."


def read(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log as a person sees it who has configured nothing: WARNING and above."""
    lines = [
        f"{record.levelname} {record.name} {record.getMessage()}"
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]
    assert not any("\n" in line for line in lines)
    return lines


async def status(endpoint: Endpoint, query: str = "", **headers: str) -> int:
    """Return how a handshake is answered; 101 stands for a yes."""
    verdict = await endpoint.admit(Handshake("/ws", query, headers=headers))
    return verdict.status if isinstance(verdict, Refusal) else 101


# --- handshakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "headers", "words"),
    [
        (
            {},
            {"origin": "http://localhost:3000", "host": "127.0.0.1:8000"},
            ["http://localhost:3000", "127.0.0.1:8000", "bus.endpoint(origins=[…])", "proxy"],
        ),
        (
            {"origins": ["https://app.example"]},
            {"origin": "https://www.app.example", "host": "app.example"},
            ["https://www.app.example", "https://app.example ", "bus.endpoint(origins=[…])"],
        ),
        ({"origins": []}, {"origin": "null", "host": "a"}, ["null", "no page's", "origins=[…]"]),
    ],
    ids=["same-host", "listed", "none"],
)
async def test_a_refused_origin(
    settings: dict[str, Any],
    headers: dict[str, str],
    words: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line has both values that were compared, and the setting that allows it."""
    async with Bus() as bus:
        assert await status(bus.endpoint(**settings), **headers) == 403

    (line,) = read(caplog)
    assert line.startswith("WARNING wsbus.endpoint refused a connection from the origin")
    assert all(word in line for word in words), line


def refuses(token: str | None, handshake: Handshake) -> Identity | None:
    """Judge as an application might."""
    if token is not None:
        raise Unauthenticated("ada is banned\nERROR forged")
    return None


@pytest.mark.parametrize(
    ("authenticator", "words"),
    [
        (JWT(SECRET), ["wsbus.auth", "`alg`", "HS256", "wsbus token show"]),
        (refuses, ["wsbus.endpoint", "ada is banned\\nERROR forged"]),
    ],
    ids=["JWT", "own"],
)
@pytest.mark.parametrize("where", ["query", "message"])
async def test_a_refused_token(
    where: str, authenticator: Any, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING tells the reason and the path; it never holds the token."""
    bus = Bus()
    if isinstance(authenticator, JWT):
        authenticator = JWT(SECRET)  # It counts what it said.
    endpoint = bus.endpoint(authenticator=authenticator, query_token="token")
    async with bus, connecting(endpoint) as connect:
        if where == "query":
            assert await status(endpoint, f"token={TOKEN}") == 401
        else:
            client = await connect()
            client.say("auth", token=TOKEN)
            assert (await client.peer.wait_closed()).code == 4500

    (line,) = read(caplog)
    assert line.startswith("WARNING ")
    assert "a token is refused: " in line
    assert "on /ws" in line
    assert all(word in line for word in words), line
    assert not any(part in line for part in TOKEN.split(".") if part)


def fails(*_: Any) -> Any:
    """Fail as code that was never tried."""
    raise LookupError("no such table")


async def hangs(*_: object) -> Any:
    """Wait for something that never comes."""
    await sleep_forever()


def returns_name(token: str | None, handshake: Handshake) -> Any:
    """Return what looks right."""
    return "ada"


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (fails, ["ERROR wsbus.endpoint", "authenticator", "fails", "failed"]),
        (hangs, ["WARNING wsbus.endpoint", "authenticator", "hangs", "auth_timeout"]),
        (
            returns_name,
            ["ERROR wsbus.endpoint", "returns_name", "a str", "must return an Identity"],
        ),
    ],
    ids=["raises", "hangs", "returns a name"],
)
async def test_an_authenticator_that_fails(
    judge: Any, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, and what it should have done."""
    async with Bus() as bus:
        limits = Limits(auth_timeout=0.01)
        endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=limits)
        assert await status(endpoint, "token=x") == 503

    (line,) = read(caplog)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"name_connection": fails}, ["name_connection failed"]),
        ({"name_connection": lambda handshake: 5}, ["name_connection returned a int", "text"]),
        ({"client_address": fails}, ["client_address failed"]),
    ],
    ids=["name fails", "name is a number", "address fails"],
)
async def test_a_function_of_the_handshake_that_fails(
    setting: dict[str, Any], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The client hears 503, and the log which setting it is."""
    async with Bus() as bus:
        limits = Limits(max_connections_per_address=5)
        assert await status(bus.endpoint(limits=limits, **setting)) == 503

    (line,) = read(caplog)
    assert line.startswith("ERROR wsbus.endpoint ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("settings", "handshakes", "words"),
    [
        ({"limits": Limits(max_connections=1)}, [{}, {}], ["503", "too many connections"]),
        (
            {"limits": Limits(max_connections_per_address=1)},
            [{"client": ("1.2.3.4", 1)}, {"client": ("1.2.3.4", 2)}],
            ["429", "too many connections of this address"],
        ),
        ({}, [{"subprotocols": ("graphql-ws",)}], ["400", "subprotocols", "wsbus.v1"]),
        ({"name_connection": lambda handshake: ""}, [{}], ["400", "name of a connection"]),
    ],
    ids=["full", "address", "subprotocol", "name"],
)
async def test_every_refusal_has_a_line(
    settings: dict[str, Any],
    handshakes: list[dict[str, Any]],
    words: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Path, status and reason of a refusal are in the log, also where no other line tells them."""
    async with Bus() as bus:
        endpoint = bus.endpoint(**settings)
        verdicts = [await endpoint.admit(Handshake("/ws", **fields)) for fields in handshakes]
        assert isinstance(verdicts[-1], Refusal)

    (line,) = read(caplog)
    assert line.startswith("WARNING wsbus.endpoint refused a connection to /ws with status ")
    assert all(word in line for word in words), line


async def test_a_bus_that_nobody_started(caplog: pytest.LogCaptureFixture) -> None:
    """The endpoint of another bus looks the same; the path tells which it is."""
    async with Bus():
        other = Bus().endpoint()
        for _ in range(3):
            assert await status(other) == 503

    (line,) = read(caplog)
    assert "connections to /ws are refused" in line
    assert "nobody has started the bus of this endpoint" in line
    assert "async with bus:" in line


# --- conversations --------------------------------------------------------------------------------


def says_yes(*_: object) -> Any:
    """Answer with a word."""
    return "yes"


@pytest.mark.parametrize(
    ("authorize", "words"),
    [
        (fails, ["fails failed", "the answer is no"]),
        (says_yes, ["says_yes returned str, not a bool", "the answer is no"]),
    ],
    ids=["raises", "returns a text"],
)
async def test_an_authorize_that_fails(
    authorize: Any, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Clients hear no; the log tells that it was no decision."""
    bus = Bus(authorize=authorize)
    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        client.say("subscribe", channels=["a"])
        assert (await client.hear("subscribed"))["data"]["channels"] == []

    (line,) = read(caplog)
    assert line.startswith("ERROR wsbus.services ")
    assert all(word in line for word in words), line


async def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is named, and costs its connection nothing."""
    bus = Bus()
    bus.on_connect(fails)
    async with bus, connecting(bus.endpoint()) as connect:
        assert await (await connect()).events() == []

    (line,) = read(caplog)
    assert line.startswith("ERROR wsbus.hooks the connection hook ")
    assert "fails failed" in line


async def test_a_command_that_blocks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, how long it held the event loop, and what to write."""
    bus = Bus()
    now = 0.0
    monkeypatch.setattr("wsbus.server.commands.monotonic", lambda: now)

    @bus.command("report.make")
    def make() -> None:
        nonlocal now
        now += 3.25

    async with bus, connecting(bus.endpoint()) as connect:
        await (await connect()).command("report.make")

    (line,) = read(caplog)
    assert line.startswith("WARNING wsbus.commands the command report.make held the event loop")
    assert "3250 ms" in line
    assert "threaded=True" in line


async def test_a_command_that_fails_or_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """The client hears a code without details; the log has the name, and the traceback."""
    bus = Bus()

    @bus.command("broken")
    def broken() -> None:
        fails()

    @bus.command("waits", timeout=0.01)
    async def waits() -> None:
        await sleep_forever()

    @bus.command("unsendable")
    def unsendable() -> object:
        return object()

    async with bus, connecting(bus.endpoint()) as connect:
        client = await connect()
        assert await client.is_refused("broken") == "INTERNAL_ERROR"
        assert await client.is_refused("unsendable") == "INTERNAL_ERROR"
        assert await client.is_refused("waits") == "TIMEOUT"

    cure = "(timeout=, command_timeout)"
    assert read(caplog) == [
        "ERROR wsbus.commands the command broken failed",
        "ERROR wsbus.commands the command unsendable failed",
        f"WARNING wsbus.commands the command waits was cancelled after 0.01 s {cure}",
    ]
    assert "no such table" in caplog.text
    assert "object has no form in JSON" in caplog.text


async def test_a_slow_connection_that_lost_something(caplog: pytest.LogCaptureFixture) -> None:
    """The line names the connection, its subject, its path, and how much it lost."""
    bus = Bus()
    limits = Limits(queue_messages=5)
    endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=limits)
    async with bus, connecting(endpoint) as connect:
        client = await connect("ada")
        await client.subscribe("a")
        client.peer.stop_reading()
        for n in range(20):
            await bus.publish("a", n)
        await quiet()
        client.peer.read_on()
        await quiet()

        (line,) = read(caplog)
        assert line.startswith("WARNING wsbus.flusher the connection ")
        assert client.id in line
        assert "of ada, on /ws, reads too slowly" in line
        assert "publications were lost" in line


# --- floods ---------------------------------------------------------------------------------------


Flood = Callable[[Bus, int], Any]


async def evil_origins(bus: Bus, times: int) -> None:
    endpoint = bus.endpoint()
    for n in range(times):
        await status(endpoint, origin=f"http://{n}.example", host="a")


async def bad_tokens(bus: Bus, times: int) -> None:
    endpoint = bus.endpoint(authenticator=refuses, query_token="token")
    for n in range(times):
        await status(endpoint, f"token={n}")


async def junk_tokens(bus: Bus, times: int) -> None:
    endpoint = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
    for n in range(times):
        await status(endpoint, f"token={n}")


async def failing_judges(bus: Bus, times: int) -> None:
    judges: Any = fails
    endpoint = bus.endpoint(authenticator=judges, query_token="token")
    for n in range(times):
        await status(endpoint, f"token={n}")


async def failing_names(bus: Bus, times: int) -> None:
    endpoint = bus.endpoint(name_connection=fails)
    for _ in range(times):
        await status(endpoint)


async def failing_commands(bus: Bus, times: int) -> None:
    @bus.command("broken")
    def broken() -> None:
        fails()

    limits = Limits(commands_per_second=None, messages_per_second=None)
    async with connecting(bus.endpoint(limits=limits)) as connect:
        client: Client = await connect()
        for _ in range(times):
            await client.command("broken")


async def failing_hooks(bus: Bus, times: int) -> None:
    def broken(connection: Connection) -> None:
        fails()

    bus.on_connect(broken)
    async with connecting(bus.endpoint()) as connect:
        for _ in range(times):
            await connect()


@pytest.mark.parametrize(
    "flood",
    [
        evil_origins,
        bad_tokens,
        junk_tokens,
        failing_judges,
        failing_names,
        failing_commands,
        failing_hooks,
    ],
)
async def test_strangers_cannot_fill_the_log(
    flood: Flood, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever they bring about comes ten times a minute at most, at any level."""
    caplog.set_level(logging.DEBUG, "wsbus")
    bus = Bus()
    async with bus:
        await flood(bus, 40)

    lines = read(caplog)
    assert 1 <= len(lines) <= 10
    assert len(caplog.records) == len(lines)
    assert len(lines) == 1 or "more like this are only counted for 60 s" in lines[-1]


def test_what_is_left_out_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line after the minute tells the number; other kinds have bounds of their own."""
    now = 0.0
    monkeypatch.setattr("wsbus._log.monotonic", lambda: now)
    log = BoundedLog(logging.getLogger("wsbus.test"), a_minute=2)
    for now in (0.0, 1.0, 2.0, 59.0):  # the clock reads it
        log.warning("%s came", now)
    log.warning("%s went", 1, of="a")
    log.warning("%s went", 2, of="b")
    now = 60.0
    log.warning("%s came", now)

    assert [record.getMessage() for record in caplog.records] == [
        "0.0 came",
        "1.0 came (more like this are only counted for 60 s)",
        "1 went",
        "2 went",
        "60.0 came (2 more like this were left out before)",
    ]


def test_what_is_not_shown_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Lines below the logger's level take no place of those that are shown later."""
    log = BoundedLog(logging.getLogger("wsbus.test"), a_minute=2)
    for _ in range(5):
        log.log(logging.DEBUG, "it came")
    caplog.set_level(logging.DEBUG, "wsbus.test")
    log.log(logging.DEBUG, "it came")

    assert [record.getMessage() for record in caplog.records] == ["it came"]


async def test_an_expired_token_is_refused_in_words(caplog: pytest.LogCaptureFixture) -> None:
    """The commonest refusal says which claim it is."""
    import jwt  # an extra

    token = jwt.encode({"sub": "ada", "exp": int(time.time()) - 60}, SECRET, "HS256")
    async with Bus() as bus:
        endpoint = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
        assert await status(endpoint, f"token={token}") == 401

    (line,) = read(caplog)
    assert "it has expired (`exp`)" in line
    assert token not in line


def test_grants_of_everybody_are_open_only_on_purpose() -> None:
    """An endpoint without an authenticator grants what `anonymous=` says, and nothing else."""
    assert Bus().endpoint().anonymous == Grants.open()
    assert Bus().endpoint(anonymous=Grants()).anonymous == Grants()
