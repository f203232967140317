"""What the flusher writes through: one member's transport, and its owner."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from anyio import Event

from .._log import BoundedLog
from ..core.queue import MessageQueue
from ..transport import Transport, WriteNow

__all__ = ["Outlet", "Owner"]

_QUIET_SECONDS: Final = 60.0
"""Between two warnings of one connection."""


class Owner(Protocol):
    """The connection of a member, which the flusher reports its findings to."""

    def describe(self) -> str:
        """Return which connection it is, and whose, as a log line may say it."""
        ...

    def write_failed(self, *, is_closed: bool) -> None:
        """Nothing can be written any more; perhaps because the connection closes already."""
        ...

    def queue_overflowed(self) -> None:
        """The queue is full, and the policy is to close."""
        ...


class Outlet:
    """What the flusher knows of one member's transport, asked once, at attach.

    Args:
        transport: Where to write.
        owner: Gets the flusher's findings.
        write_deadline: Seconds for which it may take nothing before it is given up.
    """

    __slots__ = (
        "_relief",
        "behind_since",
        "direct",
        "has_failed",
        "has_stalled",
        "moves",
        "owner",
        "progress_at",
        "told_at",
        "told_lost",
        "transport",
        "unsent",
        "write_deadline",
    )

    def __init__(self, transport: Transport, owner: Owner, write_deadline: float) -> None:
        self.transport: Final = transport
        self.direct: Final = transport if isinstance(transport, WriteNow) else None
        self.owner: Final = owner
        self.write_deadline: Final = write_deadline
        self.progress_at: float = 0.0
        """When, while blocked, the transport took something last; monotonic seconds."""
        self.unsent: int = 0
        """Bytes that the operating system had not taken at the last look."""
        self.has_failed: bool = False
        """Nothing will be written any more: there is no relief to wait for."""
        self.behind_since: float | None = None
        """When a publisher first waited for it since it was ready last; seconds of the loop."""
        self.has_stalled: bool = False
        """It took nothing while a publisher waited, and nothing since."""
        self.moves: int = 0
        """How often it took something."""
        self.told_lost: int = 0
        """Publications whose loss is in the log."""
        self.told_at: float | None = None
        """When the log told it last; monotonic seconds."""
        self._relief: Event | None = None

    async def relief(self) -> None:
        """Wait until some of the queue was written, or the member is not blocked any more."""
        if self._relief is None:
            self._relief = Event()
        await self._relief.wait()

    def relieve(self) -> None:
        """Wake those who wait in :meth:`relief`: something was written, or nothing will be."""
        self.has_stalled = False
        self.moves += 1
        if self._relief is not None:
            self._relief.set()
            self._relief = None

    def log_loss(self, log: BoundedLog, queue: MessageQueue[Any], now: float) -> None:
        """Warn that publications were lost since the last warning, once a minute at most."""
        lost = queue.lost_ever - self.told_lost
        if lost and (self.told_at is None or now - self.told_at >= _QUIET_SECONDS):
            words = "%s reads too slowly: %d publications were lost"
            self._log(log, queue, now, words, lost)

    def log_abort(self, log: BoundedLog, queue: MessageQueue[Any], now: float) -> None:
        """Log that the connection is aborted at its write deadline, with what it loses; once."""
        if self.has_failed:  # Its reader has not ended yet.
            return
        words = "%s is aborted: it took nothing for %g s; %d publications were lost, and %d wait"
        self._log(log, queue, now, words, self.write_deadline, queue.lost_ever, len(queue))

    def log_overflow(self, log: BoundedLog, queue: MessageQueue[Any], now: float) -> None:
        """Log that the connection is closed because of its full queue."""
        words = "%s is closed: it reads too slowly, and %d publications wait"
        self._log(log, queue, now, words, len(queue))

    def _log(
        self, log: BoundedLog, queue: MessageQueue[Any], now: float, words: str, *args: object
    ) -> None:
        self.told_lost, self.told_at = queue.lost_ever, now
        # A connection that lost nothing is no concern of an operator: one that sent pings, say.
        has_lost = queue.lost_ever or len(queue)
        level = logging.WARNING if has_lost else logging.INFO
        log.log(level, words, self.owner.describe(), *args)
