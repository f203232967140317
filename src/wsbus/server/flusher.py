"""Carries out the hub's plan once per turn of the event loop.

Publishing only fills the hub's log of the turn; the flush at the turn's end joins what each
member owes and writes it with one system call. A member that cannot be written to becomes blocked:
its queue fills within its bounds while one call on the runner waits for room and drains it.

A publisher in a tight loop is slowed down to what readers take, so that none of them loses anything
that keeps up (see :meth:`Flusher.flushed`). The wait is bounded, and a reader that does not keep up
is not waited for: nobody waits for a slow subscriber.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from anyio import Event, WouldBlock, current_time, move_on_after, sleep
from anyio.lowlevel import checkpoint

from .._log import BoundedLog
from ..core.errors import TransportClosed
from ..core.events import Gap
from ..core.frame import MAX_JOIN_BYTES, Frame
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.plan import Member, Owed, Plan, Standing, Write, count, join, joined_writes
from ._wakeup import Wakeup
from .outlet import Outlet, Owner
from .runner import Runner

__all__ = [
    "CATCH_UP_SECONDS",
    "FLUSH_BYTES",
    "FLUSH_COUNT",
    "PACE_SECONDS",
    "Flusher",
    "Outlet",
    "Owner",
]

FLUSH_COUNT: Final = 64
"""Publications after which a publisher waits one flush: without any wait a tight loop would
overflow healthy queues, and with one each nothing would be joined (measured: 160 flushes for 160
messages, against 11)."""
FLUSH_BYTES: Final = 256 * 1024
"""The same, in bytes."""
PACE_SECONDS: Final = 0.25
"""How long a publisher waits for readers after each flush, at most; and how long one of them may
take nothing before it is not waited for any more."""
CATCH_UP_SECONDS: Final = 1.0
"""How long publishers wait for one reader in all, counted anew once it owes nothing."""
_TURNS: Final = FLUSH_BYTES // MAX_JOIN_BYTES
"""Turns of the loop for readers inside the process, which take 64 KiB in each."""
_READY: Final = Standing.READY  # Attributes of enum classes are slow to look up (3.11).


class Flusher:
    """Writes what the hub's members owe.

    Args:
        hub: Plans.
        runner: Runs what has to wait.
        clock: Reads both clocks.
        interval: Seconds for which what is owed may wait for more; 0: for the end of the turn.
    """

    def __init__(
        self, hub: Hub, runner: Runner, clock: Callable[[], Instant], interval: float = 0.0
    ) -> None:
        self._interval: Final = interval
        self._hub: Final = hub
        self._runner: Final = runner
        self._clock: Final = clock
        self._log: Final = BoundedLog(logging.getLogger("wsbus.flusher"))
        self._is_due = False
        self._is_flushing = False
        self._due: Final = Wakeup()
        self._flushed: Event | None = None  # For those who wait for a flush.
        self._progress: Event | None = None  # For those who wait for readers.
        self.flushes: int = 0
        self.failures: int = 0
        """Members lost to a failed write."""

    # --- when --------------------------------------------------------------------------------

    def soon(self) -> None:
        """Flush at the end of this turn, or of the interval; at once if that much is owed already.

        Replies and ``publish_soon`` cannot wait, and so are bounded here.
        """
        if self.is_overdue:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            self._due.set()

    @property
    def is_overdue(self) -> bool:
        """So much is owed that a publisher should let the loop turn."""
        return self._hub.owed >= FLUSH_COUNT or self._hub.owed_bytes >= FLUSH_BYTES

    async def flushed(self) -> None:
        """Wait for the next flush, and then for the readers that drain; see :meth:`drained`."""
        if self._interval:  # The publisher is ahead of it.
            self.flush()
            await checkpoint()
        else:
            self._is_due = True
            self._due.set()
            if self._flushed is None:
                self._flushed = Event()
            await self._flushed.wait()
        if self._hub.blocked:
            await self.drained()

    async def drained(self) -> None:
        """Wait until readers that have fallen behind have caught up: they owe nothing.

        It waits at most :data:`PACE_SECONDS`, and for one reader at most :data:`CATCH_UP_SECONDS`
        in all until that has caught up. A reader that took nothing for :data:`PACE_SECONDS` is not
        waited for until it takes something. So readers never slow a publisher down below 1 MiB or
        256 publications a second, and one that is stuck costs a quarter of a second, once.

        Subscribers inside the process get a few turns of the loop instead.
        """
        for _ in range(_TURNS):
            if not any(_is_local(member) for member in self._hub.blocked):
                break
            await checkpoint()
        behind = self._behind(current_time())
        moves = {outlet: outlet.moves for outlet in behind}
        with move_on_after(PACE_SECONDS) as scope:
            while behind:
                if self._progress is None:
                    self._progress = Event()
                await self._progress.wait()
                behind = self._behind(current_time())
        if scope.cancelled_caught:
            for outlet in behind:
                outlet.has_stalled = outlet.moves == moves.get(outlet)

    def _behind(self, now: float) -> list[Outlet]:
        """Return the readers that are worth a wait."""
        behind = []
        for member in self._hub.blocked:
            outlet = member.outlet
            if not isinstance(outlet, Outlet) or member.queue.is_empty or outlet.has_failed:
                continue
            if outlet.behind_since is None:
                outlet.behind_since = now
            if not outlet.has_stalled and now - outlet.behind_since < CATCH_UP_SECONDS:
                behind.append(outlet)
        return behind

    def _relieve(self, outlet: Outlet) -> None:
        """Tell those who wait that something was written, or that nothing will be."""
        outlet.relieve()
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    async def run(self) -> None:
        """Flush once per turn, or interval, in which :meth:`soon` was called; until cancelled."""
        try:
            while True:
                await self._due.wait()
                if self._interval:
                    await sleep(self._interval)
                self.flush()
        finally:
            self._tell_flushed()  # Nobody may wait for a flush that never comes.

    # --- what --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is owed, to all who are writable; never waits.

        One member's failure costs that member only. Called from within itself (a connection that
        is closed as too slow owes its last words) it leaves the work to the outer call.
        """
        self._is_due = False
        if self._is_flushing:
            return
        self._is_flushing = True
        try:
            while self._hub.is_due:  # What could not be written may overflow queues, and so on.
                self._carry_out(self._hub.take_plan())
        finally:
            self._is_flushing = False
        self.flushes += 1
        self._tell_flushed()

    def _tell_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set()
            self._flushed = None

    def _carry_out(self, plan: Plan) -> None:
        for write in plan.writes:
            if write.writes_bytes:
                self._write(write)
            else:
                self._hand_over(write)
        for member in plan.woken:
            if not isinstance(member.outlet, Outlet):
                member.outlet.wake()
        for member in plan.overflowed:
            outlet = member.outlet
            owner: Owner = outlet.owner if isinstance(outlet, Outlet) else outlet
            if owner is not outlet and len(member.queue):  # It is cleared: this is logged once.
                outlet.log_overflow(self._log, member.queue, self._clock().monotonic)
            owner.queue_overflowed()

    def send(self, member: Member, frame: Frame) -> None:
        """Write a control frame: now if nothing is owed to anybody, else in its turn."""
        is_free = member.standing is _READY and member.writes_bytes
        if self._hub.owed or self._is_flushing or not is_free:
            self._hub.send(member, frame)
            self.soon()
            return
        try:
            member.outlet.direct.write_now(frame.wire)
            member.controls += 1
        except Exception as exc:  # noqa: BLE001  # one member's failure is no other's
            self._not_written(member, (Owed(frame, None),), exc)

    def _write(self, write: Write) -> None:
        members, _, owed = write
        first = next(iter(members))
        if first.standing is not _READY and all(m.standing is not _READY for m in members):
            return  # Subscribers inside the process always go by their queues.
        chunks = list(joined_writes(owed, first.protocol))
        wire = chunks[0][0]
        publications, controls = count(owed)
        for member in members:  # The hot loop: nothing per member but the write and two sums.
            if member.standing is not _READY:
                continue
            try:
                member.outlet.direct.write_now(wire)
            except Exception as exc:  # noqa: BLE001  # one member's failure is no other's
                self._not_written(member, owed, exc)
            else:
                if len(chunks) > 1 and not self._write_rest(member, chunks):
                    continue
                member.sent += publications
                if controls:
                    member.controls += controls

    def _write_rest(self, member: Member, chunks: Sequence[tuple[bytes, Sequence[Owed]]]) -> bool:
        for done, (wire, _) in enumerate(chunks[1:], 1):
            try:
                member.outlet.direct.write_now(wire)
            except Exception as exc:  # noqa: BLE001  # one member's failure is no other's
                publications, controls = count([o for _, items in chunks[:done] for o in items])
                member.sent += publications
                member.controls += controls
                self._not_written(member, [o for _, items in chunks[done:] for o in items], exc)
                return False
        return True

    def _not_written(self, member: Member, owed: Sequence[Owed], exc: Exception) -> None:
        if isinstance(exc, WouldBlock):
            outlet: Outlet = member.outlet
            outlet.progress_at = self._clock().monotonic
            outlet.unsent = outlet.direct.unsent() if outlet.direct else 0
            self._hub.block(member, owed)
            self._runner.submit_each(self._drain, (member,))
        else:
            self._hub.discard(owed)
            self._fail(member, exc)

    def _hand_over(self, write: Write) -> None:
        """Let the runner send, to members whose transports can only be awaited."""
        members, _, owed = write
        frames = join([item.frame for item in owed], next(iter(members)).protocol)
        publications, controls = count(owed)
        now = self._clock().monotonic
        ready = [member for member in members if member.standing is _READY]
        self._hub.lend(ready)
        for member in ready:
            member.outlet.progress_at = now
            member.sent += publications
            if controls:
                member.controls += controls
        self._runner.submit_each(partial(self._deliver, frames), ready)

    async def _deliver(self, frames: Sequence[Frame], member: Member) -> None:
        """Send what was handed over; most have room, owe nothing more, and are ready again."""
        outlet: Outlet = member.outlet
        try:
            await outlet.transport.send(frames)
        except Exception as exc:  # noqa: BLE001  # whatever a transport raises costs its member
            self._fail(member, exc)
            return
        is_ready = self._hub.unblock(member)
        self._relieve(outlet)
        if is_ready:
            outlet.behind_since = None
        else:
            outlet.progress_at = self._clock().monotonic
            await self._drain(member)

    # --- blocked members ---------------------------------------------------------------------

    async def _drain(self, member: Member) -> None:
        """Write what a blocked member owes, until it owes nothing and is ready again."""
        outlet: Outlet = member.outlet
        try:
            while member.standing is Standing.BLOCKED:
                if outlet.direct is not None:
                    await outlet.direct.wait_writable()
                frames = self._take(member)
                if frames:
                    await self._send(outlet, frames)
                elif self._release(member):
                    return
        except Exception as exc:  # noqa: BLE001  # whatever a transport raises costs its member
            self._fail(member, exc)
        finally:
            if member.standing is not Standing.BLOCKED:
                outlet.behind_since = None
            self._relieve(outlet)

    async def _send(self, outlet: Outlet, frames: Sequence[Frame]) -> None:
        if outlet.direct is None:
            await outlet.transport.send(frames)
        else:
            outlet.direct.write_now(b"".join([frame.wire for frame in frames]))
        outlet.progress_at = self._clock().monotonic
        self._relieve(outlet)

    def _take(self, member: Member) -> Sequence[Frame]:
        """Take up to 64 KiB from its queue, preceded by a gap frame if anything was lost."""
        batch = member.queue.take(MAX_JOIN_BYTES)
        frames: list[Frame] = batch.items
        if batch.lost:
            gap = member.protocol.encode(Gap(batch.lost), now := self._clock())
            member.outlet.log_loss(self._log, member.queue, now.monotonic)
            if gap is not None:
                frames = [gap, *frames]
        return join(frames, member.protocol)

    def _release(self, member: Member) -> bool:
        """Make it ready again. Flush first: what the log holds is in its queue already."""
        if self._hub.owed:
            self.flush()
        return self._hub.unblock(member)

    def expire(self, now: float) -> None:
        """Give up on members whose transports took nothing for the write deadline."""
        for member in list(self._hub.blocked):
            outlet = member.outlet
            if not isinstance(outlet, Outlet):
                continue
            unsent = outlet.direct.unsent() if outlet.direct else 0
            if unsent < outlet.unsent:
                outlet.progress_at = now
            outlet.unsent = unsent
            if now - outlet.progress_at >= outlet.write_deadline:
                outlet.log_abort(self._log, member.queue, now)
                self._fail(member, None)
            else:
                outlet.log_loss(self._log, member.queue, now)

    def forgive(self, seconds: float) -> None:
        """Take no account of the last ``seconds``, in which this process itself stood still."""
        if seconds:
            for member in self._hub.blocked:
                if isinstance(member.outlet, Outlet):
                    member.outlet.progress_at += seconds

    def _fail(self, member: Member, exc: Exception | None) -> None:
        if member.standing is Standing.GONE:
            return
        outlet: Outlet = member.outlet
        is_closed = isinstance(exc, TransportClosed)
        if not is_closed and not outlet.has_failed:  # It goes on failing until its reader ends.
            self.failures += 1
            if exc is not None and not isinstance(exc, OSError):
                self._log.error("writing to %s failed", outlet.owner.describe(), exc=exc)
        outlet.has_failed = True
        self._relieve(outlet)
        outlet.owner.write_failed(is_closed=is_closed)


def _is_local(member: Member) -> bool:
    return not isinstance(member.outlet, Outlet) and not member.queue.is_empty
