"""One WebSocket over an anyio byte stream, the same on asyncio and trio.

It uses the Sans-I/O half of ``websockets``. The clients of that library add queues, a keepalive
and a task, which the client session has already.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    aclose_forcefully,
    connect_tcp,
    move_on_after,
)
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, NegotiationError
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import BytesLike, Subprotocol
from websockets.uri import WebSocketURI

from ..core.client.retry import Advice
from ..core.errors import CloseCode, ConnectError, TransportClosed
from .address import DialFailed, explain_network, explain_status, place
from .dialects import ClientDialect

__all__ = ["Wire"]

_READ_BYTES: Final = 256 * 1024
_MAX_UNSENT: Final = 256 * 1024
_LINGER_SECONDS: Final = 1.0
"""Time for the server to close the TCP connection after both close frames."""
_BROKEN: Final = (OSError, BrokenResourceError, ClosedResourceError, EndOfStream)

# Its DEBUG lines would contain tokens.
_quiet: Final = logging.getLogger("wsbus.client.websocket")
_quiet.setLevel(logging.INFO)


class Wire:
    """One connection; :meth:`open` makes it, :meth:`run_writer` must run beside the reader."""

    def __init__(
        self, stream: ByteStream, protocol: ClientProtocol, *, is_binary: bool = False
    ) -> None:
        self._is_binary: Final = is_binary
        self._stream: Final = stream
        self._protocol: Final = protocol
        self._outgoing: list[bytes] = []
        self._unsent = 0
        self._wake = Event()
        self._room = Event()
        self._parts = bytearray()
        self._has_failed = False

    @classmethod
    async def open(
        cls,
        uri: WebSocketURI,
        speaks: ClientDialect,
        *,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        max_bytes: int,
    ) -> Wire:
        """Connect, and perform the handshake.

        Raises:
            DialFailed: It failed; the error says why.
        """
        protocol = ClientProtocol(
            uri,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            max_size=max_bytes,
            logger=_quiet,
        )
        stream = await _connect(uri, tls)
        wire = cls(stream, protocol, is_binary=speaks.is_binary)
        try:
            await wire._shake_hands(uri, speaks, headers)
        except _BROKEN as exc:
            await wire.abort()
            raise explain_network(exc, uri) from exc
        except BaseException:
            await wire.abort()
            raise
        return wire

    async def _shake_hands(
        self, uri: WebSocketURI, speaks: ClientDialect, headers: Mapping[str, str]
    ) -> None:
        protocol = self._protocol
        request = protocol.connect()
        request.headers["User-Agent"] = "wsbus"
        for name, value in headers.items():
            if name in request.headers:
                del request.headers[name]
            request.headers[name] = value
        protocol.send_request(request)
        await self._stream.send(b"".join(protocol.data_to_send()))
        while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            try:
                protocol.receive_data(await self._stream.receive(_READ_BYTES))
            except _BROKEN:
                protocol.receive_eof()  # The end of the stream may end an answer without a length.
        exc = protocol.handshake_exc
        if isinstance(exc, InvalidStatus):
            answer = exc.response
            raise explain_status(answer.status_code, answer.headers, bytes(answer.body or b""), uri)
        if isinstance(exc, NegotiationError) or (
            exc is None and speaks.is_named and protocol.subprotocol is None
        ):
            raise DialFailed(
                ConnectError(f"the server at {place(uri)} does not speak {speaks.name}"),
                Advice.STOP,
            )
        if exc is not None:
            if isinstance(exc.__cause__, EOFError):
                raise explain_network(exc, uri)
            why = f"what answers at {place(uri)} is no WebSocket server: {exc}"
            raise DialFailed(ConnectError(why), Advice.WRONG)

    async def receive(self) -> list[str | bytes]:
        """Wait for bytes; return the messages that they complete, at least one.

        Raises:
            TransportClosed: The connection has ended.
        """
        while True:
            texts = self._take()
            if texts:
                return texts
            self._raise_if_closed()
            while self._unsent > _MAX_UNSENT:  # do not read from a server that does not read
                await self._room.wait()
            try:
                data = await self._stream.receive(_READ_BYTES)
            except _BROKEN:
                raise TransportClosed from None
            self._protocol.receive_data(data)
            self._queue()

    def send(self, message: bytes) -> None:
        """Send one message without waiting. After the end of the connection it does nothing."""
        if self._protocol.state is State.OPEN:
            if self._is_binary:
                self._protocol.send_binary(message)
            else:
                self._protocol.send_text(message)
            self._queue()

    def hang_up(self, code: int, reason: str) -> None:
        """Send a close frame; :meth:`receive` raises once the server has answered it."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._queue()

    async def run_writer(self) -> None:
        """Write the messages in order, until the connection breaks."""
        while True:
            while self._outgoing:
                data, self._outgoing, self._unsent = b"".join(self._outgoing), [], 0
                self._room.set()
                self._room = Event()
                try:
                    await self._stream.send(data)
                except _BROKEN:
                    return  # The reader sees the end, too, and may know why.
            self._wake = Event()
            await self._wake.wait()

    async def finish(self) -> None:
        """Give the server a moment to close the socket first (RFC 6455, section 7.1.1).

        The writer must still run: it has a close frame to write.
        """
        if self._protocol.state is State.CLOSING:
            with move_on_after(_LINGER_SECONDS), suppress(*_BROKEN):
                while True:
                    await self._stream.receive(_READ_BYTES)

    async def abort(self) -> None:
        """Free the socket at once."""
        with CancelScope(shield=True), suppress(*_BROKEN):
            await aclose_forcefully(self._stream)

    def _queue(self) -> None:
        data = self._protocol.data_to_send()
        if data:
            self._outgoing += data
            self._unsent += sum(map(len, data))
            self._wake.set()

    def _take(self) -> list[str | bytes]:
        texts: list[str | bytes] = []
        for frame in self._protocol.events_received():
            if not isinstance(frame, Frame) or frame.opcode > Opcode.BINARY:
                continue
            if frame.opcode is not Opcode.CONT and self._is_binary is not (
                frame.opcode is Opcode.BINARY
            ):
                kinds = ("text", "binary") if self._is_binary else ("binary", "text")
                why = f"{kinds[0]}, where the dialect is {kinds[1]}"
                self._fail(CloseCode.UNSUPPORTED_DATA, why)
                break
            if not frame.fin or self._parts:
                self._parts += frame.data
                if not frame.fin:
                    continue
                data: BytesLike = self._parts
                self._parts = bytearray()
            else:
                data = frame.data
            if self._is_binary:
                texts.append(bytes(data))
                continue
            try:
                texts.append(str(data, "utf-8"))
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_PAYLOAD, "a text is not UTF-8")
                break
        return texts

    def _fail(self, code: int, reason: str) -> None:
        self._has_failed = True
        self._protocol.fail(code, reason)
        self._queue()

    def _raise_if_closed(self) -> None:
        protocol = self._protocol
        close = protocol.close_rcvd
        if close is None and (protocol.parser_exc is not None or self._has_failed):
            close = protocol.close_sent  # Ours: this side found a protocol error.
        if close is not None:
            raise TransportClosed(close.code, close.reason)


async def _connect(uri: WebSocketURI, tls: ssl.SSLContext | None) -> ByteStream:
    try:
        if not uri.secure:
            return await connect_tcp(uri.host, uri.port)
        return await connect_tcp(
            uri.host,
            uri.port,
            tls=True,
            ssl_context=tls,
            tls_standard_compatible=False,
            tls_hostname=uri.host,
        )
    except (EndOfStream, BrokenResourceError) as exc:
        raise explain_network(ssl.SSLError(), uri) from exc
    except OSError as exc:
        raise explain_network(exc, uri) from exc
    except ValueError as exc:  # A label of the name is longer than DNS allows.
        raise explain_network(socket.gaierror(), uri) from exc
