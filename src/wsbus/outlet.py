"""What the flusher writes through: one member's transport, and whom to tell of it."""

from __future__ import annotations

from typing import Final, Protocol

from anyio import Event

from .transport import Transport, WriteNow

__all__ = ["Outlet", "Owner"]


class Owner(Protocol):
    """Whom the flusher tells what it found out about a member."""

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
        owner: Whom to tell.
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
