"""Adapter for `aiohttp <https://docs.aiohttp.org>`_, its web server.

::

    app = web.Application()
    setup(app, "/ws", bus)
    web.run_app(app, access_log_format='%a "%{User-Agent}i" %s %Tf')

The default format of aiohttp's access log has the request line (``%r``), and with it the query:
where clients may put a token there (``query_token=``), leave it out as above, or pass
``access_log=None``.

Needs the extra ``aiohttp``; asyncio only, as aiohttp is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from anyio import Event, WouldBlock, move_on_after

from ..bus import Bus, status_views
from ..console import Console
from ..console.assets import Answer, answer, redirect
from ..core.encoding import encode_data
from ..core.errors import CloseCode, TransportClosed
from ..core.frame import Frame
from ..core.limits import Limits
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Handshake, HeaderView, split_list
from ..web import ASSETS, asset
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent

__all__ = ["add_console_routes", "add_status_routes", "add_web_routes", "handler", "setup"]

_KEEPALIVE_SECONDS: Final = 20.0


class _Transport:
    """Writes to the socket itself, past the library's send; see :class:`.WriteNow`.

    It answers pings and closes itself, too. aiohttp's ``close()`` does not wait for the peer's
    close frame while somebody receives; and whoever waits in its ``send`` or ``drain`` shares one
    future, so that cancelling one cancels all. Here nobody who can be cancelled waits for it.
    """

    __slots__ = (
        "_ended",
        "_is_over",
        "_is_reading",
        "_limits",
        "_out",
        "_protocol",
        "_transport",
        "_writer",
        "_ws",
    )

    def __init__(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        writer: AbstractStreamWriter,
        limits: Limits,
    ) -> None:
        assert request.transport is not None
        self._ws: Final = ws
        self._writer: Final = writer
        self._protocol: Final = request.protocol
        self._transport: Final = request.transport
        self._limits: Final = limits
        self._is_reading = False
        self._is_over = False  # Both close frames were sent, or the last that there will be.
        self._ended: Event | None = None  # Of the reading; made with our close frame.
        keep_shallow(self._transport)
        self._out: Final = make_writer(self._transport)

    # --- in ------------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        if self._is_reading:  # One of us is close(), and the other reads to the end.
            assert self._ended is not None
            await self._ended.wait()
            raise TransportClosed
        self._is_reading = True
        try:
            while True:
                message = await self._ws.receive()
                kind = message.type
                if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                    data: str | bytes = message.data
                    return data
                if kind is WSMsgType.PING:
                    await self._answer(message.data)
                elif kind is not WSMsgType.PONG:
                    raise await self._end(message)
        except BaseException:
            if self._ended is not None:
                self._ended.set()
            raise
        finally:
            self._is_reading = False

    async def _answer(self, ping: bytes) -> None:
        """Send a pong once there is room: else a flood of pings fills the memory."""
        while self._is_full:
            before = self.unsent()
            with move_on_after(self._limits.write_deadline) as deadline, suppress(TransportClosed):
                await self.room()
            if deadline.cancelled_caught and self.unsent() >= before:
                self.abort()
        if self._is_open:
            self._out.write(_control_frame(WSMsgType.PONG, ping))

    async def _end(self, message: WSMessage) -> TransportClosed:
        """See to the closing handshake's end; return why it closed."""
        if message.type is WSMsgType.CLOSE:
            self._is_over = True
            if self._ended is None:
                await self._ws.close(code=message.data or CloseCode.NORMAL, drain=False)
            self.abort()
            return TransportClosed(message.data or CloseCode.NO_STATUS, message.extra or "")
        if isinstance(message.data, WebSocketError):  # aiohttp has told the peer.
            self._is_over = True
            return TransportClosed(message.data.code)
        return TransportClosed()

    # --- out -----------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        """Whether a frame may follow."""
        return self._ended is None and not (self._ws.closed or self._transport.is_closing())

    @property
    def _is_full(self) -> bool:
        return self._protocol.writing_paused and not self._transport.is_closing()

    def write_now(self, wire: bytes) -> None:
        is_closing = self._transport.is_closing()
        # Before the rest: whoever does not read shall run into the write deadline, even while
        # aiohttp waits for room to tell it of an error.
        if self._protocol.writing_paused and not is_closing:
            raise WouldBlock
        if is_closing or self._ended is not None or self._ws.closed:
            raise TransportClosed
        self._out.write(wire)

    async def room(self) -> None:
        while self._is_full:
            drained = Event()
            drain = asyncio.ensure_future(self._drain(drained))
            await drained.wait()  # If this is cancelled, that is not.
            if drain.cancelled():  # By somebody else, and so would the next be.
                raise TransportClosed
        if not self._is_open:
            raise TransportClosed

    async def _drain(self, drained: Event) -> None:
        # An event, not asyncio.wait(): that takes a turn of the loop more, in which a publisher
        # may add 64 publications to the queue that waits here.
        try:
            with suppress(ConnectionError):
                await self._writer.drain()
        finally:
            drained.set()

    def unsent(self) -> int:
        return unsent(self._transport)

    def round_trip(self) -> float | None:
        return round_trip(self._transport)

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.room()
        self.write_now(b"".join([frame.wire for frame in frames]))
        await self.room()

    # --- the end -------------------------------------------------------------------------------

    async def close(self, code: int, reason: str) -> None:
        if self._ended is None:
            if self._protocol.writing_paused or not self._is_open:
                self.abort()
                return
            self._ended = Event()
            self._out.write(_control_frame(WSMsgType.CLOSE, code.to_bytes(2) + reason.encode()))
            # Nothing follows, and the peer may know: a server that shuts down is deaf already,
            # it hears of the peer's close frame only that the socket was closed.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        with move_on_after(self._limits.close_timeout), suppress(TransportClosed):
            while not self._ended.is_set():
                await self.receive()  # Or wait for who does.
        self.abort()

    def abort(self) -> None:
        if not self._is_over or self.unsent():
            reset(self._transport)
        elif not self._transport.is_closing():
            self._transport.close()  # No reset, which might overtake the close frame.


def setup(app: web.Application, path: str, door: Bus | Endpoint) -> None:
    """Add a WebSocket route to an application, or a sub-application, and all that it needs.

    The bus starts and stops with the application, unless it is running by then. At shutdown the
    endpoint is drained: its connections are given what they are owed and closed with 1001, and
    those that are not writable are aborted.

    Args:
        app: To be set up before it starts, and before what publishes in its own start-up.
        path: As for any route; what variable parts hold is in :attr:`.Handshake.path_params`.
        door: Where clients come in; a bus means its default endpoint. May be called for several
            endpoints of one bus.
    """
    endpoint = _endpoint(door)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        bus = endpoint.gate
        if not isinstance(bus, Bus) or bus.is_running:
            yield
        else:
            async with bus:
                yield

    async def drain(_app: web.Application) -> None:
        await endpoint.drain()

    app.router.add_get(path, handler(endpoint), allow_head=False)
    app.cleanup_ctx.append(live)
    app.on_shutdown.append(drain)


def add_status_routes(
    app: web.Application,
    bus: Bus,
    prefix: str = "/-",
    views: Mapping[str, Callable[[], object]] | None = None,
) -> None:
    """Add routes that tell operators how the bus is: JSON, for ``GET``.

    By default ``/-/statistics`` (:meth:`.Bus.statistics`) and ``/-/connections``
    (:meth:`.Bus.connections`). They tell who is connected from where: keep strangers away from
    them, with middleware or a proxy.

    Args:
        app: Where to add them.
        bus: Which.
        prefix: Of the paths.
        views: Other names, and what to call for what each tells.
    """
    for name, tell in (status_views(bus) if views is None else views).items():
        app.router.add_get(f"{prefix}/{name}", _view(tell))


def _view(tell: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def view(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=encode_data(tell()), content_type="application/json")

    return view


def add_console_routes(app: web.Application, console: Console, prefix: str = "/console") -> None:
    """Add routes for an operator's console: its page at ``/console/``, and its endpoint.

    Args:
        app: Where to add them.
        console: Which.
        prefix: Of the paths.
    """

    async def page(request: web.Request) -> web.StreamResponse:
        return _response_of(answer(request.match_info.get("name", "")))

    async def to_page(_request: web.Request) -> web.StreamResponse:
        return _response_of(redirect(prefix))

    setup(app, f"{prefix}/ws", console.endpoint)
    if prefix:
        app.router.add_get(prefix, to_page)
    app.router.add_get(f"{prefix}/", page)
    app.router.add_get(f"{prefix}/{{name}}", page)


def _response_of(found: Answer) -> web.Response:
    return web.Response(body=found.body, status=found.status, headers=found.headers)


def add_web_routes(app: web.Application, prefix: str = "/wsbus") -> None:
    """Add routes that serve the JavaScript client: ``/wsbus/wsbus.js``; see :mod:`wsbus.web`.

    Args:
        app: Where to add them.
        prefix: Of the paths.
    """
    for name in ASSETS:
        app.router.add_get(f"{prefix}/{name}", _serve_asset(name))


def _serve_asset(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        found = asset(name)
        if found.is_known(request.headers.get("if-none-match")):
            return web.Response(status=304, headers=found.headers)
        return web.Response(body=found.body, headers=found.headers)

    return serve


def handler(door: Bus | Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return what handles the requests of a route of your own: ``add_get("/ws", …)``.

    The bus must be running, and ``endpoint.drain()`` should be called in ``app.on_shutdown``:
    aiohttp waits a minute for handlers that have not ended by themselves. :func:`setup` does both.
    """
    endpoint = _endpoint(door)

    async def handle(request: web.Request) -> web.StreamResponse:
        admission = await endpoint.admit(_handshake(request))
        if isinstance(admission, Refusal):
            return web.Response(status=admission.status, text=f"{admission.reason}\n")
        ws, writer = _response(endpoint, admission), None
        with suppress(ConnectionError):
            writer = await ws.prepare(request)
        if writer is not None and request.transport is not None:  # Else it left while judged.
            transport = _Transport(request, ws, writer, endpoint.limits)
            try:
                await endpoint.run(transport, admission)
            finally:
                transport.abort()
        return ws

    return handle


def _response(endpoint: Endpoint, admission: Admission) -> web.WebSocketResponse:
    chosen = admission.subprotocol
    ws = web.WebSocketResponse(
        timeout=endpoint.limits.close_timeout,
        autoclose=False,
        autoping=False,
        # Where wsbus does not end silent connections itself, the library's own keepalive does.
        heartbeat=_KEEPALIVE_SECONDS if endpoint.heartbeat.timeout is None else None,
        protocols=() if chosen is None else (chosen,),
        compress=False,
        max_msg_size=endpoint.limits.max_message_bytes + 1,  # Which is refused itself.
    )
    if chosen is not None:
        # aiohttp reads only the first of several such headers (RFC 6455, section 11.3.4).
        ws.headers["Sec-WebSocket-Protocol"] = chosen
    return ws


def _handshake(request: web.Request) -> Handshake:
    headers = HeaderView(request.headers.items)
    transport = request.transport
    address = transport.get_extra_info("peername") if transport is not None else None
    return Handshake(
        path=unquote(request.rel_url.raw_path),
        query_string=request.rel_url.raw_query_string,
        headers=headers,
        client=(address[0], address[1]) if isinstance(address, tuple) else None,
        subprotocols=split_list(headers.get("sec-websocket-protocol", "")),
        path_params=dict(request.match_info),
        request=request,
    )


def _control_frame(opcode: int, payload: bytes) -> bytes:
    """Return it as a server writes it; the payload has at most 125 bytes."""
    return bytes((0x80 | opcode, len(payload))) + payload


def _endpoint(door: Bus | Endpoint) -> Endpoint:
    return door.default_endpoint if isinstance(door, Bus) else door
