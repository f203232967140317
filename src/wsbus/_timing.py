"""Waits that go by a clock, which in a test may be one that the test moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, runtime_checkable

from anyio import CancelScope, current_time, move_on_after, sleep, sleep_forever

from .core.instant import Instant

__all__ = ["Limit", "PassingClock", "Pause", "limit_of", "now_of", "pause_of"]

Limit: TypeAlias = Callable[[float], AbstractContextManager[CancelScope]]
"""Returns a scope that is cancelled after so many seconds."""

Pause: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""


@runtime_checkable
class PassingClock(Protocol):
    """A clock that says itself when its time has passed; see :class:`.ManualClock`."""

    def __call__(self) -> Instant:
        """Read both clocks."""
        ...

    def limit(self, seconds: float) -> AbstractContextManager[CancelScope]:
        """Return a scope that is cancelled after so many seconds of this clock, or before.

        A task that waits looks at the clock again.
        """
        ...


def limit_of(clock: Callable[[], Instant]) -> Limit:
    """Return the function that limits a wait by a clock; by others than that of tests: anyio's."""
    return clock.limit if isinstance(clock, PassingClock) else move_on_after


def now_of(clock: Callable[[], Instant]) -> Callable[[], float]:
    """Return the function for the seconds of a clock; of others than that of tests: the loop's."""
    if not isinstance(clock, PassingClock):
        return current_time
    return lambda: clock().monotonic


def pause_of(clock: Callable[[], Instant]) -> Pause:
    """Return the function that waits by a clock; by others than that of tests: anyio's."""
    if not isinstance(clock, PassingClock):
        return sleep

    async def pause(seconds: float) -> None:
        with clock.limit(seconds):
            await sleep_forever()

    return pause
