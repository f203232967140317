"""Adapter for `websockets <https://websockets.readthedocs.io>`_, its asyncio server.

::

    async with bus, serve(bus, "127.0.0.1", 8000) as server:
        await server.serve_forever()

Needs the extra ``websockets``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import websockets as _websockets  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.websockets", "websockets", _exc) from None

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import websockets.asyncio.server as ws
from anyio import Event, WouldBlock
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame as LibraryFrame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from ..bus import Bus
from ..core.errors import CloseCode, TransportClosed, UsageError
from ..core.frame import Frame
from ..endpoint import Admission, Endpoint, Refusal
from ._deflate import agreements, window_bits
from ._endpoint import endpoint_of
from ._intake import TOO_MANY, Intake
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent
from ._websockets import handshake_of, is_small, web_routes

__all__ = ["ServerConnection", "agreements", "handler", "serve", "web_routes"]

_ProcessRequest: TypeAlias = Callable[
    [ws.ServerConnection, Request], Awaitable[Response | None] | Response | None
]


class ServerConnection(Intake, ws.ServerConnection):
    """A connection with flow control for the bus; pass it as ``create_connection=``."""

    admission: Admission | None = None
    sockets: set[ServerConnection] | None = None
    """The set that holds it while it has a socket."""
    writable: bool = False
    """Whether there is a transport, and it has taken all data written to it."""
    _room: Event | None = None

    def take_admission(self) -> Admission:
        """Return the admission with which it was accepted, once."""
        assert self.admission is not None
        admission, self.admission = self.admission, None
        return admission

    def connection_made(self, transport: Any) -> None:
        """Follow flow control from the start, and keep the buffers below the queue small."""
        super().connection_made(transport)
        if self.sockets is not None:
            self.sockets.add(self)
        self.recv_messages.resume = self.read_on
        self.writable = True
        keep_shallow(transport)

    @property
    def is_open(self) -> bool:
        """Whether a frame may still be written."""
        return self.state is State.OPEN and not self.protocol.eof_sent

    @property
    def is_held(self) -> bool:
        """Whether messages wait for the application."""
        return self.recv_messages.paused

    def process_event(self, event: Any) -> None:
        """Count control frames and small fragments."""
        if isinstance(event, LibraryFrame) and is_small(event):
            self.note_small_frames()
        super().process_event(event)

    def end_flood(self) -> None:
        """Close with 4429, and parse no more."""
        self.protocol.fail(CloseCode.RATE_ABUSE, TOO_MANY)
        self.send_data()

    def send_data(self) -> None:
        """Send; after the last frame the peer has ``close_timeout``."""
        super().send_data()
        protocol = self.protocol  # The library ends a refused handshake.
        if protocol.close_sent is not None or (
            protocol.eof_sent and protocol.state is not State.CONNECTING
        ):
            self.end_within(10.0 if self.close_timeout is None else self.close_timeout)

    def pause_writing(self) -> None:
        """Note that the transport is full."""
        super().pause_writing()
        self.writable = False

    def resume_writing(self) -> None:
        """Note that the transport is writable again."""
        super().resume_writing()
        self.writable = not self.protocol.eof_sent
        self.read_on()
        self._wake()

    def eof_received(self) -> None:
        """Stop writing: the library has ended its side, too."""
        super().eof_received()
        self.writable = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all tasks that wait until it is writable."""
        super().connection_lost(exc)
        if self.sockets is not None:
            self.sockets.discard(self)
        self.writable = False
        self._wake()

    async def wait_writable(self) -> None:
        """Wait until it is writable, or lost."""
        while self.is_open and not self.writable:
            if self._room is None:
                self._room = Event()
            await self._room.wait()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None


class _Transport:
    """Writes to the socket itself, past the library's send; see :class:`.WriteNow`."""

    __slots__ = ("_connection", "_protocol", "_writer", "window_bits")

    def __init__(self, connection: ServerConnection) -> None:
        self._connection: Final = connection
        self._protocol: Final = connection.protocol
        self._writer: Final = make_writer(connection.transport)
        self.window_bits: Final = window_bits(connection.protocol.extensions)

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            close = exc.rcvd or exc.sent  # Ours, if the library found a protocol error.
            code, reason = (close.code, close.reason) if close else (CloseCode.ABNORMAL, "")
            raise TransportClosed(code, reason) from None

    def write_now(self, wire: bytes) -> None:
        connection = self._connection
        # After a close frame, the peer's or ours, a write would follow it, or raise. In both cases
        # `close_sent` is set, a plain attribute (`state` is a property of a property).
        if connection.writable and self._protocol.close_sent is None:
            self._writer.write(wire)
        elif connection.is_open:
            raise WouldBlock
        else:
            raise TransportClosed

    async def wait_writable(self) -> None:
        await self._connection.wait_writable()
        if not self._connection.is_open:
            raise TransportClosed

    def unsent(self) -> int:
        return unsent(self._connection.transport)

    def round_trip(self) -> float | None:
        return round_trip(self._connection.transport)

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.wait_writable()
        self.write_now(b"".join([frame.wire for frame in frames]))
        await self.wait_writable()

    async def close(self, code: int, reason: str) -> None:
        if self._connection.state is State.OPEN and not self._connection.writable:
            self.abort()
        else:
            await self._connection.close(code, reason)

    def abort(self) -> None:
        reset(self._connection.transport)


def serve(
    endpoint: Bus | Endpoint, host: str | None = None, port: int | None = None, **options: Any
) -> AbstractAsyncContextManager[ws.Server]:
    """Serve a bus, or one of its endpoints, on a port of its own; any path is accepted.

    On exit it stops accepting, closes the connections with 1001 after what they are owed, and
    aborts those that are not writable.

    Args:
        endpoint: Where clients come in; a bus means its default endpoint.
        host: Address to bind; None: all of them.
        port: Port to bind; 0 chooses one.
        **options: For :func:`websockets.asyncio.server.serve`, such as ``ssl``. A
            ``process_request`` is called before the endpoint, so that it may answer other paths.
    """
    return _serve(endpoint_of(endpoint), host, port, options)


@asynccontextmanager
async def _serve(
    endpoint: Endpoint, host: str | None, port: int | None, options: dict[str, Any]
) -> AsyncIterator[ws.Server]:
    sockets: set[ServerConnection] = set()

    def create_connection(*args: Any, **kwargs: Any) -> ServerConnection:
        connection = ServerConnection(*args, **kwargs)
        connection.sockets = sockets
        return connection

    # Where wsbus does not close silent connections, the library's own keepalive does.
    keepalive = 20 if endpoint.heartbeat.timeout is None else None
    defaults: dict[str, Any] = {
        "create_connection": create_connection,
        "process_request": _admission_of(endpoint, options.pop("process_request", None)),
        "select_subprotocol": _subprotocol,
        "compression": None,
        "extensions": agreements(endpoint),
        "max_size": endpoint.limits.max_message_bytes,
        "ping_interval": keepalive,
        "ping_timeout": keepalive,
        "close_timeout": endpoint.limits.close_timeout,
    }
    async with ws.serve(handler(endpoint), host, port, **defaults | options) as server:
        try:
            yield server
        finally:
            await endpoint.drain()
            for connection in sockets:
                if connection.state is State.CONNECTING:  # Otherwise the library waits 10 s for it.
                    reset(connection.transport)


def handler(endpoint: Bus | Endpoint) -> Callable[[ws.ServerConnection], Awaitable[None]]:
    """Return the handler for a ``websockets`` server of your own.

    The server must be started with ``create_connection=ServerConnection``, and should be with
    ``compression=None`` and a ``max_size``; :func:`serve` sets all of this itself. For an endpoint
    with ``compression=``, pass ``extensions=agreements(endpoint)``.
    """
    return _handler(endpoint_of(endpoint))


def _handler(endpoint: Endpoint) -> Callable[[ws.ServerConnection], Awaitable[None]]:
    async def handle(connection: ws.ServerConnection) -> None:
        if not isinstance(connection, ServerConnection):
            raise UsageError("start the server with create_connection=ServerConnection")
        if connection.admission is None:
            assert connection.request is not None
            verdict = await endpoint.admit(
                handshake_of(connection.request, connection.remote_address)
            )
            if isinstance(verdict, Refusal):
                await connection.close(verdict.close_code, verdict.reason)
                return
            connection.admission = verdict
            del verdict
        await endpoint.run(_Transport(connection), connection.take_admission())

    return handle


def _admission_of(
    endpoint: Endpoint, before: _ProcessRequest | None
) -> Callable[[ws.ServerConnection, Request], Awaitable[Response | None]]:
    async def process_request(connection: ws.ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, ServerConnection)
        answer = None if before is None else before(connection, request)
        if isawaitable(answer):
            answer = await answer
        if answer is not None:
            return answer
        admission = await endpoint.admit(handshake_of(request, connection.remote_address))
        if isinstance(admission, Refusal):
            return connection.respond(admission.status, f"{admission.reason}\n")
        connection.admission = admission
        return None

    return process_request


def _subprotocol(
    connection: ws.ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    assert isinstance(connection, ServerConnection)
    assert connection.admission is not None
    chosen = connection.admission.subprotocol
    return None if chosen is None else Subprotocol(chosen)
