"""A broker that fails when a test wants it to."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

from anyio import CancelScope, Event, fail_after

from ..broker import DIAL_SECONDS, Broker, HistoryLink, Link, Receive
from ..brokers import MemoryBroker
from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable
from ..core.events import Position
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead, Stored

__all__ = ["FaultyBroker"]


class FaultyBroker:
    """A broker with outages, for tests of what an application does then.

    ``Bus(broker=FaultyBroker())``. Every bus that has this broker loses it. So that one of several
    loses it, give each a ``FaultyBroker(shared)`` of its own around one :class:`.MemoryBroker`.

    Args:
        broker: The broker that does the work, of any kind; None: a :class:`.MemoryBroker`.
    """

    def __init__(self, broker: Broker | None = None) -> None:
        self._broker: Final = MemoryBroker() if broker is None else broker
        self._links: Final[set[_Valve]] = set()
        self._is_cut = False
        self._thaw: Event | None = None  # Set when it is frozen no more.

    @property
    def address(self) -> str:
        """The address of the broker that does the work."""
        return self._broker.address

    async def cut(self) -> None:
        """Break all links, and refuse new ones until :meth:`restore`.

        When it returns the buses know: :attr:`.Bus.healthy` is false, and what is published for
        other processes raises :class:`.BrokerUnavailable`.
        """
        self._is_cut = True
        for link in [*self._links]:
            link.scope.cancel()
            await link.ended.wait()

    def freeze(self) -> None:
        """Answer nothing and bring nothing until :meth:`restore`; links stay open.

        A bus gives up a link after :data:`wsbus.broker.CALL_SECONDS` without an answer. If the
        broker is restored before, nothing is lost.
        """
        if self._thaw is None:
            self._thaw = Event()

    def restore(self) -> None:
        """Work again; what was held is carried out and brought.

        A bus whose link is broken dials again within two seconds, and its subscribers get a gap.
        """
        self._is_cut = False
        if self._thaw is not None:
            self._thaw.set()
            self._thaw = None
        for link in self._links:
            link.bring_held()

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Dial a link; see :meth:`.Broker.connect`.

        Raises:
            BrokerUnavailable: The broker is cut or frozen, or has failed by itself.
        """
        await self._dial()
        valve = _Valve(self, receive)
        self._links.add(valve)
        try:
            async with self._broker.connect(valve.receive) as link:
                kind = _FaultyHistoryLink if isinstance(link, HistoryLink) else _FaultyLink
                with valve.scope:
                    yield kind(link, valve)
                if valve.scope.cancel_called:
                    raise BrokerUnavailable("the broker is cut off")
        finally:
            self._links.discard(valve)
            valve.ended.set()

    async def _dial(self) -> None:
        try:
            with fail_after(DIAL_SECONDS):
                await self.pass_on()
        except TimeoutError:
            raise BrokerUnavailable("the broker is frozen") from None
        if self._is_cut:
            raise BrokerUnavailable("the broker is cut off")

    @property
    def is_frozen(self) -> bool:
        """Whether it answers and brings nothing."""
        return self._thaw is not None

    async def pass_on(self) -> None:
        """Wait until it is not frozen."""
        while self._thaw is not None:
            await self._thaw.wait()


class _Valve:
    """The messages for a link, and its end."""

    def __init__(self, broker: FaultyBroker, receive: Receive) -> None:
        self.broker: Final = broker
        self.scope: Final = CancelScope()
        """Holds the body of the link."""
        self.ended: Final = Event()
        self._receive: Final = receive
        self._held: Final[list[bytes]] = []

    def receive(self, message: bytes) -> None:
        """Bring a message, or hold it."""
        if self.broker.is_frozen:
            self._held.append(message)
        elif not self.scope.cancel_called:
            self._receive(message)

    def bring_held(self) -> None:
        """Bring what was held, in order."""
        held = [*self._held]
        self._held.clear()
        for message in held:
            self.receive(message)


class _FaultyLink:
    """A link whose calls wait while the broker is frozen."""

    def __init__(self, link: Link, valve: _Valve) -> None:
        self._link: Final = link
        self._wait: Final = valve.broker.pass_on

    async def publish(self, turn: Turn) -> None:
        await self._wait()
        await self._link.publish(turn)

    async def follow(self, feeds: Collection[Feed]) -> None:
        await self._wait()
        await self._link.follow(feeds)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        await self._wait()
        await self._link.unfollow(feeds)

    @property
    def has_others(self) -> bool:
        return self._link.has_others

    @property
    def max_bytes(self) -> int:
        return getattr(self._link, "max_bytes", sys.maxsize)

    def is_wanted(self, feed: Feed) -> bool:
        return self._link.is_wanted(feed)


class _FaultyHistoryLink(_FaultyLink):
    """A link of a broker that keeps history."""

    async def store(self, turn: Turn) -> Sequence[Stored]:
        await self._wait()
        return await self._kept.store(turn)

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        await self._wait()
        return await self._kept.read(reads)

    async def head(self) -> Position:
        await self._wait()
        return await self._kept.head()

    @property
    def _kept(self) -> HistoryLink:
        assert isinstance(self._link, HistoryLink)  # Others are no such link.
        return self._link
