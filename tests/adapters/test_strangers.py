"""What a peer can make a server do, where wsbus holds the socket."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from anyio import Event, connect_tcp, create_task_group, fail_after, sleep
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect

from tests.adapters.servers import ADAPTERS
from tests.adapters.serving import Server, connect_raw, masked, serving
from wsbus import Bus, Limits
from wsbus.adapters import _asgi, _intake, _uvicorn_http, _uvicorn_ws, websockets
from wsbus.adapters._intake import Intake
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.adapters.uvicorn import redact, uvicorn_options
from wsbus.server.connection import driver_of
from wsbus.testing.adapters import UNLIMITED, JsonPeer, open_site
from wsbus.testing.frames import Opcode, client_frame

every = pytest.mark.parametrize("adapter", ["websockets", "starlette", "aiohttp"])

PING = client_frame(Opcode.PING, b"")
PONG = client_frame(Opcode.PONG, b"")
BEGIN = client_frame(Opcode.TEXT, b"", is_final=False)
MORE = client_frame(Opcode.CONTINUATION, b"", is_final=False)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give whoever floods less time to read why it is closed; it reads at once here."""
    for module in (_asgi, _intake, _uvicorn_ws):
        monkeypatch.setattr(module, "FLOOD_SECONDS", 0.2)


# --- floods ----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    "flood", [PING * 2000, PONG * 2000, BEGIN + MORE * 2000], ids=["pings", "pongs", "fragments"]
)
async def test_a_flood_of_control_frames_is_closed(adapter: str, flood: bytes) -> None:
    """2,000 frames at once that say nothing: 4429, which tells the client to come later."""
    async with open_site(ADAPTERS[adapter]) as site:
        client = await site.connect()
        with fail_after(10):
            await client.peer.send_raw(flood)
            assert (await client.peer.wait_closed()).code == 4429
            await site.departure(client)


@every
async def test_a_client_that_is_closed_for_abuse_and_sends_on_is_cut_off(adapter: str) -> None:
    """Little more is read of it, and for a short time, however long ``close_timeout`` is."""
    limits = Limits(messages_per_second=10, rate_abuse_seconds=0.05, close_timeout=60)
    flood = client_frame(Opcode.TEXT, b'{"type":"ping"}') * 100
    async with open_site(ADAPTERS[adapter], limits=limits) as site:
        client = await site.connect()
        with fail_after(6), suppress(OSError):
            while True:
                await client.peer.send_raw(flood)


@every
async def test_a_burst_of_control_frames_is_answered(adapter: str) -> None:
    """A client may ping 1,000 times in a row; so many pauses of a phone come to nothing."""
    async with open_site(ADAPTERS[adapter]) as site:
        client = await site.connect()
        with fail_after(10):
            await client.peer.send_raw(PING * 900)
            await client.ping("still here")


@every
async def test_a_run_of_small_messages_gives_others_their_turn(adapter: str) -> None:
    """Between two turns of the loop a connection acts on 128 messages, however many have come."""
    count, most = 8000, 0
    async with open_site(ADAPTERS[adapter], limits=UNLIMITED) as site:
        client = await site.connect()
        message = client_frame(Opcode.TEXT, b'{"type":"pong"}')

        async def watch() -> None:
            nonlocal most
            before = 0
            while before < count:
                await checkpoint()
                received = site.info(client).messages_received
                most, before = max(most, received - before), received

        with fail_after(20):
            async with create_task_group() as tasks:
                tasks.start_soon(watch)
                await client.peer.send_raw(message * count)
    assert most <= 2 * 128  # A reader and a watcher may be in either order in a turn.


async def test_a_run_of_bytes_is_parsed_in_slices() -> None:
    """16 KiB at a time, each in a turn of its own, also what comes with the end."""
    loop = asyncio.get_running_loop()
    slices: list[tuple[int, bytes]] = []
    over, turn = Event(), 0

    class Recorder(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport, self.loop = transport, loop

        def data_received(self, data: bytes) -> None:
            slices.append((turn, data))

        def connection_lost(self, exc: Exception | None) -> None:
            over.set()

    class Sliced(Intake, Recorder):
        is_held = False

        def end_flood(self) -> None:
            """It is none."""

    server = await loop.create_server(Sliced, "127.0.0.1", 0)
    sent = bytes(range(256)) * 1024  # 256 KiB
    async with (
        server,
        await connect_tcp(*server.sockets[0].getsockname()) as stream,
        create_task_group() as tasks,
    ):
        tasks.start_soon(stream.send, sent)
        with fail_after(10):
            while sum(len(data) for _, data in slices) < len(sent):
                await checkpoint()
                turn += 1
    with fail_after(10):
        await over.wait()
    assert b"".join(data for _, data in slices) == sent
    assert max(len(data) for _, data in slices) <= 16 * 1024
    turns = [number for number, _ in slices]
    assert len(set(turns)) == len(turns)


# --- closing ---------------------------------------------------------------------------------


@every
async def test_a_close_frame_that_nobody_answers(adapter: str) -> None:
    """After ``close_timeout`` the socket is gone, though the peer goes on talking."""
    limits = msgspec.structs.replace(UNLIMITED, close_timeout=0.2)
    async with open_site(ADAPTERS[adapter], limits=limits) as site:
        client = await site.connect()
        site.connection(client).disconnect()
        with fail_after(5):
            await _talk_until_gone(client)


@pytest.mark.parametrize("asleep", [True, False])
async def test_a_server_that_ends_waits_for_nobody(
    asleep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uvicorn alone closes with 1012, and without a limit of its own waits for peers asleep."""
    monkeypatch.setattr(_uvicorn_ws, "_SHUTDOWN_SECONDS", 0.2)
    bus = Bus()
    patient = msgspec.structs.replace(UNLIMITED, write_deadline=600.0, close_timeout=600.0)
    endpoint = bus.endpoint(limits=patient)
    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))

    class Patient(_uvicorn_ws.WebSocketProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.close_timeout = 600.0

    options = uvicorn_options(endpoint) | {"timeout_graceful_shutdown": None, "lifespan": "on"}
    options["ws"] = Patient  # Nothing but the end of the server ends a connection.
    with fail_after(20):
        async with serving(app, Server, **options) as (port, _):
            stream = await connect_raw(port)
            await stream.send(masked(1, b'{"type":"subscribe","channels":["a"]}'))
            (connection,) = bus.connections()
            while not bus.connections()[0].subscriptions:
                await checkpoint()
            if asleep:
                held = bus.connection(connection.connection_id)
                assert held is not None
                direct = driver_of(held).outlet.direct
                assert direct is not None
                while not direct.unsent():
                    await bus.publish("a", "x" * 10_000)
    await stream.aclose()


async def test_half_a_handshake_keeps_no_server_from_ending() -> None:
    """Its socket is freed, however long the library would wait for the rest."""
    async with Bus() as bus:
        with fail_after(10):
            async with websockets.serve(bus, "127.0.0.1", 0, open_timeout=600) as server:
                address = next(iter(server.sockets)).getsockname()
                stream = await connect_tcp(*address)
                await stream.send(b"GET /ws HTTP/1.1\r\nHost: a\r\n")
                async with connect(f"ws://127.0.0.1:{address[1]}/ws", proxy=None):
                    pass  # By now the other is taken, too.
            await stream.aclose()


BROKEN = {
    "reserved opcode": b"\x83\x80\0\0\0\0",
    "reserved bit": b"\xc1\x80\0\0\0\0",
    "not UTF-8": client_frame(Opcode.TEXT, b"\xff"),
    "fragmented control": client_frame(Opcode.PING, b"", is_final=False),
    "too large": client_frame(Opcode.TEXT, b" " * (70 << 10)),
}


@every
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
async def test_a_broken_frame_ends_the_socket(adapter: str, broken: bytes, reads: bool) -> None:
    """It is gone after ``close_timeout``, though the peer neither closes nor reads."""
    limits = msgspec.structs.replace(UNLIMITED, close_timeout=0.2, write_deadline=600.0)
    async with open_site(ADAPTERS[adapter], limits=limits) as site:
        client = await site.connect()
        with fail_after(10):
            if not reads:
                await client.subscribe("a")
                while not driver_of(site.connection(client)).is_stuck:
                    await site.bus.publish("a", "x" * 50_000)
            await client.peer.send_raw(broken)
            await _knock_until_gone(client)
            await site.departure(client)


async def test_a_peer_that_ends_its_side_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """After a FIN without a close frame websockets has ended our side: nothing may be written."""
    caplog.set_level(logging.WARNING)
    async with open_site(ADAPTERS["websockets"]) as site:
        client = await site.connect()
        await client.subscribe("a")
        client.peer._socket.shutdown(socket.SHUT_WR)  # a half-close
        with fail_after(10):
            while not site.has_left(client):
                await site.bus.publish("a", 1)
                await checkpoint()
    assert not caplog.records


# --- handshakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_large_handshake_is_refused(adapter: str) -> None:
    """A connection keeps its handshake for life, so that 16 KiB are the most; 431 beyond.

    Path and query count, and 32 bytes more for each header.
    """
    tiny = [(f"x{number}", "") for number in range(100)]  # 3.5 KiB, as they are counted
    async with open_site(ADAPTERS[adapter]) as site:
        client = await site.connect("/ws?a", headers=[*tiny, ("X-Last", "b" * 7900)])
        handshake = site.connection(client).handshake
        assert handshake.headers["x-last"] == "b" * 7900
        size = handshake.size
        assert size > 11_000
        left = 16 * 1024 - size - len("X-More") - 32
        last = ("X-Last", "b" * 7900)
        await site.connect("/ws?a", headers=[*tiny, last, ("X-More", "c" * left)])
        for path, much in (("/ws?aa", left), ("/ws?a", left + 1)):
            refused = await site.knock(path, headers=[*tiny, last, ("X-More", "c" * much)])
            assert refused.peer.status == 431


@every
async def test_offers_of_subprotocols_count(adapter: str) -> None:
    """A thousand of them cost more memory than their 6 KiB."""
    offer = ", ".join(f"p{number}" for number in range(1000))
    async with open_site(ADAPTERS[adapter]) as site:
        refused = await site.knock(headers=[("Sec-WebSocket-Protocol", offer)])
        assert refused.peer.status == 431


@pytest.mark.parametrize(
    ("adapter", "status"),
    [("websockets", 414), ("starlette", 414), ("asgi", 414), ("aiohttp", 400)],
)
async def test_a_request_line_that_is_too_long(adapter: str, status: int) -> None:
    """It is answered; a long token in the query is a likely cause."""
    async with open_site(ADAPTERS[adapter]) as site:
        with fail_after(5):
            assert (await site.knock("/ws?token=" + "a" * 9000)).peer.status == status


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of uvicorn with our HTTP protocol, over each of the parsers that uvicorn knows."""
    variants: dict[str, type[asyncio.Protocol]] = {"h11": _uvicorn_http.OnH11}
    if importlib.util.find_spec("httptools") is not None:
        variants["httptools"] = _uvicorn_http.OnHttpTools
    if request.param not in variants:
        pytest.skip("needs httptools: pip install -e '.[test]'")
    return {"http": variants[request.param]}


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer any HTTP request."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("beginning", [b"", b"GET /ws HTTP/1.1\r\nHost: a\r\n"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_request_must_be_complete_in_time(
    beginning: bytes, is_first: bool, http: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under uvicorn, too, a socket ends on which no request comes."""
    monkeypatch.setattr(_uvicorn_http, "_HEAD_SECONDS", 0.2)
    async with serving(answers, timeout_keep_alive=0.2, **http) as (port, _):
        with fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if not is_first:
                writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(beginning)
            # Between two requests uvicorn itself closes, without a word.
            expected = b"408 Request Timeout" if is_first or beginning else b""
            assert expected in await reader.read()
            writer.close()


async def test_who_is_served_is_not_late(
    http: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for a request does not run while one is answered, or a WebSocket is open."""
    monkeypatch.setattr(_uvicorn_http, "_HEAD_SECONDS", 0.2)
    go_on = Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await answers(scope, receive, send)

    app = Starlette(
        routes=[websocket_route("/ws", bus := Bus()), Mount("/", slow)], lifespan=lifespan(bus)
    )
    options = uvicorn_options(bus) | http | {"lifespan": "on"}
    async with serving(app, **options) as (port, _):
        with fail_after(10):
            stream = await connect_raw(port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            async with await connect_tcp("127.0.0.1", port) as idle:
                assert b"408 Request Timeout" in await idle.receive()
            go_on.set()
            assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
            await stream.send(masked(9, b"here"))
            while b"here" not in await stream.receive():
                pass
            await stream.aclose()
            writer.close()


async def test_a_head_without_an_end(http: dict[str, Any]) -> None:
    """It is answered before it fills the memory."""
    async with serving(answers, **http) as (port, _):
        with fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
            with suppress(ConnectionError):
                while not (reader.at_eof() or writer.is_closing()):
                    writer.write(b"X-A: " + b"a" * 8000 + b"\r\n")
                    await writer.drain()
                    await checkpoint()
            with suppress(ConnectionError):
                assert (await reader.read())[9:12] in {b"400", b"431", b""}
            writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\xff\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
    ids=["TLS", "another upgrade"],
)
async def test_what_is_no_http_is_not_worth_a_warning(
    sent: bytes, http: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers would fill the log; a port is scanned many times a day."""
    caplog.set_level(logging.DEBUG)
    async with serving(answers, **http | {"log_level": "debug"}) as (port, _):
        with fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert (await reader.readline()).startswith((b"HTTP/1.1 400", b"HTTP/1.1 204"))
            writer.close()
    uvicorns = [record for record in caplog.records if record.name == "uvicorn.error"]
    assert any(record.levelno == logging.DEBUG for record in uvicorns)
    assert all(record.levelno < logging.WARNING for record in uvicorns)


@pytest.mark.parametrize("is_redacted", [True, False])
async def test_text_that_is_not_utf8_leaves_no_traceback(
    is_redacted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Under uvicorn, too, it costs the client its connection, and the log nothing."""
    log = logging.getLogger("uvicorn.error")
    former = log.filters[:]
    log.filters[:] = []
    if is_redacted:
        redact()
    async with open_site(ADAPTERS["starlette"]) as site:
        client = await site.connect()
        with fail_after(10):
            await client.peer.send_raw(client_frame(Opcode.TEXT, b"secret \xff"))
            assert (await client.peer.wait_closed()).code == 1007
            await site.departure(client)
    log.filters[:] = former
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "secret" not in caplog.text


async def _knock_until_gone(client: JsonPeer) -> None:
    """Ask the peer's kernel, by hardly more than nothing, whether there is a socket yet."""
    try:
        while True:
            await client.peer.send_raw(PONG)
            await sleep(0.05)
    except OSError:
        pass


async def _talk_until_gone(client: JsonPeer) -> None:
    try:
        while True:
            await client.peer.send_raw(PING)
    except OSError:  # A reset, or a broken pipe.
        pass
