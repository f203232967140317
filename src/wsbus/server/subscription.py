"""Subscriptions inside the process: what a remote subscriber would get, without a socket."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec

from ..core.choices import member_of
from ..core.errors import UsageError
from ..core.events import Event, Gap, GapCause
from ..core.frame import Frame
from ..core.instant import Instant
from ..core.messages import Publication, Request, ServerMessage
from ..core.overflow import Overflow
from ..core.patterns import Pattern
from ..core.plan import Member
from ..core.protocol import WireProtocol
from ..core.queue import MessageQueue
from .services import Services

__all__ = ["Subscription"]


class _Delivery(Frame):
    """A publication in a queue; it is not encoded again."""

    __slots__ = ("publication",)

    def __init__(self, publication: Publication) -> None:
        super().__init__(publication.data)
        self.publication: Final = publication


class _Local(WireProtocol):
    """The dialect of those who need none."""

    name = "local"

    def decode(self, frame: str | bytes) -> tuple[Request, ...]:
        """Return nothing: nobody speaks it."""
        return ()

    def encode(self, reply: ServerMessage, at: Instant) -> None:
        """Say nothing."""

    def encode_publication(self, publication: Publication) -> Frame:
        """Wrap it."""
        return _Delivery(publication)


_LOCAL: Final = _Local()
_TAKE_BYTES: Final = 64 * 1024


class Subscription:
    """Publications that match a pattern, as an async iterator; made by :meth:`.Bus.subscribe`.

    Subscribed from ``async with`` on; one task may iterate. The queue is bounded like that of a
    connection: a consumer that falls behind loses, and :attr:`.Event.gap` tells it.

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
    ) -> None:
        self.pattern: Final = pattern
        self._find: Final = services
        self._services: Services | None = None
        self._taken: list[_Delivery] = []
        self._lost = 0
        self._wake = anyio.Event()
        self._is_closed = False
        self._is_awaited = False
        self._member: Final = Member(
            _LOCAL,
            MessageQueue[Frame](max_messages, max_bytes),
            overflow=member_of(Overflow, overflow, "overflow"),
            outlet=self,
        )

    @property
    def lost(self) -> int:
        """Publications lost for want of room, over all."""
        return self._member.queue.lost_ever

    def close(self) -> None:
        """End it; the iterator ends after what it has taken already. Idempotent."""
        self._is_closed = True
        if self._services is not None:
            self._services.hub.detach(self._member, [self.pattern])
            self._services.subscriptions.discard(self)
            self._services = None
        self._wake.set()

    async def __aenter__(self) -> Self:
        """Subscribe: every publication accepted from now on is for it."""
        if self._is_closed or self._services is not None:
            raise UsageError("a subscription is entered once")
        services = self._services = self._find()
        services.subscriptions.add(self)
        services.hub.attach(self._member, is_blocked=True)
        services.hub.join(self._member, self.pattern)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe."""
        self.close()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> Event[Any]:
        """Wait for the next publication.

        Raises:
            UsageError: Not entered, or another task waits for the next one already.
        """
        if self._is_awaited:
            raise UsageError(
                "another task iterates over this subscription: one task may; "
                "let each have a subscription of its own, or one task hand the events out"
            )
        while not self._taken:
            if self._is_closed:
                raise StopAsyncIteration
            if self._services is None:
                raise UsageError("use it as `async with bus.subscribe(…) as events:`")
            batch = self._member.queue.take(_TAKE_BYTES)
            self._lost += batch.lost
            self._taken = batch.items[::-1]  # type: ignore[assignment]  # all made by _Local
            if not self._taken:
                self._wake = anyio.Event()
                self._is_awaited = True
                try:
                    await self._wake.wait()
                finally:
                    self._is_awaited = False
        publication = self._taken.pop().publication
        lost, self._lost = self._lost, 0
        data = msgspec.json.decode(publication.data)
        gap = Gap(lost, GapCause.BUFFER) if lost else None
        return Event(
            publication.channel,
            publication.event,
            data,
            publication.timestamp,
            gap,
            publication.position,
        )

    def write_failed(self, *, is_closed: bool) -> None:
        """Do nothing: nobody writes to it. See :class:`wsbus.server.outlet.Owner`."""

    def describe(self) -> str:
        """Return what it is; see :class:`wsbus.server.outlet.Owner`."""
        return "a subscription inside the process"

    def wake(self) -> None:
        """Its empty queue got something."""
        self._wake.set()

    def queue_overflowed(self) -> None:
        """Its queue is full, and the policy is to close."""
        self.close()
