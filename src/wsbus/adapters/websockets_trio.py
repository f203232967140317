"""Adapter for the trio server of `websockets <https://websockets.readthedocs.io>`_.

::

    async with bus, serve(bus, "127.0.0.1", 8000) as server:
        await trio.sleep_forever()

It writes through trio's streams, and does not compress. Needs the extra ``trio``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import trio
    import websockets as _websockets  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.websockets_trio", "trio", _exc) from None

import selectors
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import websockets.trio.server as ws
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame as LibraryFrame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from ..bus import Bus
from ..core.errors import CloseCode, TransportClosed, UsageError
from ..core.frame import Frame
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Handshake
from ._endpoint import endpoint_of
from ._intake import FLOOD_SECONDS, TOO_MANY, SmallFrames
from ._websockets import handshake_of, is_small, web_routes

__all__ = ["TrioServerConnection", "handler", "serve", "web_routes"]

_GRACE_SECONDS: Final = 1.0
"""Time for requests that are no WebSockets, when the server stops."""

_TrioProcessRequest: TypeAlias = Callable[
    [ws.ServerConnection, Request], Awaitable[Response | None] | Response | None
]


class TrioServerConnection(ws.ServerConnection):
    """A connection that can be freed at once; pass it as ``create_connection=``."""

    admission: Admission | None = None
    sockets: set[TrioServerConnection] | None = None
    """The set that holds it while it has a socket."""
    is_leaving: bool = False
    """Whether the bus has ended it, and waits for the peer's close frame."""
    _small_frames: SmallFrames | None = None

    @property
    def _socket(self) -> Any:
        # TLS is a stream around the socket's.
        stream: Any = getattr(self.stream, "transport_stream", self.stream)
        return stream.socket

    def take_admission(self) -> Admission:
        """Return the admission with which it was accepted, once."""
        assert self.admission is not None
        admission, self.admission = self.admission, None
        return admission

    def handshake_for(self, request: Request) -> Handshake:
        """Return the handshake for the endpoint."""
        try:
            address = self.remote_address
        except OSError:  # The peer has left.
            address = None
        return handshake_of(request, address)

    def process_event(self, event: Any) -> None:
        """Count control frames and small fragments; drop messages that come too late."""
        if isinstance(event, LibraryFrame):
            if is_small(event):
                self._note_small_frame()
            if self.is_leaving:
                return
        super().process_event(event)

    def _note_small_frame(self) -> None:
        if self._small_frames is None:
            self._small_frames = SmallFrames()
        is_flood = self._small_frames.add(1, trio.current_time())
        if is_flood and not self.is_leaving and self.protocol.state is State.OPEN:
            self.leave()
            self.protocol.fail(CloseCode.RATE_ABUSE, TOO_MANY)
            self.nursery.start_soon(self._end_flood)

    async def _end_flood(self) -> None:
        with trio.move_on_after(FLOOD_SECONDS), suppress(trio.BrokenResourceError, OSError):
            await self.send_data()
            await self.stream_closed.wait()
        self.reset()

    @property
    def is_open(self) -> bool:
        """Whether a message may still be written."""
        return self.protocol.state is State.OPEN and self.protocol.close_sent is None

    def is_writable(self) -> bool:
        """Tell whether the system would take more bytes now."""
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._socket.fileno(), selectors.EVENT_WRITE)
            except (ValueError, OSError):  # It is closed.
                return False
            return bool(selector.select(0))

    async def write(self, wire: bytes) -> None:
        """Write frames, unless the closing handshake has begun.

        Raises:
            TransportClosed: The connection has ended.
        """
        async with self.send_lock:
            if not self.is_open:
                raise TransportClosed
            try:
                await self.stream.send_all(wire)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise TransportClosed from exc

    def leave(self) -> None:
        """Read on until the peer's close frame comes, and drop all else."""
        self.is_leaving = True
        self._read_on()

    def _read_on(self) -> None:
        connection: ws.ServerConnection = self  # The attribute is the library's.
        paused = connection.recv_flow_control
        if paused is not None:  # The library would wait for the application here.
            paused.set()
            connection.recv_flow_control = None
        self.recv_messages.high = self.recv_messages.low = None

    async def close_stream(self) -> None:
        """Close; a reader that waits for the application ends, too."""
        if self.sockets is not None:
            self.sockets.discard(self)
        await super().close_stream()
        self._read_on()

    def reset(self) -> None:
        """Free the socket at once; unsent data are lost. Idempotent."""
        with suppress(OSError):  # It is closed already.
            # Without it the kernel keeps unsent data for minutes.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self._read_on()


class _TrioTransport:
    __slots__ = ("_connection",)

    def __init__(self, connection: TrioServerConnection) -> None:
        self._connection: Final = connection

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            close = exc.rcvd or exc.sent  # Ours, if the library found a protocol error.
            code, reason = (close.code, close.reason) if close else (CloseCode.ABNORMAL, "")
            raise TransportClosed(code, reason) from None

    async def send(self, frames: Sequence[Frame]) -> None:
        await self._connection.write(b"".join([frame.wire for frame in frames]))

    async def close(self, code: int, reason: str) -> None:
        connection = self._connection
        if connection.is_open and not connection.is_writable():
            self.abort()
            return
        connection.leave()
        await connection.aclose(code, reason)

    def abort(self) -> None:
        self._connection.reset()


def serve(
    endpoint: Bus | Endpoint, host: str | None = None, port: int | None = None, **options: Any
) -> AbstractAsyncContextManager[ws.Server]:
    """Serve a bus, or one of its endpoints, on a port of its own; any path is accepted.

    On exit it closes the connections with 1001 after what they are owed, and aborts those that
    are not writable. It holds a nursery: leave it in the task that has entered it.

    Args:
        endpoint: Where clients come in; a bus means its default endpoint.
        host: Address to bind; None: all of them.
        port: Port to bind; 0 chooses one.
        **options: For :func:`websockets.trio.server.serve`, such as ``ssl``. A
            ``process_request`` is called before the endpoint, so that it may answer other paths.
    """
    return _serve(endpoint_of(endpoint), host, port, options)


@asynccontextmanager
async def _serve(
    endpoint: Endpoint, host: str | None, port: int | None, options: dict[str, Any]
) -> AsyncIterator[ws.Server]:
    sockets: set[TrioServerConnection] = set()
    listen = partial(
        ws.serve, handler(endpoint), port, host=host, **_defaults(endpoint, sockets, options)
    )
    async with trio.open_nursery() as nursery:
        server: ws.Server = await nursery.start(listen)
        try:
            yield server
        finally:
            await endpoint.drain()
            for connection in list(sockets):
                if connection.state is State.CONNECTING:
                    connection.reset()
            with trio.move_on_after(_GRACE_SECONDS):  # The endpoint has closed its connections.
                await server.aclose()
            nursery.cancel_scope.cancel()


def _defaults(
    endpoint: Endpoint, sockets: set[TrioServerConnection], options: dict[str, Any]
) -> dict[str, Any]:
    def create_connection(*args: Any, **kwargs: Any) -> TrioServerConnection:
        connection = TrioServerConnection(*args, **kwargs)
        connection.sockets = sockets
        sockets.add(connection)
        return connection

    # Where wsbus does not close silent connections, the library's own keepalive does.
    keepalive = 20 if endpoint.heartbeat.timeout is None else None
    defaults: dict[str, Any] = {
        "create_connection": create_connection,
        "process_request": _admission_of(endpoint, options.pop("process_request", None)),
        "select_subprotocol": _subprotocol,
        "compression": None,
        "max_size": endpoint.limits.max_message_bytes,
        "ping_interval": keepalive,
        "ping_timeout": keepalive,
        "close_timeout": endpoint.limits.close_timeout,
    }
    return defaults | options


def handler(endpoint: Bus | Endpoint) -> Callable[[ws.ServerConnection], Awaitable[None]]:
    """Return the handler for a ``websockets.trio`` server of your own.

    The server must be started with ``create_connection=TrioServerConnection``, and should be with
    ``compression=None`` and a ``max_size``; :func:`serve` sets all of this itself.
    """
    return _handler(endpoint_of(endpoint))


def _handler(endpoint: Endpoint) -> Callable[[ws.ServerConnection], Awaitable[None]]:
    async def handle(connection: ws.ServerConnection) -> None:
        if not isinstance(connection, TrioServerConnection):
            raise UsageError("start the server with create_connection=TrioServerConnection")
        if connection.admission is None:
            assert connection.request is not None
            verdict = await endpoint.admit(connection.handshake_for(connection.request))
            if isinstance(verdict, Refusal):
                await connection.aclose(verdict.close_code, verdict.reason)
                return
            connection.admission = verdict
            del verdict
        await endpoint.run(_TrioTransport(connection), connection.take_admission())

    return handle


def _admission_of(
    endpoint: Endpoint, before: _TrioProcessRequest | None
) -> Callable[[ws.ServerConnection, Request], Awaitable[Response | None]]:
    async def process_request(connection: ws.ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, TrioServerConnection)
        answer = None if before is None else before(connection, request)
        if isawaitable(answer):
            answer = await answer
        if answer is not None:
            return answer
        admission = await endpoint.admit(connection.handshake_for(request))
        if isinstance(admission, Refusal):
            return connection.respond(admission.status, f"{admission.reason}\n")
        connection.admission = admission
        return None

    return process_request


def _subprotocol(
    connection: ws.ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    assert isinstance(connection, TrioServerConnection)
    assert connection.admission is not None
    chosen = connection.admission.subprotocol
    return None if chosen is None else Subprotocol(chosen)
