"""The laws of transports for servers that run on trio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from anyio import (
    BrokenResourceError,
    EndOfStream,
    Event,
    connect_tcp,
    create_task_group,
    fail_after,
    move_on_after,
)

from wsbus import Bus, Endpoint, Limits
from wsbus.adapters import asgi, websockets_trio
from wsbus.core.errors import CloseCode
from wsbus.testing import TRANSPORT_CHECKS, Adapter, check_transport
from wsbus.testing.adapters import open_site
from wsbus.testing.frames import Opcode, client_frame

HOST: Final = "127.0.0.1"
MIB: Final = 1 << 20
SMALL: Final = Limits(messages_per_second=None, control_bytes=64 * 1024, write_deadline=60.0)

pytestmark = pytest.mark.parametrize("anyio_backend", ["trio"])


@asynccontextmanager
async def serve_websockets(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve with the trio server of websockets."""
    async with websockets_trio.serve(endpoint, HOST, 0) as server:
        yield HOST, server.listeners[0].socket.getsockname()[1]


@asynccontextmanager
async def serve_hypercorn(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve plain ASGI with hypercorn, which closes the connections itself."""
    hypercorn = pytest.importorskip("hypercorn.trio", reason="pip install hypercorn")
    config, stop = hypercorn.Config(), Event()
    config.bind, config.errorlog = [f"{HOST}:0"], None
    config.graceful_timeout = 1
    config.websocket_max_message_size = endpoint.limits.max_message_bytes

    async def run(*, task_status: Any) -> None:
        await hypercorn.serve(
            asgi.app(endpoint), config, shutdown_trigger=stop.wait, task_status=task_status
        )

    async with create_task_group() as tasks:
        address: str = (await tasks.start(run))[0]
        yield HOST, int(address.rpartition(":")[2])
        await endpoint.drain()
        stop.set()


ADAPTERS: Final = {
    "websockets": Adapter(serve=serve_websockets),
    "hypercorn": Adapter(
        serve=serve_hypercorn,
        frees_sockets=False,
        bounds_pongs=False,
        tells_resets=False,
        hidden_bytes=8 * MIB,
    ),
}


HYPERCORNS_OWN: Final = {
    "closed_by_the_client": "hypercorn 0.18 reports 1006 for every end of the client's",
    "invalid_utf8": "hypercorn 0.18 ends the connection without a close frame",
    "oversized_messages": "hypercorn 0.18 waits for messages of any announced size",
}
"""Laws that hypercorn breaks below the adapter."""


@pytest.mark.parametrize("check", TRANSPORT_CHECKS)
async def test_the_trio_server_of_websockets_keeps_the_laws_of_transports(check: str) -> None:
    """The law is the docstring of the check, in wsbus.testing.checks."""
    await check_transport(ADAPTERS["websockets"], check)


@pytest.mark.parametrize("check", [name for name in TRANSPORT_CHECKS if name not in HYPERCORNS_OWN])
async def test_hypercorn_on_trio_keeps_the_laws_of_transports(check: str) -> None:
    """All but those that :data:`HYPERCORNS_OWN` explains."""
    await check_transport(ADAPTERS["hypercorn"], check)


async def test_a_flood_of_control_frames_is_closed() -> None:
    """A peer that sends many pings and reads the answers is closed with 4429."""
    async with open_site(ADAPTERS["websockets"]) as site:
        client = await site.connect()
        await client.ping()
        await client.peer.send_raw(client_frame(Opcode.PING, b"") * 2000)
        closed = await client.peer.wait_closed()
        gone = await site.departure(client)

    assert closed.code == gone.close_code == CloseCode.RATE_ABUSE


async def test_a_shutdown_does_not_wait_for_handshakes() -> None:
    """A socket that has sent no request does not delay the end of the server."""
    async with open_site(ADAPTERS["websockets"], limits=Limits(close_timeout=1)) as site:
        client = await site.connect()
        async with await connect_tcp(*site.address) as silent:
            await client.ping()
            with fail_after(5):
                await site.shut_down()
            with pytest.raises((BrokenResourceError, EndOfStream)):
                await silent.receive()


async def test_a_paused_reader_ends_with_its_connection() -> None:
    """A connection that is aborted while messages wait for the application is gone."""
    async with open_site(ADAPTERS["websockets"], limits=SMALL) as site:
        client = await site.connect(receive_buffer=4096)
        question = client_frame(Opcode.TEXT, b'{"type":"ping","id":"' + b"x" * 60_000 + b'"}')
        with move_on_after(0.5):  # The server stops reading at some time.
            while True:
                await client.peer.send_raw(question)
        site.connection(client).abort()
        with fail_after(5):
            await site.departure(client)
            await site.shut_down()


async def test_its_javascript_client_is_served() -> None:
    """``web_routes`` answers its paths, and leaves all others to the endpoint."""
    bus = Bus()
    served = websockets_trio.serve(
        bus, HOST, 0, process_request=websockets_trio.web_routes("/static")
    )
    async with bus, served as server:
        port = server.listeners[0].socket.getsockname()[1]
        async with await connect_tcp(HOST, port) as stream:
            await stream.send(b"GET /static/wsbus.js HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await stream.receive()

    assert head.startswith(b"HTTP/1.1 200 ")
