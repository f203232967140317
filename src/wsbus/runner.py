"""Runs async calls in turn on one task; when one blocks, another task takes over.

Most async calls that a bus makes for its connections do not wait: a command handler that looks
something up, an ASGI ``send`` with room in the buffer. A task for each would cost more than the
call (measured per command: 12.7 µs here, 29.7 µs with a task each). So one worker runs them one
after another, and while there are more, a relief stands by: it is scheduled behind the worker, and
so gets to run only when the worker waits in a call, or has done them all.

For the same reason nothing is prepared for a call that might wait, such as a time limit or a way
to end it, until it does: see :func:`begin`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from operator import call as call_it
from typing import Any, Final, Generic, TypeAlias, TypeVar

from anyio import move_on_after
from anyio.abc import TaskGroup

from ._signal import Signal

__all__ = ["Overdue", "Rest", "Runner", "awaited", "begin"]

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
        self._is_on_asyncio: Final = _on_asyncio()  # To ask takes a system call (3.11).
        # Each a function and what is left to call it with; whoever works takes from the first.
        self._calls: Final[deque[tuple[Callable[[Any], Awaitable[None]], Iterator[Any]]]] = deque()
        self._left = 0  # Calls that have not begun.
        self._standby: Final[list[Signal]] = []
        self._is_woken = False  # A worker is about to look at the calls.
        self.running: int = 0
        """Calls that have begun and not ended."""

    def submit(self, call: Call) -> None:
        """Have ``call`` awaited soon; never waits. What it raises is logged."""
        self.submit_each(call_it, (call,))

    def submit_each(self, function: Callable[[T], Awaitable[None]], items: Collection[T]) -> None:
        """Have ``function(item)`` awaited soon for each item, as if submitted one by one."""
        self._left += len(items)
        self._calls.append((function, iter(items)))
        if not self._is_woken:
            self._wake()

    async def within(self, seconds: float, awaitable: Awaitable[T]) -> T:
        """Await code of the application, for so long at most; see :func:`awaited`.

        Cost: on asyncio a time limit is set only when it first waits (measured: 3.5 µs less for a
        command that does not). Elsewhere scopes must be entered in order, so it is set at once.

        Raises:
            Overdue: It was cancelled because the time was over.
        """
        if not self._is_on_asyncio:
            with move_on_after(seconds):
                return await awaitable
            raise Overdue
        try:
            begun = begin(awaitable)
            if not isinstance(begun, Rest):
                return begun
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    return await begun
            except TimeoutError:
                if limit.expired():
                    raise Overdue from None
                raise
        except BaseException as exc:
            if _is_stray(exc):
                raise RuntimeError("something that was awaited had been cancelled") from exc
            raise

    def _wake(self) -> None:
        self._is_woken = True
        if self._standby:
            self._standby.pop().set()
        else:
            self._task_group.start_soon(self._work)

    async def _work(self) -> None:
        signal = Signal()
        while True:
            self._is_woken = False
            await self._work_off()
            if len(self._standby) >= _MAX_STANDBY:
                return
            self._standby.append(signal)
            await signal.wait()

    async def _work_off(self) -> None:
        calls = self._calls
        while calls:
            function, items = calls[0]
            item = next(items, _NO_MORE)
            if item is _NO_MORE:
                calls.popleft()
                continue
            self._left -= 1
            if self._left and not self._is_woken:
                self._wake()  # The relief.
            self.running += 1
            try:
                await function(item)
            except BaseException as exc:
                if not isinstance(exc, Exception) and not _is_stray(exc):
                    raise
                logger.exception("an async call failed")
            finally:
                self.running -= 1


_NO_MORE: Final = object()


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


class Overdue(Exception):
    """A time limit has passed."""


class Rest(Generic[T]):
    """What is left of an awaitable that was begun, and now waits for something.

    It may be awaited once, in the task that began it, and behind whatever else that does
    meanwhile: what the awaitable waits for is passed on unchanged. As with ``yield from`` it need
    not be a generator: those of granian only have ``__next__``.
    """

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, Any, T], waits_for: object) -> None:
        self._steps: Final = steps
        self._waits_for: Final = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        """Do the rest."""
        steps, waits_for = self._steps, self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as exc:  # it is for the awaitable
                    throw = getattr(steps, "throw", None)
                    if throw is None:
                        raise
                    waits_for = throw(exc)
                else:
                    waits_for = next(steps) if value is None else steps.send(value)
            except StopIteration as end:
                result: T = end.value
                return result


def begin(awaitable: Awaitable[T]) -> T | Rest[T]:
    """Run an awaitable until it first waits; to be called in the task that will await the rest.

    Returns:
        Its result, or what is left of it.
    """
    steps = awaitable.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    return Rest(steps, waits_for)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
