"""Calls from other threads into the event loop, for a bounded time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from anyio import current_time

from .._log import about, escaped
from ..core.errors import NotStarted, UsageError

__all__ = ["LoopCall", "loop_clock"]

logger: Final = logging.getLogger("wsbus.bus")

T = TypeVar("T")


class LoopCall(Generic[T]):
    """A call from another thread that the event loop makes, unless the thread gives up first.

    Args:
        call: The function to call.
        is_awaited: Whether the other thread waits for the outcome.
    """

    def __init__(self, call: Callable[[], T], *, is_awaited: bool) -> None:
        self._call: Final = call
        self._is_awaited: Final = is_awaited
        # Acquired once: by the event loop when it begins, or by the thread when it gives up.
        self._claim: Final = threading.Lock()
        self._done: Final = threading.Event()
        self._result: T
        self._error: Exception | None = None

    def submit(self, token: Any) -> None:
        """Submit it to an event loop; ``token`` is its :func:`anyio.lowlevel.current_token`.

        Raises:
            NotStarted: The event loop has ended.
        """
        native = token.native_token
        # The loop's own error, of asyncio or trio.
        run_soon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        try:
            run_soon(self._run)
        except RuntimeError as exc:
            raise NotStarted from exc

    def wait(self, timeout: float) -> T:
        """Wait for the outcome, in the other thread.

        Raises:
            UsageError: It did not begin in time, and will not.
        """
        if not self._done.wait(timeout) and self._claim.acquire(blocking=False):
            raise UsageError(
                f"the event loop did not take it for {timeout:g} s, and nobody gets it: the loop "
                "is blocked, perhaps because it waits for this thread; use wait=False there"
            )
        self._done.wait()  # It has begun, and does not wait.
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._result = self._call()
        except Exception as exc:  # noqa: BLE001  # raised in the thread, or logged
            self._error = exc
            if not self._is_awaited:
                logger.warning(
                    "a publication of another thread was dropped: %s",
                    escaped(str(exc), 300),
                    extra=about("publication_dropped"),
                )
        self._done.set()


def loop_clock() -> Callable[[], float]:
    """Return what reads the time of this event loop, in a :class:`LoopCall`, too.

    On asyncio such a call belongs to no task, and then anyio does not know the event loop.
    """
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:  # The running loop is not asyncio's.
        return current_time
