"""History of a bus without a broker: kept in this process, within the call that publishes.

Nothing waits here, so that reading what was missed and joining the hub are one step, and no
publication comes between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..core.actions import Brought
from ..core.events import Position
from ..core.families import Families
from ..core.history import HistoryPage, HistoryRead, MemoryHistory
from ..core.instant import Instant
from ..core.messages import Since
from ..core.patterns import Pattern
from ..core.recovery import Wanted, reads_of, recover

__all__ = ["Archive"]


class Archive:
    """Keeps what is published on channels with history.

    Args:
        families: Those of the bus.
        history: Keeps it.
        clock: Reads both clocks.
    """

    def __init__(
        self, families: Families, history: MemoryHistory, clock: Callable[[], Instant]
    ) -> None:
        self._families: Final = families
        self._history: Final = history
        self._clock: Final = clock
        self.keep: Final = history.keep
        """Number a publication and keep it; see :meth:`.MemoryHistory.keep`."""

    @property
    def head(self) -> Position:
        """The position of what was published last."""
        return self._history.head

    def repeated(self, key: str) -> Position | None:
        """Return the position of the publication with an idempotency key; None: there is none."""
        return self._history.repeated(key, self._clock().monotonic)

    def bring(self, patterns: Sequence[Pattern], since: Mapping[Pattern, Since]) -> Brought:
        """Return what a subscription to these patterns gets of the past."""
        wanted = [Wanted(pattern, since.get(pattern)) for pattern in patterns]
        pages = [self.read(read) for read in reads_of(wanted, self._families)]
        return recover(wanted, pages, self._families, self.head)

    def read(self, read: HistoryRead) -> HistoryPage:
        """Answer a question."""
        return self._history.read(read, self._clock().monotonic)

    def expire(self) -> None:
        """Drop what is too old."""
        self._history.expire(self._clock().monotonic)
