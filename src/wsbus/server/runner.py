"""Runs async calls in turn on one task; when one blocks, another task takes over.

Most async calls that a bus makes for its connections do not wait: a command that looks something
up, an ASGI ``send`` while the buffer is not full. A task for each would cost more than the call
(measured per command: 12.7 µs here, 29.7 µs with a task each). So one worker runs them one
after another, and while there are more, a relief stands by: it is scheduled behind the worker, and
so gets to run only when the worker waits in a call, or has done them all.

For the same reason nothing is prepared for a call that might wait, such as a time limit or a way
to end it, until it does: see ``_application.begin``.

Calls of the application share the workers, and yet one must not reach another through its task.
``asyncio.current_task()`` can be noted, and cancelled whenever somebody likes. So a worker ends
when it was cancelled, or when something has kept its task since the call began; another one takes
its place. (A new worker for each call that has waited would cost 20 µs more, measured.)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import nullcontext
from contextvars import Context, copy_context
from inspect import isawaitable
from operator import call as call_it
from sys import getrefcount
from types import CoroutineType
from typing import Any, Final, TypeAlias, TypeVar
from weakref import getweakrefcount

from anyio import CancelScope, CapacityLimiter, Event, move_on_after
from anyio.abc import TaskGroup

from .._application import Overdue, Rest, awaiting, begin, called, reraise
from .._log import about
from ._wakeup import Wakeup

__all__ = ["Runner"]

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
        self._context: Final = copy_context()
        self._loop: Final = _asyncio_loop()  # To ask takes a system call (3.11).
        # Each a function and what is left to call it with; a worker takes from the first.
        self._calls: Final[deque[tuple[Callable[[Any], Awaitable[None]], Iterator[Any]]]] = deque()
        self._left = 0  # Calls that have not begun.
        self._standby: Final[list[Wakeup]] = []
        self._is_woken = False  # A worker is about to look at the calls.
        self._limiters: Final[dict[object, CapacityLimiter]] = {}
        self._workers: Final[dict[asyncio.Task[None], CancelScope]] = {}
        self._is_over = False
        self._has_failed: Final = Event()
        self._failure: BaseException | None = None
        self.running: int = 0
        """Calls that have begun and not ended."""
        if self._loop is not None:
            task_group.start_soon(self._guard)

    def submit(self, call: Call) -> None:
        """Have ``call`` awaited soon; never waits. What it raises is logged."""
        self.submit_each(call_it, (call,))

    def submit_each(self, function: Callable[[T], Awaitable[None]], items: Collection[T]) -> None:
        """Have ``function(item)`` awaited soon for each item, as if submitted one by one."""
        self._left += len(items)
        self._calls.append((function, iter(items)))
        if not self._is_woken:
            self._wake()

    async def ask(
        self,
        seconds: float,
        context: Context,
        function: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call the application in one of the runner's calls; await the result if it can be.

        Cost: on asyncio a time limit is set only when it first waits (measured: 3.5 µs less for a
        command that does not). Elsewhere scopes must be entered in order, so it is set at once.

        Args:
            seconds: Time limit; it cannot stop what blocks.
            context: The connection's; the call gets a copy.
            function: The application's.
            *args: What to call it with.
            **kwargs: The same, by name.

        Raises:
            Overdue: It took longer, and was cancelled.
            Exception: Whatever it raises; ``CallFailed`` in place of what is no
                ``Exception``.
        """
        own = context.copy()
        try:
            if self._loop is None:
                with move_on_after(seconds):
                    return await called(own, function, *args, **kwargs)
                raise Overdue
            result = own.run(function, *args, **kwargs)
            if type(result) is not CoroutineType:
                if not isawaitable(result):
                    return result
                result = awaiting(result)
            begun = begin(result, own.run)
            if type(begun) is not Rest:
                return begun
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    return await begun
            except TimeoutError:
                if limit.expired():
                    raise Overdue from None
                raise
        except Exception:
            raise
        except BaseException as exc:  # noqa: BLE001  # reraise() sorts it
            reraise(exc, is_meant=self._is_ending)

    def limiter(self, key: object, tokens: float) -> CapacityLimiter:
        """Return the limiter of ``key``, made when it is first asked for."""
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = CapacityLimiter(tokens)
        return limiter

    @property
    def _is_ending(self) -> bool:
        return self._is_over or self._task_group.cancel_scope.cancel_called

    def _wake(self) -> None:
        self._is_woken = True
        if self._standby:
            self._standby.pop().set()
        elif self._loop is None:
            self._context.run(self._task_group.start_soon, self._work, None)
        else:
            scope = CancelScope()
            work = self._work(scope)
            task = self._loop.create_task(work, name="wsbus", context=self._context.copy())
            self._workers[task] = scope
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._workers[task]
        if not task.cancelled() and task.exception() is not None:
            self._has_failed.set()
            self._failure = task.exception()

    async def _guard(self) -> None:
        """End the workers with the task group, and the task group if one of them fails.

        On asyncio they are no tasks of it: one that is cancelled from outside would end all others,
        and to start one costs 7 µs instead of 25 (measured).
        """
        try:
            await self._has_failed.wait()
            assert self._failure is not None
            raise self._failure
        finally:
            self._is_over = True
            for scope in self._workers.values():
                scope.cancel()
            with CancelScope(shield=True):
                while self._workers:
                    await asyncio.wait(self._workers)

    async def _work(self, scope: CancelScope | None) -> None:
        with scope or nullcontext():
            await self._work_on()

    async def _work_on(self) -> None:
        task = None if self._loop is None else asyncio.current_task()
        wakeup = Wakeup()
        try:
            while True:
                self._is_woken = False
                is_spent = await self._work_off(task)
                if is_spent or len(self._standby) >= _MAX_STANDBY:
                    break
                self._standby.append(wakeup)
                await wakeup.wait()
        except asyncio.CancelledError:  # While it stood by.
            if wakeup in self._standby:
                self._standby.remove(wakeup)
            else:
                self._is_woken = False
            if self._is_ending:
                raise
        if self._left and not self._is_ending:
            self._wake()

    async def _work_off(self, task: asyncio.Task[Any] | None) -> bool:
        """Run the calls in turn.

        Returns:
            Whether the task has to end, since a call may reach another through it.
        """
        calls = self._calls
        # Those who could reach the task later: each takes a reference, or a weak one.
        holders = getrefcount(task) + getweakrefcount(task)
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
            except BaseException as exc:  # noqa: BLE001  # reraise() sorts it
                try:
                    if isinstance(exc, Exception):
                        raise
                    reraise(exc, is_meant=self._is_ending)
                except Exception:
                    logger.exception("an async call failed", extra=about("call_failed"))
            finally:
                self.running -= 1
            before, holders = holders, getrefcount(task) + getweakrefcount(task)
            if task is not None and (holders > before or task.cancelling()):
                return True
        return False


_NO_MORE: Final = object()


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
