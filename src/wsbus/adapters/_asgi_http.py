"""Readers over HTTP on ASGI: event streams and long polls; for :mod:`.asgi`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from anyio import CancelScope, Event, move_on_after

from ..core.errors import CloseCode, ErrorCode, TransportClosed
from ..core.frame import Frame
from ..endpoint import Endpoint
from ..protocols.event_stream import StartFrame, close_event, subscribe_text
from ..transport import Handshake
from ..web.pages import AssetResponse
from ._asgi import ASGIMessage, ASGIOnAsyncio, ASGIReceive, ASGISend, ASGITransport
from ._http import (
    Reading,
    answer_request,
    begin_reading,
    cors,
    error_answer,
    refused_before,
    status_of_close,
    status_of_code,
)
from ._polls import Poll
from ._uvicorn_exit import is_ending

__all__ = ["RESET", "chunks_of", "respond_with", "serve_http"]

RESET: Final = "wsbus.reset"
"""The extension of a scope with a function that cuts the socket off."""

_STREAM: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class _Listening(ASGITransport):
    """A transport whose client says one thing, what it subscribes to, and then only listens."""

    def begin(self, reading: Reading, reset: Callable[[], None] | None) -> None:
        self._headers: Mapping[str, str] | None = reading.headers
        self._request: str | None = subscribe_text(
            reading.names,
            reading.since,
            strict=reading.is_strict,
            max_rate=reading.max_rate,
        )
        self._reset = reset

    def _asked(self) -> str | None:
        """Return what the client says, once."""
        if self._end is not None:
            raise TransportClosed(*self._end)
        request, self._request = self._request, None
        return request

    async def _until_disconnected(self) -> None:
        while (await self._wait(self._receive))["type"] != "http.disconnect":
            pass  # A body, which a GET should not have.

    async def _respond(self, found: AssetResponse) -> None:
        await respond_with(found, self._send)

    def abort(self) -> None:
        if self._end is None and not self._is_aborted and self._reset is not None:
            self._reset()
        super().abort()


class _EventStreaming(_Listening):
    """Writes events as the parts of one answer. It begins with the reply to the subscription."""

    def begin(self, reading: Reading, reset: Callable[[], None] | None) -> None:
        super().begin(reading, reset)
        self._held: list[Frame] | None = []  # Until the answer has begun.

    async def receive(self) -> str | bytes:
        asked = self._asked()
        if asked is not None:
            return asked
        while (await self._wait(self._receive))["type"] != "http.disconnect":
            pass  # As in `_until_disconnected`, without a coroutine for it.
        self._end = (CloseCode.ABNORMAL, "")
        raise TransportClosed(*self._end)

    @staticmethod
    def _message(frame: Frame) -> ASGIMessage:
        return {"type": "http.response.body", "body": frame.payload, "more_body": True}

    async def send(self, frames: Sequence[Frame]) -> None:
        if self._held is not None:
            self._held += frames
            start = next((each for each in frames if isinstance(each, StartFrame)), None)
            if start is None:
                return
            frames = self._held
            if start.refusal is not None:
                status = status_of_code(start.refusal.code)
                await self._refuse(status, start.refusal.code, start.refusal.message)
                return
            self._held = None
            self._is_sending = True
            try:
                await self._wait(self._start)
            finally:
                self._has_sent()
        if len(frames) > 1:
            frames = (Frame(b"".join([frame.payload for frame in frames])),)
        await super().send(frames)

    async def _start(self) -> None:
        headers = _encoded({**_STREAM, **(self._headers or {})})
        self._headers = None
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _refuse(self, status: int, code: str, message: str) -> None:
        self._end = (CloseCode.NORMAL, "")
        answer = error_answer(status, code, message, self._headers)
        with suppress(TransportClosed):
            await self._wait(self._respond, answer)
        self.abort()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        if self._is_sending:
            self._sent = Event()
            await self._sent.wait()
        if self._held is not None:
            status = status_of_close(code)
            await self._respond(error_answer(status, "CLOSED", reason or "closed", self._headers))
            return
        body = close_event(code, reason)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class _Polling(_Listening):
    """Collects what comes, and answers once: as soon as something has come, or in the end."""

    def begin(self, reading: Reading, reset: Callable[[], None] | None) -> None:
        super().begin(reading, reset)
        self._poll = Poll(reading)
        self._wait_seconds = reading.wait
        self._waiting: CancelScope | None = None

    async def receive(self) -> str | bytes:
        asked = self._asked()
        if asked is not None:
            return asked
        if not self._poll.is_due:
            with move_on_after(self._wait_seconds) as self._waiting:
                await self._until_disconnected()
                self._end = (CloseCode.ABNORMAL, "")
        if self._end is None:
            self._end = (CloseCode.NORMAL, "")
            with suppress(TransportClosed), move_on_after(self._close_timeout):
                await self._wait(self._respond, self._poll.answer())
        raise TransportClosed(*self._end)

    async def send(self, frames: Sequence[Frame]) -> None:
        if self._end is not None or self._is_aborted:
            raise TransportClosed(*self._end or ())
        if self._poll.take(frames) and self._waiting is not None:
            self._waiting.cancel()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        await self._respond(self._poll.closed(code, reason))


class _EventsOnAsyncio(_EventStreaming, ASGIOnAsyncio):
    """On asyncio."""


class _EventsOnAny(_EventStreaming):
    """On any event loop."""


class _PollOnAsyncio(_Polling, ASGIOnAsyncio):
    """On asyncio."""


class _PollOnAny(_Polling):
    """On any event loop."""


async def serve_http(  # noqa: PLR0917  # ASGI's three
    endpoint: Endpoint,
    what: str,
    handshake: Handshake,
    scope: ASGIMessage,
    receive: ASGIReceive,
    send: ASGISend,
) -> None:
    """Serve one request to ``events``, ``poll`` or ``requests``."""
    answer = refused_before(endpoint, what, scope["method"], handshake)
    if answer is None and what == "requests":
        answer = await answer_request(endpoint, handshake, chunks_of(receive))
    if answer is None and is_ending(endpoint):
        answer = _ending(endpoint, handshake)
    if answer is None:
        reading = await begin_reading(endpoint, what, handshake)
        if isinstance(reading, Reading):
            link = _link(endpoint, what, receive, send)
            link.begin(reading, (scope.get("extensions") or {}).get(RESET))
            run = endpoint.run(link, reading.admission)
            # An idle reader keeps nothing that it does not need.
            del reading, answer, handshake, scope, receive, send
            try:
                await run
            finally:
                link.abort()
            return
        answer = reading
    with suppress(OSError):
        await respond_with(answer, send)


def _ending(endpoint: Endpoint, handshake: Handshake) -> AssetResponse:
    headers = {"Retry-After": "1", **cors(endpoint, handshake)}
    return error_answer(503, ErrorCode.UNAVAILABLE, "the server is shutting down", headers)


def _link(endpoint: Endpoint, what: str, receive: ASGIReceive, send: ASGISend) -> _Listening:
    is_poll = what == "poll"
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # Another loop is running.
        return (_PollOnAny if is_poll else _EventsOnAny)(endpoint, receive, send)
    return (_PollOnAsyncio if is_poll else _EventsOnAsyncio)(endpoint, receive, send)


async def chunks_of(receive: ASGIReceive) -> AsyncIterator[bytes]:
    """Return the parts of a body."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def respond_with(found: AssetResponse, send: Callable[[ASGIMessage], Awaitable[Any]]) -> None:
    """Send a whole answer."""
    headers = _encoded(found.headers)
    if found.status != 204:
        headers.append((b"content-length", str(len(found.body)).encode()))
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
