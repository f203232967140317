"""Buses that listen to what others publish through a broker."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Self

from anyio import fail_after
from anyio.from_thread import start_blocking_portal

from wsbus import Bus, Event
from wsbus.brokers import broker_of

__all__ = ["BusThread", "Received", "receiving"]


class Received:
    """What a bus got on ``t.*``, in order."""

    def __init__(self, bus: Bus, events: Any) -> None:
        self.bus = bus
        self._events = events

    async def next(self) -> Event[Any]:
        """Return the next event."""
        with fail_after(10):
            event: Event[Any] = await anext(self._events)
            return event

    async def data(self, count: int) -> list[Any]:
        """Return the data of the next ones."""
        return [(await self.next()).data for _ in range(count)]


@asynccontextmanager
async def receiving(broker: Any) -> AsyncIterator[Received]:
    """Run a bus with a broker, subscribed to ``t.*``."""
    async with Bus(broker=broker) as bus, bus.subscribe("t.*") as events:
        yield Received(bus, events)


class BusThread:
    """A bus in a thread, with an event loop of its own, subscribed to ``t.*``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._data: queue.Queue[Any] = queue.Queue()
        self._portal: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Return once it is subscribed."""
        portal = self._stack.enter_context(start_blocking_portal("asyncio"))
        ready: Future[None] = Future()
        future = portal.start_task_soon(self._run, ready)
        self._stack.callback(future.cancel)
        ready.result(20)
        return self

    def __exit__(self, *_exc: object) -> None:
        """End it."""
        self._stack.close()

    async def _run(self, ready: Future[None]) -> None:
        async with receiving(broker_of(self._url)) as got:
            ready.set_result(None)
            while True:
                with fail_after(60):
                    self._data.put((await anext(got._events)).data)

    def take(self, count: int) -> list[Any]:
        """Return the data of the next events."""
        return [self._data.get(timeout=15) for _ in range(count)]

    def is_quiet(self) -> bool:
        """Whether nothing more has come."""
        return self._data.empty()
