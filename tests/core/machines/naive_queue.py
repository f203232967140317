"""A queue as the reference page describes it, written as one would who has all the time: a list."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple, TypeAlias

from wsbus.core.overflow import Offer, Overflow

MANY: Final = 16
"""``data.channels`` "is absent if more than 16 channels are concerned"."""


class Item(NamedTuple):
    """Something to queue; numbered in the order of coming."""

    number: int
    size: int
    is_control: bool = False
    key: object = None
    channel: str | None = None
    payload: bytes = b""


class Marker(NamedTuple):
    """Where a gap goes: "it stands where the first of the lost publications is missing"."""

    channels: tuple[str | None, ...]
    """That of each lost publication, in the order of the losses."""


Told: TypeAlias = "tuple[int, dict[str, int] | None] | None"
"""What a gap says: how many, and on which channels."""


class NaiveQueue:
    """What waits for one reader: publications, control items, and one marker at most."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.entries: list[Item | Marker] = []
        self.lost_numbers: set[int] = set()
        self.conflated = self.sent = self.discarded = 0

    @property
    def publications(self) -> list[Item]:
        return [e for e in self.entries if isinstance(e, Item) and not e.is_control]

    @property
    def controls(self) -> list[Item]:
        return [e for e in self.entries if isinstance(e, Item) and e.is_control]

    @property
    def lost(self) -> int:
        return sum(len(entry.channels) for entry in self.entries if isinstance(entry, Marker))

    def fits(self, item: Item) -> bool:
        held = self.publications
        size = sum(each.size for each in held) + item.size
        return len(held) < self.max_messages and size <= self.max_bytes

    def offer(self, item: Item, policy: Overflow) -> Offer:
        """Do what the table of policies says, under "what is lost"."""
        evicts = policy in {Overflow.DROP_OLDEST, Overflow.CONFLATE}
        # "A publication that is larger than the whole queue is lost, whatever the policy."
        if item.size > self.max_bytes or not (evicts or self.fits(item)):
            # drop_newest: "the one that finds no room"
            self._lose(item, len(self.entries))
            # close: "the connection: 4409"
            return Offer.OVERFLOW if policy is Overflow.CLOSE else Offer.REFUSED
        if policy is Overflow.CONFLATE:
            self._conflate(item.key)
        while not self.fits(item):
            # drop_oldest: "the oldest in the queue"; conflate: "if that is not enough, the oldest"
            oldest = self.publications[0]
            index = self.entries.index(oldest)
            del self.entries[index]
            self._lose(oldest, index)
        self.entries.append(item)
        return Offer.ACCEPTED

    def put(self, item: Item) -> None:
        """Answers, pings, gaps and close frames are never dropped."""
        self.entries.append(item)

    def _conflate(self, key: object) -> None:
        # "An older publication that a newer one replaced under conflate is not counted as lost."
        for item in self.publications:
            if key is not None and item.key == key:
                self.entries.remove(item)
                self.conflated += 1
                return

    def _lose(self, item: Item, index: int) -> None:
        # "It stands where the first of the lost publications is missing; others of them may be
        # missing further on": the one marker goes to `index`, or stays where it is before that.
        self.lost_numbers.add(item.number)
        channels: tuple[str | None, ...] = ()
        for n, entry in enumerate(self.entries):
            if isinstance(entry, Marker):
                channels, index = entry.channels, min(index, n)
                del self.entries[n]
                break
        self.entries.insert(index, Marker((*channels, item.channel)))

    def take(self, max_bytes: int) -> tuple[Told, list[Item]]:
        """Take what comes first. A gap comes before what follows it, and ends what was before."""
        told: Told = None
        items = list[Item]()
        while self.entries:
            first = self.entries[0]
            if isinstance(first, Marker):
                if items:
                    break
                told = gap(first)
            elif items and sum(each.size for each in items) + first.size > max_bytes:
                break
            else:
                items.append(first)
            del self.entries[0]
        self.sent += sum(not item.is_control for item in items)
        return told, items

    def clear(self) -> int:
        count = len(self.publications)
        self.discarded += count
        self.entries.clear()
        return count


def gap(marker: Marker) -> Told:
    """Return what ``data.lost`` and ``data.channels`` of the message say."""
    on = Counter[str]()
    for channel in marker.channels:
        if channel is None:
            return len(marker.channels), None
        on[channel] += 1
    return len(marker.channels), dict(on) if len(on) <= MANY else None
