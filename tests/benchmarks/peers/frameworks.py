"""The libraries that have channels, groups or rooms of their own, each as its manual has it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from .serving import SUBSCRIBE, SUBSCRIBED, serve_uvicorn


async def litestar() -> None:
    """Serve Litestar's channels: its backend in memory, and a subscription for each socket."""
    from litestar import Litestar, WebSocket, websocket
    from litestar.channels import ChannelsPlugin
    from litestar.channels.backends.memory import MemoryChannelsBackend
    from litestar.exceptions import WebSocketDisconnect

    channels = ChannelsPlugin(MemoryChannelsBackend(), channels=["bench"])

    async def answer(socket: Any) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            text = await socket.receive_text()
            if text != SUBSCRIBE:
                while True:
                    await channels.wait_published(text, "bench")
                    text = await socket.receive_text()
            async with (
                channels.start_subscription("bench") as subscriber,
                subscriber.run_in_background(socket.send_text),
            ):
                await socket.send_text(SUBSCRIBED)
                while True:
                    await socket.receive_text()

    answer.__annotations__["socket"] = WebSocket  # Litestar reads it, and it is imported here.
    await serve_uvicorn(Litestar([websocket("/ws")(answer)], plugins=[channels]))


async def broadcaster() -> None:
    """Serve broadcaster's backend in memory with Starlette: a task that reads, one that sends."""
    from broadcaster import Broadcast
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    broadcast = Broadcast("memory://")

    async def answer(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            text = await socket.receive_text()
            if text != SUBSCRIBE:
                while True:
                    await broadcast.publish("bench", text)
                    text = await socket.receive_text()
            async with broadcast.subscribe("bench") as subscriber:
                await socket.send_text(SUBSCRIBED)
                sending = asyncio.create_task(send(socket, subscriber))
                try:
                    while True:
                        await socket.receive_text()
                finally:
                    sending.cancel()

    async def send(socket: WebSocket, subscriber: Any) -> None:
        async for event in subscriber:
            await socket.send_text(event.message)

    async with broadcast:
        await serve_uvicorn(Starlette(routes=[WebSocketRoute("/ws", answer)]))


async def socketio() -> None:
    """Serve python-socketio as an ASGI application, over WebSocket only: a room, and an ack."""
    import socketio as library

    server = library.AsyncServer(
        async_mode="asgi", transports=["websocket"], ping_interval=3600, cors_allowed_origins="*"
    )

    async def connect(sid: str, _environ: object, auth: object = None) -> None:
        if auth:
            await server.enter_room(sid, "bench")

    async def publish(_sid: str, data: object) -> None:
        await server.emit("event", data, room="bench")

    async def echo(_sid: str, data: object) -> object:
        return data

    for event in (connect, publish, echo):
        server.on(event.__name__, event)
    await serve_uvicorn(library.ASGIApp(server))


async def channels() -> None:
    """Serve Django Channels: its layer in memory, and a consumer for each socket.

    Under uvicorn, which is faster than daphne. The capacity is raised from 100, so that nothing is
    dropped with 64 publications outstanding.
    """
    from django.conf import settings

    layer = {
        "BACKEND": "channels.layers.InMemoryChannelLayer",
        "CONFIG": {"capacity": 100_000},
    }
    settings.configure(CHANNEL_LAYERS={"default": layer}, USE_TZ=True)
    from channels.generic.websocket import AsyncWebsocketConsumer

    class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # untyped
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            if text_data == SUBSCRIBE:
                await self.channel_layer.group_add("bench", self.channel_name)
                await self.send(text_data=SUBSCRIBED)
            else:
                await self.channel_layer.group_send("bench", {"type": "deliver", "text": text_data})

        async def deliver(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard("bench", self.channel_name)

    await serve_uvicorn(Consumer.as_asgi())
