"""Subscriptions with a rate: a *pacer* stands before their receiver, and one timer serves all.

A receiver without a rate costs nothing more: its member is in the hub as ever. For one that has a
rate somewhere, the pacer's member joins all patterns in its place. What the pacer lets through is
owed to the receiver's own member at once, so that the log of the turn keeps the order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol

from .._log import about
from .._timing import limit_of
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Publication
from ..core.outlet import Outlet, Owed
from ..core.overflow import Offer
from ..core.patterns import Pattern
from ..core.permissions import Grants
from ..core.protocol import WireProtocol
from ..core.queue import MessageQueue
from ..core.thinning import Thinning
from ._wakeup import Wakeup
from .flusher import Flusher

logger: Final = logging.getLogger("wsbus.rates")

__all__ = ["Paced", "Pacer", "Rates"]


class Paced(Protocol):
    """A receiver that may have a pacer: a connection, or a subscription inside the process."""

    members: Sequence[Member]
    """Its own member, then that of its pacer, if it has one; the last one joins its patterns."""


class _PacedMember(Member):
    """Hands what it is owed to its pacer, at once."""

    __slots__ = ("_take",)

    def __init__(self, held: Thinning, pacer: Pacer, take: Callable[[Owed], None]) -> None:
        super().__init__(None, held, pacer)
        self._take: Final = take

    def enqueue(self, owed: Owed) -> Offer:
        """Take what is owed."""
        self._take(owed)
        return Offer.ACCEPTED


class Pacer(Outlet):
    """Holds one receiver's events back to its rates; made by :meth:`Rates.set`."""

    def __init__(self, rates: Rates, target: Member) -> None:
        self._rates: Final = rates
        self.target: Final = target
        """The receiver's own member."""
        self.held: Final = Thinning(target.queue.max_messages, target.queue.max_bytes)
        """The held events, and the rates."""
        self.member: Final[Member] = _PacedMember(self.held, self, self._take)
        """Joins the patterns in place of the receiver's own."""
        self.watched_until: float = math.inf
        """When the timer looks at it next."""

    @property
    def receiver(self) -> object:
        """The receiver."""
        return self.target.outlet.receiver

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """Do nothing: what cannot be held goes."""

    def _take(self, owed: Owed) -> None:
        rates = self._rates
        rates.begin(owed.publication)
        rates.send(self, self.held.pace(owed, rates.now()))
        rates.watch(self)


class Rates:
    """The pacers of a bus, and the timer for what they hold.

    Args:
        hub: Their members are there.
        flusher: Writes what they let through.
        clock: Reads both clocks.
    """

    def __init__(self, hub: Hub, flusher: Flusher, clock: Callable[[], Instant]) -> None:
        self._hub: Final = hub
        self._flusher: Final = flusher
        self._clock: Final = clock
        self._limit: Final = limit_of(clock)
        # By the receiver's own member.
        self._pacers: Final[dict[Member, Pacer]] = {}
        self._due: Final[list[tuple[float, int, Pacer]]] = []
        self._numbers: Final = count()
        self._wakeup: Final = Wakeup()
        # What was encoded for one publication, or one moment: many receivers get the same.
        self._encoded: Final[dict[tuple[Publication, WireProtocol], Owed]] = {}
        self._last: Publication | None = None

    def now(self) -> float:
        """Return the monotonic time."""
        return self._clock().monotonic

    # --- receivers -------------------------------------------------------------------------------

    def join(self, receiver: Paced, pattern: Pattern) -> None:
        """From now on it gets what matches."""
        self._hub.join(receiver.members[-1], pattern)

    def leave(self, receiver: Paced, pattern: Pattern) -> None:
        """From now on it does not."""
        self._hub.leave(receiver.members[-1], pattern)

    def leave_all(self, receiver: Paced, patterns: Collection[Pattern]) -> None:
        """Stop publications to it; what it owes it still gets, also what is held."""
        pacer = self._pacers.get(receiver.members[0])
        if pacer is not None:
            self.send(pacer, pacer.held.release_all(self.now()))
        self._hub.leave_all(receiver.members[-1], patterns)

    def detach(self, receiver: Paced, patterns: Collection[Pattern]) -> None:
        """Let it go, with its pacer and what that holds."""
        for member in receiver.members:
            self._hub.detach(member, patterns)
        self._pacers.pop(receiver.members[0], None)

    def restrict(self, receiver: Paced, grants: Grants) -> None:
        """From now on the denies of ``grants`` are filtered out at delivery."""
        for member in receiver.members:
            self._hub.restrict(member, grants)

    def set(
        self,
        receiver: Paced,
        rates: Mapping[Pattern, float | None],
        patterns: Collection[Pattern],
    ) -> None:
        """Set the rates of a receiver, and whether it has a pacer at all.

        Args:
            receiver: It is in the hub.
            rates: All patterns that it may be joined to, with their rates; empty: it has no rate.
            patterns: Those that it is joined to, or about to be.
        """
        own = receiver.members[0]
        pacer = self._pacers.get(own)
        if pacer is None:
            if not rates:
                return
            pacer = self._pacers[own] = Pacer(self, own)
            receiver.members = (own, pacer.member)
            self._hub.attach(pacer.member)
            self._hub.restrict_as(pacer.member, own)
            self._move(own, pacer.member, patterns)
        owed = pacer.held.set_rates(rates or dict.fromkeys(patterns), self.now())
        self.send(pacer, owed)
        if not rates:
            self._move(pacer.member, own, patterns)
            self._hub.detach(pacer.member, ())
            receiver.members = (own,)
            del self._pacers[own]
        self._flusher.soon()

    def _move(self, old: Member, new: Member, patterns: Collection[Pattern]) -> None:
        for pattern in patterns:  # None of them is without a member meanwhile.
            self._hub.join(new, pattern)
            self._hub.leave(old, pattern)

    def replay(
        self, receiver: Paced, publications: Sequence[Publication], *, is_latest: bool
    ) -> None:
        """Owe it what was published before: of what has a rate, the newest of each key."""
        pacer = self._pacers.get(receiver.members[0])
        if pacer is not None and not is_latest:
            find = self._hub.families.find
            owed = [Owed(None, each, find(each.channel)) for each in publications]
            newest = pacer.held.newest(owed, self.now())
            publications = [each.publication for each in newest if each.publication is not None]
        self._hub.replay(receiver.members[0], publications, is_latest=is_latest)
        self._flusher.soon()

    # --- the timer -------------------------------------------------------------------------------

    def watch(self, pacer: Pacer) -> None:
        """Look at a pacer when something that it holds is due."""
        due = pacer.held.due
        if due < pacer.watched_until:
            pacer.watched_until = due
            if not self._due or due < self._due[0][0]:
                self._wakeup.set()
            heappush(self._due, (due, next(self._numbers), pacer))

    async def run(self) -> None:
        """Send what is due; until cancelled."""
        while True:
            if not self._due:
                await self._wakeup.wait()
            with self._limit(self._due[0][0] - self.now()):
                await self._wakeup.wait()
            self._release()

    def _release(self) -> None:
        now = self.now()
        self.begin(None)
        while self._due and self._due[0][0] <= now:
            _, _, pacer = heappop(self._due)
            pacer.watched_until = math.inf
            self.send(pacer, pacer.held.release(now))
            self.watch(pacer)
        self._encoded.clear()
        self._flusher.flush()

    def begin(self, publication: Publication | None) -> None:
        """Forget what was encoded for another publication."""
        if publication is not self._last or publication is None:
            self._encoded.clear()
            self._last = publication

    def send(self, pacer: Pacer, owed: Sequence[Owed]) -> None:
        """Owe the receiver what its pacer lets through; encoded once for all of a moment."""
        for each in owed:
            try:
                ready = self._ready(each, pacer.target.protocol)
            except Exception:  # A dialect that fails costs its own receivers.
                logger.exception(
                    "an event of a subscription with a rate cannot be encoded",
                    extra=about("event_not_encoded"),
                )
            else:
                self._hub.pass_on(pacer.target, ready)

    def _ready(self, owed: Owed, protocol: WireProtocol | None) -> Owed:
        publication = owed.publication
        if protocol is None or publication is None:
            return owed
        ready = self._encoded.get((publication, protocol))
        if ready is None:
            frame = protocol.encode_publication(publication)
            ready = Owed(frame, publication, owed.family)
            self._encoded[publication, protocol] = ready
        return ready
