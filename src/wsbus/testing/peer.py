"""A WebSocket client under a test's control, which can also do nothing, or the wrong thing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

from anyio import fail_after, notify_closing, wait_readable, wait_writable
from anyio.lowlevel import checkpoint

from ..core.errors import TransportClosed
from ..transport import HeaderView
from .frames import FrameReader, Opcode, ProtocolViolation, client_frame, close_body, read_close

__all__ = ["Peer"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: closing resets
_HANG_UP_SECONDS: Final = 5.0
_READ_BYTES: Final = 256 * 1024


class Peer:
    """The client's side of one connection, on a plain socket; made by :meth:`connect`.

    It reads from the socket in its methods only, so that an idle peer does not read.
    """

    def __init__(self, sock: socket.socket, status: int, headers: dict[str, str]) -> None:
        self.status: Final = status
        """HTTP status of the answer; the other methods need a 101."""
        self.headers: Final = headers
        """Headers of the answer, names in lower case."""
        self.address: Final[tuple[str, int]] = sock.getsockname()[:2]
        """Its own address and port, which the server should see."""
        self.pongs: Final[list[bytes]] = []
        """Payloads of the pongs read so far."""
        self._socket: Final = sock
        self._frames: Final = FrameReader()
        self._messages: Final[deque[str | bytes]] = deque()
        self._pings: Final[list[bytes]] = []
        self._parts: list[bytes] = []
        self._is_text = True
        self._closed: TransportClosed | None = None
        self._has_said_goodbye = False

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        target: str = "/ws",
        *,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        receive_buffer: int | None = None,
    ) -> Peer:
        """Ask for a WebSocket; see :attr:`status` for the answer.

        Args:
            address: Host and port of the server.
            target: Path and query, as they go on the wire; U+DCFF, a surrogate, sends the byte
                0xFF.
            subprotocols: Subprotocols to offer.
            headers: More headers.
            receive_buffer: Bytes that the kernel takes while the peer does not read; None: the
                default, which may be megabytes.

        Raises:
            ProtocolViolation: The answer is not HTTP, or accepts with a wrong key.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect(address)  # To a listener on this machine: it does not wait.
            sock.setblocking(False)  # noqa: FBT003  # positional only
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            key = base64.b64encode(secrets.token_bytes(16))
            offers = [("Sec-WebSocket-Protocol", ", ".join(subprotocols))] if subprotocols else []
            request = [
                f"GET {target} HTTP/1.1",
                f"Host: {address[0]}:{address[1]}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {key.decode()}",
                "Sec-WebSocket-Version: 13",
                *(f"{name}: {value}" for name, value in (*offers, *headers)),
            ]
            head = "\r\n".join([*request, "", ""])
            await _send(sock, head.encode("utf-8", "surrogateescape"))
            status, fields, rest = await _read_answer(sock)
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324
            if status == 101 and fields.get("sec-websocket-accept") != accept:
                raise ProtocolViolation("the key in the server's answer is not the right one")
        except BaseException:
            sock.close()
            raise
        peer = cls(sock, status, fields)
        if status == 101:
            peer._feed(rest)
        else:
            peer.hang_up()
        return peer

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server chose."""
        return self.headers.get("sec-websocket-protocol")

    async def send(self, message: str | bytes) -> None:
        """Send one message in one frame."""
        if isinstance(message, str):
            await self.send_frame(Opcode.TEXT, message.encode())
        else:
            await self.send_frame(Opcode.BINARY, message)

    async def send_frame(self, opcode: int, payload: bytes, *, is_final: bool = True) -> None:
        """Send one frame, legal or not."""
        await self.send_raw(client_frame(opcode, payload, is_final=is_final))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            OSError: The server has cut the connection.
        """
        await _send(self._socket, data)

    def send_some(self, data: bytes) -> int:
        """Send what the system takes now, perhaps nothing; return the number of bytes.

        Raises:
            OSError: The server has cut the connection.
        """
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def read_some(self, most: int) -> int:
        """Wait for bytes, read at most ``most`` of them, and discard them.

        After that, messages cannot be received any more.
        """
        while True:
            try:
                return len(self._socket.recv(most))
            except BlockingIOError:
                await wait_readable(self._socket)

    async def receive(self) -> str | bytes:
        """Wait for the next message; answer pings, and a close frame, on the way.

        Raises:
            TransportClosed: The server sent a close frame, or closed without one (1006).
            TimeoutError: It sent a close frame, and did not close the socket.
            ProtocolViolation: It wrote bytes that RFC 6455 forbids.
        """
        while not self._messages:
            if self._closed is not None:
                raise self._closed
            await self._read_some()
        await checkpoint()
        return self._messages.popleft()

    async def wait_closed(self) -> TransportClosed:
        """Read to the end, discarding messages, and return how the connection ended."""
        try:
            while True:
                await self.receive()
        except TransportClosed as closed:
            return closed

    async def was_reset(self) -> bool:
        """Read to the end, and tell whether the connection was reset."""
        try:
            while await _recv(self._socket):
                pass
        except ConnectionError:
            return True
        return False

    async def close(self, code: int | None = 1000, reason: str = "") -> TransportClosed:
        """Send a close frame, and return the server's answer."""
        self._has_said_goodbye = True
        await self.send_frame(Opcode.CLOSE, close_body(code, reason))
        return await self.wait_closed()

    def reset(self) -> None:
        """Reset the connection, as a crash does."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket without a close frame. Idempotent."""
        if self._socket.fileno() >= 0:
            notify_closing(self._socket)
            self._socket.close()

    async def _read_some(self) -> None:
        try:
            data = await _recv(self._socket)
        except ConnectionError:
            data = b""
        if data:
            self._feed(data)
        else:
            self._closed = TransportClosed()
        pings = self._pings[:]
        self._pings.clear()
        with contextlib.suppress(OSError):
            if self._closed is None:
                for payload in pings:
                    await self.send_frame(Opcode.PONG, payload)
            else:
                await self._leave(self._closed)

    async def _leave(self, closed: TransportClosed) -> None:
        """Answer a close frame, and let the server close first (RFC 6455, section 7.1.1)."""
        try:
            if not self._has_said_goodbye:
                code = None if closed.code in {1005, 1006} else closed.code
                await self.send_frame(Opcode.CLOSE, close_body(code))
            with fail_after(_HANG_UP_SECONDS):
                while rest := await _recv(self._socket):
                    self._feed(rest)
        finally:
            self.hang_up()

    def _feed(self, data: bytes) -> None:
        for opcode, payload, is_final in self._frames.feed(data):
            if self._closed is not None:
                raise ProtocolViolation("a frame after the close frame")
            match opcode:
                case Opcode.CLOSE:
                    self._closed = read_close(payload)
                case Opcode.PONG:
                    self.pongs.append(payload)
                case Opcode.PING:
                    self._pings.append(payload)
                case Opcode.TEXT | Opcode.BINARY | Opcode.CONTINUATION:
                    self._take(opcode, payload, is_final=is_final)

    def _take(self, opcode: Opcode, payload: bytes, *, is_final: bool) -> None:
        if (opcode is Opcode.CONTINUATION) is not bool(self._parts):
            raise ProtocolViolation("fragments out of order")
        if opcode is not Opcode.CONTINUATION:
            self._is_text = opcode is Opcode.TEXT
        self._parts.append(payload)
        if is_final:
            message = b"".join(self._parts)
            self._parts.clear()
            self._messages.append(_text(message) if self._is_text else message)


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("a text frame that is not UTF-8") from None


async def _send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await wait_writable(sock)
    await checkpoint()


async def _recv(sock: socket.socket) -> bytes:
    while True:
        try:
            return sock.recv(_READ_BYTES)
        except BlockingIOError:
            await wait_readable(sock)


async def _read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await _recv(sock)
        if not data:
            raise ProtocolViolation("the server hung up without an answer")
        answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ProtocolViolation("the answer is not HTTP/1.1")
    fields = [line.partition(":") for line in lines]
    headers = [(name, value.strip()) for name, _, value in fields]
    return int(status[:3]), dict(HeaderView(lambda: headers)), rest
