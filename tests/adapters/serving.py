"""A real uvicorn in the test's own loop, and clients that know no wsbus."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio import CancelScope, Event, connect_tcp, create_task_group
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from websockets.asyncio.client import ClientConnection, connect

QUIET: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}


class Server(uvicorn.Server):
    """Tells when it is up and when it is down."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = Event()
        self.down = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def run_until_stopped(self, listener: socket.socket) -> None:
        try:
            await self.serve([listener])
        finally:
            self.down.set()


@asynccontextmanager
async def serving(
    app: Any, kind: type[Server] = Server, **options: Any
) -> AsyncIterator[tuple[int, Server]]:
    """Serve an ASGI application on a free port; yields it, and the server."""
    server = kind(uvicorn.Config(app, **QUIET | options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        # As on sockets that asyncio opens itself; else a second small write waits for 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with create_task_group() as tasks:
            tasks.start_soon(server.run_until_stopped, listener)
            await server.up.wait()
            try:
                yield port, server
            finally:
                server.should_exit = True
                with CancelScope(shield=True):
                    await server.down.wait()
                await checkpoint()  # A time limit that was over meanwhile is one.


def client(port: int, path: str = "/ws", **options: Any) -> connect:
    """Connect as any WebSocket client does."""
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, **options)


async def receive(peer: ClientConnection) -> dict[str, Any]:
    """Receive one message."""
    message: dict[str, Any] = json.loads(await peer.recv())
    return message


async def subscribe(peer: ClientConnection, *channels: str) -> None:
    """Subscribe, and read everything up to the confirmation."""
    await peer.send(json.dumps({"type": "subscribe", "channels": channels}))
    while (await receive(peer))["type"] != "subscribed":
        pass


async def connect_raw(port: int, path: str = "/ws") -> SocketStream:
    """Shake hands by hand, with small buffers; from then on it reads only what it is told to."""
    stream = await connect_tcp("127.0.0.1", port)
    sock = stream.extra(SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    key = base64.b64encode(os.urandom(16)).decode()
    await stream.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return stream


def masked(opcode: int, payload: bytes) -> bytes:
    """Return one frame as a client sends it (RFC 6455, section 5.2); below 126 bytes."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + mask + body


async def reset(stream: SocketStream) -> None:
    """End a connection as a crash does: RST, no close frame."""
    sock = stream.extra(SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
