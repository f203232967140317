"""One receiver in the hub: where it stands, what it owes, and where that goes.

Theory of operation
-------------------

A member *owes* its client what was published for it and said to it. What it owes is in one of two
places, and which one is all that *standing* means:

- READY: in the hub's log of this turn, and nowhere else. The next flush writes it.
- LENT: a task sends, to a transport that can only be awaited, what the last flush handed over. What
  is owed meanwhile goes into the queue.
- BLOCKED: the transport takes nothing now. What is owed goes into the queue; a task waits until it
  does, and drains the queue.
- QUEUED: always in the queue, which the receiver reads itself: a subscription inside the process.
  Nothing is written to it, so it needs no protocol and its items no frames.
- GONE: nowhere. Nothing is owed to it any more.

Three objects move a member. The *hub* knows the log, and moves what is owed between log and queue.
The *flusher* writes, and reports what came of it. The *runner* runs the flusher's two calls that
wait, one for a member at a time: *deliver* (LENT) and *drain* (BLOCKED). Each reports to
:meth:`Member.step`, and :data:`TABLE` answers with the next standing and with the duty that follows
from it. Nothing else changes a standing.

A blocked member's way, and a lent one's::

    hub         flusher                     runner
                 write_now: would block
     ◄──────────── REFUSED                            READY → BLOCKED
    plan's rest and the log's entries go into the queue
                   submit ────────────────► drain     writable? take 64 KiB, write
                                               │      the queue is empty
                   flush ◄─────────────────────┤      what the log holds goes out to the others
     ◄──────────────────────────────── DRAINED │      BLOCKED → READY, if it owes nothing still

                 LENT ────────────────────► deliver   READY → LENT
     ◄──────────────────────────────── DRAINED │      LENT → READY, if it owes nothing,
                                        BEHIND │      LENT → BLOCKED if it does: it drains

**The flush comes before the release.** An entry of the log goes into the queue of each member that
is not READY as soon as it is published; for these members the log says nothing more. A member that
became READY while such an entry is still in the log would be written it a second time by the next
flush. So :meth:`.Hub.release` refuses while the log is not empty, and the drain flushes first.
The flush may put something into the queue again; then the drain goes on.

**A failed write changes no standing.** The outlet reports it to the connection, whose reader ends
and detaches the member; until then a READY member's writes fail again, each at its own cost, and a
LENT or BLOCKED one's queue fills within its bounds. What fails after the detach counts for nothing.

The member counts what was written from the log, its queue what went through the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum, auto
from typing import Final

from .forms import BYTES, FRAMES, Form
from .outlet import Outlet, Owed
from .overflow import Offer, Overflow
from .permissions import Grants
from .protocol import WireProtocol
from .queue import Batch, MessageQueue

__all__ = ["TABLE", "Duty", "Input", "Member", "Standing"]


class Standing(IntEnum):
    """The places of a member's unsent frames; the columns of :data:`TABLE`."""

    READY = 0
    """Writable, and it owes nothing that is not in the log."""
    LENT = 1
    """A task sends to it."""
    BLOCKED = 2
    """Not writable: its queue holds what it owes, and a task drains it."""
    QUEUED = 3
    """Never written to: its receiver reads the queue."""
    GONE = 4
    """Not in the hub any more; what is still addressed to it is discarded."""


class Input(IntEnum):
    """The inputs of a member; the rows of :data:`TABLE`."""

    ATTACHED = 0
    """The hub takes it in."""
    OWED = 1
    """Something is published for it, or said to it."""
    REFUSED = 2
    """The transport is full: nothing of this write was taken."""
    LENT = 3
    """A task is about to send to it what the flush had for it."""
    BEHIND = 4
    """That task is done, and more is owed by now."""
    DRAINED = 5
    """It owes nothing, and the log is empty."""
    OVERFLOWED = 6
    """Its queue is full, and the policy is to close."""
    FAILED = 7
    """A write failed, or the wait for a writable transport did, or the write deadline is over."""
    DETACHED = 8
    """The hub lets it go."""


class Duty(Enum):
    """The next action of the caller that reported the input, before anything else."""

    NOTHING = auto()
    LOG = auto()
    """Append it to the log of the turn. The hub's hot paths know this row by heart."""
    QUEUE = auto()
    """Put it into the queue."""
    WAKE = auto()
    """Put it into the queue; if that was empty, the next plan wakes the receiver."""
    MOVE = auto()
    """Put into the queue what the refused write, and then the log, hold for it."""
    DRAIN = auto()
    """Write what the queue holds."""
    FREE = auto()
    """Let the flush write to it again, and wake those who wait for that."""
    CLOSE = auto()
    """Let the next plan tell the outlet."""
    REPORT = auto()
    """Tell the outlet."""
    COUNT = auto()
    """Count as discarded what the log holds for it."""
    CLEAR = auto()
    """Clear the queue, which counts what it held."""


_NEVER: Final = None  # Cannot happen; if it does, a part of wsbus is wrong.
_LATE: Final = (Standing.GONE, Duty.NOTHING)  # A task reports what does not matter any more.
_R, _L, _B, _Q, _G = Standing
_NONE, _LOG, _QUEUE, _WAKE, _MOVE, _DRAIN, _FREE, _CLOSE, _REPORT, _COUNT, _CLEAR = Duty

# fmt: off
TABLE: Final[Mapping[Input, tuple[tuple[Standing, Duty] | None, ...]]] = {
    #                  READY          LENT           BLOCKED        QUEUED        GONE
    Input.ATTACHED:   ((_R, _NONE),   _NEVER,        _NEVER,        (_Q, _NONE),  _NEVER),
    Input.OWED:       ((_R, _LOG),    (_L, _QUEUE),  (_B, _QUEUE),  (_Q, _WAKE),  _LATE),
    Input.REFUSED:    ((_B, _MOVE),   _NEVER,        _NEVER,        _NEVER,       _NEVER),
    Input.LENT:       ((_L, _MOVE),   _NEVER,        _NEVER,        _NEVER,       _NEVER),
    Input.BEHIND:     (_NEVER,        (_B, _DRAIN),  _NEVER,        _NEVER,       _LATE),
    Input.DRAINED:    (_NEVER,        (_R, _FREE),   (_R, _FREE),   _NEVER,       _LATE),
    Input.OVERFLOWED: (_NEVER,        (_L, _CLOSE),  (_B, _CLOSE),  (_Q, _CLOSE), _NEVER),
    Input.FAILED:     ((_R, _REPORT), (_L, _REPORT), (_B, _REPORT), _NEVER,       _LATE),
    Input.DETACHED:   ((_G, _COUNT),  (_G, _CLEAR),  (_G, _CLEAR),  (_G, _CLEAR), _LATE),
}
# fmt: on
"""For each input and standing: the next standing, and the duty; None: cannot happen."""


class Member:
    """One receiver of publications.

    Args:
        protocol: Encodes for it; None: its standing is QUEUED for as long as it is attached.
        queue: Holds what it owes unless it is READY.
        shares_queue: The queue is empty and shared: the member gets one of its own when it first
            needs one. Most never do.
        overflow: The overflow policy of channels whose family has none.
        outlet: Where what it owes goes.
        form: The form in which the outlet takes frames; members of one form share joined writes.
    """

    __slots__ = (
        "_shares_queue",
        "controls",
        "form",
        "grants",
        "outlet",
        "overflow",
        "protocol",
        "queue",
        "sent",
        "standing",
    )

    def __init__(
        self,
        protocol: WireProtocol | None,
        queue: MessageQueue[Owed],
        outlet: Outlet,
        *,
        overflow: Overflow = Overflow.DROP_OLDEST,
        form: Form = BYTES,
        shares_queue: bool = False,
    ) -> None:
        self.protocol: Final = protocol
        self.queue: MessageQueue[Owed] = queue
        self.overflow: Final = overflow
        self.outlet: Final = outlet
        # Members that are QUEUED make one group, whatever their outlets could take.
        self.form: Final = FRAMES if protocol is None else form
        self.standing: Standing = Standing.QUEUED if protocol is None else Standing.READY
        """Written by :meth:`step` alone; an attribute because the flush reads it for each."""
        self.grants: Grants | None = None
        """Grants whose denies are filtered out at delivery; None: no filter."""
        self._shares_queue = shares_queue
        self.sent: int = 0
        """Publications written without touching the queue."""
        self.controls: int = 0
        """Control frames written without touching the queue."""

    def step(self, what: Input) -> Duty:
        """Take an input: change the standing, and return what to do about it.

        Raises:
            AssertionError: It cannot happen in this standing; nothing has changed.
        """
        step = TABLE[what][self.standing]
        if step is None:
            raise AssertionError(
                f"{what.name} cannot happen to a member that is {self.standing.name}"
            )
        self.standing, duty = step
        return duty

    @property
    def is_waiting(self) -> bool:
        """Whether nothing can be written to it now: it is LENT or BLOCKED."""
        return self.standing is Standing.LENT or self.standing is Standing.BLOCKED

    # --- its queue ---------------------------------------------------------------------------

    def enqueue(self, owed: Owed) -> Offer:
        """Put what it owes into its queue, by the policy of the channel's family or its own."""
        if self._shares_queue:
            self.queue, self._shares_queue = self.queue.fresh(), False
        if owed.frame is not None:
            owed.frame.compact()
        publication = owed.publication
        if publication is None:
            self.queue.put(owed)
            return Offer.ACCEPTED
        policy = (owed.family and owed.family.overflow) or self.overflow
        key = owed.conflation_key if policy is Overflow.CONFLATE else None
        return self.queue.offer(owed, policy, key)

    def take(self, max_bytes: int) -> Batch[Owed]:
        """Take what its queue holds; see :meth:`.MessageQueue.take`."""
        return self.queue.take(max_bytes)

    def clear(self) -> None:
        """Discard what its queue holds."""
        if not self._shares_queue:
            self.queue.clear()

    # --- counters ----------------------------------------------------------------------------

    @staticmethod
    def write_each(
        members: Iterable[Member], wire: bytes, publications: int, controls: int
    ) -> dict[Member, Exception]:
        """Write to each of them that is READY, and count what that was.

        The hot loop of fan-out: it does nothing per member but the write and two sums.

        Returns:
            The members to which it failed, and why; for them nothing is counted.
        """
        failed = {}
        for member in members:
            if member.standing is not _R:
                continue
            write = member.outlet.write_now  # By itself: a slot that is called is slower (3.11).
            try:
                write(wire)
            except Exception as exc:  # noqa: BLE001  # one member's failure is no other's
                failed[member] = exc
            else:
                member.sent += publications
                if controls:
                    member.controls += controls
        return failed

    def write_control(self, wire: bytes) -> None:
        """Write a control frame, and count it; for a member that is READY and owes nothing."""
        write = self.outlet.write_now
        write(wire)
        self.controls += 1

    def count_lent(self, publications: int, controls: int) -> None:
        """Count what a task sends to it."""
        self.sent += publications
        self.controls += controls

    @property
    def message_count(self) -> int:
        """Publications sent to this member."""
        return self.sent + self.queue.sent

    @property
    def control_count(self) -> int:
        """Control frames sent to it: replies, pings."""
        return self.controls + self.queue.control_sent
