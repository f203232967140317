"""A broker in the process whose links fail when a test says so.

It spreads publications over prefix feeds and delivers one copy for each feed that is followed, as
Redis does. Each node has a :class:`Switch` of its own, on one :class:`Board`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
from anyio import (
    BrokenResourceError,
    CancelScope,
    create_memory_object_stream,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    sleep,
    sleep_forever,
    sleep_until,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from wsbus.broker import Link, Receive
from wsbus.core.envelope import Published, Turn, kept_item, publication_of
from wsbus.core.errors import BrokerUnavailable
from wsbus.core.events import Position
from wsbus.core.feeds import Feed, feeds_around
from wsbus.core.history import HistoryPage, HistoryRead, MemoryHistory, Stored

__all__ = ["Board", "Switch"]


class Board:
    """What the switches are joined by, and the store of what they keep."""

    def __init__(self) -> None:
        self.links: dict[SwitchedLink, None] = {}
        self.history = MemoryHistory("epoch-0")
        self.epochs = 0
        self.reads: list[list[HistoryRead]] = []
        """The questions of each call."""
        self.kept: list[tuple[Position, str, str]] = []
        """All that was ever kept: position, channel and data."""

    def flush(self) -> None:
        """Empty the store, which begins anew."""
        self.epochs += 1
        self.history = MemoryHistory(f"epoch-{self.epochs}")

    def store(self, turn: Turn) -> list[Stored]:
        """Keep the drafts of a turn, bring them in their order, and publish the rest."""
        stored = []
        for draft in turn.drafts:
            now, key = current_time(), draft.idempotency_key
            position = None if key is None else self.history.repeated(key, now)
            if position is not None:
                stored.append(Stored(position, is_repeated=True))
                continue
            published = msgspec.msgpack.decode(draft.item, type=Published)
            publication = publication_of(published, draft.publication.channel, turn.node)
            assert publication is not None
            kept = self.history.keep(publication, draft.history, now, key)
            assert kept.position is not None
            stored.append(Stored(kept.position))
            self.kept.append((kept.position, draft.publication.channel, publication.data.decode()))
            previous = 0 if kept.previous is None else kept.previous.offset
            item = kept_item(draft.item, turn.node, kept.position, previous)
            self._spread(draft.feed, turn.envelope([msgspec.Raw(item)]))
        self.publish(turn)
        return stored

    def _spread(self, feed: Feed, message: bytes) -> None:
        for each in (feed, *feeds_around(feed)):
            for link in [*self.links]:
                if each in link.followed:
                    link.bring(each, message)

    def publish(self, turn: Turn) -> None:
        """Bring a turn to every link, one copy for each feed that it follows."""
        for feed, message in turn.messages(spread=True):
            for link in [*self.links]:
                if feed in link.followed:
                    link.bring(feed, message)


class Switch:
    """The broker of one node."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.link: SwitchedLink | None = None
        self.refuses = False
        """New links are refused."""
        self.is_dead = False
        """What links follow brings nothing, and all calls succeed; such a link stays so."""
        self.is_frozen = False
        """No call returns."""
        self.seconds = 0.0
        """How long each half of a call takes."""
        self.latency = 0.0
        """How much later messages come."""
        self.held_up: list[Turn] = []
        """Turns on links that were given up while they were frozen; see :meth:`release`."""
        self.calls: list[str] = []
        """What was called on its links."""
        self.brought: Counter[Feed] = Counter()
        """Messages by feed."""

    @property
    def address(self) -> str:
        return "switch:"

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        await sleep(self.seconds)
        if self.refuses:
            raise BrokerUnavailable("refused")
        link = SwitchedLink(self, self._board)
        sender, messages = create_memory_object_stream[tuple[float, bytes]](math.inf)
        link.messages = sender
        self.link = self._board.links[link] = link  # type: ignore[assignment]
        try:
            with CancelScope() as link.scope:
                async with create_task_group() as tasks:
                    tasks.start_soon(_deliver, messages, receive)
                    yield link
                    tasks.cancel_scope.cancel()
            if link.is_lost:
                raise BrokerUnavailable("the switch was turned")
        finally:
            self._board.links.pop(link, None)
            sender.close()
            self.link = None

    def lose(self) -> None:
        """End the link, if there is one."""
        if self.link is not None:
            self.link.is_lost = True
            self._board.links.pop(self.link, None)
            self.link.scope.cancel()

    def release(self) -> None:
        """Deliver what was held up on links that were given up, as a healed network does."""
        held, self.held_up = self.held_up, []
        for turn in held:
            self._board.publish(turn)

    def heal(self) -> None:
        """End all faults; what is frozen stays so until it is given up."""
        self.refuses = self.is_dead = self.is_frozen = False
        self.seconds = self.latency = 0.0


class SwitchedLink:
    """A link of a switch."""

    def __init__(self, switch: Switch, board: Board) -> None:
        self._switch = switch
        self._board = board
        self.followed: set[Feed] = set()
        self.is_lost = False
        self._is_dead = False
        self.scope = CancelScope()
        self.messages: MemoryObjectSendStream[tuple[float, bytes]]

    def bring(self, feed: Feed, message: bytes) -> None:
        """Deliver a message later."""
        self._is_dead = self._is_dead or self._switch.is_dead
        if not self._is_dead:
            self._switch.brought[feed] += 1
            with suppress(BrokenResourceError):  # The link is ending.
                self.messages.send_nowait((current_time() + self._switch.latency, message))

    async def publish(self, turn: Turn) -> None:
        try:
            await self._half("publish")
        except get_cancelled_exc_class():
            if self._switch.is_frozen:
                self._switch.held_up.append(turn)
            raise
        self._board.publish(turn)
        await self._half()

    async def store(self, turn: Turn) -> list[Stored]:
        await self._half("store")
        stored = self._board.store(turn)
        await self._half()
        return stored

    async def read(self, reads: Sequence[HistoryRead]) -> list[HistoryPage]:
        await self._half("read")
        self._board.reads.append([*reads])
        pages = [self._board.history.read(read, current_time()) for read in reads]
        await self._half()
        return pages

    async def head(self) -> Position:
        await self._half("head")
        head = self._board.history.head
        await self._half()
        return head

    async def follow(self, feeds: Collection[Feed]) -> None:
        taken = {*feeds}
        await self._half(f"follow {' '.join(sorted(taken))}")
        self.followed |= taken
        await self._half()

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        taken = {*feeds}
        await self._half(f"unfollow {' '.join(sorted(taken))}")
        self.followed -= taken
        await self._half()

    @property
    def has_others(self) -> bool:
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True

    async def _half(self, call: str = "") -> None:
        if call:
            self._switch.calls.append(call)
        await sleep(self._switch.seconds)
        if self._switch.is_frozen:
            await sleep_forever()
        if self.is_lost:
            raise BrokerUnavailable("the switch was turned")


async def _deliver(
    messages: MemoryObjectReceiveStream[tuple[float, bytes]], receive: Receive
) -> None:
    with messages:
        async for at, message in messages:
            await sleep_until(at)
            receive(message)
