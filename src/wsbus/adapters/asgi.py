"""Adapter for every ASGI framework and server: one application object.

As the whole application, it starts and stops the bus, too::

    uvicorn.run(app(bus), **uvicorn_options(bus))

In a framework, mount it where a WebSocket route or another ASGI application goes, and run the bus
with the framework's own lifespan; :mod:`.starlette` does both in a line each for Starlette and
FastAPI.

Plain ASGI differs from the other adapters in one thing: the socket is out of reach. A peer that
never reads costs the bus nothing after the write deadline, but its socket lives until the server
lets it go; uvicorn waits for the peer to leave. Where that matters, set ``TCP_USER_TIMEOUT`` on the
listening socket. Nor can anybody bound the pongs that uvicorn writes for a peer which floods it
with pings and reads none.

uvicorn must be 0.52.1 or newer: older ones, and daphne, take all that is sent into memory, so
that no bound and no overflow policy can hold. uvicorn closes what is not UTF-8 with 1007, and logs
an error with a traceback, see :class:`.RedactQuery`; it reports a reset connection as 1005, and
hypercorn every close by the client as 1006.

Under uvicorn with :func:`.uvicorn_options` all of this is mended, and fan-out is twice as fast: the
socket comes within reach, through ``scope["extensions"]["wsbus"]``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import (
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import suppress
from functools import cache
from typing import Any, Final, NoReturn, TypeAlias

from anyio import BrokenResourceError, CancelScope, ClosedResourceError, Event, move_on_after
from anyio.lowlevel import checkpoint

from ..bus import Bus
from ..core.errors import CloseCode, TransportClosed, UsageError
from ..core.frame import Frame
from ..endpoint import Endpoint, Refusal
from ..runner import begin
from ..transport import Handshake, join_headers

__all__ = ["Application", "app"]

logger: Final = logging.getLogger("wsbus.asgi")

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]

# What servers raise, besides OSError, when asked to send to nobody.
_GONE: Final = (RuntimeError, ClosedResourceError, BrokenResourceError)


class _Transport:
    """Waits through the server's two callables; abort() ends any wait, wherever it takes place."""

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

    def __init__(self, endpoint: Endpoint, receive: _Receive, send: _Send) -> None:
        self._receive: Final = receive
        self._send: Final = send
        self._max_bytes: Final = endpoint.limits.max_message_bytes
        self._close_timeout: Final = endpoint.limits.close_timeout
        self._waits: Final[set[CancelScope | asyncio.Task[Any]]] = set()
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

    async def _write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            await self._send(_message(frame))

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
        self.abort()  # Said or not: the reader ends, and the server sees to the peer's answer.

    async def _say_goodbye(self, code: int, reason: str) -> None:
        if self._is_sending:  # Not every server bears two tasks that send.
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
            self._waits.add(scope)
            try:
                return await call(*args)
            except Exception as exc:  # noqa: BLE001  # whatever a server raises is sorted
                self._translate(exc)
            finally:
                self._waits.discard(scope)
        raise TransportClosed(*self._end or ())  # The scope was cancelled, by abort.

    def _translate(self, exc: Exception) -> NoReturn:
        if isinstance(exc, TransportClosed):
            raise exc
        if not isinstance(exc, OSError):  # As ASGI has it since 2.4; a disconnect is read next.
            if self._end is None and not isinstance(exc, _GONE):
                raise exc
            self.abort()
        raise TransportClosed from exc


class _OnAsyncio(_Transport):
    """Does without cancel scopes, which cost 3.4 µs (measured), half of what a delivery does."""

    __slots__ = ("_loop",)

    def __init__(self, endpoint: Endpoint, receive: _Receive, send: _Send) -> None:
        super().__init__(endpoint, receive, send)
        self._loop: Final = asyncio.get_running_loop()

    async def send(self, frames: Sequence[Frame]) -> None:
        # The hot path of plain ASGI. Nearly always there is room, and the server's send ends
        # without having waited: only when it does wait, there is something to prepare for.
        if self._end is not None or self._is_aborted:
            raise TransportClosed(*self._end or ())
        for frame in frames:
            try:
                begun = begin(self._send(_message(frame)))
            except Exception as exc:  # noqa: BLE001  # whatever a server raises is sorted
                self._translate(exc)
            if begun is None:
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
            raise  # Somebody else cancels, perhaps besides.
        except Exception as exc:  # noqa: BLE001  # as above
            self._translate(exc)
        finally:
            self._waits.discard(task)
            if self._is_aborted:
                task.uncancel()

    def _enter(self) -> asyncio.Task[Any]:
        if self._is_aborted:
            raise TransportClosed(*self._end or ())
        task = asyncio.current_task(self._loop)  # To find the loop takes a system call (3.11).
        assert task is not None
        self._waits.add(task)
        return task


def _itself(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return awaitable


class _Direct(_OnAsyncio):
    """Has the socket within reach; see :class:`.WebSocketProtocol`."""

    __slots__ = ("_reset", "room", "unsent", "write_now")

    def __init__(
        self, endpoint: Endpoint, receive: _Receive, send: _Send, raw: Mapping[str, Any]
    ) -> None:
        super().__init__(endpoint, receive, send)
        self._reset: Final[Callable[[], None]] = raw["abort"]
        # No methods of its own: it saves a call for each delivery.
        self.write_now: Final[Callable[[bytes], None]] = raw["write_now"]
        self.room: Final[Callable[[], Awaitable[None]]] = raw["room"]
        self.unsent: Final[Callable[[], int]] = raw["unsent"]

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.room()
        self.write_now(b"".join([frame.wire for frame in frames]))
        await self.room()

    async def close(self, code: int, reason: str) -> None:
        if self.unsent():
            self.abort()
        await super().close(code, reason)
        if self.unsent():
            self._reset()

    def abort(self) -> None:
        if self._end is None and not self._is_aborted:  # Else it might cut a close frame off.
            self._reset()
        super().abort()


def _transport(endpoint: Endpoint, scope: _Message, receive: _Receive, send: _Send) -> _Transport:
    raw = (scope.get("extensions") or {}).get("wsbus")
    if raw is not None:
        return _Direct(endpoint, receive, send, raw)
    try:
        return _OnAsyncio(endpoint, receive, send)
    except RuntimeError:  # Another loop is running.
        return _Transport(endpoint, receive, send)


def _message(frame: Frame) -> _Message:
    if frame.is_text:
        return {"type": "websocket.send", "text": frame.text}
    return {"type": "websocket.send", "bytes": frame.payload}


class Application:
    """An ASGI application; made by :func:`app`."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint: Final = endpoint

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection, or the server's lifespan."""
        match scope["type"]:
            case "websocket":
                _warn_of_old_uvicorn()
                await self._converse(scope, receive, send)
            case "http":
                await _decline(scope, send)
            case "lifespan":
                await self._live(receive, send)
            case other:
                raise UsageError(f"no such ASGI scope is known here: {other!r}")

    async def _converse(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        verdict = await self._endpoint.admit(_handshake(scope))
        try:
            if isinstance(verdict, Refusal):
                await _refuse(verdict, scope, send)
                return
            accept: _Message = {"type": "websocket.accept"}
            if verdict.subprotocol is not None:
                accept["subprotocol"] = verdict.subprotocol
            await send(accept)
        except OSError:  # It left while it was judged.
            return
        transport = _transport(self._endpoint, scope, receive, send)
        try:
            await self._endpoint.run(transport, verdict)
        finally:
            transport.abort()  # No send outlives the application, as ASGI wants it.

    async def _live(self, receive: _Receive, send: _Send) -> None:
        """Start the bus, unless the application has done so, and stop it at the end."""
        await receive()
        bus = self._endpoint.gate
        is_ours = isinstance(bus, Bus) and not bus.is_running
        try:
            if isinstance(bus, Bus) and is_ours:
                await bus.__aenter__()
        except Exception as exc:  # noqa: BLE001  # told; raised, uvicorn would go on without a bus
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            if isinstance(bus, Bus) and is_ours:
                await bus.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def app(door: Bus | Endpoint) -> Application:
    """Return an ASGI application whose WebSockets, on any path, come in by this door.

    Refused handshakes are answered with their HTTP status where the server can (uvicorn,
    hypercorn), with 403 otherwise. HTTP requests are answered 426.

    Args:
        door: Where clients come in; a bus means its default endpoint.
    """
    return Application(door.default_endpoint if isinstance(door, Bus) else door)


async def _refuse(refusal: Refusal, scope: _Message, send: _Send) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        # Before the handshake is complete that means 403.
        await send({"type": "websocket.close", "code": refusal.close_code})
        return
    await _respond("websocket.http.response", refusal.status, refusal.reason, send)
    # uvicorn logs an error if the application returns before it has let the connection go.
    await checkpoint()


async def _decline(scope: _Message, send: _Send) -> None:
    if str(scope.get("http_version", "")).startswith("1"):
        headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        await _respond("http.response", 426, "this is a WebSocket", send, headers)
    else:
        await _respond("http.response", 404, "this is a WebSocket", send)


async def _respond(
    kind: str,
    status: int,
    text: str,
    send: _Send,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    body = f"{text}\n".encode()
    own = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": [*own, *headers]})
    await send({"type": f"{kind}.body", "body": body})


def _handshake(scope: _Message) -> Handshake:
    client = scope.get("client")
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return Handshake(
        path=scope["path"],
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers=join_headers(pairs),
        client=None if client is None else (client[0], client[1]),
        subprotocols=tuple(name for name in scope.get("subprotocols", ()) if name),
        path_params={name: str(value) for name, value in scope.get("path_params", {}).items()},
    )


def _is_larger(frame: str | bytes, most: int) -> bool:
    """Tell whether it is more than ``most`` bytes; text counts as UTF-8."""
    if len(frame) > most:
        return True
    if isinstance(frame, bytes) or len(frame) * 4 <= most or frame.isascii():
        return False
    return len(frame.encode("utf-8", "surrogatepass")) > most


@cache
def _warn_of_old_uvicorn() -> None:
    version = getattr(sys.modules.get("uvicorn"), "__version__", "")
    if _is_too_old(version):
        logger.warning(
            "uvicorn %s keeps all that a slow client does not read in memory; take 0.52.1 or newer",
            version,
        )


def _is_too_old(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return found is not None and tuple(int(part or 0) for part in found.groups()) < (0, 52, 1)
