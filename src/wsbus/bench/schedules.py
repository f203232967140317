"""Schedules: the next publication is due when one has arrived, or by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FixedRate", "Schedule", "Window"]


class Schedule(Protocol):
    """Decides when publications are due."""

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may be published in all, if ``done`` reached all subscribers."""

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due, in seconds from the start."""

    def wait(self, sent: int, elapsed: float) -> float:
        """Return the seconds until the next publication is due, if nothing arrives before."""


@dataclass(frozen=True, slots=True)
class Window:
    """Keeps a fixed number of publications under way."""

    outstanding: int

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may have been published."""
        return done + self.outstanding

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due: now."""
        return elapsed

    def wait(self, sent: int, elapsed: float) -> float:
        """Return the seconds until the next publication is due: time alone brings none."""
        return math.inf


@dataclass(frozen=True, slots=True)
class FixedRate:
    """Publishes at a fixed rate by the clock, however slow the server is.

    Latency counts from when a publication was due, so that publications delayed by a stall of the
    server count in full.
    """

    rate: float

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may have been published."""
        return int(elapsed * self.rate) + 1

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due."""
        return number / self.rate

    def wait(self, sent: int, elapsed: float) -> float:
        """Return the seconds until the next publication is due."""
        return max(0.0, sent / self.rate - elapsed)
