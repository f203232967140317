"""Events of a client's subscription, for code without an event loop."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from anyio import fail_after

from ..core.events import Event, Position
from .events import Events
from .portal import Portal

__all__ = ["SyncEvents"]

T = TypeVar("T")


class SyncEvents(Generic[T]):
    """Events that match a pattern, for one thread; made by :meth:`.SyncClient.subscribe`."""

    def __init__(self, portal: Portal, events: Events[T], wait: float | None) -> None:
        self._portal: Final = portal
        self._events: Final = events
        self._wait: Final = wait
        self._stack: Final = ExitStack()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._events)[1:]}"

    @property
    def position(self) -> Position | None:
        """The position of the last event that was taken; see :attr:`.Events.position`."""
        return self._events.position

    def __enter__(self) -> Self:
        """Subscribe, and wait until the server confirms it.

        Raises:
            WsbusError: The server refuses it, or does not answer in time.
        """
        self._stack.enter_context(self._portal.enter(self._events))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe."""
        self._stack.close()

    def __iter__(self) -> Self:
        """Iterate."""
        return self

    def __next__(self) -> Event[T]:
        """Wait for the next event; the iteration ends when none has come for ``wait`` seconds.

        Raises:
            WsbusError: As iterating :class:`.Events` does.
        """
        try:
            return self.get(self._wait)
        except (TimeoutError, EOFError):
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> Event[T]:
        """Wait for the next event.

        Args:
            timeout: Seconds; None: no limit. 0 takes only an event that is already there.

        Raises:
            TimeoutError: No event has come.
            EOFError: The subscription, or the client, is closed.
            WsbusError: As iterating :class:`.Events` does.
        """
        return self._portal.run(partial(self._next, timeout))

    async def _next(self, timeout: float | None) -> Event[T]:  # noqa: ASYNC109
        try:
            with fail_after(timeout):
                return await anext(self._events)
        except StopAsyncIteration:  # A coroutine cannot raise StopIteration.
            raise EOFError(f"{self._events.pattern}: the subscription is closed") from None
