from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
from aiohttp import web

from tests.adapters.serving import client, receive
from tests.console.operators import TOKEN, operators
from wsbus import Bus
from wsbus.adapters import aiohttp, websockets
from wsbus.adapters._rtt import round_trip
from wsbus.console import Console

Serve: TypeAlias = Callable[[Bus], AbstractAsyncContextManager[int]]


@pytest.fixture
def anyio_backend() -> str:
    """What serves here is made for asyncio."""
    return "asyncio"


@asynccontextmanager
async def on_websockets(bus: Bus) -> AsyncIterator[int]:
    """Serve a bus on a port of its own."""
    async with bus, websockets.serve(bus, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def on_aiohttp(bus: Bus) -> AsyncIterator[int]:
    """Serve a bus on aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", bus)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.skipif(
    not hasattr(socket, "TCP_INFO"),
    reason="TCP_INFO is Linux's: other kernels report no round trip",
)
@pytest.mark.parametrize("serve", [on_websockets, on_aiohttp])
async def test_the_kernel_tells_how_far_away_a_client_is(serve: Serve) -> None:
    """Where the adapter holds the socket a row has the round trip of its connection, in seconds."""
    bus = Bus()
    async with (
        serve(bus) as port,
        client(port) as peer,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        await receive(peer)
        operator = await sign_in()
        (row,) = (await operator.see(view="connections"))["rows"]

        assert 0 < row["rtt"] < 1


class _Transport:
    """Knows its socket, or none."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self._sock


def test_what_is_no_tcp_connection_has_no_round_trip() -> None:
    """No socket, one that is no TCP, and one that is closed are not asked, or do not answer."""
    ours, theirs = socket.socketpair()
    closed = socket.socket()
    closed.close()
    found = [round_trip(_Transport(sock)) for sock in (None, ours, closed)]  # type: ignore[arg-type]
    ours.close()
    theirs.close()

    assert found == [None, None, None]
