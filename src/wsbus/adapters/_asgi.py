"""Transports over ASGI's two callables; for :mod:`.asgi`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeAlias

from anyio import BrokenResourceError, CancelScope, ClosedResourceError, Event, move_on_after

from .._application import Rest, begin
from ..core.errors import CloseCode, TransportClosed
from ..core.frame import Frame
from ..endpoint import Endpoint
from ._intake import FLOOD_SECONDS

__all__ = [
    "ASGIMessage",
    "ASGIOnAsyncio",
    "ASGIReceive",
    "ASGISend",
    "ASGITransport",
    "agree",
    "transport",
]

ASGIMessage: TypeAlias = MutableMapping[str, Any]
ASGIReceive: TypeAlias = Callable[[], Awaitable[ASGIMessage]]
ASGISend: TypeAlias = Callable[[ASGIMessage], Awaitable[None]]

_WINDOW_BITS: Final = "window_bits"

# Besides OSError, servers raise these when the connection has ended.
_GONE: Final = (RuntimeError, ClosedResourceError, BrokenResourceError)


class ASGITransport:
    """Awaits the server's two callables; :meth:`abort` ends any wait in them."""

    __slots__ = (
        "_close_timeout",
        "_end",
        "_is_aborted",
        "_is_sending",
        "_max_bytes",
        "_receive",
        "_send",
        "_sent",
        "_waits",
    )

    def __init__(self, endpoint: Endpoint, receive: ASGIReceive, send: ASGISend) -> None:
        self._receive: Final = receive
        self._send: Final = send
        self._max_bytes: Final = endpoint.limits.max_message_bytes
        self._close_timeout: Final = endpoint.limits.close_timeout
        # A set would take 216 bytes of an idle connection, and there are one or two.
        self._waits: tuple[CancelScope | asyncio.Task[Any], ...] = ()
        self._end: tuple[int, str] | None = None
        self._is_aborted = False
        self._is_sending = False
        self._sent: Event | None = None

    async def receive(self) -> str | bytes:
        if self._end is not None:
            raise TransportClosed(*self._end)
        message = await self._wait(self._receive)
        if message["type"] == "websocket.disconnect":
            code, reason = message.get("code"), message.get("reason")
            self._end = (CloseCode.NO_STATUS if code is None else code, reason or "")
            raise TransportClosed(*self._end)
        text = message.get("text")
        frame: str | bytes = (message.get("bytes") or b"") if text is None else text
        if _is_larger(frame, self._max_bytes):
            reason = f"over {self._max_bytes} bytes"
            await self.close(CloseCode.MESSAGE_TOO_BIG, reason)
            raise TransportClosed(CloseCode.MESSAGE_TOO_BIG, reason)
        return frame

    async def send(self, frames: Sequence[Frame]) -> None:
        if self._end is not None:
            raise TransportClosed(*self._end)
        self._is_sending = True
        try:
            await self._wait(self._write, frames)
        finally:
            self._has_sent()

    @staticmethod
    def _message(frame: Frame) -> ASGIMessage:
        if frame.is_text:
            return {"type": "websocket.send", "text": frame.text}
        return {"type": "websocket.send", "bytes": frame.payload}

    async def _write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            await self._send(self._message(frame))

    def _has_sent(self) -> None:
        self._is_sending = False
        if self._sent is not None:
            self._sent.set()

    async def close(self, code: int, reason: str) -> None:
        if self._end is not None:
            return
        self._end = (code, reason)
        with suppress(TransportClosed), move_on_after(self._close_timeout):
            await self._wait(self._say_goodbye, code, reason)
        self.abort()  # Sent or not, the reader ends, and the server awaits the peer's answer.

    async def _say_goodbye(self, code: int, reason: str) -> None:
        if self._is_sending:  # Some servers do not allow two tasks to send.
            self._sent = Event()
            await self._sent.wait()
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def abort(self) -> None:
        if not self._is_aborted:
            self._is_aborted = True
            for wait in self._waits:
                wait.cancel()

    async def _wait(self, call: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """Await a call; :meth:`abort` ends it with TransportClosed."""
        if self._is_aborted:
            raise TransportClosed(*self._end or ())
        with CancelScope() as scope:
            self._waits = (*self._waits, scope)
            try:
                return await call(*args)
            except Exception as exc:  # noqa: BLE001  # any exception of a server is sorted
                self._translate(exc)
            finally:
                self._waits = tuple([each for each in self._waits if each is not scope])
        raise TransportClosed(*self._end or ())  # The scope was cancelled, by abort.

    def _translate(self, exc: Exception) -> NoReturn:
        if isinstance(exc, TransportClosed):
            raise exc
        if not isinstance(exc, OSError):  # Specified by ASGI 2.4; a disconnect is read next.
            if self._end is None and not isinstance(exc, _GONE):
                raise exc
            self.abort()
        raise TransportClosed from exc


class ASGIOnAsyncio(ASGITransport):
    """Works without cancel scopes, which cost 3.4 µs (measured), half as much as a delivery."""

    __slots__ = ("_loop",)

    def __init__(self, endpoint: Endpoint, receive: ASGIReceive, send: ASGISend) -> None:
        super().__init__(endpoint, receive, send)
        self._loop: Final = asyncio.get_running_loop()

    async def send(self, frames: Sequence[Frame]) -> None:
        # The hot path of plain ASGI. Nearly always the server's send ends without waiting; only
        # a send that waits must be prepared for abort().
        if self._end is not None or self._is_aborted:
            raise TransportClosed(*self._end or ())
        for frame in frames:
            try:
                begun = begin(self._send(self._message(frame)))
            except Exception as exc:  # noqa: BLE001  # any exception of a server is sorted
                self._translate(exc)
            if begun is None or not isinstance(begun, Rest):
                continue
            self._is_sending = True
            try:
                await self._wait(_itself, begun)
            finally:
                self._has_sent()

    async def _wait(self, call: Callable[..., Awaitable[Any]], *args: object) -> Any:
        task = self._enter()
        before = task.cancelling()
        try:
            return await call(*args)
        except asyncio.CancelledError:
            if self._is_aborted and task.cancelling() == before + 1:
                raise TransportClosed(*self._end or ()) from None
            raise  # Other code cancels, perhaps at the same time.
        except Exception as exc:  # noqa: BLE001  # as above
            self._translate(exc)
        finally:
            self._waits = tuple([each for each in self._waits if each is not task])
            if self._is_aborted:
                task.uncancel()

    def _enter(self) -> asyncio.Task[Any]:
        if self._is_aborted:
            raise TransportClosed(*self._end or ())
        task = asyncio.current_task(self._loop)  # Finding the loop takes a system call (3.11).
        assert task is not None
        self._waits = (*self._waits, task)
        return task


def _itself(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return awaitable


class _Direct(ASGIOnAsyncio):
    """Reaches the socket through the extension of :class:`.WebSocketProtocol`."""

    __slots__ = (
        "_end_within",
        "_reset",
        "round_trip",
        "unsent",
        "wait_writable",
        "window_bits",
        "write_now",
    )

    def __init__(
        self, endpoint: Endpoint, receive: ASGIReceive, send: ASGISend, raw: Mapping[str, Any]
    ) -> None:
        super().__init__(endpoint, receive, send)
        self._reset: Final[Callable[[], None]] = raw["abort"]
        self._end_within: Final[Callable[[float], None]] = raw["end_within"]
        # Attributes, not methods: this saves a call for each delivery.
        self.write_now: Final[Callable[[bytes], None]] = raw["write_now"]
        self.wait_writable: Final[Callable[[], Awaitable[None]]] = raw["wait_writable"]
        self.unsent: Final[Callable[[], int]] = raw["unsent"]
        self.round_trip: Final[Callable[[], float | None]] = raw["round_trip"]
        self.window_bits: Final[int] = raw.get(_WINDOW_BITS, 0)

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.wait_writable()
        self.write_now(b"".join([frame.wire for frame in frames]))
        await self.wait_writable()

    async def close(self, code: int, reason: str) -> None:
        if self.unsent():
            self.abort()
        await super().close(code, reason)
        if self.unsent():
            self._reset()

    def abort(self) -> None:
        if self._end is not None:  # A reset might discard the close frame.
            is_abuse = self._end[0] == CloseCode.RATE_ABUSE  # The peer may send without end.
            self._end_within(FLOOD_SECONDS if is_abuse else self._close_timeout)
        elif not self._is_aborted:
            self._reset()
        super().abort()


def _raw_of(scope: ASGIMessage) -> dict[str, Any] | None:
    """Return what :class:`.WebSocketProtocol` offers, unless others share the socket.

    Over HTTP/2 (RFC 8441) raw bytes or a reset would hit them.
    """
    raw: dict[str, Any] | None = (scope.get("extensions") or {}).get("wsbus")
    return raw if str(scope.get("http_version", "1.1")).startswith("1") else None


def agree(endpoint: Endpoint, scope: ASGIMessage) -> None:
    """Agree with the client on compression, before the handshake is accepted."""
    raw = _raw_of(scope)
    if raw is not None:
        raw["bound"](endpoint.limits.max_message_bytes)  # Before a client may compress.
    if raw is not None and endpoint.deflate is not None:
        from ._deflate import agreements  # needs what this server brings

        raw[_WINDOW_BITS] = raw["agree_on"](agreements(endpoint))


def transport(
    endpoint: Endpoint, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend
) -> ASGITransport:
    raw = _raw_of(scope)
    if raw is not None:
        raw["bound"](endpoint.limits.max_message_bytes)
        return _Direct(endpoint, receive, send, raw)
    try:
        return ASGIOnAsyncio(endpoint, receive, send)
    except RuntimeError:  # Another loop is running.
        return ASGITransport(endpoint, receive, send)


def _is_larger(frame: str | bytes, most: int) -> bool:
    """Tell whether a frame has more than ``most`` bytes; text counts as UTF-8."""
    if len(frame) > most:
        return True
    if isinstance(frame, bytes) or len(frame) * 4 <= most or frame.isascii():
        return False
    return len(frame.encode("utf-8", "surrogatepass")) > most
