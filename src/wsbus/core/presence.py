"""Presence: which connections are on a channel, on this node and on others.

A connection is on the channels that it subscribes to by their exact names; a pattern with wildcards
watches, and is on none. Each node owns what it says of its connections: it numbers its news, and
another node that misses a number asks for the whole. A node that is gone takes its connections with
it. So there is one lease for a node, and none for a connection.

Watchers get what has changed since they were told last. A connection that joins and leaves in
between is not mentioned, nor is one that leaves and joins again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

import msgspec

__all__ = [
    "MAX_NODES",
    "MAX_OCCUPANTS",
    "Attendance",
    "ChannelNews",
    "News",
    "Occupant",
    "PresenceChange",
    "Roster",
    "RosterChange",
]

_MOST_NEWS: Final = 2_000
"""Connections in one piece of news; more are several."""

MAX_NODES: Final = 1_000
"""The most other nodes whose news are taken: a broker may bring those of any number."""

MAX_OCCUPANTS: Final = 1_000_000
"""The most places of connections of other nodes; one on two channels has two."""


class Occupant(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A connection on a channel."""

    id: str
    """The id of the connection."""
    subject: str | None = None
    """The subject of its identity."""


class Roster(msgspec.Struct, frozen=True, gc=False):
    """The connections on a channel, as a client gets them."""

    members: tuple[Occupant, ...]
    """Those that were there longest, up to the bound of the family."""
    count: int
    """How many there are."""


class RosterChange(Roster, frozen=True, gc=False):
    """The connections on a channel, and what has changed since the reader looked last."""

    joined: tuple[Occupant, ...]
    """Those that it did not know; at first all members."""
    left: tuple[Occupant, ...]
    """Those that are not there any more."""


class PresenceChange(NamedTuple):
    """The changes on a channel since the watchers were told last."""

    channel: str
    joined: tuple[Occupant, ...]
    left: tuple[Occupant, ...]
    total: int
    """How many connections are on it now."""


class ChannelNews(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node's changes on a channel."""

    channel: str
    joined: tuple[Occupant, ...] = ()
    left: tuple[str, ...] = ()
    """Ids."""


class News(NamedTuple):
    """A node's changes, as it tells the others."""

    number: int
    channels: tuple[ChannelNews, ...]
    is_whole: bool = False
    """Whether it stands for all that the node said before."""


_Key: TypeAlias = tuple[str, str]  # A node and the id of a connection.


class Attendance:
    """The connections on channels.

    Law: what watchers were told, one change after another, is what is there. A change names each
    connection once.

    Args:
        node: This node.
        max_nodes: Other nodes that are listened to at most.
        max_occupants: Places of other nodes' connections that are kept at most.
    """

    def __init__(
        self, node: str, *, max_nodes: int = MAX_NODES, max_occupants: int = MAX_OCCUPANTS
    ) -> None:
        self._node: Final = node
        self._max_nodes: Final = max_nodes
        self._max_occupants: Final = max_occupants
        self._occupants = 0
        """Places of other nodes' connections."""
        self._there: Final[dict[str, dict[_Key, Occupant]]] = {}
        self._holders: Final[dict[tuple[str, str], object]] = {}
        """For a channel and an id of this node: what holds the place."""
        self._before: Final[dict[str, dict[_Key, Occupant | None]]] = {}
        """Changed places, as the watchers know them; None: not there."""
        self._number = 0
        self._heard: Final[dict[str, int]] = {}
        """The number of the latest news, by node."""
        self._strangers: set[str] = set()
        """Nodes that were heard, and were not known when :meth:`expire` was called last."""

    @property
    def has_changed(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self._before)

    # --- this node -------------------------------------------------------------------------------

    def join(self, channel: str, occupant: Occupant, holder: object) -> None:
        """Note that a connection of this node is on a channel.

        Args:
            channel: The channel.
            occupant: The connection.
            holder: Stands for the connection. Another one with the same id takes its place over.
        """
        self._holders[channel, occupant.id] = holder
        self._set(channel, (self._node, occupant.id), occupant)

    def leave(self, channel: str, name: str, holder: object) -> None:
        """Note that it is not any more; what does not hold its place changes nothing."""
        if self._holders.get((channel, name)) is holder:
            del self._holders[channel, name]
            self._set(channel, (self._node, name), None)

    # --- other nodes -----------------------------------------------------------------------------

    def hear(self, node: str, news: News) -> bool:
        """Take the news of another node; return whether nothing was missed before.

        What is beyond the bounds is left out, and counts as taken.
        """
        if node not in self._heard and len(self._heard) >= self._max_nodes:
            return True
        if news.is_whole:
            self._clear(node)
        elif self._heard.get(node) != news.number - 1:
            return self._heard.get(node, -1) >= news.number  # A copy says nothing new.
        self._heard[node] = news.number
        for channel, joined, left in map(msgspec.structs.astuple, news.channels):
            for name in left:
                self._set(channel, (node, name), None)
            for occupant in joined:
                self._set(channel, (node, occupant.id), occupant)
        return True

    def forget(self, node: str) -> None:
        """Note that a node is gone, and its connections with it."""
        if self._heard.pop(node, None) is not None:
            self._clear(node)

    def expire(self, known: Container[str]) -> None:
        """Forget nodes that are not known, and were not the last time either.

        News may come before the sender is known. A node that never is has ended before, or is none.
        """
        strangers = {node for node in self._heard if node not in known}
        gone = strangers & self._strangers
        self._strangers = strangers - gone
        for node in gone:
            self.forget(node)

    # --- what is there ---------------------------------------------------------------------------

    def told(self, channel: str) -> list[Occupant]:
        """Return which connections are on a channel, as the watchers were told last."""
        return [*self._told(channel).values()]

    def _told(self, channel: str) -> dict[_Key, Occupant]:
        there = dict(self._there.get(channel, {}))
        for key, occupant in self._before.get(channel, {}).items():
            if occupant is None:
                there.pop(key, None)
            else:
                there[key] = occupant
        return there

    def present(self, channel: str) -> list[Occupant]:
        """Return which connections are on a channel now."""
        return [*self._there.get(channel, {}).values()]

    def take(self) -> tuple[list[PresenceChange], list[News]]:
        """Return what has changed: for watchers of this node, and for other nodes."""
        changes: list[PresenceChange] = []
        news: list[ChannelNews] = []
        for channel, before in self._before.items():
            there = self._there.get(channel, {})
            moved = [(key, old, there.get(key)) for key, old in before.items()]
            moved = [(key, old, new) for key, old, new in moved if old != new]
            if not moved:
                continue
            joined = tuple([new for _, _, new in moved if new is not None])
            left = tuple([old for _, old, _ in moved if old is not None])
            changes.append(PresenceChange(channel, joined, left, len(there)))
            own = [(key[1], new) for key, _, new in moved if key[0] == self._node]
            if own:
                came = tuple([new for _, new in own if new is not None])
                gone = tuple([name for name, new in own if new is None])
                news.append(ChannelNews(channel, came, gone))
        self._before.clear()
        return changes, self._numbered(news)

    def whole(self) -> list[News]:
        """Return all that watchers were told of this node's connections, for nodes that ask."""
        channels = []
        for channel in dict.fromkeys((*self._there, *self._before)):
            told = self._told(channel)
            joined = tuple([told[key] for key in told if key[0] == self._node])
            if joined:
                channels.append(ChannelNews(channel, joined))
        return self._numbered(channels, is_whole=True)

    def _numbered(self, channels: Sequence[ChannelNews], *, is_whole: bool = False) -> list[News]:
        news: list[News] = []
        for part in _parts(channels):
            self._number += 1
            news.append(News(self._number, part, is_whole and not news))
        if is_whole and not news:
            self._number += 1
            news.append(News(self._number, (), is_whole=True))
        return news

    def _set(self, channel: str, key: _Key, occupant: Occupant | None) -> None:
        there = self._there.get(channel, {})
        change = (occupant is not None) - (key in there)
        if occupant is None and not change:
            return
        if key[0] != self._node:
            if self._occupants + change > self._max_occupants:
                return
            self._occupants += change
        self._before.setdefault(channel, {}).setdefault(key, there.get(key))
        self._there[channel] = there
        if occupant is None:
            del there[key]
        else:
            there[key] = occupant
        if not there:
            del self._there[channel]

    def _clear(self, node: str) -> None:
        for channel in [*self._there]:
            for key in [key for key in self._there[channel] if key[0] == node]:
                self._set(channel, key, None)


def _parts(channels: Iterable[ChannelNews]) -> Iterable[tuple[ChannelNews, ...]]:
    """Split news so that no part names more than :data:`_MOST_NEWS` connections."""
    part: list[ChannelNews] = []
    room = _MOST_NEWS
    for news in channels:
        joined, left = iter(news.joined), iter(news.left)
        while True:
            some = tuple(islice(joined, room))
            gone = tuple(islice(left, room - len(some)))
            if some or gone:
                part.append(ChannelNews(news.channel, some, gone))
                room -= len(some) + len(gone)
            if room:
                break
            yield tuple(part)
            part, room = [], _MOST_NEWS
    if part:
        yield tuple(part)
