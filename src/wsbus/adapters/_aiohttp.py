"""The transport over a WebSocket of aiohttp; for :mod:`.aiohttp`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from anyio import Event, WouldBlock, move_on_after, sleep

from ..core.errors import CloseCode, TransportClosed
from ..core.frame import Frame
from ..core.limits import Limits
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent

__all__ = ["Transport"]

_CONTROLS_PER_SECOND: Final = 100.0
"""Pings and pongs that a peer may send for long, and at once: clients send one in seconds."""
_CONTROLS_AT_ONCE: Final = 1000.0
_FLOOD_SECONDS: Final = 1.0
"""For the close frame to reach whoever floods; a reset might overtake it."""


class Transport:
    """Writes to the socket itself, past the library's send; see :class:`.WriteNow`.

    It answers pings and closes itself, too. aiohttp's ``close()`` does not wait for the peer's
    close frame while a task receives; and all tasks in its ``send`` or ``drain`` wait for one
    future, so that cancelling one cancels all. Here no task that can be cancelled waits for it.
    """

    __slots__ = (
        "_controls",
        "_controls_at",
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
        self._controls = 0.0  # A bucket that leaks.
        self._controls_at = 0.0
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
                if kind is WSMsgType.PING or kind is WSMsgType.PONG:
                    if self._is_flooded():
                        raise await self._end_flood()
                    if kind is WSMsgType.PING:
                        await self._answer(message.data)
                else:
                    raise await self._end(message)
        except BaseException:
            if self._ended is not None:
                self._ended.set()
            raise
        finally:
            self._is_reading = False

    def _is_flooded(self) -> bool:
        """Count a ping or pong; tell whether there are too many."""
        now = asyncio.get_running_loop().time()
        left = self._controls - (now - self._controls_at) * _CONTROLS_PER_SECOND
        self._controls, self._controls_at = max(left, 0.0) + 1, now
        return self._controls > _CONTROLS_AT_ONCE

    async def _end_flood(self) -> TransportClosed:
        """Close, and read no more; return why."""
        code, reason = CloseCode.RATE_ABUSE, "too many control frames"
        if self._is_open and not self._protocol.writing_paused:
            self._say_goodbye(code, reason)
            await sleep(min(_FLOOD_SECONDS, self._limits.close_timeout))
        self.abort()
        return TransportClosed(code, reason)

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
        # Before the rest: a peer that does not read must run into the write deadline, even while
        # aiohttp waits for room to send it an error.
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
            self._say_goodbye(code, reason)
        assert self._ended is not None
        with move_on_after(self._limits.close_timeout), suppress(TransportClosed):
            while not self._ended.is_set():
                await self.receive()  # Or wait for who does.
        self.abort()

    def _say_goodbye(self, code: int, reason: str) -> None:
        self._ended = Event()
        self._out.write(_control_frame(WSMsgType.CLOSE, code.to_bytes(2) + reason.encode()))
        # Nothing follows, and the peer may know: a server that shuts down is deaf already,
        # it hears of the peer's close frame only that the socket was closed.
        if self._transport.can_write_eof():
            with suppress(OSError):  # The peer has reset the connection; the reader learns it.
                self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        if not self._is_over or self.unsent():
            reset(self._transport)
        elif not self._transport.is_closing():
            self._transport.close()  # No reset, which might overtake the close frame.


def _control_frame(opcode: int, payload: bytes) -> bytes:
    """Return it as a server writes it; the payload has at most 125 bytes."""
    return bytes((0x80 | opcode, len(payload))) + payload
