"""Every adapter under a real server, on a free port, in the test's own loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from starlette.applications import Starlette

from tests.adapters.serving import Server, serving
from wsbus import Endpoint
from wsbus.adapters import aiohttp, asgi, starlette, uvicorn, websockets
from wsbus.testing import Adapter

__all__ = ["ADAPTERS"]

HOST: Final = "127.0.0.1"


@asynccontextmanager
async def serve_websockets(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve with websockets' own server."""
    async with websockets.serve(endpoint, HOST, 0) as server:
        yield HOST, next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def serve_aiohttp(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve with aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/{rest:.*}", endpoint)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        yield HOST, runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_asgi(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve with plain uvicorn, drained before uvicorn closes the connections itself."""

    class Draining(Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await endpoint.drain()
            await super().shutdown(sockets)

    options = uvicorn.uvicorn_options(endpoint) | {"timeout_graceful_shutdown": 1, "ws": "auto"}
    async with serving(asgi.app(endpoint), Draining, **options) as (port, _):
        yield HOST, port


@asynccontextmanager
async def serve_starlette(endpoint: Endpoint) -> AsyncIterator[tuple[str, int]]:
    """Serve a Starlette application with uvicorn, which closes the connections itself."""
    app = Starlette(routes=[starlette.websocket_route("/{rest:path}", endpoint)])
    options = uvicorn.uvicorn_options(endpoint) | {"timeout_graceful_shutdown": 1}
    async with serving(app, **options) as (port, _):
        yield HOST, port


MIB: Final = 1 << 20

ADAPTERS: Final = {
    "websockets": Adapter(serve=serve_websockets),
    "aiohttp": Adapter(serve=serve_aiohttp),
    # Plain uvicorn holds the socket, answers pings itself, and says 1005 for a reset, too.
    "asgi": Adapter(
        serve=serve_asgi,
        frees_sockets=False,
        bounds_pongs=False,
        tells_resets=False,
        hidden_bytes=8 * MIB,
    ),
    "starlette": Adapter(
        serve=serve_starlette,
        drains=False,  # uvicorn by itself; serve_asgi shows how to have it drained.
    ),
}
