"""The one form in which time enters the core."""

from __future__ import annotations

import msgspec

__all__ = ["Instant"]


class Instant(msgspec.Struct, frozen=True, gc=False):
    """A moment, read once from both clocks by a driver.

    Durations use :attr:`monotonic`; timestamps and the expiry of tokens use :attr:`wall`: setting
    the clock must not disconnect clients.
    """

    monotonic: float
    """Seconds since some fixed point; never goes back."""
    wall: float
    """Seconds since the epoch."""

    def later(self, seconds: float) -> Instant:
        """Return the moment ``seconds`` after this one on both clocks."""
        return Instant(self.monotonic + seconds, self.wall + seconds)
