"""uvicorn's HTTP protocol, with a deadline for incomplete requests; for :mod:`.uvicorn`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._asgi_http import RESET
from ._logs import ClientsAtDebug
from ._sockets import reset

__all__ = ["HTTPProtocol", "answer_broken_handshake"]

_HEAD_SECONDS: Final = 10.0
"""Time for a request's head, from the connection's start or the first byte, as in websockets."""
_MAX_HEAD: Final = 64 * 1024
"""Bytes of an incomplete head; h11 has this bound itself, and httptools has none."""
_TOO_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


def answer_broken_handshake(protocol: object, transport: asyncio.Transport) -> None:
    """Answer a handshake that websockets refuses to parse; uvicorn (0.54) leaves it as it is.

    Args:
        protocol: The protocol of a WebSocket; only those over websockets are handled.
        transport: Its transport.
    """
    conn: Any = getattr(protocol, "conn", None)
    if getattr(conn, "handshake_exc", None) is not None and not transport.is_closing():
        transport.write(b"".join(conn.data_to_send()))
        transport.close()


class Bounded(asyncio.Protocol, ABC):
    """Ends a connection whose next request is not complete in time; a mixin before uvicorn's class.

    uvicorn (0.54) bounds only the pause between two requests. A timer runs while the head of a
    request is awaited, and at no other time.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    logger: Any
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = ClientsAtDebug(self.logger)

    @property
    @abstractmethod
    def awaits_head(self) -> bool:
        """Whether the head of a request is not complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Await the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Note whether a request is under way."""
        super().data_received(data)
        self._set_deadline()
        scope = getattr(self, "scope", None)
        if scope is not None:  # Its task has not begun yet.
            scope.setdefault("extensions", {})[RESET] = self._reset

    def _reset(self) -> None:
        """Free the socket; what is unsent is lost."""
        reset(self.transport)

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Hand the socket over to the WebSocket protocol."""
        super().handle_websocket_upgrade(*args)  # type: ignore[misc]
        answer_broken_handshake(self.transport.get_protocol(), self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._clear_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        if not self.awaits_head or self.transport.is_closing():
            self._clear_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.end, _TOO_LATE)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def end(self, answer: bytes) -> None:
        """Answer, and free the socket."""
        self.transport.write(answer)
        self.transport.abort()  # The system has the answer, or the peer does not read.


class OnH11(Bounded, H11Protocol):
    """Over h11."""

    @property
    def awaits_head(self) -> bool:
        return self.conn.their_state is h11.IDLE


HTTPProtocol: type[asyncio.Protocol] = OnH11
"""uvicorn's own HTTP protocol; but a request's head must be complete within 10 s, and 64 KiB.

For ``http=`` of ``uvicorn.Config``. After that it answers 408 and frees the socket. Data that are
not HTTP are answered with 400 and logged at DEBUG. It is based on httptools where that is
installed, as uvicorn's own choice is.
"""

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    pass
else:

    class OnHttpTools(Bounded, HttpToolsProtocol):
        """Over httptools."""

        _awaits_head: bool = True
        _head_bytes: int = 0
        _running: Any = None  # The request whose answer is under way.

        @property
        def awaits_head(self) -> bool:
            return self._awaits_head

        def data_received(self, data: bytes) -> None:
            self._head_bytes += len(data)
            super().data_received(data)
            if self._awaits_head and self._head_bytes > _MAX_HEAD:
                self.end(_TOO_LARGE)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._awaits_head = True
            self._head_bytes = 0  # Data that came with the end of another request do not count.

        def on_headers_complete(self) -> None:
            self._awaits_head = False
            waiting = len(self.pipeline)
            super().on_headers_complete()
            if len(self.pipeline) == waiting:
                self._running = self.cycle

        def on_response_complete(self) -> None:
            self._running = self.pipeline[-1][0] if self.pipeline else None
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """End the request that runs; uvicorn (0.54) ends the last one that was pipelined."""
            running, self._running = self._running, None
            super().connection_lost(exc)
            self.pipeline.clear()
            if running is not None and running is not self.cycle:
                running.disconnected = True
                running.message_event.set()

    HTTPProtocol = OnHttpTools
