"""A peer's round-trip time, as measured by the operating system."""

from __future__ import annotations

import socket
import struct
from asyncio import WriteTransport
from typing import Final

__all__ = ["round_trip"]

_INTERNET: Final = {socket.AF_INET, socket.AF_INET6}
# Linux's `struct tcp_info`, <linux/tcp.h>: eight bytes, and then words of 32 bits, of which
# `tcpi_rtt` is the sixteenth, in microseconds.
_RTT: Final = struct.Struct("=68xI")


def round_trip(transport: WriteTransport) -> float | None:
    """Return the smoothed round-trip time of a TCP connection in seconds.

    Behind a proxy that is the time to the proxy. None: not TCP, not Linux, or no longer connected.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    except OSError:
        return None
    if len(info) < _RTT.size:
        return None
    microseconds: int = _RTT.unpack(info)[0]
    return microseconds / 1e6
