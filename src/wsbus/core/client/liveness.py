"""A client's own pings, and the end of a connection that does not answer them."""

from __future__ import annotations

import math
from typing import Final

from ..choices import is_number, shown
from ..errors import UsageError
from ..heartbeat import Beat

__all__ = ["Liveness"]

_STALL_SECONDS: Final = 1.0
"""If called this late, the process itself did not run: the machine was suspended, for example."""


class Liveness:
    """Pings, one at a time; times are monotonic seconds.

    Args:
        interval: Seconds to the first ping, and between pings.
        timeout: Seconds from a ping without a pong until the connection counts as dead.

    Raises:
        UsageError: A duration is not a positive, finite number.
    """

    __slots__ = ("_asked_at", "_is_forgiven", "_next", "interval", "timeout")

    def __init__(self, interval: float = 15.0, timeout: float = 20.0) -> None:
        for name, seconds in (("ping_interval", interval), ("ping_timeout", timeout)):
            if not (is_number(seconds) and seconds > 0):
                raise UsageError(
                    f"{name} must be a number of seconds above 0, not {shown(seconds)}"
                )
        self.interval: Final = interval
        self.timeout: Final = timeout
        self.stop()

    def start(self, now: float) -> None:
        """Start with a new connection."""
        self._next = now + self.interval
        self._asked_at: float | None = None
        self._is_forgiven = False

    def stop(self) -> None:
        """Stop: the connection is gone."""
        self._next = math.inf
        self._asked_at = None
        self._is_forgiven = False

    def deadline(self) -> float:
        """Return when to call :meth:`judge`; infinity: never."""
        return self._next

    def judge(self, now: float) -> Beat:
        """Return what is due; a ping that it returns counts as sent.

        A late caller has read nothing meanwhile, so the pong may be there already; there is one
        more second to read it.
        """
        if now < self._next:
            return Beat.NOTHING
        if self._asked_at is None:
            self._asked_at = now
            self._next = now + self.timeout
            self._is_forgiven = False
            return Beat.PING
        if now - self._next > _STALL_SECONDS and not self._is_forgiven:
            self._is_forgiven = True
            self._next = now + _STALL_SECONDS
            return Beat.NOTHING
        return Beat.DEAD

    def pong(self) -> None:
        """The ping was answered."""
        if self._asked_at is not None:
            self._next = self._asked_at + self.interval
            self._asked_at = None
