"""Events of a client's subscription, as an async iterator."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import anyio
from anyio import fail_after

from ..core.client.actions import LatestPublication
from ..core.errors import CommandError, ErrorCode, UsageError, WsbusError
from ..core.events import Event, Gap, GapCause, Position
from ..core.messages import Publication
from ..core.overflow import Offer, Overflow
from ..core.patterns import Pattern
from ..core.queue import MessageQueue
from .payloads import decode

__all__ = ["Events", "EventsOwner"]

T = TypeVar("T")
_TAKE_BYTES: Final = 64 * 1024


class _Marker:
    """A gap with a cause outside of the buffer; a control item in it."""

    __slots__ = ("channel", "gap", "size")

    def __init__(self, gap: Gap) -> None:
        self.size: Final = 1
        self.channel: Final = None
        self.gap = gap
        """Later losses are added to it: reported early, they are reported in time."""


class EventsOwner(Protocol):
    """The methods of a client that a subscription needs."""

    def check_caller(self) -> None:
        """Refuse a caller that is not on the client's own event loop.

        Raises:
            UsageError: It is another one.
        """
        ...

    def join(self, subscription: Events[Any]) -> None:
        """Ask for it."""
        ...

    def leave(self, subscription: Events[Any]) -> None:
        """Give it up. Idempotent."""
        ...

    def missed(self, pattern: str, gap: Gap) -> None:
        """Tell the application that a subscription misses something."""
        ...

    async def fence(self, seconds: float) -> None:
        """Wait for an answer that comes after all that is on its way.

        Raises:
            TimeoutError: None came within so many seconds.
        """
        ...


class Events(Generic[T]):
    """Events that match a pattern; made by :meth:`wsbus.client.client.Client.subscribe`.

    ``async with`` returns once the server has confirmed it, and gives it up at the end. It
    outlives connections: after each it is asked for anew. On channels with history it goes on where
    it was, and misses nothing; else the first event after that says so in :attr:`.Event.gap`. One
    task may iterate. Its buffer is bounded: a task that
    iterates too slowly loses by the overflow policy, finds the loss in :attr:`.Event.gap`, and
    holds up nobody else.

    Iterating ends when the subscription or the client is closed, and raises the reason when either
    was ended by the server. An event whose data does not fit the type raises
    :class:`.UnexpectedData`; iterating may go on after it.

    Cancellation: a cancelled ``async for`` step loses nothing.
    """

    def __init__(
        self,
        owner: EventsOwner,
        pattern: Pattern,
        decode: Callable[[bytes], T],
        *,
        asks: bool,
        buffer: int,
        buffer_bytes: int,
        overflow: Overflow,
        timeout: float,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> None:
        self.pattern: Final = pattern.text
        self.parsed: Final = pattern
        self.asks: Final = asks
        self.since: Final = since
        self.max_rate: Final = max_rate
        self.position: Position | None = since
        """The position of the last event that was taken, at first where the subscription begins:
        ``since=events.position`` goes on there. None: the pattern has no history."""
        self._owner: Final = owner
        self._decode: Final = decode
        self._overflow: Final = overflow
        self._timeout: Final = timeout
        self._queue: Final = MessageQueue[Publication | _Marker](buffer, buffer_bytes)
        self._taken: list[Publication | _Marker] = []
        self._marker: _Marker | None = None
        self._gap: Gap | None = None
        self._wake: anyio.Event | None = None
        self._confirmed: Final = anyio.Event()
        self._is_entered = False
        self._is_closed = False
        self._error: WsbusError | None = None

    @property
    def lost(self) -> int:
        """Number of events lost because the buffer was full."""
        return self._queue.lost_ever

    def __repr__(self) -> str:
        return f"<Events {self.pattern!r}>"

    async def __aenter__(self) -> Self:
        """Subscribe; from the confirmation on, every matching event is for it.

        Raises:
            CommandError: The server refuses it (``FORBIDDEN``, say), or says nothing (``TIMEOUT``).
            PositionLost: What was published after ``since`` is not kept any more.
            UsageError: ``since`` is given, and the client is subscribed to the pattern already.
            RemoteError: The client has ended; why.
        """
        if self._is_entered:
            raise UsageError("a subscription is entered once")
        self._is_entered = True
        try:
            self._owner.join(self)
            with fail_after(self._timeout):
                await self._confirmed.wait()
        except TimeoutError:
            self.close()
            why = f"{self.pattern}: the server did not confirm it within {self._timeout:g} s"
            raise CommandError(ErrorCode.TIMEOUT, why) from None
        except BaseException:
            self.close()
            raise
        if self._is_closed:
            self.close()
            raise copy(self._error) if self._error else UsageError("the client is closed")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it up; does not wait for the server."""
        self.close()

    async def catch_up(self) -> None:
        """Wait until all that the server had sent before this call is here, to be taken.

        The server answers one question for it. ``zigquant-v2`` has none: there it returns at once.

        Raises:
            TimeoutError: The server did not answer within ``timeout``, or there is no connection.
            UsageError: The caller is not on the event loop of the client.
        """
        await self._owner.fence(self._timeout)

    def close(self) -> None:
        """Give it up: the iterator ends, and what it has not taken is thrown away. Idempotent."""
        self._is_closed = True
        self._taken.clear()
        self._queue.clear()
        self._owner.leave(self)
        self._rouse()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> Event[T]:
        """Wait for the next event.

        Raises:
            UnexpectedData: Its data does not fit the type; the next one may.
            RemoteError: The server ended the subscription, or the client; why.
            UsageError: Not entered; or another task waits already, or this is another event loop.
        """
        while True:
            while self._taken:
                item = self._taken.pop()
                if isinstance(item, Publication):
                    return self._event(item)
                self._pass(item)
            if not self._is_entered:
                raise UsageError("use it as `async with client.subscribe(…) as events:`")
            loss, items = self._queue.take(_TAKE_BYTES)
            if loss is not None:
                self._lose(loss.gap(GapCause.BUFFER))
            self._taken = items[::-1]
            if not items and loss is None:
                if self._is_closed:
                    if self._error is not None:
                        raise copy(self._error)
                    raise StopAsyncIteration
                await self._wait()

    async def _wait(self) -> None:
        self._owner.check_caller()
        if self._wake is not None:
            raise UsageError(
                f"{self.pattern}: another task waits for the next event already: one task iterates "
                "a subscription and hands its events to others, or each task subscribes"
            )
        wake = self._wake = anyio.Event()
        try:
            await wake.wait()
        finally:
            if self._wake is wake:
                self._wake = None

    def _event(self, item: Publication) -> Event[T]:
        if item.position is not None and not isinstance(item, LatestPublication):
            self.position = item.position
        data = decode(item.data, self._decode, f"an event on {item.channel}")
        gap, self._gap = self._gap, None
        is_latest = isinstance(item, LatestPublication)
        return Event(item.channel, item.event, data, item.timestamp, gap, item.position, is_latest)

    def _pass(self, marker: _Marker) -> None:
        if marker is self._marker:
            self._marker = None
        self._note(marker.gap)

    def _lose(self, gap: Gap) -> None:
        self._owner.missed(self.pattern, gap)
        self._note(gap)

    def _note(self, gap: Gap) -> None:
        """Keep a gap for the next event."""
        self._gap = gap if self._gap is None else self._gap.joined(gap)

    # --- for the client --------------------------------------------------------------------------

    def confirmed(self, position: Position | None) -> None:
        """The server has confirmed it; what comes is after a position."""
        self.position = position
        self._confirmed.set()

    def offer(self, publication: Publication) -> None:
        """Take a publication; never waits."""
        key = publication.conflation_key if self._overflow is Overflow.CONFLATE else None
        if self._queue.offer(publication, self._overflow, key) is Offer.OVERFLOW:
            self._queue.clear()
            why = f"{self.pattern}: its buffer overflowed, and the policy is to close"
            self.end(CommandError("OVERFLOW", why))
        elif self._wake is not None:
            self._rouse()

    def lose(self, gap: Gap) -> None:
        """Take note that something is missing right here."""
        self._owner.missed(self.pattern, gap)
        if self._marker is not None:
            self._marker.gap = self._marker.gap.joined(gap)
        else:
            self._marker = _Marker(gap)
            self._queue.put(self._marker)
        self._rouse()

    def end(self, error: WsbusError | None) -> None:
        """It is over, by no doing of the application; what has come can still be read."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._owner.leave(self)
        self._confirmed.set()
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None
