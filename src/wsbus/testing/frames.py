"""RFC 6455 frames as a client writes and reads them, so that tests can break every rule."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from ..core.errors import CloseCode, TransportClosed, WsbusError

__all__ = [
    "FrameReader",
    "Opcode",
    "ProtocolViolation",
    "WireFrame",
    "client_frame",
    "close_body",
    "read_close",
]

_MASK: Final = b"\x37\xfa\x21\x3d"
_MAX_CONTROL: Final = 125


class Opcode(IntEnum):
    """RFC 6455, section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class ProtocolViolation(WsbusError, AssertionError):
    """The server wrote bytes that RFC 6455 forbids."""


class WireFrame(NamedTuple):
    """One frame, unmasked."""

    opcode: Opcode
    payload: bytes
    is_final: bool


def client_frame(opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
    """Return a frame as a client writes it, masked (RFC 6455, section 5.3); nothing is checked."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 * is_final | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 * is_final | opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 * is_final | opcode, 0x80 | 127)) + size.to_bytes(8)
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload) ^ int.from_bytes(mask)
    return head + _MASK + masked.to_bytes(size)


def close_body(code: int | None, reason: str = "") -> bytes:
    """Return the payload of a close frame; no code: an empty one."""
    return b"" if code is None else code.to_bytes(2) + reason.encode()


def read_close(payload: bytes) -> TransportClosed:
    """Return the code and the reason of a close frame (RFC 6455, section 7.1.5).

    Raises:
        ProtocolViolation: One byte, or a reason that is not UTF-8.
    """
    if not payload:
        return TransportClosed(CloseCode.NO_STATUS)
    if len(payload) == 1:
        raise ProtocolViolation("a close frame with half a code")
    try:
        return TransportClosed(int.from_bytes(payload[:2]), payload[2:].decode())
    except UnicodeDecodeError:
        raise ProtocolViolation("the reason of a close frame is not UTF-8") from None


class FrameReader:
    """Cuts a server's bytes into frames, and refuses frames that a server must not write."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[WireFrame]:
        """Take bytes; yield the frames that they complete.

        Raises:
            ProtocolViolation: A reserved bit or opcode, a mask, a control frame that is long or
                in pieces, or a length that is not the shortest.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> WireFrame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[:2]
        if first & 0x70 or second & 0x80:
            raise ProtocolViolation("a reserved bit, or a mask, in a server's frame")
        size, start = second, 2
        if second >= 126:
            start = 4 if second == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start])
            if size < (126 if second == 126 else 65536):
                raise ProtocolViolation("the length of a frame is not written the shortest way")
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        del buffer[: start + size]
        return _judged(first & 0x0F, payload, is_final=bool(first & 0x80))


def _judged(opcode: int, payload: bytes, *, is_final: bool) -> WireFrame:
    try:
        kind = Opcode(opcode)
    except ValueError:
        raise ProtocolViolation(f"the opcode {opcode} is reserved") from None
    if kind >= Opcode.CLOSE and (len(payload) > _MAX_CONTROL or not is_final):
        raise ProtocolViolation("a control frame that is long, or in pieces")
    return WireFrame(kind, payload, is_final)
