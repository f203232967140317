"""One run of a bus, from start to stop, in a task of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from anyio import CancelScope, Event, create_task_group, move_on_after, sleep
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from ._spawn import spawn
from .core.instant import Instant
from .core.plan import Standing
from .endpoint import Endpoint
from .services import SWEEP_SECONDS, Services

__all__ = ["Life"]

logger: Final = logging.getLogger("wsbus.bus")

_STUCK_SECONDS: Final = 1.0
"""At shutdown: who is owed something and takes nothing for so long is aborted."""


class Life:
    """Hosts everything that runs for a bus.

    Start and stop may be called in different tasks: frameworks do so.

    Args:
        make_services: Builds what runs, given the task group to run it in.
    """

    def __init__(self, make_services: Callable[[TaskGroup], Services]) -> None:
        self._make_services: Final = make_services
        self._stop: Final = Event()
        self._stopped: Final = Event()
        self._draining: Final[set[Endpoint]] = set()
        self.thread: Final = threading.get_ident()
        """The thread of the event loop."""
        self.token: Final[Any] = current_token()
        """The event loop, as :func:`anyio.from_thread.run_sync` takes it."""
        self.services: Services | None = None
        """None: not started yet, or stopped."""
        self.is_closing: bool = False

    async def start(self) -> None:
        """Return once it runs."""
        started = Event()
        spawn(partial(self._host, started))
        await started.wait()

    async def stop(self, deadline: float, code: int) -> None:
        """Drain all endpoints, then end. Shielded from cancellation, and bounded."""
        with CancelScope(shield=True):
            if not self.is_closing and self.services is not None:
                self.is_closing = True
                await self._drain(self.services, None, deadline, code)
                for subscription in list(self.services.subscriptions):
                    subscription.close()
                self._stop.set()
            await self._stopped.wait()

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint takes connections now."""
        return self.services is not None and not self.is_closing and endpoint not in self._draining

    async def drain(self, endpoint: Endpoint, deadline: float, code: int) -> None:
        """End the connections of one endpoint. Shielded from cancellation, and bounded."""
        if self.services is not None:
            self._draining.add(endpoint)
            try:
                with CancelScope(shield=True):
                    await self._drain(self.services, endpoint, deadline, code)
            finally:
                self._draining.discard(endpoint)

    async def _drain(
        self, services: Services, endpoint: Endpoint | None, deadline: float, code: int
    ) -> None:
        services.flusher.flush()
        for connection in services.registry.connected(endpoint):
            if connection.is_stuck:
                connection.abort()
            else:
                connection.disconnect(code, "the server is shutting down")
        # On plain ASGI only time tells who is stuck: they are blocked, and take nothing.
        progress = {c: c.member.outlet.progress_at for c in services.registry.connected(endpoint)}
        with move_on_after(min(_STUCK_SECONDS, deadline)):
            await services.registry.all_gone(endpoint)
        for connection, before in progress.items():
            member = connection.member
            if member.standing is Standing.BLOCKED and member.outlet.progress_at == before:
                connection.abort()
        # What is left at the deadline is aborted; a second is more than its readers need to end.
        for seconds in (max(deadline - _STUCK_SECONDS, 0.0), 1.0):
            with move_on_after(seconds):
                await services.registry.all_gone(endpoint)
            for connection in services.registry.connected(endpoint):
                connection.abort()

    async def _host(self, started: Event) -> None:
        try:
            async with create_task_group() as tasks:
                services = self.services = self._make_services(tasks)
                tasks.start_soon(services.flusher.run)
                tasks.start_soon(self._sweep, services)
                started.set()
                await self._stop.wait()
                tasks.cancel_scope.cancel()
        except Exception:
            logger.critical("the bus has failed; its connections are cut", exc_info=True)
        finally:
            for connection in self.services.registry.connected() if self.services else ():
                connection.abort()
            self.services = None
            self._stopped.set()

    async def _sweep(self, services: Services) -> None:
        """Once a second, or oftener, have every connection do what time demands."""
        last = services.clock()
        while True:
            await sleep(services.sweep_seconds())
            now = services.clock()
            _sweep_once(services, last, now)
            last = now


def _sweep_once(services: Services, last: Instant, now: Instant) -> None:
    elapsed = now.monotonic - last.monotonic
    # More than a second late: the process was stopped, or its loop was blocked. Meanwhile nothing
    # was read, and nobody must be judged for that.
    late = elapsed - SWEEP_SECONDS
    stopped = late if late > 1 else 0.0
    clock_was_set = abs(now.wall - last.wall - elapsed) > 1
    services.flusher.forgive(stopped)
    monotonic = now.monotonic
    policies = {endpoint: endpoint.heartbeat for endpoint in services.registry.endpoints()}
    is_changed = policies != services.heartbeats
    services.heartbeats = policies
    is_review = is_changed or clock_was_set or stopped > 0
    for connection in services.registry.connected():
        try:
            if is_review:
                connection.review(now, stopped)
            if monotonic >= connection.deadline:  # As a rule all there is to do for it.
                connection.tick(now)
        except Exception:  # One connection's trouble must not end the heartbeat of the others.
            logger.exception("a connection failed in the sweep")
            connection.abort()
    services.flusher.expire(monotonic)
    services.hub.table.settle()
