"""The outlet of a connection's member: its transport, and the progress of its writes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from anyio import Event

from .._log import BoundedLog, about, escaped
from ..core.errors import TransportClosed
from ..core.forms import BYTES, FRAMES, WINDOW_BITS, Deflate, Form
from ..core.frame import Frame
from ..core.outlet import Outlet, Owed
from ..core.pacing import CATCH_UP_SECONDS
from ..core.queue import MessageQueue
from ..transport import Transport, WriteNow

__all__ = ["OutletOwner", "SocketOutlet"]

_QUIET_SECONDS: Final = 60.0
"""Between two warnings of one connection."""


class OutletOwner(Protocol):
    """The connection of a member, to which its outlet reports."""

    @property
    def id(self) -> str:
        """The id of the connection."""
        ...

    def describe(self) -> str:
        """Return which connection it is, and whose, as a log line may say it."""
        ...

    def write_failed(self, *, is_closed: bool) -> None:
        """Nothing can be written any more; perhaps because the connection closes already."""
        ...

    def queue_overflowed(self) -> None:
        """The queue is full, and the policy is to close."""
        ...


class SocketOutlet(Outlet):
    """One connection's transport, asked once, at attach, for what it can do.

    Args:
        transport: Where to write.
        owner: Gets the findings.
        write_deadline: Seconds for which the transport may take nothing before it is given up.
        deflate: Compresses, if the transport may be written so; None: it does not.
        log: Takes what operators have to know.
    """

    __slots__ = (
        "_behind_since",
        "_has_failed",
        "_has_stalled",
        "_log",
        "_moves",
        "_owner",
        "_progress_at",
        "_relief",
        "_reported_at",
        "_reported_lost",
        "_unsent",
        "_write_deadline",
        "direct",
        "form",
        "transport",
        "write_now",
    )

    write_now: Callable[[bytes], None]
    """The transport's own, so that a delivery costs one call; only if it is :attr:`direct`."""

    def __init__(
        self,
        transport: Transport,
        owner: OutletOwner,
        write_deadline: float,
        log: BoundedLog,
        deflate: Deflate | None = None,
    ) -> None:
        self.transport: Final = transport
        self.direct: Final = transport if isinstance(transport, WriteNow) else None
        """The transport, if it can write without waiting."""
        if self.direct is not None:
            self.write_now = self.direct.write_now
        self.form: Final = _form_of(self.direct, deflate)
        self._owner: Final = owner
        self._write_deadline: Final = write_deadline
        self._log: Final = log
        self._progress_at = 0.0  # When, while waiting, the transport took something last.
        self._unsent = 0  # Bytes that the operating system had not taken at the last look.
        self._has_failed = False
        self._behind_since: float | None = None  # When a publisher first waited for it.
        self._has_stalled = False  # It took nothing while a publisher waited, and nothing since.
        self._moves = 0
        self._reported_lost = 0  # Publications whose loss is in the log.
        self._reported_at: float | None = None
        self._relief: Event | None = None

    @property
    def receiver(self) -> OutletOwner:
        """The connection."""
        return self._owner

    # --- writing -----------------------------------------------------------------------------

    async def wait_writable(self) -> None:
        """Wait until :meth:`send` would not wait, if the transport can tell.

        Raises:
            TransportClosed: Nobody can be reached any more.
        """
        if self.direct is not None:
            await self.direct.wait_writable()

    def send(self, frames: Sequence[Frame]) -> Awaitable[None]:
        """Send them all, in order.

        Raises:
            TransportClosed: Nobody can be reached any more; raised when it is awaited.
        """
        if self.direct is None:
            return self.transport.send(frames)  # No coroutine around each ASGI delivery.
        return self._write(self.direct, frames)

    async def _write(self, direct: WriteNow, frames: Sequence[Frame]) -> None:
        direct.write_now(b"".join(map(self.form.wire, frames)))

    # --- progress ----------------------------------------------------------------------------

    @property
    def progress_at(self) -> float:
        """When, while nothing can be written, the transport took something last."""
        return self._progress_at

    def watch(self, now: float) -> None:
        """Expect it to take something within the write deadline from now on."""
        self._progress_at = now
        if self.direct is not None:
            self._unsent = self.direct.unsent()

    def progress(self, now: float) -> None:
        """Note that the transport took something; wake those who wait in :meth:`relief`."""
        self._progress_at = now
        self.relieve()

    def rest(self) -> None:
        """Note that publishers have nothing to wait for."""
        self._behind_since = None
        self._has_stalled = False
        self._moves += 1
        if self._relief is not None:
            self.relieve()

    async def relief(self) -> None:
        """Wait until some of the queue was written, or the member is not blocked any more."""
        if self._relief is None:
            self._relief = Event()
        await self._relief.wait()

    def relieve(self) -> None:
        """Wake those who wait in :meth:`relief`: something was written, or nothing will be."""
        self._has_stalled = False
        self._moves += 1
        if self._relief is not None:
            self._relief.set()
            self._relief = None

    def is_overdue(self, now: float) -> bool:
        """Return whether the transport has taken nothing for the write deadline.

        What the operating system takes of what was written before is progress, too.
        """
        unsent = 0 if self.direct is None else self.direct.unsent()
        if unsent < self._unsent:
            self._progress_at = now
        self._unsent = unsent
        return now - self._progress_at >= self._write_deadline

    def forgive(self, seconds: float) -> None:
        """Do not count these seconds: the process itself stood still."""
        self._progress_at += seconds

    # --- publishers that wait ----------------------------------------------------------------

    @property
    def moves(self) -> int:
        """How often it took something."""
        return self._moves

    def is_worth_waiting(self, now: float) -> bool:
        """Return whether publishers wait for it still.

        They do not once they have waited for :data:`.CATCH_UP_SECONDS`, while it takes nothing, or
        if it has failed.
        """
        if self._has_failed:
            return False
        if self._behind_since is None:
            self._behind_since = now
        return not self._has_stalled and now - self._behind_since < CATCH_UP_SECONDS

    def stall(self, moves: int | None) -> None:
        """A publisher has waited in vain, if :attr:`moves` is still what it was before."""
        self._has_stalled = self._moves == moves

    # --- the end, and the log ----------------------------------------------------------------

    @property
    def has_failed(self) -> bool:
        """Whether nothing will be written any more: there is no relief to wait for."""
        return self._has_failed

    def fail(self, exc: Exception | None) -> bool:
        """Report that nothing can be written any more; None: it took nothing for too long.

        A fault of the transport that is neither its end nor one of the operating system is logged.

        Returns:
            Whether it is counted, as only the first failure is, and no regular end of the
            connection. It goes on failing until its reader ends.
        """
        is_closed = isinstance(exc, TransportClosed)
        counts = not is_closed and not self._has_failed
        if counts and exc is not None and not isinstance(exc, OSError):
            self._log.error(
                "writing to %s failed",
                self._owner.describe(),
                exc=exc,
                extra=about("write_failed", connection=escaped(self._owner.id)),
            )
        self._has_failed = True
        self.relieve()
        self._owner.write_failed(is_closed=is_closed)
        return counts

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """Have the connection closed because of its full queue."""
        if len(queue):  # The connection clears it: this is logged once.
            words = "%s is closed: it reads too slowly, and %d publications wait"
            self._report("connection_closed", queue, now, words, len(queue))
        self._owner.queue_overflowed()

    def report_loss(self, queue: MessageQueue[Owed], now: float) -> None:
        """Warn that publications were lost since the last warning, once a minute at most."""
        lost = queue.lost_ever - self._reported_lost
        if lost and (self._reported_at is None or now - self._reported_at >= _QUIET_SECONDS):
            words = "%s reads too slowly: %d publications were lost"
            self._report("publications_lost", queue, now, words, lost)

    def report_abort(self, queue: MessageQueue[Owed], now: float) -> None:
        """Log that the connection is aborted at its write deadline, with what it loses; once."""
        if self._has_failed:  # Its reader has not ended yet.
            return
        words = "%s is aborted: it took nothing for %g s; %d publications were lost, and %d wait"
        facts = self._write_deadline, queue.lost_ever, len(queue)
        self._report("connection_aborted", queue, now, words, *facts)

    def _report(
        self, kind: str, queue: MessageQueue[Owed], now: float, words: str, *args: object
    ) -> None:
        self._reported_lost, self._reported_at = queue.lost_ever, now
        # A connection that lost nothing is no concern of an operator: one that sent pings, say.
        has_lost = queue.lost_ever or len(queue)
        level = logging.WARNING if has_lost else logging.INFO
        self._log.log(
            level,
            words,
            self._owner.describe(),
            *args,
            extra=about(kind, connection=escaped(self._owner.id), lost=queue.lost_ever),
        )


def _form_of(direct: WriteNow | None, deflate: Deflate | None) -> Form:
    if direct is None:
        return FRAMES
    if deflate is None:
        return BYTES
    # A client that wants a smaller window gets what is not compressed, as it may.
    is_agreed = getattr(direct, "window_bits", 0) == WINDOW_BITS
    return deflate if is_agreed else BYTES
