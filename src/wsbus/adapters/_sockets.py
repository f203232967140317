"""Functions of adapters that hold the socket.

asyncio's TLS transport forgets its connection when it is closed twice, as libraries do, and then
raises ``AttributeError`` (seen in Python 3.11).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from asyncio import WriteTransport
from contextlib import suppress
from typing import Final, Protocol

__all__ = ["Writer", "keep_shallow", "make_writer", "reset", "unsent"]

_INTERNET: Final = {socket.AF_INET, socket.AF_INET6}


def keep_shallow(transport: WriteTransport) -> None:
    """Keep buffers below the queue small: overflow policies do not reach them."""
    # Pause as soon as anything is left over. high=0 would deadlock TLS on Python 3.11.
    is_encrypted = transport.get_extra_info("sslcontext") is not None
    transport.set_write_buffer_limits(high=1 if is_encrypted else 0, low=0)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return
    # asyncio leaves it off if socket.create_server made the listener: replies come 40 ms late.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Without it up to 4 MiB wait in the kernel.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 64 * 1024)


class Writer(Protocol):
    """The result of :func:`make_writer`."""

    def write(self, wire: bytes, /) -> None:
        """Write, and keep the bytes that the system does not take now."""
        ...


def make_writer(transport: WriteTransport) -> Writer:
    """Return a writer that writes as the transport does; use it only while that is not paused.

    Where the transport's bytes go to the socket unchanged (no TLS, asyncio's own loop on a POSIX
    system), it writes to the descriptor, and gives the transport only the bytes that the system
    does not take. This saves half the cost of a delivery besides the system call itself (measured:
    1.33 µs a write, the call included, against 2.15 µs). It is sound because :func:`keep_shallow`
    makes a transport pause as soon as it holds a byte: while it is not paused, nothing waits to be
    written before. And the descriptor is closed only after ``connection_lost`` was called, which
    counts as paused.
    """
    sock = transport.get_extra_info("socket")
    is_plain = sock is not None and transport.get_extra_info("sslcontext") is None
    loop = asyncio.get_running_loop()
    if is_plain and os.name == "posix" and isinstance(loop, asyncio.SelectorEventLoop):
        return _Descriptor(sock.fileno(), transport)
    return transport


class _Descriptor:
    __slots__ = ("_number", "_transport")

    def __init__(self, number: int, transport: WriteTransport) -> None:
        self._number: Final = number
        self._transport: Final = transport

    def write(self, wire: bytes, /) -> None:
        try:
            taken = os.write(self._number, wire)
        except OSError:  # A full buffer, or a lost peer: the transport handles both.
            taken = 0
        if taken < len(wire):
            self._transport.write(wire[taken:])


def unsent(transport: WriteTransport) -> int:
    """Return the bytes written that the operating system has not taken yet."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # Closed TLS.
        return 0


def reset(transport: WriteTransport) -> None:
    """Free the socket at once; unsent data are lost. Idempotent."""
    with suppress(AttributeError, OSError):  # It is closed already.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Without it the kernel keeps unsent data for minutes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
