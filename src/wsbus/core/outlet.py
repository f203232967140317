"""Frames that members owe, and the outlets that they go to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from .channels import Channel
from .events import Position
from .families import Family
from .frame import Frame
from .messages import Publication
from .queue import MessageQueue

__all__ = ["Outlet", "Owed"]


class Owed:
    """One publication or control frame on its way to members."""

    __slots__ = ("_key", "family", "frame", "is_latest", "publication", "size")

    def __init__(
        self,
        frame: Frame | None,
        publication: Publication | None,
        family: Family | None = None,
        *,
        is_latest: bool = False,
    ) -> None:
        self.frame: Final = frame
        """None: for members without a protocol."""
        self.publication: Final = publication
        """None: a control frame, which no policy drops."""
        self.family: Final = family
        """The channel's family; None: it has none."""
        self.is_latest: Final = is_latest
        """Whether it is the latest of its channel, for a new subscription."""
        self._key: object = None
        counted = publication if frame is None else frame
        assert counted is not None  # One of them is there.
        self.size: Final = counted.size

    @property
    def conflation_key(self) -> object:
        """The key by which a newer publication replaces this one; found once for all members."""
        publication, family = self.publication, self.family
        if self._key is None and publication is not None:
            self._key = publication.conflation_key
            if publication.key is None and family is not None and family.key is not None:
                value = family.key_in(publication.data)
                self._key = (publication.channel, publication.event, value)
        return self._key

    @property
    def channel(self) -> Channel | None:
        """The channel that a loss names."""
        return None if self.publication is None else self.publication.channel

    @property
    def position(self) -> Position | None:
        """The position in a store; None: it has none, or stands outside of the order."""
        return None if self.publication is None or self.is_latest else self.publication.position


class Outlet(ABC):
    """The receiver of a member's frames, as hub and flusher need it.

    The default of each method suits a receiver whose member is QUEUED: nothing is written to it,
    so nothing is refused, and there is no progress to watch. Times are monotonic seconds.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def receiver(self) -> object:
        """The owner of the member in the running bus."""

    @abstractmethod
    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """End it: its queue is full, and the policy is to close."""

    # --- QUEUED ------------------------------------------------------------------------------

    def wake(self) -> None:
        """The empty queue got something."""

    # --- READY -------------------------------------------------------------------------------

    @property
    def write_now(self) -> Callable[[bytes], None]:
        """The function that writes RFC 6455 frames; see :class:`wsbus.transport.WriteNow`."""
        raise AssertionError("a QUEUED member is not written to")

    def fail(self, exc: Exception | None) -> bool:
        """Nothing can be written any more; None: it took nothing for too long.

        Returns:
            Whether it is counted, as only the first failure is, and no regular end.
        """
        return False

    # --- LENT, BLOCKED -----------------------------------------------------------------------

    def wait_writable(self) -> Awaitable[None]:
        """Wait until :meth:`send` would not wait, where that can be known."""
        raise AssertionError("a QUEUED member is not drained")

    def send(self, frames: Sequence[Frame]) -> Awaitable[None]:
        """Send them all, in order."""
        raise AssertionError("a QUEUED member is not drained")

    def watch(self, now: float) -> None:
        """From now on it must take something within its write deadline."""

    def progress(self, now: float) -> None:
        """It took something."""

    def rest(self) -> None:
        """The member is READY again, or GONE."""

    def is_overdue(self, now: float) -> bool:
        """Look for progress below; return whether there was none for the write deadline."""
        return False

    def forgive(self, seconds: float) -> None:
        """Do not count these seconds: the process itself stood still."""

    def report_loss(self, queue: MessageQueue[Owed], now: float) -> None:
        """Tell operators what the queue has lost."""

    def report_abort(self, queue: MessageQueue[Owed], now: float) -> None:
        """Tell operators that it is given up at its write deadline."""

    # --- publishers that wait ----------------------------------------------------------------

    @property
    def moves(self) -> int:
        """How often it took something."""
        return 0

    def is_worth_waiting(self, now: float) -> bool:
        """Return whether a publisher may wait for it, and note since when one does."""
        return False

    def stall(self, moves: int | None) -> None:
        """A publisher has waited in vain, if :attr:`moves` is still what it was before."""
