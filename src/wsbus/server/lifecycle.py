"""One run of a bus, from start to stop, in a task of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakSet

from anyio import (
    CancelScope,
    Event,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from .._application import comes_of_signal, hand_to_process
from .._log import about
from .._spawn import spawn
from .._timing import pause_of
from ..core.choices import is_number, shown
from ..core.errors import UsageError, check_sendable
from ..core.instant import Instant
from ..core.returning import MAX_RETURN_SECONDS, Spread
from ..endpoint import Endpoint
from .connection import about_driver, orphan
from .draining import STUCK_SECONDS, drain, drain_in_batches
from .services import SWEEP_SECONDS, Services

__all__ = ["Life"]

logger: Final = logging.getLogger("wsbus.bus")

_FAREWELL_SECONDS: Final = 1.0
"""At shutdown, the time for the broker to take what was published last."""

_GRACE_SECONDS: Final = 5.0
"""At shutdown, the time for calls of the application to end once they are cancelled."""


FORKED: Final = (
    "this process is a fork of the one that the bus was started in, whose connections it must not "
    "use: start the bus in each worker, after the fork, as lifespan=lifespan(bus) and mount(…) do"
)


class Life:
    """Hosts everything that runs for a bus.

    Start and stop may be called in different tasks: frameworks do so.

    Args:
        make_services: Makes the services, given the task group to run them in.
    """

    def __init__(self, make_services: Callable[[TaskGroup], Services]) -> None:
        self._make_services: Final = make_services
        self._stop: Final = Event()
        self._stopped: Final = Event()
        self._draining: Final[set[Endpoint]] = set()
        self._spread: Spread | None = None  # Clients are sent away, and told when to come again.
        self._sent_away: Final = Event()
        self._tasks: TaskGroup  # That of the bus, while it runs.
        self._farewell: tuple[float, int] | None = None  # Deadline and close code of the stop.
        self._failure: Exception | None = None
        self.thread: Final = threading.get_ident()
        """The thread of the event loop."""
        self.token: Final[Any] = current_token()
        """The event loop, as :func:`anyio.from_thread.run_sync` takes it."""
        self.services: Services | None = None
        """None: not started yet, stopped, or in a fork of the process."""
        self.is_closing: bool = False
        self._left: Services | None = None  # Those of the process that this one is a fork of.
        _lives.add(self)

    @property
    def is_up(self) -> bool:
        """Whether it runs, and is not ending."""
        return self.services is not None and not self.is_closing and not self.is_lost

    @property
    def is_over(self) -> bool:
        """Whether it has ended: on purpose, because it failed, or with its event loop."""
        return self._stopped.is_set() or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether its event loop was closed while it ran; trio ends what runs in a loop first."""
        is_closed: Callable[[], bool] | None = getattr(self.token.native_token, "is_closed", None)
        return is_closed is not None and is_closed() and not self._stopped.is_set()

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that it runs in."""
        return self._left is not None

    @property
    def is_here(self) -> bool:
        """Whether the running event loop is its own."""
        return current_token().native_token is self.token.native_token

    def check_here(self) -> None:
        """Check that it runs in this event loop, and in this process.

        Raises:
            UsageError: It does not.
        """
        if self.is_inherited:
            raise UsageError(FORKED)
        if not self.is_here:
            where = (
                "this thread"
                if threading.get_ident() == self.thread
                else f"thread {self.thread}, and this is thread {threading.get_ident()}"
            )
            raise UsageError(
                f"this bus runs in another event loop of {where}: make a bus for each event loop, "
                "and give all of them one broker"
            )

    def leave_behind(self) -> None:
        """This process is a fork of the one that it runs in: have nothing written here."""
        if self.services is not None:
            self._left, self.services = self.services, None
            for driver in self._left.registry.connected():
                orphan(driver, FORKED)

    async def start(self) -> None:
        """Return once it runs. Cancellation: it has not started."""
        started = Event()
        spawn(partial(self._host, started))
        try:
            await started.wait()
        except BaseException:
            self.is_closing = True
            self._stop.set()
            await _outlast(self._stopped, _GRACE_SECONDS)
            raise
        if self._failure is not None:
            raise self._failure

    async def stop(self, deadline: float, code: int) -> None:
        """Drain all endpoints, then end. Shielded from cancellation, and bounded.

        Raises:
            UsageError: The deadline is invalid, or the code may not be sent.
        """
        _check_farewell(deadline, code)
        if self.is_inherited or self.is_lost:
            return  # There is nothing here that could be ended.
        if not self._stopped.is_set():
            self.check_here()
        if not self.is_closing:
            self.is_closing = True
            self._farewell = (deadline, code)
            self._stop.set()
        if not await _outlast(self._stopped, deadline + STUCK_SECONDS + _GRACE_SECONDS):
            logger.error(
                "the bus has stopped; calls of the application go on although they were cancelled",
                extra=about("calls_go_on"),
            )
            self._end()

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint takes connections now."""
        return self.is_up and not self.is_leaving and endpoint not in self._draining

    @property
    def is_leaving(self) -> bool:
        """Whether all clients are sent away, or were."""
        return self._spread is not None

    async def drain(self, endpoint: Endpoint, deadline: float, code: int) -> None:
        """End the connections of one endpoint. Shielded from cancellation, and bounded.

        Raises:
            UsageError: The deadline is invalid, or the code may not be sent.
        """
        _check_farewell(deadline, code)
        if self.services is not None:
            self._draining.add(endpoint)
            try:
                with CancelScope(shield=True):
                    await drain(self.services, endpoint, deadline, code)
            finally:
                self._draining.discard(endpoint)

    async def send_away(self, window: float, deadline: float, code: int) -> None:
        """End all connections, and accept none any more; see :meth:`.Bus.drain`.

        Raises:
            UsageError: The window or the deadline is invalid, or the code may not be sent.
        """
        if not (is_number(window) and 0 <= window <= MAX_RETURN_SECONDS):
            raise UsageError(f"window is 0 to {MAX_RETURN_SECONDS:g} seconds, not {shown(window)}")
        _check_farewell(deadline, code)
        if self.services is None or self.is_lost:
            return
        self.check_here()
        if self._spread is None:
            count, now = len(self.services.registry), self.services.clock().monotonic
            logger.info(
                "draining: %d connections, to come again within %g s",
                count,
                window,
                extra=about("draining", count=count, seconds=window),
            )
            self._spread = Spread(window, count, now)
            # In a task of the bus: a caller that is cancelled would leave clients behind.
            self._tasks.start_soon(self._send_away, self._spread, window, deadline, code)
        with CancelScope(shield=True):
            await self._sent_away.wait()

    async def _send_away(self, spread: Spread, window: float, deadline: float, code: int) -> None:
        assert self.services is not None
        began = current_time()
        try:
            await drain_in_batches(self.services, window, deadline, code, spread)
            seconds = current_time() - began
            logger.info("drained within %.1f s", seconds, extra=about("drained", seconds=seconds))
        finally:
            self._sent_away.set()

    async def _host(self, started: Event) -> None:
        failure: BaseException | None = None
        try:
            async with create_task_group() as tasks:
                self._tasks = tasks
                services = self.services = self._make_services(tasks)
                tasks.start_soon(services.flusher.run)
                tasks.start_soon(services.rates.run)
                tasks.start_soon(self._sweep, services)
                if services.relay is not None:
                    tasks.start_soon(services.relay.run)
                    await services.relay.attempted()
                started.set()
                await self._stop.wait()
                if self._farewell is not None:
                    await drain(services, None, *self._farewell, self._spread)
                    for subscription in list(services.subscriptions):
                        subscription.close()
                    if services.relay is not None:
                        await services.relay.close(_FAREWELL_SECONDS)
                tasks.cancel_scope.cancel()
        except BaseException as exc:  # noqa: BLE001  # no task awaits this one
            failure = exc
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
            failure = failure.exceptions[0]
        if failure is not None and comes_of_signal(failure):
            self._end()
            hand_to_process()
            return
        if failure is not None or not self._stop.is_set():
            if isinstance(failure, Exception):
                self._failure = failure
                logger.critical(
                    "the bus has failed; its connections are cut",
                    exc_info=failure,
                    extra=about("bus_failed"),
                )
            else:  # Perhaps by the end of asyncio.run().
                logger.critical(
                    "a task of the bus was cancelled; its connections are cut",
                    extra=about("bus_cancelled"),
                )
        self._end()
        started.set()

    def _end(self) -> None:
        for driver in self.services.registry.connected() if self.services else ():
            driver.abort()
        self.services = None
        self._stopped.set()

    async def _sweep(self, services: Services) -> None:
        """Every second or less, tick each connection whose deadline has passed."""
        last, pause = services.clock(), pause_of(services.clock)
        while True:
            await pause(services.sweep_seconds())
            now = services.clock()
            _sweep_once(services, last, now)
            last = now


_lives: Final[WeakSet[Life]] = WeakSet()


def _leave_all_behind() -> None:
    for life in _lives:
        life.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_behind)


def _check_farewell(deadline: object, code: object) -> None:
    is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    if not is_number or not deadline >= 0:  # type: ignore[operator]  # it is a number
        raise UsageError(f"deadline is a number of seconds, 0 or more, not {shown(deadline)}")
    check_sendable(code)


async def _outlast(event: Event, seconds: float) -> bool:
    """Wait for an event in spite of cancellation, which takes effect afterwards.

    Returns:
        Whether the event came in time.
    """
    cancelled: BaseException | None = None
    with move_on_after(seconds, shield=True) as scope:
        while not event.is_set():
            try:
                await event.wait()
            except get_cancelled_exc_class() as exc:
                if scope.cancel_called:
                    raise
                cancelled = exc  # On asyncio a task can be cancelled past all shields.
    if cancelled is not None:
        raise cancelled
    return event.is_set()


def _sweep_once(services: Services, last: Instant, now: Instant) -> None:
    elapsed = now.monotonic - last.monotonic
    # More than a second late: the process was stopped, or its loop was blocked. Nothing was read
    # meanwhile, which must not count as silence.
    late = elapsed - SWEEP_SECONDS
    stopped = late if late > 1 else 0.0
    clock_was_set = abs(now.wall - last.wall - elapsed) > 1
    services.flusher.forgive(stopped)
    monotonic = now.monotonic
    policies = {endpoint: endpoint.heartbeat for endpoint in services.registry.endpoints()}
    is_changed = policies != services.heartbeats
    services.heartbeats = policies
    is_review = is_changed or clock_was_set or stopped > 0
    for driver in services.registry.connected():
        try:
            if is_review:
                driver.review(now, stopped)
            if monotonic >= driver.deadline:  # Usually this is all.
                driver.tick(now)
        except Exception:  # A failure of one connection must not end the heartbeat of the others.
            logger.exception(
                "a connection failed in the sweep",
                extra=about_driver("connection_failed", driver),
            )
            driver.abort()
    services.flusher.expire(monotonic)
    services.hub.table.settle()
    services.hub.replays.settle()
    if services.archive is not None and now.monotonic // 60 > last.monotonic // 60:
        services.archive.expire()
