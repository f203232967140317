"""A clock that a test moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from anyio import CancelScope, move_on_after

from ..core.choices import is_number, shown
from ..core.errors import UsageError
from ..core.instant import Instant
from .settling import settle

__all__ = ["ManualClock"]


class ManualClock:
    """Both clocks of a bus: ``Bus(clock=ManualClock())``.

    It stands still until the test moves it. Heartbeats, the expiry of tokens and of history, rates,
    leases of other nodes and the limits of connections go by it, and in clients of
    :func:`.in_memory.client` pings, refreshed tokens and reconnects. The limits of single calls go
    by the event loop: ``timeout=``, commands, authenticators, the stop of a bus.

    Args:
        monotonic: Start of the monotonic clock, in seconds.
        wall: Start of the wall clock, in seconds since the epoch.
    """

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now: Instant = Instant(monotonic, wall)
        self._limits: Final[dict[CancelScope, float]] = {}

    def __call__(self) -> Instant:
        """Read both clocks."""
        return self._now

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen that it brings, in order; it waits for none of it.

        Return once every task of this event loop waits for something again. So no other task may
        run all the time. An hour takes about a second.

        Raises:
            UsageError: ``seconds`` is no number of seconds, 0 or more.
        """
        _check(seconds)
        await settle()
        until = self._now.monotonic + seconds
        while (now := self._now.monotonic) < until:
            due = min([at for at in self._limits.values() if at > now], default=until)
            moment = min(due, until)
            self._now = Instant(moment, self._now.wall + moment - now)
            self._wake(moment)
            await settle()
        self._wake(math.inf)  # Whatever is due between two looks at the clock is due now.
        await settle()

    def advance(self, seconds: float) -> None:
        """Move both clocks forward at once, as when the whole process stood still.

        Nothing happens in between, and a bus forgives its clients what they could not do.

        Raises:
            UsageError: ``seconds`` is no number of seconds, 0 or more: no such clock goes back.
        """
        _check(seconds)
        self._now = Instant(self._now.monotonic + seconds, self._now.wall + seconds)

    def set_wall(self, wall: float) -> None:
        """Set the wall clock, as an operator or a time server does; no time passes."""
        self._now = Instant(self._now.monotonic, wall)

    @contextmanager
    def limit(self, seconds: float) -> Iterator[CancelScope]:
        """Return a scope that is cancelled after so many seconds of this clock, or of the loop."""
        with move_on_after(seconds) as scope:
            self._limits[scope] = self._now.monotonic + seconds
            try:
                yield scope
            finally:
                del self._limits[scope]

    def _wake(self, moment: float) -> None:
        for scope, at in self._limits.items():
            if at <= moment:
                scope.cancel()


def _check(seconds: float) -> None:
    if not (is_number(seconds) and seconds >= 0):
        raise UsageError(f"time passes by a number of seconds, 0 or more, not {shown(seconds)}")
