"""The bare decode-encode loops: the least that a command's round trip can cost on a server.

They take the frames that wsbus takes and answer in its words, with msgspec, but check nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from .serving import HOST, ready, serve_aiohttp, serve_uvicorn

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


def reply(text: str | bytes) -> str:
    """Decode a command and encode its answer."""
    command: dict[str, Any] = msgspec.json.decode(text)
    answer = {
        "type": "response",
        "id": command["id"],
        "timestamp": int(time.time() * 1000),
        "success": True,
        "data": command["params"],
    }
    return msgspec.json.encode(answer).decode()


async def websockets() -> None:
    """Answer on websockets."""
    from websockets.asyncio.server import serve

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(reply(message))

    async with serve(answer, HOST, 0, compression=None, ping_interval=None) as server:
        ready(next(iter(server.sockets)).getsockname()[1])
        await server.wait_closed()


async def aiohttp() -> None:
    """Answer on aiohttp."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(reply(message.data))
        return socket

    await serve_aiohttp(answer)


async def starlette() -> None:
    """Answer on Starlette, under uvicorn."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def answer(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            while True:
                await socket.send_text(reply(await socket.receive_text()))

    await serve_uvicorn(Starlette(routes=[WebSocketRoute("/ws", answer)]))
