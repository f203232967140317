"""What a peer can make a server do, where wsbus holds the socket."""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette

from tests.adapters.servers import ADAPTERS
from tests.adapters.serving import Server, connect_raw, masked, serving
from wsbus import Bus
from wsbus.adapters import _uvicorn_http, _uvicorn_ws
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.adapters.uvicorn import uvicorn_options
from wsbus.testing.adapters import UNLIMITED, Client, open_site
from wsbus.testing.wire import Opcode, client_frame

every = pytest.mark.parametrize("adapter", ["websockets", "starlette", "aiohttp"])

PING = client_frame(Opcode.PING, b"")
PONG = client_frame(Opcode.PONG, b"")
BEGIN = client_frame(Opcode.TEXT, b"", is_final=False)
MORE = client_frame(Opcode.CONTINUATION, b"", is_final=False)


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
async def test_a_burst_of_control_frames_is_answered(adapter: str) -> None:
    """A client may ping 1,000 times in a row; so many pauses of a phone come to nothing."""
    async with open_site(ADAPTERS[adapter]) as site:
        client = await site.connect()
        with fail_after(10):
            await client.peer.send_raw(PING * 900)
            await client.ping("still here")


@every
async def test_a_run_of_small_messages_gives_others_their_turn(adapter: str) -> None:
    """Between two turns of the loop a connection acts on 64 messages, however many have come."""
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
    # A reader and a watcher may be in either order in a turn.
    assert most <= 3 * 64


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
    patient = msgspec.structs.replace(UNLIMITED, write_deadline=60.0)
    endpoint = bus.endpoint(limits=patient)
    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    options = uvicorn_options(endpoint) | {"timeout_graceful_shutdown": None, "lifespan": "on"}
    with fail_after(20):
        async with serving(app, Server, **options) as (port, _):
            stream = await connect_raw(port)
            await stream.send(masked(1, b'{"type":"subscribe","channels":["a"]}'))
            (connection,) = bus.connections()
            while not bus.connections()[0].subscriptions:
                await checkpoint()
            if asleep:
                direct = bus.connection(connection.connection_id)
                assert direct is not None
                while not direct.member.outlet.direct.unsent():
                    await bus.publish("a", "x" * 10_000)
    await stream.aclose()


async def test_a_peer_that_ends_its_side_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """After a FIN without a close frame websockets has ended our side: nothing may be written."""
    async with open_site(ADAPTERS["websockets"]) as site:
        client = await site.connect()
        await client.subscribe("a")
        client.peer._socket.shutdown(socket.SHUT_WR)  # a half-close
        with fail_after(10), caplog.at_level(logging.WARNING):
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


@pytest.mark.parametrize(
    ("adapter", "status"), [("websockets", 414), ("starlette", 414), ("aiohttp", 400)]
)
async def test_a_request_line_that_is_too_long(adapter: str, status: int) -> None:
    """It is answered; a long token in the query is a likely cause."""
    async with open_site(ADAPTERS[adapter]) as site:
        with fail_after(5):
            assert (await site.knock("/ws?token=" + "a" * 9000)).peer.status == status


@pytest.mark.parametrize("beginning", [b"", b"GET /ws HTTP/1.1\r\nHost: a\r\n"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_request_must_be_complete_in_time(
    beginning: bytes, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under uvicorn, too, a socket ends on which no request comes; those that are served stay."""
    monkeypatch.setattr(_uvicorn_http, "_HEAD_SECONDS", 0.2)
    async with open_site(ADAPTERS["starlette"]) as site:
        served = await site.connect()
        with fail_after(10):
            reader, writer = await asyncio.open_connection(*site.address)
            if not is_first:
                writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
            writer.write(beginning)
            # Between two requests uvicorn itself closes, after 5 s and without a word.
            expected = b"408 Request Timeout" if is_first or beginning else b""
            assert expected in await reader.read()
            writer.close()
            await served.ping("served")


async def _talk_until_gone(client: Client) -> None:
    try:
        while True:
            await client.peer.send_raw(PING)
    except OSError:  # A reset, or a broken pipe.
        pass
