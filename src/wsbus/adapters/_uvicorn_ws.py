"""uvicorn's WebSocket protocol, with access to the socket; for :mod:`.uvicorn`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from anyio import Event, WouldBlock
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.extensions.base import ServerExtensionFactory
from websockets.protocol import State

from ..core.errors import CloseCode, TransportClosed
from ._deflate import window_bits
from ._intake import FLOOD_SECONDS, SMALL_FRAGMENT, TOO_MANY, Intake
from ._logs import ClientsAtDebug
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent
from ._uvicorn_http import answer_broken_handshake

__all__ = ["WebSocketProtocol"]

_EXTENSIONS: Final = "Sec-WebSocket-Extensions"
_SHUTDOWN_SECONDS: Final = 5.0
"""Time for a peer to read the close frame at shutdown: `close_timeout`'s default."""


class WebSocketProtocol(Intake, WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket protocol, with access to the socket for the application.

    For ``ws=`` of ``uvicorn.Config``. In ``scope["extensions"]["wsbus"]`` it offers the methods of
    :class:`.WriteNow`, and ``abort``; other applications are not affected. Fan-out then writes to
    the socket without a task or a coroutine (measured with one publication outstanding: half the
    cost of the bare ASGI loop; with many, a fifteenth), a stuck connection is freed at the write
    deadline, and a connection that breaks ends with 1006, unlike one that is closed.

    It trusts peers less than uvicorn's own, for any application: unread pongs cost no memory, a
    flood of control frames is closed with 4429, a run of small frames does not delay others for
    long, an oversized request is answered, and a closed socket is gone after 10 s (a wsbus
    endpoint: ``close_timeout``) whatever the peer does.
    """

    writable_now: bool = False
    """Whether there is a transport, and it has taken all data written to it."""
    close_timer: asyncio.TimerHandle | None
    _room: Event | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger: Any = ClientsAtDebug(self.logger)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Follow flow control from the start, and keep the buffers below the queue small."""
        super().connection_made(transport)
        self.writable_now = True
        keep_shallow(self.transport)
        self._writer = make_writer(self.transport)

    def handle_connect(self, event: Any) -> None:
        """Add the extension to the scope; the application starts in the next turn of the loop."""
        super().handle_connect(event)
        offers = self.request.headers.get_all(_EXTENSIONS)
        self.request.headers.clear()  # The library's parser keeps the request.
        if self.response.status_code == 101:
            self.scope["extensions"]["wsbus"] = {
                "agree_on": partial(self._agree_on, offers),
                "bound": self._bound,
                "end_within": self.end_within,
                "write_now": self.write_now,
                "wait_writable": self.wait_writable,
                "unsent": self.unsent,
                "abort": self.abort,
                "round_trip": partial(round_trip, self.transport),
            }

    def _bound(self, max_bytes: int) -> None:
        """Bound messages, inflated or not, also where uvicorn was started with its 16 MiB."""
        known = self.conn.max_message_size
        self.conn.max_message_size = max_bytes if known is None else min(known, max_bytes)

    def _agree_on(self, offers: list[str], extensions: list[ServerExtensionFactory]) -> int:
        """Agree on extensions in place of uvicorn's; before the handshake is accepted.

        Returns:
            The window for messages of the server; 0: they are not compressed.
        """
        headers, answer = Headers([(_EXTENSIONS, offer) for offer in offers]), self.response.headers
        self.conn.available_extensions = extensions
        try:
            agreed, self.conn.extensions = self.conn.process_extensions(headers)
        except InvalidHeader:
            agreed, self.conn.extensions = None, []
        if _EXTENSIONS in answer:
            del answer[_EXTENSIONS]
        if agreed is not None:
            answer[_EXTENSIONS] = agreed
        return window_bits(self.conn.extensions)

    @property
    def is_held(self) -> bool:
        """Whether messages wait for the application."""
        return self.read_paused

    def handle_events(self) -> None:
        """Answer an invalid handshake, too."""
        super().handle_events()
        answer_broken_handshake(self, self.transport)

    def handle_ping(self) -> None:
        """Answer a ping, unless the connection is closed, and count it."""
        if not self.close_sent:
            super().handle_ping()
            self.note_small_frames()

    def handle_pong(self, event: Any) -> None:
        """Note the pong, and count it."""
        super().handle_pong(event)
        self.note_small_frames()

    def handle_text(self, event: Any) -> None:
        """Take a message; count a small fragment."""
        super().handle_text(event)
        if not event.fin:
            self._note_fragment(event)

    def handle_bytes(self, event: Any) -> None:
        """Take a message; count a small fragment."""
        super().handle_bytes(event)
        if not event.fin:
            self._note_fragment(event)

    def handle_cont(self, event: Any) -> None:
        """Take a fragment; count a small one."""
        super().handle_cont(event)
        self._note_fragment(event)

    def _note_fragment(self, event: Any) -> None:
        if len(event.data) < SMALL_FRAGMENT:
            self.note_small_frames()

    def end_flood(self) -> None:
        """Close with 4429, and parse no more."""
        self.conn.fail(CloseCode.RATE_ABUSE, TOO_MANY)
        self.frames.clear()
        self.stop_keepalive()
        # To close the transport, as uvicorn does when the application returns, would reset a
        # connection that has sent more than was read, before the close frame is there.
        self.close_timer = self.loop.call_later(FLOOD_SECONDS, self.transport.close)
        self.close_sent = True
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": CloseCode.RATE_ABUSE, "reason": TOO_MANY}
        )
        if not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def keepalive_timeout(self) -> None:
        """Close without waiting for the peer, which does not answer."""
        super().keepalive_timeout()
        self.end_within(self.close_timeout)

    def eof_received(self) -> None:
        """Give unsent data as long as after a close frame."""
        super().eof_received()
        self.end_within(self.close_timeout)

    def handle_parser_exception(self) -> None:
        """Close without waiting for the peer, which has broken the protocol."""
        super().handle_parser_exception()
        self.end_within(self.close_timeout)

    def on_task_complete(self, task: Any) -> None:
        """Free the socket once its application has ended."""
        super().on_task_complete(task)
        if not self.disconnected:
            self.end_within(self.close_timeout)

    def pause_writing(self) -> None:
        """Note that the transport is full."""
        super().pause_writing()
        self.writable_now = False

    def resume_writing(self) -> None:
        """Note that the transport is writable again."""
        super().resume_writing()
        self.writable_now = self.is_open
        self.read_on()
        self._wake()

    async def receive(self) -> Any:
        """Return the next ASGI message; read on only if nothing waits on either side."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.read_on()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a connection that broke without a close frame; wake all waiting tasks."""
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
        self.end_within(_SHUTDOWN_SECONDS)

    def write_now(self, wire: bytes) -> None:
        """Write frames; see :meth:`.WriteNow.write_now`."""
        if self.writable_now and self.conn.close_sent is None:
            self._writer.write(wire)
        elif self.is_open:
            raise WouldBlock
        else:
            raise TransportClosed

    async def wait_writable(self) -> None:
        """Wait until the transport is writable; see :meth:`.WriteNow.wait_writable`."""
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
        """Free the socket at once; unsent data are lost. Idempotent."""
        reset(self.transport)

    @property
    def is_open(self) -> bool:
        """Whether a frame may still be written."""
        return self.conn.close_sent is None and not self.disconnected

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
