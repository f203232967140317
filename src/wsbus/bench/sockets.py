"""A WebSocket client that costs next to nothing: an upgraded socket without a parser."""

from __future__ import annotations

import base64
import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from .errors import BenchError

__all__ = ["RawClient", "Tally", "frame"]

_PATIENCE: Final = 30.0
_RESET: Final = struct.pack("ii", 1, 0)
_MAX_HEAD: Final = 65_536
# Linux, asm-generic/socket.h: choose the port at connect, so that one port serves many peers.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


def frame(payload: bytes, *, is_binary: bool = False) -> bytes:
    """Return a client's frame. Its mask is zero, which RFC 6455 allows and costs nothing."""
    opcode = 0x82 if is_binary else 0x81
    size = len(payload)
    if size < 126:
        head = bytes((opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((opcode, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((opcode, 0xFF)) + size.to_bytes(8)
    return head + bytes(4) + payload


class Tally:
    """The number of messages that a subscriber has."""

    __slots__ = ("is_open", "received")

    def __init__(self) -> None:
        self.received: int = 0
        self.is_open: bool = True


class RawClient(Tally):
    """A connection after its handshake, for the load generator.

    Args:
        host: A name or an address, of IPv4 or IPv6.
        port: The server's port.
        path: The path, with the query if any.
        subprotocol: Offered; the server must choose it. None: none is offered.
        receive_buffer: Size of the kernel's buffer in bytes; None: the default. A small one makes
            a client that does not read get stuck soon.

    Raises:
        BenchError: There is no server, or it refused the handshake.
    """

    __slots__ = ("_outbox", "_rest", "expected", "recv_into", "sock", "tail")

    def __init__(
        self,
        host: str,
        port: int,
        path: str = "/ws",
        subprotocol: str | None = None,
        *,
        receive_buffer: int | None = None,
    ) -> None:
        super().__init__()
        self.sock: Final = _connect(host, port, receive_buffer)
        self.recv_into: Final = self.sock.recv_into
        self.expected: int = 0
        """The number that the next message should have."""
        self.tail: bytes = b""
        """The end of the last read, which may be the beginning of a marker."""
        self._outbox = b""
        self._rest = b""
        try:
            self._shake_hands(host, port, path, subprotocol)
        except BaseException:
            self.close()
            raise

    def _shake_hands(self, host: str, port: int, path: str, subprotocol: str | None) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n{offer}"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = self.read_until(b"\r\n\r\n", "answer to the handshake").decode("latin-1")
        status, *lines = head.split("\r\n")
        if status.split(" ")[1:2] != ["101"]:
            raise BenchError(f"the handshake was refused: {status}")
        fields = (line.partition(":") for line in lines)
        chosen = {n.strip().lower(): v.strip() for n, _, v in fields}.get("sec-websocket-protocol")
        if subprotocol and chosen != subprotocol:
            raise BenchError(f"the server does not speak {subprotocol}, but {chosen or 'another'}")

    def converse(
        self, steps: Iterable[tuple[bytes | None, bytes | None]], *, is_binary: bool = False
    ) -> None:
        """Perform steps: send a payload, and read up to its answer.

        Raises:
            BenchError: An answer did not come within 30 s, or the connection was closed.
        """
        for payload, marker in steps:
            if payload is not None:
                self.sock.sendall(frame(payload, is_binary=is_binary))
            if marker is not None:
                self.read_until(marker, marker.decode("ascii", "backslashreplace"))

    def read_until(self, marker: bytes, what: str) -> bytes:
        """Read up to a marker, and keep what follows it for the next call.

        Raises:
            BenchError: It did not come within 30 s, or the connection was closed.
        """
        data = self._rest
        while marker not in data:
            try:
                more = self.sock.recv(_MAX_HEAD)
            except TimeoutError:
                raise BenchError(f"no {what} within {_PATIENCE:g} s; but {data[:200]!r}") from None
            except OSError as exc:
                raise BenchError(f"no {what}: {exc.strerror}") from exc
            if not more:
                raise BenchError(f"the server closed the connection; no {what}: {data[:200]!r}")
            data += more
        before, _, self._rest = data.partition(marker)
        return before

    def send_soon(self, wire: bytes = b"") -> None:
        """Write frames, after those that the kernel did not take before, as far as it takes them.

        The socket must not be blocking.
        """
        data = self._outbox + wire
        if data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError as exc:
                raise BenchError(f"the server closed the connection: {exc.strerror}") from exc
            self._outbox = data

    def discard_input(self) -> None:
        """Read and discard all input; the socket must not be blocking.

        Raises:
            BenchError: The connection was closed.
        """
        try:
            if not self.sock.recv(_MAX_HEAD):
                raise BenchError("the server closed the connection")
        except BlockingIOError:
            pass
        except OSError as exc:
            raise BenchError(f"the server closed the connection: {exc.strerror}") from exc

    def close(self) -> None:
        """Reset the connection, so that its port does not stay in TIME_WAIT."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


def _connect(host: str, port: int, receive_buffer: int | None) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise BenchError(f"there is no host {host}: {exc.strerror}") from exc
    for source in _sources(str(address[0])):
        sock = socket.socket(family, kind)
        try:
            sock.settimeout(_PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            if exc.errno != errno.EADDRNOTAVAIL:
                reason = exc.strerror or str(exc)
                raise BenchError(f"no connection to {host}, port {port}: {reason}") from exc
        else:
            return sock
    raise BenchError(f"no connection to {host}, port {port}: all ports of this machine are taken")


def _sources(address: str) -> Iterator[str | None]:
    """Yield source addresses: the loopback network has more when ports run short."""
    yield None
    if address.startswith("127."):
        yield from (f"127.0.0.{last}" for last in itertools.islice(itertools.count(2), 100))
