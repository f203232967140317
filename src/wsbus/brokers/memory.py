"""A broker inside the process: the model of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from ..broker import Link, Receive
from ..core.envelope import Turn
from ..core.feeds import Feed, is_within

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Joins the buses of one process that are given the same broker.

    ``Bus()`` has one of its own. Sharing one makes several buses of a process act as the processes
    of a service do: for tests, and for applications that are put together from parts. All of them
    run in one event loop.
    """

    def __init__(self) -> None:
        self._links: Final[dict[_MemoryLink, None]] = {}

    @property
    def address(self) -> str:
        """``memory:``."""
        return "memory:"

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Join the others, until the context ends."""
        link = _MemoryLink(receive, self._links)
        self._links[link] = None
        try:
            yield link
        finally:
            del self._links[link]


class _MemoryLink:
    def __init__(self, receive: Receive, links: dict[_MemoryLink, None]) -> None:
        self._receive: Final = receive
        self._links: Final = links
        self._followed: Final[set[Feed]] = set()

    async def publish(self, turn: Turn) -> None:
        for feed, message in turn.messages(spread=False):
            for link in [*self._links]:
                if is_within(feed, link._followed):  # noqa: SLF001  # the same class
                    link._receive(message)  # noqa: SLF001

    async def follow(self, feeds: Collection[Feed]) -> None:
        self._followed.update(feeds)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        self._followed.difference_update(feeds)

    @property
    def has_others(self) -> bool:
        return len(self._links) > 1

    def is_wanted(self, feed: Feed) -> bool:
        return any(
            link is not self and is_within(feed, link._followed)  # noqa: SLF001
            for link in self._links
        )
