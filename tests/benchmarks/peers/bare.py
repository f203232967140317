"""The bare loops: what a framework costs when nothing is put on top of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .serving import HOST, SUBSCRIBE, SUBSCRIBED, ready, serve_aiohttp, serve_uvicorn

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


async def websockets() -> None:
    """Serve as the websockets library recommends: with its ``broadcast``."""
    from websockets.asyncio.server import broadcast, serve

    clients: set[ServerConnection] = set()

    async def answer(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                if message == SUBSCRIBE:
                    clients.add(connection)
                    await connection.send(SUBSCRIBED)
                else:
                    broadcast(clients, message)
        finally:
            clients.discard(connection)

    async with serve(answer, HOST, 0, compression=None, ping_interval=None) as server:
        ready(next(iter(server.sockets)).getsockname()[1])
        await server.wait_closed()


async def aiohttp() -> None:
    """Serve the usual loop over aiohttp's ``send_str``."""
    from aiohttp import web

    clients: set[web.WebSocketResponse] = set()

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        try:
            async for message in socket:
                if message.data == SUBSCRIBE:
                    clients.add(socket)
                    await socket.send_str(SUBSCRIBED)
                else:
                    for client in list(clients):
                        await client.send_str(message.data)
        finally:
            clients.discard(socket)
        return socket

    await serve_aiohttp(answer)


async def starlette() -> None:
    """Serve the usual loop over Starlette's ``send_text``, under uvicorn."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    clients: set[WebSocket] = set()

    async def answer(socket: WebSocket) -> None:
        await socket.accept()
        try:
            with suppress(WebSocketDisconnect):
                while True:
                    text = await socket.receive_text()
                    if text == SUBSCRIBE:
                        clients.add(socket)
                        await socket.send_text(SUBSCRIBED)
                    else:
                        for client in list(clients):
                            await client.send_text(text)
        finally:
            clients.discard(socket)

    await serve_uvicorn(Starlette(routes=[WebSocketRoute("/ws", answer)]))


async def picows() -> None:
    """Serve a loop over picows's ``send``, from its callback: no coroutine, no queue."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    clients: set[WSTransport] = set()

    class Listener(WSListener):  # type: ignore[misc]  # untyped where it is not installed
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type != WSMsgType.TEXT:
                return
            message = frame.get_payload_as_bytes()
            if message == SUBSCRIBE.encode():
                clients.add(transport)
                transport.send(WSMsgType.TEXT, SUBSCRIBED.encode())
            else:
                for client in clients:
                    client.send(WSMsgType.TEXT, message)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            clients.discard(transport)

    def listen(_request: Any) -> Listener:
        return Listener()

    server = await ws_create_server(listen, HOST, 0)
    ready(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()
