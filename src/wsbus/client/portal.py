"""An event loop in a thread of its own, for callers without an event loop."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..core.errors import UsageError

__all__ = ["Portal"]

T = TypeVar("T")


class Portal:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._pid: Final = os.getpid()
        self._stack: Final = ExitStack()
        start = start_blocking_portal("asyncio", name="wsbus-client")
        self._portal: Final[BlockingPortal] = self._stack.enter_context(start)
        self._is_closed = False

    def check(self) -> None:
        """Refuse calls after a fork: they would hang.

        Raises:
            UsageError: The process was forked after the client was made.
        """
        if os.getpid() != self._pid:
            raise UsageError("this client belongs to the process that was forked: connect anew")

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` on the loop, and wait for it; an interrupt cancels it."""
        self.check()
        if self._is_closed:
            raise UsageError("the client is closed")
        future = self._portal.start_task_soon(_awaited, work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def enter(self, what: Any) -> AbstractContextManager[Any]:
        """Return a synchronous context manager for an asynchronous one."""
        self.check()
        if self._is_closed:
            raise UsageError("the client is closed")
        return self._portal.wrap_async_context_manager(what)

    def close(self) -> None:
        """Stop the loop and its thread. Idempotent."""
        self._is_closed = True
        self._stack.close()


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
