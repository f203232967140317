"""What adapters that hold the socket do to it.

asyncio's TLS transport forgets its connection when it is closed twice, as libraries do, and then
raises ``AttributeError`` (seen in Python 3.11).
"""

from __future__ import annotations

import socket
import struct
from asyncio import WriteTransport
from contextlib import suppress
from typing import Final

__all__ = ["keep_shallow", "reset", "unsent"]

_INTERNET: Final = {socket.AF_INET, socket.AF_INET6}


def keep_shallow(transport: WriteTransport) -> None:
    """Let nothing pile up below the queue, out of reach of every overflow policy."""
    # Paused as soon as anything is left over. high=0 would deadlock TLS on Python 3.11.
    transport.set_write_buffer_limits(high=1, low=0)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return
    # asyncio leaves it off if socket.create_server made the listener: replies come 40 ms late.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Else up to 4 MiB wait in the kernel.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 64 * 1024)


def unsent(transport: WriteTransport) -> int:
    """Return the bytes written that the operating system has not taken yet."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # Closed TLS.
        return 0


def reset(transport: WriteTransport) -> None:
    """Free the socket now; what was not sent is lost. Idempotent."""
    with suppress(AttributeError, OSError):  # It is closed already.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Without it the kernel keeps what was not sent, for minutes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
