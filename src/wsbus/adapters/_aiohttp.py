"""The transport over a WebSocket of aiohttp; for :mod:`.aiohttp`."""

from __future__ import annotations

import asyncio
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from anyio import Event, WouldBlock, move_on_after
from multidict import CIMultiDict

from ..core.errors import CloseCode, TransportClosed
from ..core.frame import Frame
from ..core.limits import Limits
from ._frames import Frames
from ._intake import SMALL_FRAGMENT, TOO_MANY, Intake
from ._rtt import round_trip
from ._sockets import keep_shallow, make_writer, reset, unsent

__all__ = ["AiohttpTransport", "EndpointResponse", "Guard"]


class _Counted(asyncio.Protocol, ABC):
    """Passes data to aiohttp's protocol, and counts the frames that its parser does not report."""

    def __init__(self, request: web.Request) -> None:
        self._protocol: Final = request.protocol
        self._forward: Final = self._protocol.data_received
        self._frames: Final = Frames(SMALL_FRAGMENT)

    @abstractmethod
    def note_small_frames(self, count: int = 1) -> None:
        """Count control frames and small fragments."""

    def data_received(self, data: bytes) -> None:
        small = self._frames.count(data)
        if small:
            self.note_small_frames(small)
        self._forward(data)

    def eof_received(self) -> bool | None:
        self._protocol.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class Guard(Intake, _Counted):
    """Stands between the socket of a WebSocket and aiohttp's protocol.

    Args:
        request: The request of the handshake, before its answer.
    """

    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        assert request.transport is not None
        self.loop = asyncio.get_running_loop()
        self.transport = request.transport
        self.on_flood: Callable[[], None] = _nothing
        # aiohttp keeps early data until the handshake is answered.
        early: bytes = getattr(self._protocol, "_message_tail", b"")
        self._frames.count(early)
        self.transport.set_protocol(self)

    def leave(self) -> None:
        """Give the socket back."""
        self.transport.set_protocol(self._protocol)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop all references."""
        super().connection_lost(exc)
        self.on_flood = _nothing

    @property
    def is_held(self) -> bool:
        """Whether aiohttp has paused reading; it takes data that are there already nevertheless."""
        return not self._backlog and bool(getattr(self._protocol, "_reading_paused", False))

    def end_flood(self) -> None:
        """Close the transport."""
        self.on_flood()

    def data_received(self, data: bytes) -> None:
        """Parse, unless it is a flood."""
        if self._deadline is None and not self._backlog and self._frames.is_message(data):
            self._forward(data)  # The short way: the rest costs as much as a parser.
        elif not self._has_heard_enough:
            super().data_received(data)

    def resume_writing(self) -> None:
        """Note that the transport is writable again."""
        super().resume_writing()
        self.read_on()


def _nothing() -> None:
    pass


# Attributes of enum classes are slow to look up in Python 3.11.
_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_EXTENSIONS: Final = "Sec-WebSocket-Extensions"
_ALONE: Final = "server_no_context_takeover"


class EndpointResponse(web.WebSocketResponse):
    """aiohttp's response, but the socket is freed in time, whatever closes it.

    After a broken frame aiohttp waits without a limit until it can send its close frame.
    """

    on_closing: Callable[[], None] | None = None

    def _handshake(self, request: BaseRequest) -> tuple[CIMultiDict[str], str | None, int, bool]:
        """Say that no message refers to another one; aiohttp says so only if it is asked."""
        headers, protocol, bits, _ = super()._handshake(request)
        agreed = headers.get(_EXTENSIONS)
        if agreed is not None and _ALONE not in agreed:
            headers[_EXTENSIONS] = f"{agreed}; {_ALONE}"
        return headers, protocol, bits, True

    async def close(
        self, *, code: int = CloseCode.NORMAL, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close; see aiohttp, which has no code of its own for data that cannot be inflated."""
        if isinstance(self.exception(), zlib.error):
            code = CloseCode.INVALID_PAYLOAD
        if self.on_closing is not None:
            self.on_closing()
        return await super().close(code=code, message=message, drain=drain)


class AiohttpTransport:
    """Writes to the socket itself, past the library's send; see :class:`.WriteNow`.

    It also answers pings and closes by itself. aiohttp's ``close()`` does not wait for the peer's
    close frame while a task receives; and all tasks in its ``send`` or ``drain`` wait for one
    future, so that cancelling one cancels all. Here no task that can be cancelled waits for it.
    """

    __slots__ = (
        "_ended",
        "_guard",
        "_is_flooded",
        "_is_over",
        "_is_reading",
        "_limits",
        "_out",
        "_protocol",
        "_transport",
        "_writer",
        "_ws",
        "window_bits",
    )

    def __init__(
        self,
        request: web.Request,
        ws: EndpointResponse,
        writer: AbstractStreamWriter,
        limits: Limits,
        guard: Guard,
    ) -> None:
        self._ws: Final = ws
        self._writer: Final = writer
        self._protocol: Final = request.protocol
        self._transport: Final = guard.transport
        self._guard: Final = guard
        self._limits: Final = limits
        self._is_reading = False
        self._is_over = False  # Both close frames were sent, or no other will be.
        self._ended: Event | None = None  # Set when reading has ended; made with our close frame.
        self._is_flooded = False
        guard.on_flood = self._end_flood
        ws.on_closing = partial(guard.end_within, limits.close_timeout)
        keep_shallow(self._transport)
        self._out: Final = make_writer(self._transport)
        self.window_bits: Final = int(ws.compress)

    # --- in ------------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        if self._is_reading:  # One caller is close(); the other reads to the end.
            assert self._ended is not None
            await self._ended.wait()
            raise TransportClosed
        self._is_reading = True
        try:
            while True:
                message = await self._ws.receive()
                kind = message.type
                if kind is _TEXT or kind is _BINARY:
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

    def _end_flood(self) -> None:
        self._is_flooded = True
        if self._is_open and not self._protocol.writing_paused:
            self._say_goodbye(CloseCode.RATE_ABUSE, TOO_MANY)
        else:
            self.abort()

    async def _answer(self, ping: bytes) -> None:
        """Send a pong once the transport is writable, or a flood of pings would fill the memory."""
        while self._is_full:
            before = self.unsent()
            with move_on_after(self._limits.write_deadline) as deadline, suppress(TransportClosed):
                await self.wait_writable()
            if deadline.cancelled_caught and self.unsent() >= before:
                self.abort()
        if self._is_open:
            self._out.write(_control_frame(WSMsgType.PONG, ping))

    async def _end(self, message: WSMessage) -> TransportClosed:
        """Complete the closing handshake; return the code and reason."""
        if self._is_flooded:
            return TransportClosed(CloseCode.RATE_ABUSE, TOO_MANY)
        if message.type is WSMsgType.CLOSE:
            self._is_over = True
            if self._ended is None:
                await self._ws.close(code=message.data or CloseCode.NORMAL, drain=False)
            self.abort()
            return TransportClosed(message.data or CloseCode.NO_STATUS, message.extra or "")
        if isinstance(message.data, WebSocketError):  # aiohttp has sent the close frame.
            self._is_over = True
            return TransportClosed(message.data.code)
        return TransportClosed()

    # --- out -----------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        """Whether a frame may still be written."""
        return self._ended is None and not (self._ws.closed or self._transport.is_closing())

    @property
    def _is_full(self) -> bool:
        return self._protocol.writing_paused and not self._transport.is_closing()

    def write_now(self, wire: bytes) -> None:
        is_closing = self._transport.is_closing()
        # Checked first: a peer that does not read must run into the write deadline, even while
        # aiohttp waits to send it an error.
        if self._protocol.writing_paused and not is_closing:
            raise WouldBlock
        if is_closing or self._ended is not None or self._ws.closed:
            raise TransportClosed
        self._out.write(wire)

    async def wait_writable(self) -> None:
        while self._is_full:
            drained = Event()
            drain = asyncio.ensure_future(self._drain(drained))
            await drained.wait()  # Cancelling this task does not cancel that one.
            if drain.cancelled():  # Cancelled by other code, as the next one would be.
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
        await self.wait_writable()
        self.write_now(b"".join([frame.wire for frame in frames]))
        await self.wait_writable()

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
                await self.receive()  # Or wait for the task that does.
        self.abort()

    def _say_goodbye(self, code: int, reason: str) -> None:
        self._ended = Event()
        self._guard.end_within(self._limits.close_timeout)
        self._out.write(_control_frame(WSMsgType.CLOSE, code.to_bytes(2) + reason.encode()))
        # Nothing follows, so the writing end may be closed: a server that shuts down does not
        # read any more, and notices the peer's close frame only when the socket closes.
        if self._transport.can_write_eof():
            with suppress(
                OSError
            ):  # The peer has reset the connection, as the reader notices, too.
                self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        if not self._is_over or self.unsent():
            reset(self._transport)
        elif not self._transport.is_closing():
            self._transport.close()  # A reset might overtake the close frame.


def _control_frame(opcode: int, payload: bytes) -> bytes:
    """Return a control frame of a server; the payload has at most 125 bytes."""
    return bytes((0x80 | opcode, len(payload))) + payload
