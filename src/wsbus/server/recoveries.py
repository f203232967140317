"""Subscriptions whose past is read from a broker: nothing is lost, doubled or out of order.

The pattern is brought here first. Then a *stand-in* joins it, a member of the hub that only keeps
what is published, and the store is asked. Its answer and what the stand-in holds after it become
the replay, in the same step in which the subscriber joins and the stand-in leaves. The answer may
be ahead of what the link has brought, so that its last publication must have come before that step,
or it would come twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Self

from anyio import current_time, move_on_after

from ..core.actions import Brought, Outcome
from ..core.errors import BrokerUnavailable
from ..core.events import Gap, Position
from ..core.history import HistoryPage, offset_of
from ..core.hub import Hub
from ..core.member import Member
from ..core.messages import Publication, Since
from ..core.outlet import Outlet, Owed
from ..core.patterns import Pattern
from ..core.queue import MessageQueue
from ..core.recovery import Wanted, reads_of, recover
from .interest import REACH_SECONDS, Interest
from .reads import HEAD
from .storage import Storage

__all__ = ["Recoveries", "StandIn"]

_MAX_MESSAGES: Final = 1000
_MAX_BYTES: Final = 4 << 20
"""Bounds of what a stand-in holds; if there is more, the store is asked again."""


class StandIn(Outlet):
    """Keeps what is published for a subscription while its past is read.

    Args:
        hub: It joins its patterns there.
        patterns: Those of the subscription.
    """

    def __init__(self, hub: Hub, patterns: Sequence[Pattern]) -> None:
        self._hub: Final = hub
        self._patterns: Final = patterns
        self._has_lost = False
        self._member: Final = Member(None, MessageQueue[Owed](_MAX_MESSAGES, _MAX_BYTES), self)

    def __enter__(self) -> Self:
        """Join."""
        self._hub.attach(self._member)
        for pattern in self._patterns:
            self._hub.join(self._member, pattern)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Leave."""
        self.close()

    def close(self) -> None:
        """Leave. Idempotent."""
        self._hub.detach(self._member, self._patterns)

    @property
    def has_lost(self) -> bool:
        """Whether it may not hold everything since :meth:`clear`."""
        return self._has_lost or self._member.queue.lost > 0

    def clear(self) -> None:
        """Begin anew: hold nothing, and miss nothing."""
        self._member.queue.clear()
        self._has_lost = False

    def after(self, position: Position) -> list[Publication]:
        """Return what was published after a position."""
        held = [owed.publication for owed in self._member.take(_MAX_BYTES).items]
        return [
            each
            for each in held
            if each is not None
            and each.position is not None
            and each.position.epoch == position.epoch
            and each.position.offset > position.offset
        ]

    # --- for the hub -------------------------------------------------------------------------

    @property
    def receiver(self) -> StandIn:
        """Itself."""
        return self

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """Its queue is full, and the policy is to close."""
        self._has_lost = True

    def lose(self, gap: Gap) -> None:
        """Publications are missing before the next one."""
        self._has_lost = True


class Recoveries:
    """Finds what patterns get that are subscribed now, where other nodes publish, too.

    Args:
        hub: Where they are joined.
        interest: Has them brought here.
        storage: Asks the store of the broker; None: no family has history.
        stand_ins: Those that are there learn of gaps.
    """

    def __init__(
        self, hub: Hub, interest: Interest, storage: Storage | None, stand_ins: set[StandIn]
    ) -> None:
        self._hub: Final = hub
        self._interest: Final = interest
        self._storage: Final = storage
        self._stand_ins: Final = stand_ins

    def bring_now(
        self, patterns: Sequence[Pattern], since: Mapping[Pattern, Since]
    ) -> Brought | None:
        """Return what patterns get, if there is nothing to wait for; else None."""
        if not self._interest.brings(patterns):
            return None
        if self._storage is None:
            return self._here(patterns, None)
        mark, families = self._storage.mark, self._hub.families
        if mark is None or reads_of(_wanted(patterns, since), families):
            return None
        if not all(map(self._storage.covers, filter(families.keeps_any, patterns))):
            return None
        return self._here(patterns, mark)

    def _here(self, patterns: Sequence[Pattern], mark: Position | None) -> Brought:
        """Return what patterns get that are brought here and ask for nothing of the past."""
        self._interest.ask(patterns)
        keeps = self._hub.families.keeps_any
        return Brought([Outcome(position=mark if keeps(each) else None) for each in patterns])

    async def bring(
        self,
        patterns: Sequence[Pattern],
        since: Mapping[Pattern, Since],
        act: Callable[[Brought], None],
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Have patterns brought here, and find what they get; bounded.

        Args:
            patterns: What is subscribed, each once.
            since: The positions where patterns go on.
            act: Called with what they get; it joins those that are reached, at once.
            ready: Awaited before, until ``act`` can do so.
        """
        interest, until = self._interest, current_time() + REACH_SECONDS
        is_asked = not interest.ask(patterns)
        try:
            reached = [True] * len(patterns)
            if is_asked:
                reached = await interest.outcomes(patterns, REACH_SECONDS)
            here = [pattern for pattern, is_here in zip(patterns, reached, strict=True) if is_here]
            kept = [*filter(self._hub.families.keeps_any, here)] if self._storage else []
            if self._storage is None or not kept:
                await _be(ready)
                act(Brought([Outcome(each) for each in reached]))
                return
            wanted = _wanted(here, since)
            with StandIn(self._hub, kept) as stand_in:
                self._stand_ins.add(stand_in)
                try:
                    found = None
                    with move_on_after(until - current_time()):
                        found = await self._recover(self._storage, stand_in, wanted, ready)
                    act(_in_order(patterns, here, found))
                finally:
                    self._stand_ins.discard(stand_in)
        finally:  # After the joins, if there are any.
            if is_asked:
                interest.release(patterns)

    async def _recover(
        self,
        storage: Storage,
        stand_in: StandIn,
        wanted: Sequence[Wanted],
        ready: Callable[[], Awaitable[None]] | None,
    ) -> Brought | None:
        """Return what patterns get, for the present step; None: the store cannot be reached."""
        families = self._hub.families
        reads = reads_of(wanted, families)
        seen: str | None = None
        while True:
            stand_in.clear()
            try:
                pages = await storage.read(reads or [HEAD])
            except BrokerUnavailable:
                return None
            head = min([page.head for page in pages], key=lambda each: each.offset)
            await storage.passed(_last(pages, head))
            mark = storage.mark
            if mark is None or any(page.head.epoch != mark.epoch for page in pages):
                # One of them has not heard of a new epoch yet. The link may bring it; if not, the
                # answers tell.
                if seen == head.epoch:
                    storage.note(head)
                seen = head.epoch
                continue
            await _be(ready)
            if stand_in.has_lost:
                continue
            brought = recover(wanted, pages if reads else (), families, head)
            live = {offset_of(each): each for each in stand_in.after(head)}
            replay = {offset_of(each): each for each in brought.replay} | live
            latest = [each for each in brought.latest if offset_of(each) not in live]
            return Brought(brought.outcomes, [replay[each] for each in sorted(replay)], latest)


def _wanted(patterns: Sequence[Pattern], since: Mapping[Pattern, Since]) -> list[Wanted]:
    return [Wanted(pattern, since.get(pattern)) for pattern in patterns]


def _last(pages: Sequence[HistoryPage], head: Position) -> Position:
    """Return the position of the last publication of some answers."""
    offsets = [offset_of(page.publications[-1]) for page in pages if page.publications]
    return Position(head.epoch, max(offsets, default=0))


async def _be(ready: Callable[[], Awaitable[None]] | None) -> None:
    if ready is not None:
        await ready()


def _in_order(
    patterns: Sequence[Pattern], here: Sequence[Pattern], found: Brought | None
) -> Brought:
    """Return what was found for some patterns as the answer for all of them."""
    outcomes = {} if found is None else dict(zip(here, found.outcomes, strict=True))
    lost = Outcome(is_reached=False)
    answer = [outcomes.get(pattern, lost) for pattern in patterns]
    return Brought(answer) if found is None else found._replace(outcomes=answer)
