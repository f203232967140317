"""When the next publication is due: by what has arrived, or by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FixedRate", "Schedule", "Window"]


class Schedule(Protocol):
    """When publications are due."""

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may have been published, ``done`` of them having reached everybody."""

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due, seconds from the start."""

    def wait(self, sent: int, elapsed: float) -> float:
        """Return after how many seconds the next one will be due, if nothing comes before."""


@dataclass(frozen=True, slots=True)
class Window:
    """So many publications under way, always."""

    outstanding: int

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may have been published."""
        return done + self.outstanding

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due: now."""
        return elapsed

    def wait(self, sent: int, elapsed: float) -> float:
        """Return after how many seconds the next one will be due: not by time."""
        return math.inf


@dataclass(frozen=True, slots=True)
class FixedRate:
    """So many publications a second by the clock, however slow the server is.

    Latency counts from when a publication was due: what waits behind a stall is not left out.
    """

    rate: float

    def due(self, done: int, elapsed: float) -> int:
        """Return how many may have been published."""
        return int(elapsed * self.rate) + 1

    def moment(self, number: int, elapsed: float) -> float:
        """Return when a publication was due."""
        return number / self.rate

    def wait(self, sent: int, elapsed: float) -> float:
        """Return after how many seconds the next one will be due."""
        return max(0.0, sent / self.rate - elapsed)
