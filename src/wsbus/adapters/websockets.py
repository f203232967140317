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
from urllib.parse import unquote

import websockets.asyncio.server as ws
from anyio import Event, WouldBlock
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from ..bus import Bus
from ..core.errors import CloseCode, TransportClosed, UsageError
from ..core.frame import Frame
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Handshake, HeaderView, split_list
from ..web import ASSETS, asset
from ._endpoint import endpoint_of
from ._intake import SMALL_FRAGMENT, TOO_MANY, Intake
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent

__all__ = ["ServerConnection", "handler", "serve", "web_routes"]

_ProcessRequest: TypeAlias = Callable[
    [ws.ServerConnection, Request], Awaitable[Response | None] | Response | None
]


class ServerConnection(Intake, ws.ServerConnection):
    """A connection that knows whether it is writable; pass it as ``create_connection=``."""

    admission: Admission | None = None
    sockets: set[ServerConnection] | None = None
    """Where it is noted as long as it has a socket."""
    writable: bool = False
    """Whether the transport has taken all that it was given, and there is one."""
    _room: Event | None = None

    def take_admission(self) -> Admission:
        """Hand over on what terms it was accepted; to be called once."""
        assert self.admission is not None
        admission, self.admission = self.admission, None
        return admission

    def connection_made(self, transport: Any) -> None:
        """Note flow control from the start; nothing may hide in buffers below the queue."""
        super().connection_made(transport)
        if self.sockets is not None:
            self.sockets.add(self)
        self.recv_messages.resume = self.read_on
        self.writable = True
        keep_shallow(transport)

    @property
    def is_open(self) -> bool:
        """Whether a frame may follow."""
        return self.state is State.OPEN and not self.protocol.eof_sent

    @property
    def is_held(self) -> bool:
        """Whether messages wait for the application."""
        return self.recv_messages.paused

    def process_event(self, event: Any) -> None:
        """Count the frames that keep the server busy and say nothing."""
        if isinstance(event, WireFrame) and _is_small(event):
            self.note_small_frames()
        super().process_event(event)

    def end_flood(self) -> None:
        """Close with 4429, and parse no more."""
        self.protocol.fail(CloseCode.RATE_ABUSE, TOO_MANY)
        self.send_data()

    def send_data(self) -> None:
        """Send; after the last frame, whoever wrote it, the peer has ``close_timeout``."""
        super().send_data()
        protocol = self.protocol  # A refused handshake ends as the library has it.
        if protocol.close_sent is not None or (
            protocol.eof_sent and protocol.state is not State.CONNECTING
        ):
            self.end_within(10.0 if self.close_timeout is None else self.close_timeout)

    def pause_writing(self) -> None:
        """Note that there is no room."""
        super().pause_writing()
        self.writable = False

    def resume_writing(self) -> None:
        """Note that there is room."""
        super().resume_writing()
        self.writable = not self.protocol.eof_sent
        self.read_on()
        self._wake()

    def eof_received(self) -> None:
        """Write no more: the library has ended its side, too."""
        super().eof_received()
        self.writable = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all that wait for room: there will be none."""
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


def _is_small(frame: WireFrame) -> bool:
    kind = frame.opcode
    if frame.fin and (kind is Opcode.TEXT or kind is Opcode.BINARY):
        return False
    return kind is Opcode.PING or kind is Opcode.PONG or len(frame.data) < SMALL_FRAGMENT


class _Transport:
    """Writes to the socket itself, past the library's send; see :class:`.WriteNow`."""

    __slots__ = ("_connection", "_protocol", "_writer")

    def __init__(self, connection: ServerConnection) -> None:
        self._connection: Final = connection
        self._protocol: Final = connection.protocol
        self._writer: Final = make_writer(connection.transport)

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            close = exc.rcvd or exc.sent  # Ours, if it is the library that found a fault.
            code, reason = (close.code, close.reason) if close else (CloseCode.ABNORMAL, "")
            raise TransportClosed(code, reason) from None

    def write_now(self, wire: bytes) -> None:
        connection = self._connection
        # After the peer's close or our own a write would follow the close frame, or raise: either
        # way `close_sent` is set, a plain attribute (`state` is a property of a property).
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
    door: Bus | Endpoint, host: str | None = None, port: int | None = None, **options: Any
) -> AbstractAsyncContextManager[ws.Server]:
    """Serve a bus, or one of its endpoints, on a port of its own; any path is accepted.

    On exit it stops accepting, closes the connections with 1001 after what they are owed, and
    aborts those that are not writable.

    Args:
        door: Where clients come in; a bus means its default endpoint.
        host: Address to bind; None: all of them.
        port: Port to bind; 0 chooses one.
        **options: Passed on to :func:`websockets.asyncio.server.serve`: ``ssl``, say. A
            ``process_request`` is asked before the endpoint is, so that it may answer other paths.
    """
    return _serve(endpoint_of(door), host, port, options)


@asynccontextmanager
async def _serve(
    endpoint: Endpoint, host: str | None, port: int | None, options: dict[str, Any]
) -> AsyncIterator[ws.Server]:
    sockets: set[ServerConnection] = set()

    def create_connection(*args: Any, **kwargs: Any) -> ServerConnection:
        connection = ServerConnection(*args, **kwargs)
        connection.sockets = sockets
        return connection

    # Where wsbus does not end silent connections itself, the library's own keepalive does.
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
    async with ws.serve(handler(endpoint), host, port, **defaults | options) as server:
        try:
            yield server
        finally:
            await endpoint.drain()
            for connection in sockets:
                if connection.state is State.CONNECTING:  # Else it is waited for, for 10 s.
                    reset(connection.transport)


def web_routes(prefix: str = "/wsbus") -> _ProcessRequest:
    """Return a ``process_request`` that serves the JavaScript client: ``/wsbus/wsbus.js``.

    All else it leaves to the endpoint. The library takes no other method than GET.

    Args:
        prefix: Of the paths.
    """
    names = {f"{prefix}/{name}": name for name in ASSETS}

    def process_request(_connection: ws.ServerConnection, request: Request) -> Response | None:
        name = names.get(request.path.partition("?")[0])
        if name is None:
            return None
        found = asset(name)
        headers = Headers(found.headers | {"connection": "close"})
        if found.is_known(request.headers.get("if-none-match")):
            return Response(304, "Not Modified", headers)
        headers["content-length"] = str(len(found.body))
        return Response(200, "OK", headers, found.body)

    return process_request


def handler(door: Bus | Endpoint) -> Callable[[ws.ServerConnection], Awaitable[None]]:
    """Return a connection handler, for a server of your own.

    The server must be started with ``create_connection=ServerConnection``, and should be with
    ``compression=None`` and a ``max_size``; :func:`serve` sets all of this itself.
    """
    endpoint = endpoint_of(door)

    async def handle(connection: ws.ServerConnection) -> None:
        if not isinstance(connection, ServerConnection):
            raise UsageError("start the server with create_connection=ServerConnection")
        if connection.admission is None:
            assert connection.request is not None
            verdict = await endpoint.admit(_handshake(connection, connection.request))
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
        admission = await endpoint.admit(_handshake(connection, request))
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


def _handshake(connection: ws.ServerConnection, request: Request) -> Handshake:
    path, _, query = request.path.partition("?")
    headers = HeaderView(request.headers.raw_items)
    address = connection.remote_address
    return Handshake(
        path=unquote(path),
        query_string=query,
        headers=headers,
        client=(address[0], address[1]) if isinstance(address, tuple) else None,
        subprotocols=split_list(headers.get("sec-websocket-protocol", "")),
    )
