"""Carries out the hub's plan once per turn of the event loop.

Publishing only fills the hub's log of the turn; the flush at the turn's end joins what each
member owes and writes it with one system call. A member that cannot be written to becomes blocked:
its queue fills within its bounds while one call on the runner waits for room and drains it
(:mod:`wsbus.core.member` has the whole of it).

A publisher in a tight loop is slowed down to what readers take, so that none of them loses anything
that keeps up (see :meth:`Flusher.flushed`). The wait is bounded, and a reader that does not keep up
is not waited for: nobody waits for a slow subscriber.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from anyio import Event, WouldBlock, current_time, move_on_after, sleep
from anyio.lowlevel import checkpoint

from .._log import BoundedLog
from ..core.events import GapCause
from ..core.frame import Frame
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.loss import Loss
from ..core.member import Duty, Input, Member, Standing
from ..core.messages import Publication
from ..core.outlet import Outlet, Owed
from ..core.pacing import FLUSH_BYTES, FLUSH_COUNT, LOCAL_TURNS, MAX_JOIN_BYTES, PACE_SECONDS
from ..core.plan import Plan, Write, count, join, joined_writes
from ._wakeup import Wakeup
from .runner import Runner

__all__ = ["Flusher", "Restore"]

Restore: TypeAlias = Callable[[Member, Loss], Awaitable[Sequence[Publication]]]
"""Returns all that a loss stands for, in order; nothing if that is not possible."""

_READY: Final = Standing.READY  # Attributes of enum classes are slow to look up (3.11).


async def _restore_nothing(_member: Member, _loss: Loss) -> Sequence[Publication]:
    return ()


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
        self.restore: Restore = _restore_nothing
        """Reads what a member has lost from a store."""
        self.log: Final = BoundedLog(logging.getLogger("wsbus.flusher"))
        """Takes what outlets report to operators."""
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
            self._flush_later()

    def pace(self) -> Awaitable[None] | None:
        """Flush as :meth:`soon` does; if much is owed, return what the caller is to await first.

        It returns None if the caller need not wait.
        """
        if self.is_overdue:
            return self.flushed()
        if not self._is_due:
            self._flush_later()
        return None

    def _flush_later(self) -> None:
        self._due.set()  # It raises in another event loop, each time.
        self._is_due = True

    def settle(self, *, is_alone: bool) -> None:
        """Flush at once what came alone, unless it is to wait for more; else as :meth:`soon`."""
        if is_alone and not self._interval:
            self.flush()
        else:
            self.soon()

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
            self._flush_later()
            if self._flushed is None:
                self._flushed = Event()
            await self._flushed.wait()
        if self._hub.waiting or self._hub.has_unread:
            await self.drained()

    async def drained(self) -> None:
        """Wait until readers that have fallen behind have caught up: they owe nothing.

        It waits at most :data:`.PACE_SECONDS`, and for one reader at most :data:`.CATCH_UP_SECONDS`
        in all until that has caught up. A reader that took nothing for :data:`.PACE_SECONDS` is not
        waited for until it takes something. So readers never slow a publisher down below 1 MiB or
        256 publications a second, and one that is stuck costs a quarter of a second, once.

        Subscribers inside the process get a few turns of the loop instead.
        """
        for _ in range(LOCAL_TURNS):
            if not self._hub.has_unread:
                break
            await checkpoint()
        behind = self._behind()
        moves = {outlet: outlet.moves for outlet in behind}
        with move_on_after(PACE_SECONDS) as scope:
            while behind:
                if self._progress is None:
                    self._progress = Event()
                await self._progress.wait()
                behind = self._behind()
        if scope.cancelled_caught:
            for outlet in behind:
                outlet.stall(moves.get(outlet))

    def _behind(self) -> list[Outlet]:
        """Return the readers that are worth a wait."""
        now = current_time()
        waiting = [member for member in self._hub.waiting if not member.queue.is_empty]
        return [m.outlet for m in waiting if m.outlet.is_worth_waiting(now)]

    def _tell_progress(self) -> None:
        """Wake publishers that wait for readers: something was written, or nothing will be."""
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
            if write.form.writes_bytes:
                self._write(write)
            else:
                self._hand_over(write)
        for member in plan.woken:
            member.outlet.wake()
        for member in plan.overflowed:
            member.outlet.overflow(member.queue, self._clock().monotonic)

    def send(self, member: Member, frame: Frame) -> None:
        """Write a control frame: now if nothing is owed to anybody, else in its turn."""
        is_free = member.standing is _READY and member.form.writes_bytes
        if self._hub.owed or self._is_flushing or not is_free:
            self._hub.send(member, frame)
            self.soon()
            return
        try:
            member.write_control(member.form.wire(frame))
        except Exception as exc:  # noqa: BLE001  # one member's failure is no other's
            self._not_written(member, (Owed(frame, None),), exc)

    def _write(self, write: Write) -> None:
        members, form, owed = write
        protocol = next(iter(members)).protocol
        if form.keeps and len(members) == 1:
            protocol = None
        chunks = list(joined_writes(owed, protocol, form))
        for done, (wire, items) in enumerate(chunks):
            failed = Member.write_each(members, wire, *count(items))
            if failed:
                rest = [item for _, part in chunks[done:] for item in part]
                members = [member for member in members if member not in failed]
                for member, exc in failed.items():
                    self._not_written(member, rest, exc)

    def _not_written(self, member: Member, owed: Sequence[Owed], exc: Exception) -> None:
        if isinstance(exc, WouldBlock):
            member.outlet.watch(self._clock().monotonic)
            self._hub.block(member, owed)
            self._runner.submit_each(self._drain, (member,))
        else:
            self._hub.discard(owed)
            self._fail(member, exc)

    def _hand_over(self, write: Write) -> None:
        """Let the runner send, to members whose transports can only be awaited."""
        members, _, owed = write
        frames = join(owed, next(iter(members)).protocol)
        now = self._clock().monotonic
        ready = [member for member in members if member.standing is _READY]
        self._hub.lend(ready)
        publications, controls = count(owed)
        for member in ready:
            member.outlet.watch(now)
            member.count_lent(publications, controls)
        self._runner.submit_each(partial(self._deliver, frames), ready)

    async def _deliver(self, frames: Sequence[Frame], member: Member) -> None:
        """Send the frames handed over; most members then owe nothing more, and are ready again."""
        try:
            await member.outlet.send(frames)
        except Exception as exc:  # noqa: BLE001  # whatever a transport raises costs its member
            self._fail(member, exc)
            return
        if self._hub.release(member):
            member.outlet.rest()
            if self._progress is not None:
                self._tell_progress()
            return
        member.outlet.progress(self._clock().monotonic)
        self._tell_progress()
        if member.step(Input.BEHIND) is Duty.DRAIN:
            await self._drain(member)

    # --- blocked members ---------------------------------------------------------------------

    async def _drain(self, member: Member) -> None:
        """Write what a blocked member owes, until it owes nothing and is ready again."""
        outlet = member.outlet
        try:
            while member.standing is Standing.BLOCKED:
                await outlet.wait_writable()
                loss, owed = member.take(MAX_JOIN_BYTES)
                if loss is not None:
                    for part in await self._missing(member, loss):
                        await self._send(member, part)
                        await outlet.wait_writable()
                if owed:
                    await self._send(member, owed)
                elif loss is None and self._release(member):
                    break
        except Exception as exc:  # noqa: BLE001  # whatever a transport raises costs its member
            self._fail(member, exc)
        finally:
            self._rest(member)

    async def _send(self, member: Member, owed: Sequence[Owed]) -> None:
        protocol = None if member.form.keeps else member.protocol
        await member.outlet.send(join(owed, protocol))
        member.outlet.progress(self._clock().monotonic)
        self._tell_progress()

    async def _missing(self, member: Member, loss: Loss) -> Sequence[Sequence[Owed]]:
        """Return what stands in the place of a loss: what a store has of it in writes, or a gap."""
        protocol = member.protocol
        if protocol is None:
            return ()
        kept = await self.restore(member, loss)
        if kept:
            member.queue.restored(len(kept))
            owed = [Owed(protocol.encode_publication(each), each) for each in kept]
            return [items for _, items in joined_writes(owed, protocol)]
        gap = protocol.encode(loss.gap(GapCause.SERVER), now := self._clock())
        member.outlet.report_loss(member.queue, now.monotonic)
        return () if gap is None else ((Owed(gap, None),),)

    def _release(self, member: Member) -> bool:
        """Make it ready again. Flush first: what the log holds is in its queue already."""
        if self._hub.owed:
            self.flush()
        return self._hub.release(member)

    def _rest(self, member: Member) -> None:
        member.outlet.rest()
        if self._progress is not None:
            self._tell_progress()

    def expire(self, now: float) -> None:
        """Give up on members whose transports took nothing for the write deadline."""
        for member in list(self._hub.waiting):
            if member.outlet.is_overdue(now):
                member.outlet.report_abort(member.queue, now)
                self._fail(member, None)
            else:
                member.outlet.report_loss(member.queue, now)

    def forgive(self, seconds: float) -> None:
        """Take no account of the last ``seconds``, in which this process itself stood still."""
        if seconds:
            for member in self._hub.waiting:
                member.outlet.forgive(seconds)

    def _fail(self, member: Member, exc: Exception | None) -> None:
        if member.step(Input.FAILED) is Duty.REPORT:
            self.failures += member.outlet.fail(exc)
        self._tell_progress()
