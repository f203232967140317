"""Subscriptions inside the process: what a remote subscriber would get, without a socket."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from .._log import about, escaped
from ..core.actions import Brought
from ..core.choices import member_of, shown
from ..core.errors import CommandError, PositionLost, UsageError
from ..core.events import Event, Gap, GapCause, Position
from ..core.loss import Loss
from ..core.member import Member
from ..core.messages import Publication
from ..core.outlet import Outlet, Owed
from ..core.overflow import Overflow
from ..core.pacing import MAX_JOIN_BYTES
from ..core.patterns import Pattern
from ..core.queue import MessageQueue
from ..core.thinning import check_rate
from ._wakeup import Wakeup
from .services import Services

__all__ = ["Subscription"]

T = TypeVar("T")

logger: Final = logging.getLogger("wsbus.bus")


class Subscription(Outlet, Generic[T]):
    """Publications that match a pattern, as an async iterator; made by :meth:`.Bus.subscribe`.

    Subscribed from ``async with`` on; one task may iterate. Without ``async with``, ``async for``
    subscribes at its first step, and unsubscribes when it is closed. The queue is bounded like that
    of a connection: a consumer that falls behind loses, and :attr:`.Event.gap` tells it.

    Cancellation: a cancelled ``async for`` step loses nothing.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        pattern: Pattern,
        *,
        max_messages: int,
        max_bytes: int,
        overflow: Overflow | str,
        since: Position | None = None,
        decode: Callable[[Publication], T],
        max_rate: float | None = None,
    ) -> None:
        if since is not None and not isinstance(since, Position):
            raise UsageError(f"since is a Position, such as event.position, not {shown(since)}")
        self.pattern: Final = pattern
        self.position: Position | None = since
        """The position where it goes on; once it is entered, of what it has returned last. None:
        the pattern has no history."""
        self._rate: Final = None if max_rate is None else check_rate(max_rate)
        self._start: Position | None = None
        self._decode: Final = decode
        self._find: Final = services
        self._services: Services | None = None
        self._taken: list[Owed] = []
        self._gap: Gap | None = None
        self._loss: Loss | None = None
        """The loss before :attr:`_taken`, until it is read from history or reported."""
        self._wakeup: Wakeup  # From the moment that it is entered, which is in its event loop.
        self._is_closed = False
        self._is_awaited = False
        self._member: Final = Member(
            None,
            MessageQueue[Owed](max_messages, max_bytes),
            self,
            overflow=member_of(Overflow, overflow, "overflow"),
        )
        self.members: Sequence[Member] = (self._member,)

    @property
    def lost(self) -> int:
        """Number of publications lost because the queue was full."""
        return self._member.queue.lost_ever

    @property
    def thinned(self) -> int:
        """Number of publications that newer ones replaced because of ``max_rate``."""
        return sum([member.queue.conflated for member in self.members[1:]])

    def close(self) -> None:
        """End it; the iterator ends after what it has taken already. Idempotent."""
        self._is_closed = True
        if self._services is not None:
            self._services.rates.detach(self, [self.pattern])
            self._services.subscriptions.discard(self)
            self._services = None
        self.wake()

    async def __aenter__(self) -> Self:
        """Subscribe: every publication accepted from now on is for it.

        Where there is a broker, it waits until that brings what other nodes publish.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
            PositionLost: What was published after ``since`` is not kept any more.
        """
        if self._is_closed or self._services is not None:
            raise UsageError("a subscription is entered once")
        services = self._services = self._find()
        self._wakeup = Wakeup()
        services.subscriptions.add(self)
        services.hub.attach(self._member)
        if self._rate is not None:
            services.rates.set(self, {self.pattern: self._rate}, ())
        try:
            await services.begin(self.members[-1], self.pattern, self.position, self._begin)
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self, brought: Brought) -> None:
        """Take what was published before; the pattern is joined right after it."""
        (outcome,) = brought.outcomes
        if outcome.is_recovered is False:
            raise PositionLost(
                f"what was published on {self.pattern.text!r} after this position is not kept any "
                "more: read the state anew, and subscribe since the position that belongs to it"
            )
        self.position = self._start = outcome.position
        assert self._services is not None  # It is being entered.
        rates = self._services.rates
        rates.replay(self, brought.latest, is_latest=True)
        rates.replay(self, brought.replay, is_latest=False)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe."""
        self.close()

    def __aiter__(self) -> AsyncIterator[Event[T]]:
        """Iterate."""
        is_new = self._services is None and not self._is_closed
        return self._alone() if is_new else self

    async def _alone(self) -> AsyncIterator[Event[T]]:
        async with self:
            while True:
                try:
                    event = await anext(self)
                except StopAsyncIteration:
                    return
                yield event

    async def __anext__(self) -> Event[T]:
        """Wait for the next publication.

        Raises:
            UsageError: Not entered, or another task waits for the next one already.
        """
        while True:
            owed = await self.next_owed()
            publication = owed.publication
            assert publication is not None  # Those without were left out.
            position = publication.position
            if position is not None and not owed.is_latest:
                self.position = position
            try:
                data = self._decode(publication)
            except CommandError:  # Another process declares the channel differently.
                name, event = publication.channel, publication.event
                logger.exception(
                    "event %s of %s is left out",
                    escaped(event),
                    name,
                    extra=about("event_left_out", channel=name),
                )
                continue
            gap, self._gap = self._gap, None
            return Event(
                publication.channel,
                publication.event,
                data,
                publication.timestamp,
                gap,
                position,
                owed.is_latest,
                publication.trace_parent,
            )

    async def next_owed(self) -> Owed:
        """Wait for the next publication, and return it before it is decoded."""
        if self._is_awaited:
            raise UsageError(
                "another task iterates over this subscription: one task may; "
                "let each have a subscription of its own, or one task hand the events out"
            )
        while self._loss is not None or not self._taken:
            self._is_awaited = True
            try:
                await self._advance()
            finally:
                self._is_awaited = False
        return self._taken.pop()

    @property
    def has_gap(self) -> bool:
        """Whether publications are missing before the next one."""
        return self._gap is not None

    async def _advance(self) -> None:
        """Make good what is missing, or take what has come, or wait for something to come.

        Cancelled, it goes on where it was.
        """
        if self._loss is not None:
            await self._make_good(self._loss)
            return
        if self._is_closed:
            raise StopAsyncIteration
        if self._services is None:
            raise UsageError("use it as `async with bus.subscribe(…) as events:`")
        self._loss, items = self._member.take(MAX_JOIN_BYTES)
        self._taken = self._news(items)
        if self._loss is None and not self._taken:
            await self._wakeup.wait()

    async def _make_good(self, loss: Loss) -> None:
        """Read from history what the queue has lost; otherwise the next event tells the gap."""
        kept: Sequence[Publication] = ()
        if self._services is not None:
            kept = await self._services.restore(self._member, loss)
        self._loss = None
        if kept:
            self._member.queue.restored(len(kept))
            self._taken += self._news([Owed(None, publication) for publication in kept])
        else:
            self.lose(loss.gap(GapCause.BUFFER))

    def _news(self, items: Sequence[Owed]) -> list[Owed]:
        """Return the publications after the position where the subscription began, the last first.

        The store may have been ahead of what the broker had brought.
        """
        start = self._start
        if start is None:
            return [item for item in reversed(items) if item.publication is not None]
        news = [item for item in reversed(items) if _is_after(start, item)]
        if news and news[0].position is not None and self._loss is None:
            self._start = None  # All that follow come after this one.
        return news

    @property
    def receiver(self) -> Subscription[T]:
        """Itself."""
        return self

    def wake(self) -> None:
        """Its empty queue got something, or it is closed."""
        if self._is_awaited:
            self._wakeup.set()

    def lose(self, gap: Gap) -> None:
        """Publications are missing before the next one."""
        self._gap = gap if self._gap is None else self._gap.joined(gap)

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """Its queue is full, and the policy is to close."""
        self.close()


def _is_after(start: Position, owed: Owed) -> bool:
    publication, position = owed.publication, owed.position
    if publication is None or position is None:
        return publication is not None
    return position.epoch != start.epoch or position.offset > start.offset
