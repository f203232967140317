"""A broker inside the process, the model of the others; it keeps history in memory or a file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from secrets import token_urlsafe
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec
from anyio import CancelScope, Lock

from ..broker import Link, Receive
from ..core.choices import shown
from ..core.envelope import Turn, kept_item
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import Feed, is_within
from ..core.history import HistoryPage, HistoryRead, MemoryHistory, Stored

if TYPE_CHECKING:
    from ._sqlite import SqliteStore

__all__ = ["MemoryBroker"]

_SWEEP_SECONDS: Final = 60.0
"""How often the memory drops what is too old."""


class MemoryBroker:
    """Joins the buses of one process that are given the same broker.

    Sharing one makes several buses of a process act as the processes of a service do: for tests,
    and for applications that are put together from parts. All of them run in one event loop.

    Args:
        path: A file of SQLite in which families with history keep it, so that a restart or a crash
            of the process loses nothing. It is made if it is not there. One broker uses it at a
            time. None: they keep it in memory.
        max_bytes: The most bytes that the file has; above that, what was published longest ago
            is dropped.

    Raises:
        UsageError: ``path`` is no path, or ``max_bytes`` is below 1 MiB.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, max_bytes: int = 8 << 30
    ) -> None:
        self._links: Final[dict[_MemoryLink, None]] = {}
        self._path: Final = None if path is None else _checked(path)
        if type(max_bytes) is not int or max_bytes < 1 << 20:
            raise UsageError(f"max_bytes is at least 1 MiB, not {shown(max_bytes)}")
        self._history: Final = MemoryHistory(token_urlsafe(12))
        self._swept_at = monotonic()
        self._lock: Final = Lock()
        self._store: SqliteStore | None = None
        if self._path is not None:
            from ._sqlite import SqliteStore  # Few need SQLite.

            self._store = SqliteStore(self._path, max_bytes, self._bring, self._end)

    @property
    def address(self) -> str:
        """``memory:``, or ``sqlite:`` and the path."""
        return "memory:" if self._path is None else f"sqlite:{self._path}"

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Join the others, until the context ends.

        Raises:
            BrokerUnavailable: The file cannot be read or written.
            UsageError: It cannot be used at all: another broker or process has it open, or it holds
                something else.
        """
        link = _MemoryLink(self, receive) if self._store is None else _FileLink(self, receive)
        async with self._lock:
            if self._store is not None and not self._links:
                await self._store.open()
            self._links[link] = None
        try:
            with link.scope:
                yield link
            if link.failure is not None:
                raise link.failure
        finally:
            with CancelScope(shield=True):
                async with self._lock:
                    del self._links[link]
                    if self._store is not None and not self._links:
                        await self._store.close()

    def _end(self, failure: BrokerUnavailable) -> None:
        """End all links: the file has failed."""
        for link in self._links:
            link.failure = failure
            link.scope.cancel()

    def _keep(self, turn: Turn) -> list[Stored]:
        """Keep the drafts of a turn in memory, and bring all of it."""
        now, history = monotonic(), self._history
        stored: list[Stored] = []
        items: list[tuple[Feed, bytes]] = []
        for draft in turn.drafts:
            key = draft.idempotency_key
            position = None if key is None else history.repeated(key, now)
            if position is not None:
                stored.append(Stored(position, is_repeated=True))
                continue
            publication = history.keep(draft.publication, draft.history, now, key)
            position, previous = publication.position, publication.previous
            assert position is not None
            stored.append(Stored(position))
            before = 0 if previous is None else previous.offset
            items.append((draft.feed, kept_item(draft.item, turn.node, position, before)))
        if now >= self._swept_at + _SWEEP_SECONDS:
            self._swept_at = now
            history.expire(now)
        self._bring(turn, items)
        return stored

    def _bring(self, turn: Turn, items: Sequence[tuple[Feed, bytes]]) -> None:
        """Bring what was kept, in one message for each link to keep the order, then the rest."""
        everything: bytes | None = None
        for link in [*self._links] if items else ():
            wanted = [msgspec.Raw(item) for feed, item in items if link.follows(feed)]
            if len(wanted) == len(items):
                everything = everything or turn.envelope(wanted)
                link.receive(everything)
            elif wanted:
                link.receive(turn.envelope(wanted))
        for feed, message in turn.messages(spread=False):
            for link in [*self._links]:
                if link.follows(feed):
                    link.receive(message)


class _MemoryLink:
    """A link of a broker that keeps history in memory."""

    def __init__(self, broker: MemoryBroker, receive: Receive) -> None:
        self._broker: Final = broker
        self.receive: Final = receive
        self._followed: Final[set[Feed]] = set()
        self.scope: Final = CancelScope()
        """Holds the body of the link."""
        self.failure: BrokerUnavailable | None = None

    async def publish(self, turn: Turn) -> None:
        self._check()
        self._broker._bring(turn, ())  # noqa: SLF001  # here and below: they belong together

    async def follow(self, feeds: Collection[Feed]) -> None:
        self._check()
        self._followed.update(feeds)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        self._check()
        self._followed.difference_update(feeds)

    async def store(self, turn: Turn) -> Sequence[Stored]:
        return self._broker._keep(turn)  # noqa: SLF001

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        now, history = monotonic(), self._broker._history  # noqa: SLF001
        return [history.read(read, now) for read in reads]

    async def head(self) -> Position:
        return self._broker._history.head  # noqa: SLF001

    @property
    def has_others(self) -> bool:
        return len(self._broker._links) > 1  # noqa: SLF001

    def is_wanted(self, feed: Feed) -> bool:
        links = self._broker._links  # noqa: SLF001
        return any(link is not self and link.follows(feed) for link in links)

    def follows(self, feed: Feed) -> bool:
        """Tell whether it brings this feed."""
        return is_within(feed, self._followed)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


class _FileLink(_MemoryLink):
    """A link of a broker that keeps history in a file."""

    async def store(self, turn: Turn) -> Sequence[Stored]:
        self._check()
        return await self._file.store(turn)

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        self._check()
        return await self._file.read(reads)

    async def head(self) -> Position:
        self._check()
        return await self._file.head()

    @property
    def _file(self) -> SqliteStore:
        store = self._broker._store  # noqa: SLF001
        assert store is not None  # A broker with a path has one.
        return store


def _checked(path: str | os.PathLike[str]) -> str:
    """Return the path of a file, absolute and without links."""
    try:
        text: object = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"path is that of a file, not {shown(path)}")
    return os.path.realpath(text)
