"""Bounds on the data of a peer, which aiortc does not set itself.

aiortc tells its peers how much it would take, as SCTP asks, and takes whatever they send. It passes
each message on at once, and then counts it as read, whether it was read or not. Its attributes that
are used here are not public; the extra names the version.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiortc import RTCSctpTransport

__all__ = ["MESSAGE_COST", "Inflow"]

MESSAGE_COST: Final = 64
"""Bytes that a message costs beside its own, while it waits."""
_TOO_FAR: Final = 1024 * 1024
"""Bytes beyond what the peer may send, after which it is cut off. A peer that keeps to what it has
heard is never that far, however small its messages are."""
_MOST_STREAMS: Final = 8
"""Streams of which data came: one is used."""
_MOST_CHUNKS: Final = 4096
"""Pieces of a message that is not complete, or that came out of order."""


class Inflow:
    """Bounds what an association holds that nobody has read.

    Args:
        association: Whose packets to look at.
        cut_off: Called once, if the peer sends more than it may, or what cannot be read.
    """

    __slots__ = ("_association", "_cut_off", "_handle", "_is_over")

    def __init__(self, association: RTCSctpTransport, cut_off: Callable[[str], None]) -> None:
        self._association: Final = association
        self._cut_off: Final = cut_off
        self._is_over = False
        self._handle: Final = association._handle_data
        setattr(association, "_handle_data", self._take)  # noqa: B010  # for mypy

    def hold(self, size: int) -> None:
        """Note that a message waits: the peer may send so much less."""
        self._association._advertised_rwnd -= size + MESSAGE_COST

    async def free(self, size: int) -> None:
        """Note that a message was read, and tell a peer that has waited for that."""
        association = self._association
        was_full = association._advertised_rwnd <= 0
        association._advertised_rwnd += size + MESSAGE_COST
        if was_full and association._advertised_rwnd > 0 and association.state == "connected":
            with suppress(ConnectionError):  # It is gone, and what it has sent is read to the end.
                await association._send_sack()

    async def _take(self, packet: bytes) -> None:
        if self._is_over:
            return
        try:
            await self._handle(packet)
        except ConnectionError:
            raise
        except Exception as exc:  # noqa: BLE001  # aiortc fails in many ways over what peers send
            self._end(f"a packet cannot be read: {exc!r}")
        else:
            if self._is_too_much():
                self._end("it sends more than it may")

    def _is_too_much(self) -> bool:
        association = self._association
        streams = association._inbound_streams
        return (
            association._advertised_rwnd < -_TOO_FAR
            or len(streams) > _MOST_STREAMS
            or len(association._sack_misordered) > _MOST_CHUNKS
            or any(len(stream.reassembly) > _MOST_CHUNKS for stream in streams.values())
        )

    def _end(self, why: str) -> None:
        self._is_over = True
        self._cut_off(why)
