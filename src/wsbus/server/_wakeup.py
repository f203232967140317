"""Wakes one task again and again, or many tasks once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from anyio import Event, NoEventLoopError
from anyio.lowlevel import current_token

from ..core.errors import UsageError

__all__ = ["Bell", "Wakeup"]


class Wakeup:
    """Wakes one waiting task; a set before the wait counts, once.

    Make, set and await it in one event loop. On asyncio it is a bare future: an anyio event, new
    for each wait, costs 2 to 3 µs more (measured), as much as a simple command.
    """

    __slots__ = ("_event", "_future", "_is_set", "_loop")

    def __init__(self) -> None:
        self._loop: Final = _asyncio_loop()
        self._future: asyncio.Future[None] | None = None
        self._event: Event | None = None
        self._is_set = False

    def set(self) -> None:
        """Wake the waiting task, or the next one to wait; idempotent until then.

        Raises:
            UsageError: Its event loop is closed, or stands still while another one runs.
        """
        if self._loop is not None and not self._loop.is_running():
            _check_still(self._loop)
        self._is_set = True
        if self._future is not None:
            if not self._future.done():
                self._future.set_result(None)
        elif self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until it is set, and reset it. Cancellation: it stays set."""
        if not self._is_set:
            if self._loop is not None:
                self._future = self._loop.create_future()
                try:
                    await self._future
                finally:
                    self._future = None
            else:
                self._event = Event()
                try:
                    await self._event.wait()
                finally:
                    self._event = None
        self._is_set = False


class Bell:
    """Wakes all tasks that wait for it, once; make it, ring it and await it in one event loop.

    On asyncio each task waits for a bare future: an anyio event costs each of them 1.2 µs more
    (measured), a fifth of what a publication takes on one node.
    """

    __slots__ = ("_event", "_loop", "_waiters")

    def __init__(self) -> None:
        self._loop: Final = _asyncio_loop()
        self._waiters: Final[list[asyncio.Future[None]]] = []
        self._event: Final = Event() if self._loop is None else None

    def wait(self) -> Awaitable[None]:
        """Wait until it rings; not after that."""
        if self._loop is None:
            assert self._event is not None  # One of both is there.
            return self._event.wait()
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def ring(self) -> None:
        """Wake the waiting tasks."""
        if self._event is not None:
            self._event.set()
        for waiter in self._waiters:
            if not waiter.done():  # Its task was cancelled.
                waiter.set_result(None)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # The running loop is not asyncio's.
        return None


def _check_still(loop: asyncio.AbstractEventLoop) -> None:
    """Raise an error if an event loop that stands still cannot be the one that is meant."""
    if loop.is_closed():
        raise UsageError(
            "the event loop of this bus was closed before the bus was stopped: start the bus in "
            "the event loop that uses it, with `async with bus:`"
        )
    try:
        current_token()
    except NoEventLoopError:
        return  # It goes on later.
    raise UsageError(
        "this bus runs in another event loop of this thread: make a bus for each event loop, and "
        "give all of them one broker"
    )
