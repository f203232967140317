"""Watches of presence, for code without an event loop."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self

from anyio import fail_after

from ..core.presence import Roster, RosterChange
from .portal import Portal
from .watches import PresenceWatch

__all__ = ["SyncPresenceWatch"]


class SyncPresenceWatch:
    """The connections on a channel, for one thread; made by :meth:`.SyncClient.watch_presence`."""

    def __init__(self, portal: Portal, watch: PresenceWatch) -> None:
        self._portal: Final = portal
        self._watch: Final = watch
        self._stack: Final = ExitStack()

    @property
    def roster(self) -> Roster:
        """The connections that are there; as :attr:`.PresenceWatch.roster`.

        Raises:
            UsageError: Not entered.
        """
        return self._watch.roster

    def __repr__(self) -> str:
        return f"<Sync{repr(self._watch)[1:]}"

    def __enter__(self) -> Self:
        """Ask which connections are there, and to be kept informed.

        Raises:
            WsbusError: The server refuses it, or does not answer in time.
        """
        self._stack.enter_context(self._portal.enter(self._watch))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it up."""
        self._stack.close()

    def __iter__(self) -> Self:
        """Iterate."""
        return self

    def __next__(self) -> RosterChange:
        """Wait until something is new; the first step gives all that are there.

        Raises:
            WsbusError: As iterating :class:`.PresenceWatch` does.
        """
        try:
            return self.get()
        except EOFError:
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> RosterChange:
        """Wait until something is new.

        Args:
            timeout: Seconds; None: no limit.

        Raises:
            TimeoutError: Nothing is new.
            EOFError: The watch, or the client, is closed.
            WsbusError: As iterating :class:`.PresenceWatch` does.
        """
        return self._portal.run(partial(self._next, timeout))

    async def _next(self, timeout: float | None) -> RosterChange:  # noqa: ASYNC109
        try:
            with fail_after(timeout):
                return await anext(self._watch)
        except StopAsyncIteration:  # A coroutine cannot raise StopIteration.
            raise EOFError(f"presence of {self._watch.channel}: the watch is closed") from None
