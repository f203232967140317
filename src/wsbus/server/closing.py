"""Closing a connection in order, and within a time limit."""

from __future__ import annotations

from typing import Final

from anyio import Event, move_on_after

from ..core.actions import Close
from ..core.errors import CloseCode
from ..core.plan import Member, Standing
from ..transport import Transport

__all__ = ["close", "close_failed"]

_FAREWELL_SECONDS: Final = 1.0
"""The time limit for a client that is closed for abuse. Nothing more is read from it, so that its
close frame may not be seen."""


async def close(
    transport: Transport, member: Member, action: Close, seconds: float, closed: Event
) -> None:
    """Drain the queue, send the close frame, and make sure that the reader ends.

    Args:
        transport: The transport; aborted when the time is over.
        member: Its member, whose queue is drained first.
        action: Code and reason; the reason is cut to the 123 bytes that fit.
        seconds: Time limit for all of it.
        closed: Set at the end.
    """
    is_abuse = action.code == CloseCode.RATE_ABUSE
    try:
        with move_on_after(min(seconds, _FAREWELL_SECONDS) if is_abuse else seconds) as scope:
            while member.standing is Standing.BLOCKED:
                await member.outlet.relief()
            reason = action.reason.encode(errors="replace")[:123].decode(errors="ignore")
            await transport.close(action.code, reason)
        if is_abuse or scope.cancelled_caught:
            transport.abort()
    finally:
        closed.set()


async def close_failed(transport: Transport, seconds: float) -> None:
    """Close a connection whose reader failed, with 1011, and abort it after so many seconds."""
    with move_on_after(seconds):
        await transport.close(CloseCode.INTERNAL_ERROR, "internal error")
    transport.abort()
