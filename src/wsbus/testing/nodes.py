"""The set-up for checks of brokers: links that publish, and note what comes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, TypeAlias

import msgspec
from anyio import Event

from ..broker import Broker, Link
from ..core.envelope import (
    Beacon,
    Kept,
    Published,
    Turn,
    encode_item,
    open_envelope,
    read_items,
)
from ..core.feeds import ALL_NODES, Feed
from .adapters import require

__all__ = ["BreakLinks", "BrokerUnderTest", "LinkedNode"]

BreakLinks: TypeAlias = Callable[[], Awaitable[None]]
"""Ends every link that is open, as a network or a killed server does."""


class BrokerUnderTest:
    """A way to make brokers, and names that no other check has.

    Args:
        make_broker: Makes a broker; all of them reach the same server.
        cut: Ends the links that are open; None: nothing can.
    """

    def __init__(self, make_broker: Callable[[], Broker], cut: BreakLinks | None = None) -> None:
        self.make_broker: Final = make_broker
        self.cut: Final = cut
        self.base: Final = f"check-{secrets.token_hex(6)}"
        """A segment that starts the names of this check."""
        self.nodes: Final[set[str]] = set()
        """Its nodes: what others publish on the same server is not looked at."""
        self.numbers: Final = count(1)
        """Numbers the publications of all of its nodes."""

    def exact(self, name: str) -> Feed:
        """Return the feed of a channel of this check."""
        return Feed(f"={self.base}.{name}")

    def below(self, name: str = "") -> Feed:
        """Return the feed of all channels below a name; without one, of all of this check."""
        return Feed(f"~{self.base}.{name}." if name else f"~{self.base}.")

    @asynccontextmanager
    async def join(self, broker: Broker | None = None) -> AsyncIterator[LinkedNode]:
        """Dial a link of a new node, through a broker of its own if none is given."""
        node = LinkedNode(self)
        broker = self.make_broker() if broker is None else broker
        require(isinstance(broker, Broker), "make_broker returns a Broker")
        async with broker.connect(node.receive) as node.link:
            await node.link.follow([ALL_NODES])
            yield node


class LinkedNode:
    """A link, and what it has brought."""

    def __init__(self, case: BrokerUnderTest) -> None:
        self.case: Final = case
        self.name: Final = secrets.token_hex(8)
        case.nodes.add(self.name)
        self.link: Link
        self.heard: Final[list[tuple[str, Published]]] = []
        """Publications of the nodes of this check, each with its node, copies included."""
        self.kept: Final[list[Kept]] = []
        """Publications that stores have numbered, for the nodes of this check; copies too."""
        self.unreadable: int = 0
        """Messages that are no envelopes."""
        self._beacons: Final[set[int]] = set()
        self._changed = Event()
        self._turns: Final = count(1)

    def receive(self, message: bytes) -> None:
        """Note what comes."""
        envelope = open_envelope(message)
        if envelope is None:
            self.unreadable += 1
            return
        if envelope.node not in self.case.nodes:
            return
        items, unread = read_items(envelope)
        self.unreadable += unread
        for item in items:
            if isinstance(item, Published):
                self.heard.append((envelope.node, item))
            elif isinstance(item, Kept):
                self.kept.append(item)
            elif isinstance(item, Beacon):
                self._beacons.add(item.number)
        changed, self._changed = self._changed, Event()
        changed.set()

    @property
    def texts(self) -> list[str]:
        """The texts that were heard, in order, copies included."""
        return [_text(item) for _, item in self.heard]

    def texts_of(self, node: LinkedNode) -> list[str]:
        """Return what was heard of one node, in order, copies included."""
        return [_text(item) for name, item in self.heard if name == node.name]

    def take(self) -> list[str]:
        """Return what was heard since the last call."""
        texts = self.texts
        self.heard.clear()
        return texts

    async def follow(self, *feeds: Feed) -> None:
        """Follow feeds."""
        await self.link.follow(feeds)

    async def unfollow(self, *feeds: Feed) -> None:
        """Follow feeds no more."""
        await self.link.unfollow(feeds)

    async def say(self, feed: Feed, *texts: str) -> None:
        """Publish texts on one feed, in one turn."""
        await self.publish([(feed, text) for text in texts])

    async def publish(self, items: Collection[tuple[Feed, str]]) -> None:
        """Publish texts on feeds, in one turn."""
        await self.link.publish(self.turn(items))

    def turn(self, items: Collection[tuple[Feed, str]] = ()) -> Turn:
        """Return this node's next turn, with texts on feeds."""
        turn = Turn(self.name, next(self._turns), 0.0)
        for feed, text in items:
            number, data = next(self.case.numbers), msgspec.json.encode(text)
            item = Published(number, feed[1:].removesuffix("."), "check", data, 0.0)
            turn.add(feed, encode_item(item))
        return turn

    async def settle(self, *others: LinkedNode) -> None:
        """Wait until these nodes have got everything that this one has published.

        A beacon goes after it: what comes on any feed comes before that.
        """
        number = next(self.case.numbers)
        turn = self.turn()
        turn.add(ALL_NODES, encode_item(Beacon(number, "", 0, 0, 0.0)))
        await self.link.publish(turn)
        for node in others:
            while number not in node._beacons:  # noqa: SLF001  # the same class
                await node._changed.wait()  # noqa: SLF001

    async def gets(self, count: int) -> None:
        """Wait until so many numbered publications have come."""
        while len(self.kept) < count:
            await self._changed.wait()


def _text(item: Published) -> str:
    return msgspec.json.decode(item.data, type=str)
