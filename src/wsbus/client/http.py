"""A client's connection over HTTP: event streams for what comes in, requests for what goes out.

It stands in for a WebSocket (:class:`.Wire`), and speaks ``wsbus.v1`` with the client's session as
one would: a ``subscribe`` opens streams, and their first messages become its answer. Where a proxy
holds a stream back, long polls take its place.

A connection may have several streams, since one stream has one position for all of its names. What
matches names of two of them is taken from the older one, so that it comes once.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import httpx as _httpx  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("a client over HTTP", "http", _exc) from None

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

import msgspec
from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
    get_cancelled_exc_class,
    sleep_forever,
)
from anyio.abc import TaskGroup
from websockets.uri import WebSocketURI

from ..core.errors import CloseCode, ErrorCode, TransportClosed
from ._catching_up import catch_up
from ._http_calls import BROKEN, PING, Calls, HttpAnswer, encoded, in_form, ref_of
from ._overlap import Overlap
from ._readings import (
    HttpRefusal,
    NameStream,
    PollAnswer,
    ReadingGroup,
    StartGiven,
    StreamEnded,
    groups_of,
    texts_of,
    understand,
)
from .address import DialFailed, token_of
from .dialects import ClientDialect

__all__ = ["HttpWire"]

_BUFFERED: Final = 100
"""Messages that wait for the session before no more is read."""
_POLL_SECONDS: Final = 25
"""For which a poll may wait: proxies end silent requests after 30 or 60 seconds."""
_CUT: Final = HttpRefusal(0, ErrorCode.UNAVAILABLE, "the stream was cut")
_GONE: Final = (BrokenResourceError, ClosedResourceError, EndOfStream)
_CLOSINGS: Final = {
    401: CloseCode.TOKEN_EXPIRED,
    429: CloseCode.RATE_ABUSE,
    503: CloseCode.SERVICE_RESTART,
}
"""Close codes for the statuses of a server that ends a conversation."""


class _Request(msgspec.Struct):
    """The part of a request that decides the way it takes."""

    type: str
    id: str | None = None
    channels: tuple[str, ...] = ()
    since: dict[str, StartGiven] = {}
    max_rate: dict[str, float] = {}
    token: str = ""


class HttpWire:
    """One connection; :meth:`open` makes it, :meth:`run_writer` must run beside the reader."""

    def __init__(self, calls: Calls, *, is_known: bool, max_bytes: int) -> None:
        self._calls: Final = calls
        self._max_bytes: Final = max_bytes
        self._end: TransportClosed | None = None
        self._put, self._heard = create_memory_object_stream[str](_BUFFERED)
        self._changes, self._changing = create_memory_object_stream[_Request](math.inf)
        self._asked, self._asking = create_memory_object_stream[tuple[_Request, bytes]](math.inf)
        self._published, self._publishing = create_memory_object_stream[tuple[_Request, bytes]](
            math.inf
        )
        self._readings: Final = Overlap()
        self._tasks: TaskGroup | None = None
        self._polls = False  # A stream was held back.
        data = {"connection_id": "", **({"subject": ""} if is_known else {})}
        self._put.send_nowait(encoded({"type": "connected", "data": data}))

    @classmethod
    async def open(
        cls,
        uri: WebSocketURI,
        speaks: ClientDialect,  # noqa: ARG003  # there is one; see opener
        *,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        max_bytes: int,
    ) -> Self:
        """Find out whether the server answers over HTTP, and accepts the client.

        Args:
            uri: The address of the WebSocket.
            speaks: ``wsbus.v1``.
            subprotocols: One may hold a token.
            headers: More headers; one may hold a token.
            tls: Certificates to trust; None: those that the machine trusts.
            max_bytes: The largest event.

        Raises:
            DialFailed: It does not; the error says why.
        """
        token = token_of(subprotocols)
        calls = Calls(uri, token=token, headers=headers, tls=tls, max_bytes=max_bytes)
        try:
            return cls(calls, is_known=await calls.look(), max_bytes=max_bytes)
        except BaseException:
            await calls.aclose()
            raise

    # --- for the driver --------------------------------------------------------------------------

    async def receive(self) -> list[str | bytes]:
        """Wait for messages; return at least one.

        Raises:
            TransportClosed: The connection has ended.
        """
        try:
            texts: list[str | bytes] = [await self._heard.receive()]
        except _GONE:
            raise self._end or TransportClosed from None
        try:
            while True:
                texts.append(self._heard.receive_nowait())
        except (WouldBlock, *_GONE):
            return texts

    def send(self, message: bytes) -> None:
        """Send one request without waiting. After the end of the connection it does nothing."""
        if self._end is not None:
            return
        request = msgspec.json.decode(message, type=_Request)
        match request.type:
            case "pong":
                pass
            case "subscribe" | "unsubscribe":
                self._changes.send_nowait(request)
            case "publish":
                self._published.send_nowait((request, message))
            case _:
                self._asked.send_nowait((request, message))

    def hang_up(self, code: int, reason: str) -> None:
        """End it; :meth:`receive` raises once all that came is taken."""
        self._fail(code, reason)

    async def run_writer(self) -> None:
        """Send requests, and read streams, until the connection ends."""
        async with create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._work, self._changing, self._change)
            tasks.start_soon(self._work, self._publishing, self._answer)
            tasks.start_soon(self._work, self._asking, self._ask)
            await sleep_forever()

    async def finish(self) -> None:
        """Do nothing: nothing is owed to the server."""

    async def abort(self) -> None:
        """Free the sockets at once."""
        self._end = self._end or TransportClosed()
        for inward in (self._heard, self._changing, self._asking, self._publishing):
            inward.close()
        for outward in (self._put, self._changes, self._asked, self._published):
            outward.close()
        with CancelScope(shield=True):
            await self._calls.aclose()

    # --- requests --------------------------------------------------------------------------------

    async def _work(self, queue: Any, do: Callable[[Any], Awaitable[None]]) -> None:
        """Do what is in a queue, one after the other."""
        async for item in queue:
            await self._guarded(partial(do, item))

    async def _guarded(self, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except HttpRefusal as exc:
            self._fail(_CLOSINGS.get(exc.status, CloseCode.ABNORMAL), exc.message)
        except StreamEnded as exc:
            self._fail(exc.code, exc.reason)
        except BROKEN as exc:
            self._fail(CloseCode.ABNORMAL, f"{type(exc).__name__}: {exc}")

    async def _ask(self, asked: tuple[_Request, bytes]) -> None:
        """Send a request beside others, but one with a token after what came before."""
        request, _ = asked
        if request.type == "auth":
            await self._authenticate(request)
        else:
            self._spawn(partial(self._answer, asked))

    async def _answer(self, asked: tuple[_Request, bytes]) -> None:
        request, message = asked
        status, body = await self._calls.post(message)
        if status == 401:
            raise HttpRefusal(status, ErrorCode.UNAUTHENTICATED, "the token is not valid any more")
        await self._tell(in_form(status, body, request.id))

    def _spawn(self, do: Callable[[], Awaitable[None]]) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._guarded, do)

    async def _authenticate(self, request: _Request) -> None:
        """Try a token, and use it from now on; streams go on until the server ends them."""
        result: dict[str, Any] = {"type": "auth_result", "success": False}
        try:
            status, body = await self._calls.post(PING, request.token)
        except DialFailed as exc:  # No header can carry the token.
            result["error"] = {"code": ErrorCode.UNAUTHENTICATED, "message": str(exc.error)}
        else:
            if status == 200:
                self._calls.token = request.token
                result |= {"success": True, "data": {"subject": ""}}
            else:
                result["error"] = msgspec.json.decode(body, type=HttpAnswer).fault
        await self._tell(encoded({**result, **ref_of(request.id)}))

    # --- subscriptions ---------------------------------------------------------------------------

    async def _change(self, request: _Request) -> None:
        if request.type == "subscribe":
            await self._subscribe(request)
            return
        for name in request.channels:
            await self._forget(name)
        data = {"channels": request.channels, "active_subscriptions": self._readings.count}
        await self._tell(encoded({"type": "unsubscribed", "data": data, **ref_of(request.id)}))

    async def _subscribe(self, request: _Request) -> None:
        """Open the streams that a request needs; answer it once all have begun."""
        begun = []
        rejected: list[dict[str, Any]] = []
        for group in groups_of(request.channels, request.since, request.max_rate):
            reading = await self._begin(group)
            rejected += reading.rejected
            if reading.refused is None:
                begun.append(reading)
            elif reading.refused.status in _CLOSINGS or not reading.refused.status:
                raise reading.refused
            else:
                fault = {"code": reading.refused.code, "message": reading.refused.message}
                rejected += [{"channel": name, **fault} for name in reading.asked]
        data = {
            "channels": [name for reading in begun for name in reading.names],
            "active_subscriptions": self._readings.count,
            "rejected": rejected,
            "positions": [at for reading in begun for at in reading.positions],
        }
        await self._tell(encoded({"type": "subscribed", "data": data, **ref_of(request.id)}))
        for reading in begun:
            reading.may_go_on.set()

    async def _begin(self, group: ReadingGroup) -> NameStream:
        reading = NameStream(group)
        self._readings.add(reading)
        self._spawn(partial(self._read, reading))
        await reading.begun.wait()
        for name in group.names:
            await self._forget(name, reading)
        if reading.refused is not None:
            self._readings.drop(reading)
        return reading

    async def _forget(self, name: str, but: NameStream | None = None) -> None:
        for text in self._readings.forget(name, but):
            await self._tell(text)

    # --- streams and polls -----------------------------------------------------------------------

    async def _read(self, reading: NameStream) -> None:
        """Read a stream until it is dropped; a stream that ends ends the connection."""
        try:
            with reading.scope:
                await catch_up(self._calls, reading)
                if self._polls or not await self._read_stream(reading):
                    self._polls = True
                    await self._read_polls(reading)
                raise _CUT
        except HttpRefusal as exc:
            if reading.begun.is_set():
                raise
            reading.refused = exc
        except BROKEN:
            reading.refused = _CUT
            raise
        finally:
            reading.begun.set()

    async def _read_stream(self, reading: NameStream) -> bool:
        """Read a stream to its end; return False if it was held back, and is to be polled.

        It ends in httpx's generators only, which on trio are not to be left before their end.
        """
        with reading.held() as wait:
            async with self._calls.stream(reading.query()) as chunks:
                async for text in texts_of(chunks, reading, self._max_bytes):
                    with suppress(get_cancelled_exc_class()):  # It comes again; see above.
                        await self._guarded(partial(self._take, reading, wait, text))
        return not wait.cancelled_caught

    async def _take(self, reading: NameStream, wait: CancelScope, text: str) -> None:
        if reading.begun.is_set():
            await self._hear(reading, text)
        elif reading.begin(text):
            wait.deadline = math.inf
            await self._start(reading)

    async def _start(self, reading: NameStream) -> None:
        """Have the request answered, and pass on what came before that."""
        reading.begun.set()
        await reading.may_go_on.wait()
        for text in reading.early:
            await self._hear(reading, text)
        reading.early.clear()

    async def _read_polls(self, reading: NameStream) -> None:
        while True:
            wait = f"{_POLL_SECONDS if reading.begun.is_set() else 0}"
            body = await self._calls.poll([*reading.query(), ("wait", wait)])
            found = msgspec.json.decode(body, type=PollAnswer)
            has_begun = reading.begun.is_set()
            reading.token, reading.is_due = found.position, True
            for message in found.messages:
                text = bytes(message).decode()
                if has_begun:
                    await self._hear(reading, text)
                else:
                    reading.begin(text)
            if not has_begun:
                reading.begin_now()
                await self._start(reading)

    async def _hear(self, reading: NameStream, text: str) -> None:
        """Pass a message of a stream on, unless another stream brings it, or nothing wants it."""
        said = understand(text)
        match said.type:
            case "close":
                code = said.code if isinstance(said.code, int) else CloseCode.ABNORMAL
                raise StreamEnded(code, said.advice)
            case "connected" | "subscribed" | "pong":
                return
            case "unsubscribed":
                for name in said.names:
                    await self._forget(name)
            case "event":
                if not self._readings.takes(reading, text, said):
                    return
        await self._tell(text)

    # --- the end ---------------------------------------------------------------------------------

    async def _tell(self, text: str) -> None:
        if self._end is None:
            await self._put.send(text)

    def _fail(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = TransportClosed(code, reason)
            self._put.close()
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()
