"""Changes of a client's connection, reported to the application."""

from __future__ import annotations

from collections import deque
from typing import Final, Self, TypeAlias

import anyio
import msgspec

from ..core.errors import WsbusError
from ..core.events import Gap

__all__ = ["Change", "Changes", "Closed", "Connected", "Missed", "Reconnecting", "RefreshFailed"]


class Connected(msgspec.Struct, frozen=True):
    """It is connected, and the server has accepted its token, if any."""

    connection_id: str | None
    """The server's id for the connection; None in ``zigquant-v2``."""
    subject: str | None
    """The subject of the client's identity; None: unknown."""
    is_again: bool
    """Whether it was connected before."""


class Reconnecting(msgspec.Struct, frozen=True):
    """The connection is lost, or an attempt has failed; another one follows."""

    attempt: int
    """The number of the next attempt since the last success, from 1."""
    delay: float
    """Seconds until it begins."""
    error: WsbusError
    """The cause; ``str(error)`` is a text for people."""


class Missed(msgspec.Struct, frozen=True):
    """A subscription misses publications: read the state anew if it must be right."""

    pattern: str
    """The pattern of the subscription."""
    gap: Gap
    """The gap. If its ``cause`` is ``server`` and it names no channels, some or all of the missing
    events may have been for other subscriptions of this client."""


class RefreshFailed(msgspec.Struct, frozen=True):
    """The token could not be refreshed; the old one holds while it lasts."""

    why: str


class Closed(msgspec.Struct, frozen=True):
    """It is over, and does not connect again; the last change there is."""

    error: WsbusError | None
    """Why; None: the application closed it."""


Change: TypeAlias = Connected | Reconnecting | Missed | RefreshFailed | Closed

_MOST: Final = 1000


class Changes:
    """Changes as they happen, an async iterator; made by :meth:`.Client.changes`.

    It begins with the last :class:`Connected` or :class:`Reconnecting`, and ends after
    :class:`Closed`. Of more than 1,000 that nobody takes the oldest are forgotten.
    """

    def __init__(self, first: Change | None) -> None:
        self._changes: Final[deque[Change]] = deque([first] if first else [], maxlen=_MOST)
        self._wake = anyio.Event()
        self._is_over = isinstance(first, Closed)

    def put(self, change: Change) -> None:
        """Add one; never waits."""
        self._changes.append(change)
        self._is_over = self._is_over or isinstance(change, Closed)
        self._wake.set()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> Change:
        """Wait for the next change. Cancellation: nothing is lost."""
        while not self._changes:
            if self._is_over:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._changes.popleft()
