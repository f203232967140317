"""Readers and requests over HTTP on aiohttp; for :mod:`.aiohttp`.

What a reader gets is written by the transports for ASGI: aiohttp's request is put behind ASGI's two
callables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from aiohttp import web

from ..endpoint import Endpoint
from ..transport import Handshake
from ._asgi import ASGIMessage
from ._asgi_http import RESET, serve_http
from ._sockets import reset

__all__ = ["serve_request"]


class _LossWatch(asyncio.Protocol):
    """Stands between a socket and aiohttp's protocol, and notes the end of the connection.

    aiohttp tells its handlers only when they write.
    """

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol: Final = protocol
        self.is_lost: Final = asyncio.Event()
        self._transport: Final = transport
        transport.set_protocol(self)

    def leave(self) -> None:
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._protocol)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        # aiohttp ignores the end of what the client says. A reader says nothing anyway: it may
        # have left, or may read on, which shows when something is written.
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _Callables:
    """ASGI's two callables over a request of aiohttp."""

    def __init__(self, request: web.Request, chunks: AsyncIterator[bytes]) -> None:
        self._request: Final = request
        self._chunks: Final = chunks
        self._watch: _LossWatch | None = None
        self.response: web.StreamResponse | None = None

    def watch(self) -> None:
        """Note the end of the connection, from now on."""
        transport = self._request.transport
        if isinstance(transport, asyncio.Transport):
            self._watch = _LossWatch(transport, transport.get_protocol())

    def leave(self) -> None:
        """Give the socket back."""
        if self._watch is not None:
            self._watch.leave()

    async def receive(self) -> ASGIMessage:
        if self._watch is not None:
            await self._watch.is_lost.wait()
            return {"type": "http.disconnect"}
        try:
            body = await anext(self._chunks, None)
        except OSError:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body or b"", "more_body": body is not None}

    async def send(self, message: ASGIMessage) -> None:
        if message["type"] == "http.response.start":
            response = self.response = web.StreamResponse(status=message["status"])
            for name, value in message["headers"]:
                response.headers.add(name.decode(), value.decode("latin-1"))
            await response.prepare(self._request)
            return
        assert self.response is not None
        if message.get("more_body"):
            await self.response.write(message["body"])
        else:
            await self.response.write_eof(message["body"])


async def serve_request(
    endpoint: Endpoint,
    what: str,
    request: web.Request,
    handshake: Handshake,
    chunks: AsyncIterator[bytes],
) -> web.StreamResponse:
    """Serve one request to ``events``, ``poll`` or ``requests``."""
    callables = _Callables(request, chunks)
    scope: ASGIMessage = {"method": request.method}
    if what != "requests":
        callables.watch()
        if request.transport is not None:
            scope["extensions"] = {RESET: partial(reset, request.transport)}
    try:
        await serve_http(endpoint, what, handshake, scope, callables.receive, callables.send)
    finally:
        callables.leave()
    return callables.response or web.Response(status=400)  # The client has left.
