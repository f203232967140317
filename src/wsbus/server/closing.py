"""Closing a connection in order, and within a time limit."""

from __future__ import annotations

from typing import Final

from anyio import Event, move_on_after

from ..core.actions import Close
from ..core.errors import CloseCode
from ..core.member import Member
from ..transport import Transport
from .outlet import SocketOutlet

__all__ = ["close", "close_failed"]

_FAREWELL_SECONDS: Final = 1.0
"""The time limit for a client that is closed for abuse. Nothing more is read from it, so that its
close frame may not be seen."""


async def close(
    outlet: SocketOutlet, member: Member, action: Close, seconds: float, closed: Event
) -> None:
    """Drain the queue, send the close frame, and make sure that the reader ends.

    Args:
        outlet: Whose transport to close; aborted when the time is over.
        member: Whose queue is to leave first.
        action: Code and reason; the reason is cut to the 123 bytes that fit.
        seconds: Time limit for all of it.
        closed: Set at the end.
    """
    is_abuse = action.code == CloseCode.RATE_ABUSE
    try:
        with move_on_after(min(seconds, _FAREWELL_SECONDS) if is_abuse else seconds) as scope:
            while member.is_waiting:
                await outlet.relief()
            reason = action.reason.encode(errors="replace")[:123].decode(errors="ignore")
            await outlet.transport.close(action.code, reason)
        if is_abuse or scope.cancelled_caught:
            outlet.transport.abort()
    finally:
        closed.set()


async def close_failed(transport: Transport, seconds: float) -> None:
    """Close a connection whose reader failed, with 1011, and abort it after so many seconds."""
    with move_on_after(seconds):
        await transport.close(CloseCode.INTERNAL_ERROR, "internal error")
    transport.abort()
