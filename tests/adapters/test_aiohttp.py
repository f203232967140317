from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from anyio import (
    BrokenResourceError,
    EndOfStream,
    Event,
    WouldBlock,
    connect_tcp,
    create_task_group,
    fail_after,
    wait_all_tasks_blocked,
)
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.adapters.serving import client, connect_raw, masked, receive, reset, subscribe
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
    Overflow,
)
from wsbus.adapters import aiohttp as adapter
from wsbus.adapters.aiohttp import AccessLogger, handler, setup
from wsbus.core.errors import TransportClosed
from wsbus.server.connection import driver_of

SECRET = "s" * 32
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PATIENT = Limits(close_timeout=600, write_deadline=600)


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


@asynccontextmanager
async def running(
    app: web.Application, context: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[int]:
    """Serve an application on a free port; yields the port."""
    runner = web.AppRunner(app, **{"access_log": None, **options})
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(door: Bus | Endpoint, path: str = "/ws") -> AsyncIterator[int]:
    """Serve one door, set up as a user does; yields the port."""
    app = web.Application()
    setup(app, path, door)
    async with running(app) as port:
        yield port


async def data_until(last: object, peer: ClientConnection) -> list[Any]:
    """Receive events up to one with this data; return the data of all."""
    received: list[Any] = []
    while last not in received:
        received += [json.loads(line)["data"] for line in str(await peer.recv()).split("\n")]
    return received


async def closed(peer: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the connection is closed; return code and reason as the client saw them."""
    with suppress(ConnectionClosed):
        while True:
            await peer.recv()
    return peer.close_code, peer.close_reason


async def read_to_the_end(stream: SocketStream) -> bytes:
    """Read until the server has closed its side; a reset raises."""
    received = b""
    with suppress(EndOfStream):
        while True:
            received += await stream.receive()
    return received


async def only(bus: Bus) -> Connection:
    """Return the only connection, once it is there."""
    while not bus.connections():
        await checkpoint()
    (info,) = bus.connections()
    connection = bus.connection(info.connection_id)
    assert connection is not None
    return connection


async def fill(bus: Bus) -> Connection:
    """Publish until the only connection, which does not read, is blocked; return it."""
    connection = await only(bus)
    connection.subscribe("*")
    while not driver_of(connection).is_stuck:
        await bus.publish("flood", "x" * 4096)
        await checkpoint()  # Let the flush run.
    return connection


# --- what it carries ----------------------------------------------------------------------------


async def test_events_and_commands() -> None:
    """A client gets what it subscribed to, and its commands answered, inline or not."""
    bus = Bus()

    @bus.command("add")
    def add(a: int, b: int = 2) -> int:
        return a + b

    @bus.command("who")
    async def who(connection: Connection) -> str | None:
        await checkpoint()
        return connection.identity.subject if connection.identity else None

    shown = jwt.encode(
        {"sub": "u1", "exp": 4102444800, "subscribe": ["*"], "command": ["*"]}, SECRET
    )
    door = bus.endpoint(protocols=["zigquant-v2"], authenticator=JWT(SECRET), query_token="token")
    async with serving(door) as port, client(port, f"/ws?token={shown}") as peer:
        await subscribe(peer, "grid.*")
        await bus.publish("grid.abc.order", {"价": 1.5}, event="filled")
        event = await receive(peer)
        await peer.send('{"type":"command","id":"1","action":"add","params":{"a":3}}')
        inline = await receive(peer)
        await peer.send('{"type":"command","id":"2","action":"who"}')
        awaited = await receive(peer)

    assert (event["channel"], event["event"], event["data"]) == (
        "grid.abc.order",
        "filled",
        {"价": 1.5},
    )
    assert (inline["id"], inline["data"]) == ("1", 5)
    assert (awaited["id"], awaited["data"]) == ("2", "u1")


@pytest.mark.parametrize("size", [0, 125, 126, 65_000, 200_000])
async def test_events_of_any_size_arrive_whole(size: int) -> None:
    """Frames written past aiohttp are well-formed, whatever their length takes to say."""
    bus = Bus()
    async with serving(bus) as port, client(port) as peer:
        await subscribe(peer, "*")
        await bus.publish("a", "x" * size)
        await bus.publish("a", "last")
        received = await data_until("last", peer)

    assert received == ["x" * size, "last"]


async def test_pings_are_answered() -> None:
    """A client's RFC 6455 ping gets its pong, with the same payload."""
    async with serving(Bus()) as port, client(port) as peer:
        await (await peer.ping(b"anybody there?"))


# --- the handshake ------------------------------------------------------------------------------


async def test_the_handshake_is_what_the_client_sent() -> None:
    """Path, raw query, headers, address and path parameters reach the application unharmed."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    headers = [("X-One", "a"), ("X-One", "b")]

    async with (
        serving(bus, "/ws/{who}") as port,
        client(port, "/ws/a%20b?x=%C3%A9+%2B&y", additional_headers=headers) as peer,
    ):
        await receive(peer)
        handshake = seen[0].handshake
        address = peer.local_address

    assert (handshake.path, handshake.query_string) == ("/ws/a b", "x=%C3%A9+%2B&y")
    assert handshake.query("x") == "é +"
    assert handshake.headers["x-one"] == "a, b"
    assert handshake.client == address
    assert handshake.path_params == {"who": "a b"}


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"subprotocols": [Subprotocol("unknown")]}, 400),
        ({"path": "/ws?token=bad"}, 401),
        ({"origin": "https://elsewhere.example"}, 403),
    ],
)
async def test_who_is_not_welcome_is_told_by_http(options: dict[str, Any], status: int) -> None:
    """A refused handshake gets its status, and the reason as text."""
    door = Bus().endpoint(authenticator=JWT(SECRET), query_token="token")
    async with serving(door) as port:
        with pytest.raises(InvalidStatus) as refused:
            await client(port, **options)

    response = refused.value.response
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.body.strip()


async def test_too_many_connections_are_refused() -> None:
    """Above the limit of connections a handshake gets 503; once one has left, it is welcome."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=Limits(max_connections=1))) as port:
        async with client(port):
            with pytest.raises(InvalidStatus) as refused:
                await client(port)
        await ends.next()
        async with client(port) as peer:
            await receive(peer)

    assert refused.value.response.status_code == 503


async def test_a_bus_that_does_not_run_refuses() -> None:
    """Without its bus a route answers 503."""
    app = web.Application()
    app.router.add_get("/ws", handler(Bus()))
    async with running(app) as port:
        with pytest.raises(InvalidStatus) as refused:
            await client(port)

    assert refused.value.response.status_code == 503


async def test_a_request_for_no_websocket_is_refused() -> None:
    """A plain GET gets 426, and a sentence for whoever runs a proxy."""
    async with serving(Bus()) as port, await connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await stream.receive()

    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"has dropped the header Upgrade" in answer


async def test_who_leaves_while_it_is_closed_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The peer's kernel answers the close frame with a reset, and then no EOF can be written."""
    bus = Bus()
    ends = Ends(bus)
    loop = asyncio.get_running_loop()
    async with serving(bus) as port:
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, HANDSHAKE)
            received = b""
            while b"connected" not in received:
                received += await loop.sock_recv(sock, 4096)
            connection = await only(bus)
        connection.disconnect()
        await ends.next()

    assert [record.getMessage() for record in caplog.records] == []


async def test_a_subprotocol_is_echoed_only_if_offered() -> None:
    """Who offers none gets none back, and the default dialect all the same."""
    door = Bus().endpoint(protocols=["wsbus.v1", "zigquant-v2"])
    async with serving(door) as port:
        async with client(port) as peer:
            assert peer.subprotocol is None
            assert peer.response is not None
            assert "Sec-WebSocket-Protocol" not in peer.response.headers
            assert "Sec-WebSocket-Extensions" not in peer.response.headers
            assert (await receive(peer))["type"] == "connected"
        offered = [Subprotocol("unknown"), Subprotocol("zigquant-v2"), Subprotocol("wsbus.v1")]
        async with client(port, subprotocols=offered) as peer:
            assert peer.subprotocol == "zigquant-v2"


async def test_subprotocols_may_be_offered_in_several_headers() -> None:
    """What is spoken is what is echoed, wherever the client offered it (RFC 6455, 11.3.4)."""
    async with serving(Bus()) as port, await connect_tcp("127.0.0.1", port) as stream:
        await stream.send(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: unknown\r\nSec-WebSocket-Protocol: wsbus.v1\r\n\r\n"
        )
        head = await stream.receive()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.count(b"Sec-WebSocket-Protocol: wsbus.v1\r\n") == 1


async def test_who_leaves_while_it_is_judged_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that is gone when the authenticator answers is no connection, and no error."""
    asked, judged, finished = Event(), Event(), Event()
    bus = Bus()

    async def slow(token: str | None, handshake: object) -> None:
        asked.set()
        await judged.wait()

    app = web.Application()
    handle = handler(bus.endpoint(authenticator=slow))
    requests: list[web.Request] = []

    async def watched(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        try:
            return await handle(request)
        finally:
            finished.set()

    app.router.add_get("/ws", watched)
    async with bus, running(app) as port:
        async with create_task_group() as tasks:
            tasks.start_soon(client(port).__aenter__)
            await asked.wait()
            tasks.cancel_scope.cancel()
        while requests[0].transport is not None:
            await checkpoint()
        judged.set()
        await finished.wait()
        assert bus.statistics().connections_ever == 0

    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# --- how it ends ----------------------------------------------------------------------------------


async def test_the_server_closes_with_code_and_reason() -> None:
    """Code and reason reach the client, and the closing handshake is quick."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=PATIENT)) as port, client(port) as peer:
        await receive(peer)
        connection = await only(bus)
        connection.disconnect(4510, "何故" + "y" * 200)
        with fail_after(5):
            assert await closed(peer) == (4510, "何故" + "y" * 117)
            assert (await ends.next()).close_code == 4510


async def test_the_close_code_reaches_a_client_that_goes_on_sending() -> None:
    """What is on its way when the server closes resets nothing: it is read and not acted on."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=PATIENT)) as port:
        stream = await connect_raw(port)
        await stream.receive()
        connection = await only(bus)
        connection.disconnect(4510, "bye")
        received = await read_to_the_end(stream)
        with fail_after(5):
            for _ in range(50):
                await stream.send(masked(0x9, b"ping") + masked(0x1, b'{"type":"ping"}'))
            await stream.send(masked(0x8, (4510).to_bytes(2)))
            assert (await ends.next()).close_code == 4510
        await stream.aclose()

    assert received.endswith(b"\x88\x05" + (4510).to_bytes(2) + b"bye")
    assert b"pong" not in received


async def test_a_client_closes_with_code_and_reason() -> None:
    """The server learns code and reason, and echoes the code."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=PATIENT)) as port, client(port) as peer:
        await receive(peer)
        with fail_after(5):
            await peer.close(3001, "again")
            ended = await ends.next()

    assert (ended.close_code, ended.close_reason) == (3001, "again")
    assert peer.close_code == 3001


async def test_a_close_frame_without_a_code_is_1005() -> None:
    """A close frame that says nothing is told from none at all, and answered."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus) as port:
        stream = await connect_raw(port)
        await stream.send(masked(0x8, b""))
        received = await read_to_the_end(stream)
        assert (await ends.next()).close_code == 1005
        await stream.aclose()

    assert received.endswith(b"\x88\x02" + (1000).to_bytes(2))


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_connection_that_breaks_is_1006(crashes: bool) -> None:
    """Without a close frame, by a reset or without, it ended abnormally."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus) as port:
        stream = await connect_raw(port)
        await stream.receive()
        await (reset(stream) if crashes else stream.aclose())
        with fail_after(5):
            assert (await ends.next()).close_code == 1006


async def test_an_abort_ends_the_reader_promptly() -> None:
    """Who is cut off gets a reset, and its connection ends at once."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=PATIENT)) as port, client(port) as peer:
        await receive(peer)
        connection = await only(bus)
        connection.abort()
        connection.abort()
        with fail_after(5):
            assert (await ends.next()) is connection
            assert (await closed(peer))[0] == 1006


@pytest.mark.parametrize("is_fragmented", [False, True])
async def test_the_largest_message_is_read_and_the_next_refused(is_fragmented: bool) -> None:
    """65,536 bytes pass, 65,537 are closed with 1009, also in fragments."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus) as port, client(port) as peer:
        await receive(peer)
        text = '{"type":"ping"}'
        fits = text + " " * (65536 - len(text))
        await peer.send([fits[:40000], fits[40000:]] if is_fragmented else fits)
        assert (await receive(peer))["type"] == "pong"
        await peer.send([fits, " "] if is_fragmented else fits + " ")
        assert (await closed(peer))[0] == 1009
        assert (await ends.next()).close_code == 1009


async def test_text_that_is_no_utf8_is_closed_with_1007() -> None:
    """Invalid UTF-8 ends the connection as RFC 6455, section 8.1, says."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus) as port, client(port) as peer:
        await receive(peer)
        await peer.send(b'{"type":"\xff"}', text=True)
        assert (await closed(peer))[0] == 1007
        assert (await ends.next()).close_code == 1007


async def test_binary_is_closed_with_1003_where_the_dialect_is_text() -> None:
    """A text dialect takes no binary frames."""
    async with serving(Bus()) as port, client(port) as peer:
        await receive(peer)
        await peer.send(b'{"type":"ping"}')
        assert (await closed(peer))[0] == 1003


async def test_a_close_before_the_first_read_is_a_closing_handshake() -> None:
    """A connection may be ended while nobody reads it yet: in its own connect hook, say."""
    bus = Bus()
    ends = Ends(bus)

    @bus.on_connect
    async def refuse(connection: Connection) -> None:
        connection.disconnect(4500, "not you")
        await hold.wait()

    hold = Event()
    async with serving(bus.endpoint(limits=PATIENT)) as port, client(port) as peer:
        with fail_after(5):
            assert await closed(peer) == (4500, "not you")
            hold.set()
            assert (await ends.next()).close_code == 4500


# --- who does not read ----------------------------------------------------------------------------


async def test_who_never_reads_is_aborted_and_delays_nobody() -> None:
    """A stuck peer is cut off after the write deadline; meanwhile others get all, at once."""
    bus = Bus()
    ends = Ends(bus)
    limits = Limits(write_deadline=0.5)
    async with serving(bus.endpoint(limits=limits, overflow=Overflow.DROP_OLDEST)) as port:
        stuck = await connect_raw(port)
        connection = await fill(bus)
        async with client(port) as peer:
            await subscribe(peer, "*")
            for number in range(100):
                await bus.publish("a", number)
            assert await data_until(99, peer) == list(range(100))
            assert bus.statistics().connections == 2  # All of it before the deadline.
            with fail_after(5):
                assert await ends.next() is connection
        assert connection.close_code == 1006
        await stuck.aclose()


async def test_a_slow_reader_gets_what_it_is_owed() -> None:
    """Who pauses and then reads on gets the rest in order, drops told, and may then close."""
    bus = Bus()
    ends = Ends(bus)
    async with serving(bus.endpoint(limits=PATIENT)) as port:
        async with client(port, max_queue=1) as peer:
            await receive(peer)
            connection = await fill(bus)
            await bus.publish("end")
            while '"channel":"end"' not in str(await peer.recv()):
                pass
            assert not driver_of(connection).is_stuck
        assert (await ends.next()).close_code == 1000


async def test_who_pings_and_never_reads_fills_no_memory() -> None:
    """A flood of pings is held up by its own unread pongs, and cut off after the deadline."""
    bus = Bus()
    ends = Ends(bus)
    limits = Limits(write_deadline=0.5)
    heartbeat = HeartbeatPolicy.client_drives()
    async with serving(bus.endpoint(limits=limits, heartbeat=heartbeat)) as port:
        stream = await connect_raw(port)
        connection = await only(bus)
        transport: Any = driver_of(connection).outlet.transport
        most = 0
        flood = masked(0x9, b"x" * 125) * 100
        with fail_after(20), suppress(BrokenResourceError):
            while True:
                await stream.send(flood)
                most = max(most, transport.unsent())
        assert await ends.next() is connection
        await stream.aclose()

    assert most <= 1024


async def test_who_waits_for_room_may_be_cancelled() -> None:
    """One that gives up waiting takes nothing from another that waits."""
    bus = Bus()
    async with serving(bus.endpoint(limits=PATIENT)) as port:
        stream = await connect_raw(port)
        connection = await only(bus)
        transport: Any = driver_of(connection).outlet.transport
        has_room = Event()

        async def wait_patiently() -> None:
            await transport.wait_writable()
            has_room.set()

        written = 0
        with suppress(WouldBlock):
            while True:
                transport.write_now(b"\x81\x7e\x10\x00" + b"x" * 4096)
                written += 4100
        async with create_task_group() as tasks:
            async with create_task_group() as impatient:
                impatient.start_soon(transport.wait_writable)
                tasks.start_soon(wait_patiently)
                await wait_all_tasks_blocked()
                impatient.cancel_scope.cancel()
            assert transport.unsent() > 0
            stream.extra(SocketAttribute.raw_socket).setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20
            )
            while written > 0:
                written -= len(await stream.receive())
        assert has_room.is_set()
        transport.write_now(b"\x81\x01x")
        connection.abort()
        with pytest.raises(TransportClosed):
            transport.write_now(b"\x81\x01x")
        with pytest.raises(TransportClosed):
            await transport.wait_writable()
        await stream.aclose()


@pytest.mark.parametrize("wsbus_judges", [False, True])
async def test_aiohttp_pings_only_where_wsbus_does_not_judge(
    monkeypatch: pytest.MonkeyPatch, wsbus_judges: bool
) -> None:
    """The library's keepalive finds dead peers exactly where the dialect never times out."""
    monkeypatch.setattr(adapter, "_KEEPALIVE_SECONDS", 0.1)
    bus = Bus()
    ends = Ends(bus)
    heartbeat = HeartbeatPolicy(interval=None, timeout=0.1 if wsbus_judges else None)
    async with serving(bus.endpoint(heartbeat=heartbeat)) as port:
        stream = await connect_raw(port)
        with fail_after(10):
            received = b""
            while not received.endswith(b"\x89\x00" if not wsbus_judges else b"timeout"):
                received += await stream.receive()
            if wsbus_judges:
                assert b"\x89\x00" not in received
                await stream.send(masked(0x8, (4408).to_bytes(2)))
            ended = await ends.next()
        await stream.aclose()

    assert ended.close_code == (4408 if wsbus_judges else 1006)


async def test_a_dead_peer_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers no ping is cut off by a reset, also while much is on its way to it."""
    monkeypatch.setattr(adapter, "_KEEPALIVE_SECONDS", 0.1)
    bus = Bus()
    ends = Ends(bus)
    door = bus.endpoint(limits=PATIENT, heartbeat=HeartbeatPolicy.client_drives())
    async with serving(door) as port:
        stream = await connect_raw(port)
        await fill(bus)
        with fail_after(10):
            assert (await ends.next()).close_code == 1006
            with pytest.raises(BrokenResourceError):
                await read_to_the_end(stream)
        await stream.aclose()


# --- the life of the application ------------------------------------------------------------------


async def test_shutdown_sends_what_is_owed_and_then_1001() -> None:
    """Clients get the last events, in order, and close 1001; none keeps the server waiting."""
    bus = Bus()
    ends = Ends(bus)
    with fail_after(5):
        async with serving(bus.endpoint(limits=PATIENT)) as port:
            peers = [await client(port) for _ in range(3)]
            for peer in peers:
                await subscribe(peer, "*")
            silent = await connect_raw(port)
            await silent.receive()
            await silent.aclose()
            await ends.next()
            for number in range(3):
                bus.publish_soon("a", number)
    assert not bus.is_running
    for peer in peers:
        assert await data_until(2, peer) == [0, 1, 2]
        assert (await closed(peer))[0] == 1001


async def test_shutdown_cuts_off_who_does_not_read() -> None:
    """A stuck peer does not hold the shutdown up."""
    bus = Bus()
    with fail_after(5):
        async with serving(bus.endpoint(limits=PATIENT)) as port:
            stream = await connect_raw(port)
            await fill(bus)
    await stream.aclose()


async def test_start_and_stop_may_happen_in_different_tasks() -> None:
    """The server may set up in one task and clean up in another, again and again."""
    bus = Bus()
    for _ in range(2):
        app = web.Application()
        setup(app, "/ws", bus)
        runner = web.AppRunner(app, access_log=None)
        await asyncio.create_task(runner.setup())
        await asyncio.create_task(web.TCPSite(runner, "127.0.0.1", 0).start())
        async with client(runner.addresses[0][1]) as peer:
            await receive(peer)
            assert bus.is_running
            await asyncio.create_task(runner.cleanup())
            assert (await closed(peer))[0] == 1001
        assert not bus.is_running


async def test_a_bus_that_runs_already_is_left_running() -> None:
    """The application stops only what it started."""
    bus = Bus()
    async with bus:
        async with serving(bus) as port, client(port) as peer:
            await receive(peer)
        assert bus.is_running
        assert bus.statistics().connections == 0


async def test_two_endpoints_and_a_sub_application_share_a_bus() -> None:
    """Several doors of one bus may be set up in one application, and below it."""
    bus = Bus()
    app, below = web.Application(), web.Application()
    setup(app, "/native", bus)
    setup(app, "/zigquant", bus.endpoint(protocols=["zigquant-v2"]))
    setup(below, "/ws", bus.endpoint())
    app.add_subapp("/below", below)
    async with running(app) as port:
        for path in ("/native", "/zigquant", "/below/ws"):
            async with client(port, path) as peer:
                await subscribe(peer, "a")
                await bus.publish("a", path)
                assert (await receive(peer))["data"] == path


async def test_tls_ends_as_well(
    tmp_path: Path,
    require_command: Callable[[str, str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over TLS, which knows no half-close, every kind of end is quick, clean and quiet."""
    bus = Bus()
    ends = Ends(bus)
    app = web.Application()
    setup(app, "/ws", bus.endpoint(limits=PATIENT))
    mine = certified(require_command("openssl", "openssl"), tmp_path)
    theirs = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with fail_after(10):
        async with running(app, mine) as port:
            url = f"wss://localhost:{port}/ws"
            async with connect(url, ssl=theirs, proxy=None, host="127.0.0.1") as peer:
                await subscribe(peer, "*")
                await bus.publish("a", "x" * 200_000)
                assert await data_until("x" * 200_000, peer)
                bus.disconnect(await only(bus), code=4510)
                assert (await closed(peer))[0] == 4510
            assert (await ends.next()).close_code == 4510
            async with connect(url, ssl=theirs, proxy=None, host="127.0.0.1") as peer:
                await receive(peer)
                await peer.close(3001)
                assert peer.close_code == 3001
            assert (await ends.next()).close_code == 3001
            peer = await connect(url, ssl=theirs, proxy=None, host="127.0.0.1")
            await receive(peer)
            (await only(bus)).abort()
            assert (await closed(peer))[0] == 1006
            await ends.next()
            last = await connect(url, ssl=theirs, proxy=None, host="127.0.0.1")
            await receive(last)
        assert (await closed(last))[0] == 1001

    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def certified(openssl: str, folder: Path) -> ssl.SSLContext:
    """Return what a server for ``localhost`` needs; its certificate is ``cert.pem``."""
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [openssl, *request.split(), *names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    """Where there is no TCP there is nothing to tune, and no address to tell."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    app = web.Application()
    setup(app, "/ws", bus)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    path = str(tmp_path / "s")
    await web.UnixSite(runner, path).start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        async with client(0, sock=sock) as peer:
            await receive(peer)
    await runner.cleanup()

    assert seen[0].handshake.client is None


async def test_handshakes_hold_the_request() -> None:
    """Authenticators and hooks see what middleware has put on the request of aiohttp."""
    bus = Bus()

    USER = web.RequestKey("user", str)  # noqa: N806  # as aiohttp has it

    def judge(token: str | None, handshake: Handshake) -> Identity:
        assert handshake.scope is None
        return Identity(handshake.request[USER], Grants.open())

    @web.middleware
    async def middleware(
        request: web.Request,
        handler: Any,
    ) -> web.StreamResponse:
        request[USER] = "ada"
        response: web.StreamResponse = await handler(request)
        return response

    application = web.Application(middlewares=[middleware])
    setup(application, "/ws", bus.endpoint(authenticator=judge))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with client(runner.addresses[0][1]) as peer:
            assert (await receive(peer))["data"]["subject"] == "ada"
    finally:
        await runner.cleanup()


# --- the log -----------------------------------------------------------------------------------


ACCESS_LOG = logging.getLogger("aiohttp.access")


@pytest.fixture
def unredacted() -> Iterator[None]:
    """Take what redacts off aiohttp's access log, as at the start of a process."""
    former, ACCESS_LOG.filters[:] = ACCESS_LOG.filters[:], []
    yield
    ACCESS_LOG.filters[:] = former


@pytest.mark.usefixtures("unredacted")
async def test_tokens_in_the_query_are_kept_out_of_the_access_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With ``setup`` nothing needs to be done; formatters that write JSON see no token, either."""
    caplog.set_level(logging.INFO)
    app = web.Application()
    setup(app, "/ws", Bus().endpoint(authenticator=JWT(SECRET), query_token="token"))
    async with running(app, access_log=ACCESS_LOG) as port:
        for path in ("/ws?token=a-secret", "/nowhere?token=a-secret"):
            with pytest.raises(InvalidStatus):
                await client(port, path)

    lines = [record.getMessage() for record in caplog.records]
    assert sum('"GET /ws?… HTTP/1.1" 401' in line for line in lines) == 1
    assert sum('"GET /nowhere?… HTTP/1.1" 404' in line for line in lines) == 1
    assert not [record for record in caplog.records if "a-secret" in str(vars(record))]
    assert not [line for line in lines if "query_token=" in line]


@pytest.mark.parametrize(
    ("options", "is_safe"),
    [
        ({}, False),
        ({"access_log_class": AccessLogger}, True),
        ({"access_log_format": "%a %s"}, True),
    ],
    ids=["default", "AccessLogger", "no request line"],
)
@pytest.mark.parametrize("log", ["aiohttp.access", "of.its.own"])
@pytest.mark.usefixtures("unredacted")
async def test_other_access_logs_are_warned_of(
    options: dict[str, Any], is_safe: bool, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning says, once, how to keep tokens out of them; it has no token itself."""
    caplog.set_level(logging.INFO)
    bus = Bus()
    app = web.Application()
    door = bus.endpoint(authenticator=JWT(SECRET), query_token="token")
    app.router.add_get("/ws", handler(door))
    async with bus, running(app, access_log=logging.getLogger(log), **options) as port:
        for _ in range(2):
            with pytest.raises(InvalidStatus):
                await client(port, "/ws?token=a-secret")

    lines = [record.getMessage() for record in caplog.records]
    warned = [line for line in lines if "query_token=" in line]
    assert len(warned) == (not is_safe)
    assert any("a-secret" in line for line in lines) is not is_safe
    if options.get("access_log_class"):
        assert sum('"GET /ws?… HTTP/1.1" 401' in line for line in lines) == 2
    assert all("AccessLogger" in line and "a-secret" not in line for line in warned)


# --- requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /ws HTTP/1.1\r\nHost: a\r\n"])
async def test_a_request_must_be_complete_in_time(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket ends on which no request comes; those that are served stay."""
    monkeypatch.setattr(adapter, "_KEEPALIVE_TIMEOUT", 0.2)
    async with serving(Bus()) as port, client(port) as served:
        await receive(served)
        async with await connect_tcp("127.0.0.1", port) as stream:
            await stream.send(sent)
            with fail_after(10):
                assert not await read_to_the_end(stream)
        await subscribe(served, "a")


async def test_an_application_sets_the_time_itself() -> None:
    """What ``handler_args`` says counts."""
    app = web.Application(handler_args={"keepalive_timeout": 0.1, "lingering_time": 1.0})
    setup(app, "/ws", Bus())
    async with running(app) as port, await connect_tcp("127.0.0.1", port) as stream:
        with fail_after(5):
            assert not await read_to_the_end(stream)


async def test_what_is_no_handshake_leaves_http_alone() -> None:
    """After a refused handshake the socket takes requests, and what they hold is not counted."""
    broken = HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short")
    async with serving(Bus()) as port, await connect_tcp("127.0.0.1", port) as stream:
        with fail_after(5):
            await stream.send(broken)
            assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")
            await stream.send(b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 8000\r\n\r\n")
            await stream.send(b"\0" * 8000)
            await stream.send(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while b"HTTP/1.1 426 " not in answer:
                answer += await stream.receive()


async def test_frames_may_come_before_the_handshake_is_answered() -> None:
    """They are read, and where the next one begins is known."""
    go_on = Event()

    async def judge(token: str | None, handshake: Handshake) -> Identity:
        await go_on.wait()
        return Identity("ada", Grants.open())

    bus = Bus()
    zeros = b"\x82\xfe\x0f\xa0" + bytes(4 + 4000)  # its mask, too
    async with (
        serving(bus.endpoint(authenticator=judge)) as port,
        await connect_tcp("127.0.0.1", port) as stream,
    ):
        with fail_after(5):
            await stream.send(HANDSHAKE)
            await stream.send(zeros[:-3000])
            await wait_all_tasks_blocked()
            go_on.set()
            await only(bus)
            # Taken for frames, the rest would be 1,500 empty ones.
            await stream.send(zeros[-3000:] + masked(9, b"here"))
            while b"here" not in await stream.receive():
                pass
