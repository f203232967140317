"""What `uvicorn <https://uvicorn.dev>`_ wants to be told, and to run an application under it.

A script of its own runs an application to the end with :func:`serve`::

    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    asyncio.run(serve(app, endpoint, port=8000, ready=print))

Everything else that starts uvicorn passes :func:`uvicorn_options`, or at least
``ws=WebSocketProtocol``: on the command line, ``--ws wsbus.adapters.uvicorn:WebSocketProtocol``.

Needs the extra ``starlette``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import uvicorn as _uvicorn  # noqa: F401  # what the extra brings
except ModuleNotFoundError as exc:
    raise missing_extra("wsbus.adapters.uvicorn", "starlette", exc) from None

import asyncio
import logging
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final

import uvicorn
from anyio import Event, WouldBlock
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ..bus import Bus
from ..core.errors import CloseCode, TransportClosed
from ..endpoint import Endpoint
from ._rtt import round_trip
from ._sockets import MAX_UNREAD_PONGS, keep_shallow, make_writer, reset, unsent

__all__ = [
    "RedactQuery",
    "WebSocketProtocol",
    "address",
    "listen",
    "redact",
    "serve",
    "serving",
    "uvicorn_options",
]


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket protocol, with the socket within the application's reach.

    For ``ws=`` of ``uvicorn.Config``. In ``scope["extensions"]["wsbus"]`` it offers what
    :class:`.WriteNow` does, and ``abort``; other applications notice nothing of it. Fan-out then
    writes to the socket without a task or a coroutine (measured with one publication outstanding:
    half of what the bare ASGI loop costs; with many, a fifteenth), a stuck connection is freed at
    the write deadline, pings that nobody reads the answers to cost no memory, and a connection
    that breaks is told from one that is closed (1006).
    """

    writable_now: bool = False
    """Whether the transport has taken all that it was given, and there is one."""
    _room: Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note flow control from the start; nothing may hide in buffers below the queue."""
        super().connection_made(transport)
        self.writable_now = True
        keep_shallow(self.transport)
        self._writer = make_writer(self.transport)

    def handle_connect(self, event: Any) -> None:
        """Offer the socket; the application starts in the next turn of the loop."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"]["wsbus"] = {
                "write_now": self.write_now,
                "room": self.room,
                "unsent": self.unsent,
                "abort": self.abort,
                "round_trip": partial(round_trip, self.transport),
            }

    def data_received(self, data: bytes) -> None:
        """Answer pings only while the answers are read: else a flood of them fills the memory."""
        super().data_received(data)
        if self.unsent() > MAX_UNREAD_PONGS:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Note that there is no room."""
        super().pause_writing()
        self.writable_now = False

    def resume_writing(self) -> None:
        """Note that there is room."""
        super().resume_writing()
        self.writable_now = True
        if not self.read_paused:
            self.transport.resume_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell what was lost without a close frame; let nobody wait for room for ever."""
        if self.handshake_complete and self.conn.state is State.OPEN:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL})
        self.writable_now = False
        super().connection_lost(exc)
        self._wake()

    def shutdown(self) -> None:
        """Close; but cut off a peer that has closed and does not read the answer.

        uvicorn (0.54) would send another close frame, and its shutdown fail with InvalidState.
        """
        if self.conn.state is State.CLOSING and not self.close_sent:
            self.transport.abort()
        else:
            super().shutdown()

    def write_now(self, wire: bytes) -> None:
        """Write frames; see :meth:`.WriteNow.write_now`."""
        if self.writable_now and self.conn.close_sent is None:
            self._writer.write(wire)
        elif self.is_open:
            raise WouldBlock
        else:
            raise TransportClosed

    async def room(self) -> None:
        """Wait until there is room; see :meth:`.WriteNow.room`."""
        while self.is_open and not self.writable_now:
            if self._room is None:
                self._room = Event()
            await self._room.wait()
        if not self.is_open:
            raise TransportClosed

    def unsent(self) -> int:
        """Return the bytes that the operating system has not taken yet."""
        return unsent(self.transport)

    def abort(self) -> None:
        """Free the socket now; what was not sent is lost. Idempotent."""
        reset(self.transport)

    @property
    def is_open(self) -> bool:
        """Whether a frame may follow."""
        return self.conn.close_sent is None and not self.disconnected

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None


# --- options ---------------------------------------------------------------------------------


def uvicorn_options(door: Bus | Endpoint) -> dict[str, Any]:
    """Return the options for ``uvicorn.run`` or ``uvicorn.Config`` that suit an endpoint.

    Messages are bounded before they are in memory; there is no compression, which costs memory and
    time per connection; uvicorn's own keepalive (20 s) is on where wsbus does not end silent
    connections itself; there is no access log, which would hold the tokens of query strings; and
    the shutdown does not wait for ever for a peer that does not read. The protocol class is
    :class:`WebSocketProtocol`; ``| {"ws": "auto"}`` gives uvicorn's own.

    Args:
        door: The endpoint; of several, the one with the largest messages.
    """
    endpoint = door.default_endpoint if isinstance(door, Bus) else door
    keepalive = 20.0 if endpoint.heartbeat.timeout is None else None
    return {
        "ws": WebSocketProtocol,
        "ws_max_size": endpoint.limits.max_message_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": keepalive,
        "ws_ping_timeout": keepalive,
        "timeout_graceful_shutdown": 10,
        "access_log": False,
    }


class RedactQuery(logging.Filter):
    """Takes query strings, which may hold tokens, and clients' messages out of log records.

    uvicorn logs ``"WebSocket /ws?token=…" [accepted]`` at INFO to ``uvicorn.error``, and HTTP
    requests to ``uvicorn.access``; attach it to both with :func:`redact`. What is not UTF-8 it
    logs as an ERROR, with an exception that holds all of the message: the exception is taken off,
    and the level becomes INFO, since what a client sends is nothing an operator could mend. At
    DEBUG it logs headers and messages, which no filter can tell apart: do not.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact it; false if its logger does not log what has become INFO."""
        if isinstance(record.args, tuple) and record.args:
            record.args = tuple(
                f"{arg.partition('?')[0]}?…" if isinstance(arg, str) and "?" in arg else arg
                for arg in record.args
            )
        elif not record.args and isinstance(record.msg, str):
            record.msg = _QUERY.sub("?…", record.msg)
        if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
            return logging.getLogger(record.name).isEnabledFor(logging.INFO)
        return True


_QUERY: Final = re.compile(r'(?<=[^\s?])\?[^ "]+')


def redact(*names: str) -> None:
    """Attach a :class:`RedactQuery` to loggers; idempotent.

    It may be called before or after uvicorn has configured its logging.

    Args:
        *names: Of the loggers; none: those of uvicorn.
    """
    for name in names or ("uvicorn.error", "uvicorn.access"):
        target = logging.getLogger(name)
        if not any(isinstance(present, RedactQuery) for present in target.filters):
            target.addFilter(RedactQuery())


# --- to run it -------------------------------------------------------------------------------


async def serve(
    app: Any,
    endpoint: Endpoint,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; then give everybody what they are owed, and 1001, and return.

    To be called in the main thread.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options suit it.
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.
        ready: Called with ``host:port`` once connections are taken.
        **options: As for :func:`serving`.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
        RuntimeError: The application did not start.
    """
    stop = asyncio.Event()
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    with listen(host, port) as listener:
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        try:
            async with serving(app, endpoint, listener, **options):
                if ready is not None:
                    ready(address(listener))
                await stop.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@asynccontextmanager
async def serving(
    app: Any, endpoint: Endpoint, listener: socket.socket, **options: Any
) -> AsyncIterator[None]:
    """Serve as long as the context is open; at its end give everybody what they are owed, and 1001.

    Nothing is configured for logging, uvicorn says nothing below WARNING, and query strings are
    redacted.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options suit it.
        listener: Where connections come in; see :func:`listen`.
        **options: For ``uvicorn.Config``, instead of those.

    Raises:
        RuntimeError: The application did not start.
    """
    redact()
    quiet: dict[str, Any] = {"log_config": None, "log_level": "warning", "lifespan": "on"}
    quiet["timeout_graceful_shutdown"] = 2  # Who is left then was drained, and does not read.
    server = _Server(uvicorn.Config(app, **uvicorn_options(endpoint) | quiet | options), endpoint)
    task = asyncio.create_task(server.serve([listener]))
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            raise RuntimeError("the application did not start; uvicorn's log says why")
        yield
    finally:
        up.cancel()
        server.should_exit = True
        await task


def listen(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Open a socket to serve on.

    Args:
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    # Inherited by what is accepted: asyncio does it only for sockets that name their protocol, as
    # this one does not, and without it a response of two writes takes 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """Return where it listens, as ``host:port``."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, endpoint: Endpoint) -> None:
        super().__init__(config)
        self.up: Final = asyncio.Event()
        self._endpoint: Final = endpoint

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # They are the business of whoever runs the process.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.drain()  # While there is a bus: all get what they are owed.
        await super().shutdown(sockets)
