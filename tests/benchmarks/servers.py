"""What is measured: wsbus on each adapter, and the bare loop of each framework beside it.

``python tests/benchmarks/servers.py NAME`` serves on a free port and prints it. Every server does
the same work: what a client publishes goes to all clients, as one message of about 200 bytes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

EVENT: Final = (
    '{"type":"event","channel":"bench","event":"message","timestamp":1700000000000,"data":{"pad":"'
    + "x" * 95
    + '"}}'
)
"""What the bare servers send: as long as what wsbus sends."""


async def websockets_bare() -> None:
    """Serve the way the websockets library recommends: its ``broadcast``."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    clients: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        clients.add(connection)
        try:
            async for message in connection:
                if '"publish"' in str(message):
                    broadcast(clients, EVENT)
        finally:
            clients.discard(connection)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        _ready(server.sockets[0].getsockname()[1])
        await server.wait_closed()


async def websockets_wsbus() -> None:
    """Serve wsbus on websockets."""
    from wsbus.adapters.websockets import serve

    bus, endpoint = _bus()
    async with bus, serve(endpoint, "127.0.0.1", 0) as server:
        _ready(next(iter(server.sockets)).getsockname()[1])
        await server.wait_closed()


async def aiohttp_bare() -> None:
    """Serve the usual loop over aiohttp's ``send_str``."""
    from aiohttp import web

    clients: set[web.WebSocketResponse] = set()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        clients.add(socket)
        try:
            async for message in socket:
                if '"publish"' in message.data:
                    for client in list(clients):
                        await client.send_str(EVENT)
        finally:
            clients.discard(socket)
        return socket

    await _serve_aiohttp(handle)


async def aiohttp_wsbus() -> None:
    """Serve wsbus on aiohttp."""
    from wsbus.adapters.aiohttp import handler

    bus, endpoint = _bus()
    async with bus:
        await _serve_aiohttp(handler(endpoint))


async def starlette_bare() -> None:
    """Serve the usual loop over Starlette's ``send_text``, under uvicorn."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    clients: set[WebSocket] = set()

    async def handle(socket: WebSocket) -> None:
        await socket.accept()
        clients.add(socket)
        try:
            while True:
                if '"publish"' in await socket.receive_text():
                    for client in list(clients):
                        await client.send_text(EVENT)
        except WebSocketDisconnect:
            pass
        finally:
            clients.discard(socket)

    await _serve_uvicorn(Starlette(routes=[WebSocketRoute("/ws", handle)]))


async def starlette_wsbus() -> None:
    """Serve wsbus on Starlette, under uvicorn."""
    from starlette.applications import Starlette

    from wsbus.adapters.starlette import websocket_route

    bus, endpoint = _bus()
    async with bus:
        await _serve_uvicorn(Starlette(routes=[websocket_route("/ws", endpoint)]))


def _bus() -> tuple[Any, Any]:
    from wsbus import Bus, Grants, Limits

    bus = Bus()
    limits = Limits(messages_per_second=None, commands_per_second=None)
    anonymous = Grants.of(admin=True, command=["*"], publish=["*"])
    endpoint = bus.endpoint(
        protocols=["wsbus.v1", "zigquant-v2"], limits=limits, anonymous=anonymous, origins="*"
    )

    @bus.command("publish")
    async def publish(pad: str) -> None:
        """Publish, for clients of the dialect that has no word for it."""
        await bus.publish("bench", {"pad": pad})

    return bus, endpoint


async def _serve_aiohttp(handler: Callable[[Any], Awaitable[Any]]) -> None:
    from aiohttp import web

    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _ready(runner.addresses[0][1])
    await asyncio.Event().wait()


async def _serve_uvicorn(app: Any) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            _ready(self.servers[0].sockets[0].getsockname()[1])

    config = uvicorn.Config(
        app, port=0, log_level="warning", ws_per_message_deflate=False, lifespan="off"
    )
    await Server(config).serve()


def _ready(port: int) -> None:
    print(port, flush=True)  # read by the load generator


SERVERS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "websockets-bare": websockets_bare,
    "websockets-wsbus": websockets_wsbus,
    "aiohttp-bare": aiohttp_bare,
    "aiohttp-wsbus": aiohttp_wsbus,
    "starlette-bare": starlette_bare,
    "starlette-wsbus": starlette_wsbus,
}

if __name__ == "__main__":
    logging.disable()  # The load generator resets its connections, and some servers say so.
    asyncio.run(SERVERS[sys.argv[1]]())  # type: ignore[arg-type]  # each is a coroutine function
