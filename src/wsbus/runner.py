"""Runs async calls in turn on one task; when one blocks, another task takes over.

Most async calls that a bus makes for its connections do not wait: a command handler that looks
something up, an ASGI ``send`` with room in the buffer. A task for each would cost more than the
call (measured per command: 12.7 µs here, 29.7 µs with a task each). So one worker runs them one
after another, and a relief stands by: it is scheduled behind the worker, and so gets to run only
when the worker waits in a call, or has done them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

from anyio import Event
from anyio.abc import TaskGroup

__all__ = ["Runner", "awaited"]

logger: Final = logging.getLogger("wsbus.runner")

T = TypeVar("T")

Call: TypeAlias = Callable[[], Awaitable[None]]

_MAX_STANDBY: Final = 8
"""Idle workers kept; more come and go with the calls that block."""


class Runner:
    """Starts calls in the order submitted.

    Guarantees: a call that waits delays none of those behind it. At most one task more than there
    are waiting calls is awake.

    Args:
        task_group: Where the workers live; cancelling it cancels the calls.
    """

    def __init__(self, task_group: TaskGroup) -> None:
        self._task_group: Final = task_group
        self._calls: Final[deque[Call]] = deque()
        self._standby: Final[list[Event]] = []
        self._is_awake = False  # A worker is running, or scheduled to look at the calls.
        self.running: int = 0
        """Calls that have begun and not ended."""

    def submit(self, call: Call) -> None:
        """Have ``call`` awaited soon; never waits. What it raises is logged."""
        self._calls.append(call)
        if not self._is_awake:
            self._wake()

    def _wake(self) -> None:
        self._is_awake = True
        if self._standby:
            self._standby.pop().set()
        else:
            self._task_group.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            # This worker is on duty, and nobody else is awake.
            if self._calls:
                self._wake()  # The relief.
                while self._calls:
                    await self._run(self._calls.popleft())
            else:
                self._is_awake = False
            if len(self._standby) >= _MAX_STANDBY:
                return
            event = Event()
            self._standby.append(event)
            await event.wait()

    async def _run(self, call: Call) -> None:
        self.running += 1
        try:
            await awaited(call())
        except Exception:
            logger.exception("an async call failed")
        finally:
            self.running -= 1


async def awaited(awaitable: Awaitable[T]) -> T:
    """Await code of the application.

    Raises:
        RuntimeError: What it awaited was cancelled, and it did not mind; it itself was not. An
            asyncio task that ended so would take its task group, here the whole bus, with it.
    """
    try:
        return await awaitable
    except BaseException as exc:
        if _is_stray(exc):
            raise RuntimeError("something that was awaited had been cancelled") from exc
        raise


def _is_stray(exc: BaseException) -> bool:
    task = asyncio.current_task() if isinstance(exc, asyncio.CancelledError) else None
    return task is not None and not task.cancelling()
