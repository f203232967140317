from __future__ import annotations

import json
import logging
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import jwt
import pytest
import uvicorn
from anyio import (
    CancelScope,
    Event,
    connect_tcp,
    create_task_group,
    fail_after,
    sleep_forever,
    wait_all_tasks_blocked,
)
from anyio.lowlevel import checkpoint
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.adapters.serving import (
    client,
    connect_raw,
    masked,
    receive,
    reset,
    serving,
    subscribe,
)
from wsbus import (
    JWT,
    Bus,
    Connection,
    Endpoint,
    Grants,
    Handshake,
    HeartbeatPolicy,
    Identity,
    Limits,
)
from wsbus.adapters import _asgi, asgi
from wsbus.adapters.asgi import app
from wsbus.adapters.uvicorn import RedactQuery, WebSocketProtocol, redact, uvicorn_options
from wsbus.bus import host_of
from wsbus.core.errors import TransportClosed
from wsbus.core.frame import Frame

SECRET = "s" * 32
BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


class Ends:
    """Collects the connections of a bus that have ended."""

    def __init__(self, bus: Bus) -> None:
        self._ended: deque[Connection] = deque()
        self._one = Event()
        bus.on_disconnect(self._note)

    def _note(self, connection: Connection) -> None:
        self._ended.append(connection)
        self._one.set()

    async def next(self) -> Connection:
        while not self._ended:
            self._one = Event()
            await self._one.wait()
        return self._ended.popleft()


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "u1", "exp": 4102444800, **claims}, SECRET)


# --- through uvicorn -------------------------------------------------------------------------


async def test_events_and_commands_of_zigquant() -> None:
    """A client gets what it subscribed to, and its commands answered."""
    bus = Bus()

    @bus.command("grid.start")
    async def start(pair: str) -> dict[str, str]:
        await checkpoint()
        return {"pair": pair}

    door = bus.endpoint(protocols=["zigquant-v2"], authenticator=JWT(SECRET), query_token="token")
    shown = token(subscribe=["*"], command=["grid.*"])
    async with serving(app(door)) as (port, _), client(port, f"/ws?token={shown}") as peer:
        await subscribe(peer, "grid.*")
        await bus.publish("grid.abc.order", {"价": 1.5}, event="filled")
        event = await receive(peer)
        await peer.send('{"type":"command","id":"1","action":"grid.start","params":{"pair":"a"}}')
        response = await receive(peer)

    assert (event["channel"], event["event"], event["data"]) == (
        "grid.abc.order",
        "filled",
        {"价": 1.5},
    )
    assert (response["id"], response["data"]) == ("1", {"pair": "a"})


async def test_the_handshake_is_what_the_client_sent() -> None:
    """Path, query, headers, address and subprotocols reach the application unharmed."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    offered = [Subprotocol("unknown"), Subprotocol("wsbus.v1")]
    headers = [("X-One", "a"), ("X-One", "b"), ("X-Latin", "caf\xe9")]

    async with (
        serving(app(bus)) as (port, _),
        client(port, "/a%20b?x=%C3%A9&y", subprotocols=offered, additional_headers=headers) as peer,
    ):
        assert (await receive(peer))["type"] == "connected"
        handshake = seen[0].handshake
        address = peer.local_address

    assert (handshake.path, handshake.query_string, handshake.query("x")) == (
        "/a b",
        "x=%C3%A9&y",
        "é",
    )
    assert handshake.headers["x-one"] == "a, b"
    assert handshake.headers["x-latin"] == "caf\xe9"
    assert handshake.subprotocols == ("unknown", "wsbus.v1")
    assert handshake.client == address


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [(None, None), (["zigquant-v2"], "zigquant-v2"), (["x", "zigquant-v2"], "zigquant-v2")],
)
async def test_a_subprotocol_is_echoed_only_when_offered(
    offered: list[Subprotocol] | None, echoed: str | None
) -> None:
    """The 101 names a subprotocol if the client did, and none otherwise."""
    bus = Bus()
    door = bus.endpoint(protocols=["zigquant-v2"])
    async with serving(app(door)) as (port, _), client(port, subprotocols=offered) as peer:
        assert peer.subprotocol == echoed
        assert peer.response is not None
        assert ("Sec-WebSocket-Protocol" in peer.response.headers) == (echoed is not None)


@pytest.mark.parametrize(
    ("options", "path", "status"),
    [
        ({"subprotocols": [Subprotocol("unknown")]}, "/", 400),
        ({}, "/?token=bad", 401),
        ({"origin": "http://elsewhere"}, "/", 403),
    ],
)
async def test_refusals_have_their_http_status(
    options: dict[str, Any], path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused client is told why before the handshake completes."""
    bus = Bus()
    door = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
    async with serving(app(door)) as (port, _):
        with pytest.raises(InvalidStatus) as refused:
            await client(port, path, **options)

    assert refused.value.response.status_code == status
    assert refused.value.response.body
    # An origin or a token may be refused through a mistake of the operator, who is told why.
    warned = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    words = {
        400: ["status 400", "wsbus.v1"],
        401: ["a token is refused: "],
        403: ["http://elsewhere", f"127.0.0.1:{port}"],
    }
    (line,) = warned
    assert all(word in line for word in words[status])


async def test_a_bus_that_does_not_run_refuses() -> None:
    """Without a running bus the handshake is answered 503, and the server lives on."""
    async with serving(app(Bus()), lifespan="off") as (port, _):
        for _ in range(2):
            with pytest.raises(InvalidStatus) as refused:
                await client(port)
            assert refused.value.response.status_code == 503


async def test_a_bus_may_start_with_its_first_clients() -> None:
    """Where a server has no lifespan, those that come at once all get in; it starts only once."""
    bus = Bus()
    application = app(bus, autostart=True)
    async with serving(application, lifespan="off") as (port, _):
        async with create_task_group() as tasks:

            async def come() -> None:
                async with client(port) as peer:
                    assert (await receive(peer))["type"] == "connected"

            for _ in range(5):
                tasks.start_soon(come)
        await bus.aclose()
        with pytest.raises(InvalidStatus) as refused:
            await client(port)

    assert refused.value.response.status_code == 503


async def test_a_start_with_the_first_client_minds_a_lifespan() -> None:
    """A server that has a lifespan starts the bus, and what it has stopped stays stopped."""
    bus = Bus()
    application = app(bus, autostart=True)
    async with serving(application) as (port, _), client(port) as peer:
        await receive(peer)
    assert not bus.is_running
    async with serving(application, lifespan="off") as (port, _):
        with pytest.raises(InvalidStatus):
            await client(port)
    assert not bus.is_running


async def test_handshakes_hold_the_scope() -> None:
    """Authenticators and hooks see what the server and middleware know of the request."""
    bus = Bus()
    seen = list[Any]()

    def judge(token: str | None, handshake: Handshake) -> Identity:
        assert handshake.scope is not None
        assert handshake.scope["user"] == "ada"
        return Identity(handshake.scope["user"], Grants.open())

    bus.on_connect(lambda connection: seen.append(connection.handshake.scope))
    endpoint = app(bus.endpoint(authenticator=judge))

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = "ada"
        await endpoint(scope, receive, send)

    async with serving(middleware) as (port, _), client(port) as peer:
        assert (await receive(peer))["data"]["subject"] == "ada"

    assert seen[0]["user"] == "ada"
    assert "ada" not in repr(Handshake("/", scope=seen[0]))  # It may hold secrets.


async def test_http_is_told_to_upgrade() -> None:
    """A plain HTTP request is answered 426 and what to upgrade to (RFC 9110, section 15.5.22)."""
    async with serving(app(Bus())) as (port, _):
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream])
        await stream.aclose()

    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"upgrade: websocket\r\n" in answer.lower()


async def test_close_codes_reach_the_client() -> None:
    """Code and reason of a disconnection by the server are the client's to see."""
    bus = Bus()
    async with serving(app(bus)) as (port, _), client(port) as peer:
        await receive(peer)
        bus.disconnect("anonymous", code=4510, reason="再见")
        with pytest.raises(ConnectionClosed) as closed:
            await peer.recv()

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4510, "再见")


async def test_close_codes_reach_the_server() -> None:
    """Code and reason of a client that leaves are the connection's last word."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(app(bus)) as (port, _):
        async with client(port) as peer:
            await receive(peer)
            await peer.close(4321, "bye")
        ended = await ends.next()

    assert (ended.close_code, ended.close_reason) == (4321, "bye")


@pytest.mark.parametrize("size", [1001, 5000])
@pytest.mark.parametrize("text", ["x", "价"])
async def test_oversized_messages_are_closed(size: int, text: str) -> None:
    """Over the limit, in bytes of UTF-8, ends with 1009, whoever notices: wsbus or uvicorn."""
    bus = Bus()
    door = bus.endpoint(limits=Limits(max_message_bytes=1000))
    message = text * (size // len(text.encode()) + 1)
    async with serving(app(door), ws_max_size=4000) as (port, _), client(port) as peer:
        await receive(peer)
        await peer.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await peer.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_message_of_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    bus = Bus()
    door = bus.endpoint(limits=Limits(max_message_bytes=100))
    async with serving(app(door)) as (port, _), client(port) as peer:
        await receive(peer)
        await peer.send('{"type":"ping"}'.ljust(100))
        assert (await receive(peer))["type"] == "pong"


async def test_binary_where_text_is_spoken_is_closed() -> None:
    """A binary message to a text dialect ends with 1003."""
    bus = Bus()
    async with serving(app(bus)) as (port, _), client(port) as peer:
        await receive(peer)
        await peer.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            await peer.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003


async def test_invalid_utf8_is_closed_and_its_bytes_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Text that is not UTF-8 ends with 1007; the log holds nothing of it, and calls it no error."""
    bus = Bus()
    ends = Ends(bus)
    redact()
    async with serving(app(bus)) as (port, _), client(port) as peer:
        await receive(peer)
        await peer.send(b'{"secret":"\xff"}', text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await peer.recv()
        ended = await ends.next()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == ended.close_code == 1007
    assert [record for record in caplog.records if record.exc_info] == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("ws", ["auto", WebSocketProtocol], ids=["plain", "ours"])
@pytest.mark.parametrize("dialect", ["wsbus.v1", "zigquant-v2"])
async def test_order_under_many_publications(dialect: str, ws: object) -> None:
    """A tight loop of publications arrives complete and in order, joined or not."""
    bus = Bus()
    door = bus.endpoint(protocols=[dialect])
    count = 5000
    got: list[int] = []
    async with (
        serving(app(door), **uvicorn_options(door) | {"ws": ws}) as (port, _),
        client(port) as peer,
        create_task_group() as tasks,
    ):
        await subscribe(peer, "a.*")

        async def read() -> None:
            while len(got) < count:
                lines = str(await peer.recv()).splitlines()
                got.extend(json.loads(line)["data"] for line in lines)

        tasks.start_soon(read)
        for i in range(count):
            await bus.publish("a.b", i)

    assert got == list(range(count))


async def test_a_peer_that_never_reads_costs_only_itself() -> None:
    """It is given up after the write deadline; the others get everything, and no task is left."""
    bus = Bus()
    ends = Ends(bus)
    limits = Limits(write_deadline=0.5, queue_bytes=256 * 1024)
    door = bus.endpoint(protocols=["zigquant-v2"], limits=limits)
    got = published = 0
    async with (
        serving(app(door), timeout_graceful_shutdown=1) as (port, _),
        client(port, max_size=None) as peer,
    ):
        await subscribe(peer, "a.*")
        stuck = await connect_raw(port)
        await stuck.send(masked(1, b'{"type":"subscribe","channels":["a.*"]}'))
        while len(bus.connections()[-1].subscriptions) == 0:
            await checkpoint()
        with fail_after(15):
            async with create_task_group() as tasks:

                async def watch() -> None:
                    ended.append(await ends.next())
                    tasks.cancel_scope.cancel()

                ended: list[Connection] = []
                tasks.start_soon(watch)
                while True:
                    published += 1
                    await bus.publish("a.b", [published, "x" * 32768])
                    with CancelScope(shield=True):
                        got += (await receive(peer))["data"][0] == published
                    await checkpoint()
        await wait_all_tasks_blocked()
        blocked, running = bus.statistics().blocked, host_of(bus).services.runner.running
        failures = bus.statistics().failures
        await reset(stuck)

    assert got == published
    assert [connection.close_code for connection in ended] == [1006]
    assert (blocked, running, failures) == (0, 0, 1)


async def test_an_abrupt_reset_frees_the_member() -> None:
    """A connection that was reset is gone from the bus at once."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(app(bus)) as (port, _):
        stream = await connect_raw(port)
        await stream.receive()
        assert bus.statistics().connections == 1
        await reset(stream)
        await ends.next()
        assert bus.statistics().connections == 0


async def test_who_commands_and_never_reads_is_not_read() -> None:
    """Unread answers are bounded: the connection is not read on, and then given up."""
    bus = Bus()
    ends = Ends(bus)
    limits = Limits(
        write_deadline=0.5, messages_per_second=None, commands_per_second=None, control_bytes=65536
    )
    bus.command("big")(lambda: "x" * 30000)
    async with serving(app(bus.endpoint(limits=limits)), timeout_graceful_shutdown=1) as (port, _):
        stream = await connect_raw(port)
        command = masked(1, b'{"type":"command","id":"1","action":"big"}')
        with fail_after(15):
            async with create_task_group() as tasks:

                async def flood() -> None:
                    while True:
                        await stream.send(command * 100)

                tasks.start_soon(flood)
                ended = await ends.next()
                tasks.cancel_scope.cancel()
        connections = bus.statistics().connections
        await reset(stream)

    assert ended.close_code == 1006
    assert connections == 0


async def test_uvicorn_closes_with_1012_and_the_bus_stops_at_once() -> None:
    """At its shutdown uvicorn says 1012 to everybody itself, and the bus has nobody to wait for."""
    bus = Bus()
    async with client_of_a_stopping_server(bus, sys.maxsize) as peer:
        with pytest.raises(ConnectionClosed) as closed, fail_after(5):
            await peer.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert not bus.is_running


@asynccontextmanager
async def client_of_a_stopping_server(bus: Bus, grace: int) -> AsyncIterator[Any]:
    async with serving(app(bus), timeout_graceful_shutdown=grace) as (port, server):
        peer = await client(port)
        await receive(peer)
        server.should_exit = True
        yield peer
        with fail_after(5):
            await server.down.wait()
        await peer.close()


async def test_a_stuck_peer_does_not_keep_uvicorn_from_stopping() -> None:
    """With the options of uvicorn_options a shutdown ends though a peer never reads."""
    bus = Bus()
    assert uvicorn_options(bus)["timeout_graceful_shutdown"] is not None
    async with serving(app(bus), timeout_graceful_shutdown=1) as (port, server):
        stream = await connect_raw(port)
        await stream.send(masked(1, b'{"type":"subscribe","channels":["a.*"]}'))
        while not (bus.connections() and bus.connections()[0].subscriptions):
            await checkpoint()
        await publish_until_stuck(bus)
        with fail_after(10):
            server.should_exit = True
            await server.down.wait()
        await reset(stream)

    assert not bus.is_running


async def publish_until_stuck(bus: Bus) -> None:
    while bus.connections()[0].queue_messages < 3:
        await bus.publish("a.b", "x" * 65536)
        for _ in range(5):
            await checkpoint()


async def test_a_stuck_write_ends_with_the_connection() -> None:
    """A peer that never reads and then leaves keeps no task waiting."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(app(bus)) as (port, _):
        stream = await connect_raw(port)
        await stream.send(masked(1, b'{"type":"subscribe","channels":["a.*"]}'))
        while not (bus.connections() and bus.connections()[0].subscriptions):
            await checkpoint()
        await publish_until_stuck(bus)
        assert host_of(bus).services.runner.running == 1
        await stream.send(masked(8, b"\x10\xe1bye"))
        ended = await ends.next()
        while host_of(bus).services.runner.running:
            await checkpoint()
        await reset(stream)

    assert (ended.close_code, ended.close_reason) == (4321, "bye")


async def test_uvicorn_options_are_uvicorns() -> None:
    """They are accepted, bound messages, and leave silence to one judge."""
    bus = Bus()
    quiet = bus.endpoint(heartbeat=HeartbeatPolicy.client_drives(), limits=Limits())

    config = uvicorn.Config(app(bus), **uvicorn_options(bus))

    assert (config.ws_max_size, config.ws_ping_interval) == (65536, None)
    assert uvicorn_options(quiet)["ws_ping_interval"] == 20.0


# --- logs ------------------------------------------------------------------------------------


async def test_no_token_is_in_uvicorns_log(caplog: pytest.LogCaptureFixture) -> None:
    """Accepted, refused and plain HTTP requests are logged without their queries."""
    bus = Bus()
    redact()
    redact()
    door = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
    good = token()
    options: dict[str, Any] = {"log_level": "info", "access_log": True}
    with caplog.at_level(logging.INFO):
        async with serving(app(door), **options) as (port, _):
            async with client(port, f"/ws?token={good}") as peer:
                await receive(peer)
            for refused in ("/ws?token=bad-token", "/ws?token=bad-token&a?b"):
                with pytest.raises(InvalidStatus):
                    await client(port, refused)
            stream = await connect_raw_http(port, f"/?token={good}")
            await stream.aclose()

    lines = [record.getMessage() for record in caplog.records if "uvicorn" in record.name]
    assert sum("[accepted]" in line for line in lines) == 1
    assert sum('"WebSocket' in line and line.endswith(" 401") for line in lines) == 2
    assert sum('"GET' in line and '" 426' in line for line in lines) == 1
    assert all(good not in line and "bad-token" not in line for line in lines)
    filters = logging.getLogger("uvicorn.error").filters
    assert sum(isinstance(each, RedactQuery) for each in filters) == 1


async def connect_raw_http(port: int, target: str) -> Any:
    stream = await connect_tcp("127.0.0.1", port)
    await stream.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await stream.receive()
    return stream


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("%s - %d", ("/ws?token=\x1ca b", 200), "/ws?… - 200"),
        ("%s", ("/ws",), "/ws"),
        ("GET /ws?a=b HTTP/1.1", (), "GET /ws?… HTTP/1.1"),
        ("why? 100%", (), "why? 100%"),
        ("%(a)s?", ({"a": 1},), "1?"),
    ],
)
def test_redacted_records(message: str, args: tuple[Any, ...], expected: str) -> None:
    """Queries go, from arguments and from finished texts; everything else stays."""
    record = logging.LogRecord("x", logging.INFO, "", 0, message, args, None)

    assert RedactQuery().filter(record)
    assert record.getMessage() == expected


def test_what_is_no_error_is_not_logged_above_info() -> None:
    """A record that is lowered to INFO is dropped where its logger is set to WARNING."""
    broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")
    for level, is_logged in ((logging.INFO, True), (logging.WARNING, False)):
        logging.getLogger("tests.redacted").setLevel(level)
        record = logging.LogRecord(
            "tests.redacted", logging.ERROR, "", 0, "x", (), (type(broken), broken, None)
        )

        assert RedactQuery().filter(record) is is_logged
        assert record.exc_info is None


@pytest.mark.parametrize(
    ("version", "old"),
    [("0.52.0", True), ("0.51", True), ("0.52.1", False), ("0.54.0", False), ("", False)],
)
def test_old_uvicorns(version: str, old: bool) -> None:
    """Those that have no flow control are known."""
    assert asgi._is_too_old(version) is old


def test_an_old_uvicorn_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says what is wrong with it, and what to do."""
    monkeypatch.setattr(uvicorn, "__version__", "0.52.0")

    asgi._warn_of_old_uvicorn.__wrapped__()

    assert "0.52.1" in caplog.text


# --- without a server ------------------------------------------------------------------------


class Peer:
    """The server's two callables, in memory."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = deque(messages)
        self.sent: list[dict[str, Any]] = []
        self.stuck = False

    async def receive(self) -> Any:
        if not self.messages:
            await sleep_forever()
        return self.messages.popleft()

    async def send(self, message: Any) -> None:
        if self.stuck:
            await sleep_forever()
        self.sent.append(message)


def transport(
    peer: Peer, send: Callable[..., Awaitable[None]] | None = None
) -> _asgi.ASGITransport:
    door = Bus().endpoint(limits=Limits(close_timeout=0.1))
    return _asgi.transport(door, {}, peer.receive, send or peer.send)


SCOPE: dict[str, Any] = {"type": "websocket", "path": "/", "headers": []}
CONNECT: dict[str, Any] = {"type": "websocket.connect"}


@BOTH_LOOPS
async def test_without_the_denial_extension_a_refusal_is_a_close() -> None:
    """It is closed before it is accepted, which servers answer with 403."""
    peer = Peer(CONNECT)

    await app(Bus())({**SCOPE, "extensions": None}, peer.receive, peer.send)

    assert [message["type"] for message in peer.sent] == ["websocket.close"]


@BOTH_LOOPS
async def test_a_client_that_leaves_while_it_is_judged_raises_nothing() -> None:
    """Neither a disconnection in place of the connect nor one before the accept is an error."""
    gone = Peer({"type": "websocket.disconnect", "code": 1006})

    async def send(message: Any) -> None:
        raise OSError

    async with Bus() as bus:
        await app(bus)(SCOPE, gone.receive, gone.send)
        await app(bus)(SCOPE, Peer(CONNECT).receive, send)

    assert gone.sent == []


async def test_http_2_is_not_told_to_upgrade() -> None:
    """HTTP/2 has no Upgrade (RFC 9113, section 8.2.2): it is answered 404."""
    peer = Peer()

    await app(Bus())({"type": "http", "http_version": "2"}, peer.receive, peer.send)

    assert peer.sent[0]["status"] == 404
    assert b"upgrade" not in dict(peer.sent[0]["headers"])


async def test_lifespan_leaves_a_running_bus_alone() -> None:
    """An application that runs the bus itself is not disturbed."""
    async with Bus() as bus:
        peer = Peer({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        await app(bus)({"type": "lifespan"}, peer.receive, peer.send)
        assert bus.is_running

    assert [message["type"] for message in peer.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@BOTH_LOOPS
async def test_what_the_send_of_middleware_returns_is_of_no_interest() -> None:
    """ASGI wants nothing to be returned; not everybody knows."""
    peer = Peer()

    async def send(message: Any) -> Any:
        await peer.send(message)
        return "sent"

    await transport(peer, send).send([Frame(b"a"), Frame(b"b")])

    assert [message["text"] for message in peer.sent] == ["a", "b"]


@BOTH_LOOPS
@pytest.mark.parametrize("text", [Frame(b"a"), Frame(b"a", is_text=False)])
async def test_frames_are_sent_one_by_one(text: Frame) -> None:
    """Text goes as text and bytes as bytes, in order."""
    peer = Peer()

    await transport(peer).send([text, Frame(b"b")])

    key, value = ("text", "a") if text.is_text else ("bytes", b"a")
    assert peer.sent == [
        {"type": "websocket.send", key: value},
        {"type": "websocket.send", "text": "b"},
    ]


@BOTH_LOOPS
async def test_messages_have_either_key() -> None:
    """Servers may send both keys, one of them None, or one."""
    peer = Peer(
        {"type": "websocket.receive", "text": "a", "bytes": None},
        {"type": "websocket.receive", "bytes": b"b", "text": None},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
        {"type": "websocket.disconnect"},
    )
    line = transport(peer)

    assert [await line.receive() for _ in range(4)] == ["a", b"b", "", b""]
    for _ in range(2):
        with pytest.raises(TransportClosed) as closed:
            await line.receive()
        assert (closed.value.code, closed.value.reason) == (1005, "")


@BOTH_LOOPS
@pytest.mark.parametrize("abort_first", [True, False])
async def test_abort_ends_every_wait(abort_first: bool) -> None:
    """A pending or a later receive, send and close all end at once, and nobody is cancelled."""
    peer = Peer()
    peer.stuck = True
    line = transport(peer)
    ended: list[str] = []

    async def expect(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        with suppress(TransportClosed):
            await call()
        await checkpoint()  # Nothing of the cancellation is left.
        ended.append(name)

    if abort_first:
        line.abort()
    with fail_after(5):
        async with create_task_group() as tasks:
            tasks.start_soon(expect, "receive", line.receive)
            tasks.start_soon(expect, "send", lambda: line.send([Frame(b"x")]))
            tasks.start_soon(expect, "close", lambda: line.close(1000, ""))
            await wait_all_tasks_blocked()
            line.abort()
            line.abort()

    assert sorted(ended) == ["close", "receive", "send"]


@BOTH_LOOPS
async def test_cancellation_from_outside_is_not_swallowed() -> None:
    """Whoever cancels a wait gets it cancelled, even if it is aborted in the same turn."""
    for aborted in (False, True):
        line = transport(Peer())
        ended: list[str] = []

        async def wait(line: _asgi.ASGITransport = line, ended: list[str] = ended) -> None:
            try:
                await line.receive()
            except TransportClosed:
                ended.append("closed")
            await checkpoint()
            ended.append("went on")

        async with create_task_group() as tasks:
            tasks.start_soon(wait)
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            if aborted:
                line.abort()
        assert "went on" not in ended


@BOTH_LOOPS
async def test_a_close_that_finds_no_room_gives_up() -> None:
    """It waits for a bounded time, then aborts; a second close does nothing."""
    peer = Peer()
    peer.stuck = True
    line = transport(peer)

    with fail_after(5):
        await line.close(1000, "")
        await line.close(1001, "")
        with pytest.raises(TransportClosed):
            await line.receive()

    assert peer.sent == []


@BOTH_LOOPS
async def test_a_close_waits_for_the_send_before_it() -> None:
    """No server ever sees two tasks that send at once."""
    room, peer = Event(), Peer()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            await room.wait()
        await peer.send(message)

    line = _asgi.transport(Bus().endpoint(), {}, peer.receive, send)
    async with create_task_group() as tasks:
        tasks.start_soon(line.send, [Frame(b"x")])
        await wait_all_tasks_blocked()
        tasks.start_soon(line.close, 4000, "bye")
        await wait_all_tasks_blocked()
        assert peer.sent == []
        room.set()

    assert [message["type"] for message in peer.sent] == ["websocket.send", "websocket.close"]
    with pytest.raises(TransportClosed) as closed:
        await line.send([Frame(b"y")])
    assert closed.value.code == 4000


@BOTH_LOOPS
@pytest.mark.parametrize("error", [OSError(), RuntimeError("after close")])
async def test_what_servers_raise_means_closed(error: Exception) -> None:
    """A send to nobody is a closed transport, in whatever words the server says so."""

    async def send(message: Any) -> None:
        raise error

    with pytest.raises(TransportClosed):
        await transport(Peer(), send).send([Frame(b"x")])


@BOTH_LOOPS
async def test_other_errors_are_not_hidden() -> None:
    """A fault of the server or of a middleware stays one."""

    async def send(message: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await transport(Peer(), send).send([Frame(b"x")])


def test_sizes_are_those_of_utf8() -> None:
    """Text counts as the bytes that were sent."""
    for text in ("", "a", "é" * 5, "价" * 4, "😀" * 3, "a😀" * 2):
        size = len(text.encode())
        assert not _asgi._is_larger(text, size)
        assert not _asgi._is_larger(text.encode(), size)
        if size:
            assert _asgi._is_larger(text, size - 1)
            assert _asgi._is_larger(text.encode(), size - 1)


# --- hypercorn, on trio ------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_hypercorn_on_trio() -> None:
    """The same application serves on trio: events, commands, refusals, close codes."""
    hypercorn = pytest.importorskip("hypercorn.trio", reason="pip install hypercorn")
    from websockets.trio.client import connect

    bus, stop = Bus(), Event()
    ends = Ends(bus)
    door: Endpoint = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
    config = hypercorn.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    async with create_task_group() as tasks:

        async def run(*, task_status: Any) -> None:
            await hypercorn.serve(
                app(door), config, shutdown_trigger=stop.wait, task_status=task_status
            )

        address = (await tasks.start(run))[0]
        uri = f"ws://{address.removeprefix('http://')}/ws"
        shown = token(subscribe=["*"])
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{uri}?token=bad", proxy=None):
                pass
        async with connect(f"{uri}?token={shown}", proxy=None) as peer:
            await peer.recv()
            await peer.send('{"type":"subscribe","channels":["a.*"]}')
            await peer.recv()
            for i in range(200):
                await bus.publish("a.b", i)
            got: list[int] = []
            while len(got) < 200:
                lines = str(await peer.recv()).splitlines()
                got += [json.loads(line)["data"] for line in lines]
            await peer.aclose(4321, "bye")
        left = await ends.next()
        async with connect(f"{uri}?token={shown}", proxy=None) as peer:
            await peer.recv()
            bus.disconnect("u1", code=4510, reason="out")
            with pytest.raises(ConnectionClosed) as closed:
                await peer.recv()
        stop.set()

    assert refused.value.response.status_code == 401
    assert got == list(range(200))
    assert left.close_code in {1006, 4321}  # hypercorn 0.18 calls every end abnormal.
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4510
    assert math.isfinite(left.connected_at)
