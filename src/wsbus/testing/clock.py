"""A clock that a test moves."""

from __future__ import annotations

from ..core.instant import Instant

__all__ = ["ManualClock"]


class ManualClock:
    """Both clocks of a bus: ``Bus(clock=ManualClock())``.

    Args:
        monotonic: Start of the monotonic clock, in seconds.
        wall: Start of the wall clock, in seconds since the epoch.
    """

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now: Instant = Instant(monotonic, wall)

    def __call__(self) -> Instant:
        """Read both clocks."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now = Instant(self._now.monotonic + seconds, self._now.wall + seconds)

    def set_wall(self, wall: float) -> None:
        """Set the wall clock, as an operator or a time server does; no time passes."""
        self._now = Instant(self._now.monotonic, wall)
