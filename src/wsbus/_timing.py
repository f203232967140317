"""Waits that go by a clock, which in a test may be one that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from anyio import CancelScope, move_on_after, sleep, sleep_forever

from .core.instant import Instant

__all__ = ["PassingClock", "limit", "pause"]


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


def limit(clock: Callable[[], Instant], seconds: float) -> AbstractContextManager[CancelScope]:
    """Return a scope that is cancelled after so many seconds of a clock, or before."""
    return clock.limit(seconds) if isinstance(clock, PassingClock) else move_on_after(seconds)


async def pause(clock: Callable[[], Instant], seconds: float) -> None:
    """Wait for so many seconds of a clock, or less."""
    if isinstance(clock, PassingClock):
        with clock.limit(seconds):
            await sleep_forever()
    else:
        await sleep(seconds)
