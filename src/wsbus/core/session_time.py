"""The demands of time on a conversation: the token, the client's silence, and pings."""

from __future__ import annotations

from typing import Final

from .actions import Action, Close, Send
from .errors import CloseCode
from .heartbeat import Beat, Heartbeat
from .instant import Instant
from .messages import Ping
from .permissions import Identity

__all__ = ["due", "next_deadline"]

_EXPIRED: Final = Close(CloseCode.TOKEN_EXPIRED, "token expired")
_NO_TOKEN: Final = Close(CloseCode.TOKEN_REFUSED, "no token in time")
_SILENT: Final = Close(CloseCode.HEARTBEAT_TIMEOUT, "heartbeat timeout")


def next_deadline(
    heartbeat: Heartbeat, identity: Identity | None, auth_deadline: float, now: Instant
) -> float:
    """Return when something may be due, in monotonic seconds."""
    deadline = heartbeat.deadline()
    if identity is None:
        return min(deadline, auth_deadline)
    if identity.expires_at is not None:
        # Expiry is a moment of the wall clock: this is when that clock will show it.
        return min(deadline, now.monotonic + identity.expires_at - now.wall)
    return deadline


def due(
    heartbeat: Heartbeat, identity: Identity | None, auth_deadline: float, now: Instant
) -> Action | None:
    """Return what is due: the end, or a ping, which counts as sent; None: nothing."""
    if identity is None:
        if now.monotonic >= auth_deadline:
            return _NO_TOKEN
    elif identity.expires_at is not None and identity.expires_at <= now.wall:
        return _EXPIRED
    match heartbeat.judge(now.monotonic):
        case Beat.DEAD:
            return _SILENT
        case Beat.PING:
            return Send(Ping())
        case Beat.NOTHING:
            return None
