"""Events of one receiver at no more than so many a second, pure: the newest of each key wins.

A subscription may have a *rate*. Of its events with the same key one is sent, and for the rest of
the interval the newest is *held*: a newer one replaces it, and the last one always comes. What was
replaced is counted, and is no loss.

**Events keep their order.** Clients of channels with history remember how far they have got, so
that no event may come after a newer one. While one is held, all further events of this rate are;
they go together when the last of their intervals is over, at most one interval after the first was
held. An event on a channel that patterns with different rates match goes by the fastest of them. If
it has a position, all that is held goes before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from .choices import is_number, shown
from .errors import UsageError
from .outlet import Owed
from .overflow import Overflow
from .patterns import Pattern
from .queue import MessageQueue

__all__ = ["MAX_RATE", "MIN_RATE", "Thinning", "check_rate", "fastest", "key_of"]

MIN_RATE: Final = 0.01
"""The lowest rate, in events a second: a held event is late by at most 100 s."""
MAX_RATE: Final = 1000.0
"""The highest rate, in events a second. All events cost little more than that."""

_MAX_KEYS: Final = 1024
"""Keys of one rate whose last event is remembered; the events of further ones are held first."""
_MAX_CHANNELS: Final = 4096
"""Channels of one receiver whose rate is kept at hand."""


def check_rate(rate: object) -> float:
    """Return a rate that an application gives.

    Raises:
        UsageError: It is none.
    """
    if not is_number(rate) or not MIN_RATE <= rate <= MAX_RATE:  # type: ignore[operator]
        raise UsageError(
            f"max_rate is {MIN_RATE:g} to {MAX_RATE:g} events a second, or None for all events, "
            f"not {shown(rate)}"
        )
    return float(rate)  # type: ignore[arg-type]  # it is a number


def fastest(rates: Collection[float | None]) -> float | None:
    """Return the rate that serves all of them; None: all events."""
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None


def key_of(owed: Owed) -> object:
    """Return the key by which a newer event replaces this one.

    It is the channel, with the key that the publication was given, or with the value of the field
    that the channel's family names.
    """
    publication, family = owed.publication, owed.family
    assert publication is not None  # Only events have a rate.
    if publication.key is not None:
        return publication.channel, publication.key
    if family is not None and family.key is not None:
        key = owed.conflation_key  # It looks for the value once, for all receivers.
        assert isinstance(key, tuple)
        return publication.channel, key[-1]
    return publication.channel


class _Lane:
    """The channels of one rate."""

    __slots__ = ("due", "held", "interval", "sent_at")

    def __init__(self, rate: float) -> None:
        self.interval: Final = 1 / rate
        self.held: Final[dict[object, None]] = {}
        """The keys of held events, in the order of the events."""
        self.due: float = math.inf
        """When they go."""
        self.sent_at: Final[dict[object, float]] = {}
        """When the last event of a key went, within the interval; in this order."""

    def free_at(self, key: object, now: float) -> float:
        """Return when the next event of a key may go."""
        sent_at = self.sent_at
        while sent_at and next(iter(sent_at.values())) + self.interval <= now:
            del sent_at[next(iter(sent_at))]
        last = sent_at.get(key)
        if last is None and len(sent_at) >= _MAX_KEYS:
            last = next(reversed(sent_at.values()))
        return now if last is None else last + self.interval

    def sent(self, key: object, now: float) -> None:
        """Note that an event of a key goes."""
        self.sent_at.pop(key, None)
        self.sent_at[key] = now

    def clear(self) -> None:
        """Hold nothing."""
        self.held.clear()
        self.due = math.inf


class Thinning(MessageQueue[Owed]):
    """The events of one receiver, held back to the rates of its subscriptions.

    Held events make a queue with the policy ``conflate``. When it is full, they go early, so that
    nothing is lost. Times are monotonic seconds.
    """

    __slots__ = ("_channels", "_lanes", "_rates")

    # Those of the queue, which it counts in, too.
    accepted: int
    bytes: int
    conflated: int
    discarded: int
    dropped: int
    offered: int

    def __init__(self, max_messages: int = 1000, max_bytes: int = 1 << 20) -> None:
        super().__init__(max_messages, max_bytes)
        self._rates: Mapping[Pattern, float | None] = {}
        self._lanes: dict[float, _Lane] = {}
        # By channel: what it goes by, None for all events, and whether patterns with other rates
        # match it, too.
        self._channels: Final[dict[str, tuple[_Lane | None, bool]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for a reader: what is held goes by itself."""
        return True

    @property
    def due(self) -> float:
        """When :meth:`release` has something to return; infinite: nothing is held."""
        return min([lane.due for lane in self._lanes.values()], default=math.inf)

    def set_rates(self, rates: Mapping[Pattern, float | None], now: float) -> Sequence[Owed]:
        """Set all patterns of the receiver, each with its rate; None: all events.

        Intervals begin anew.

        Returns:
            What was held and still matches, which goes at once.
        """
        held = self.release_all(now)
        out = [
            owed for owed in held if any(pattern.matches(owed.channel or "") for pattern in rates)
        ]
        self._handed_on(len(out) - len(held))
        self.discarded += len(held) - len(out)
        self._rates = rates
        self._lanes = {rate: _Lane(rate) for rate in rates.values() if rate is not None}
        self._channels.clear()
        for owed in out:
            lane, _ = self._way(owed)
            if lane is not None:
                lane.sent(key_of(owed), now)
        return out

    def pace(self, owed: Owed, now: float) -> Sequence[Owed]:
        """Take an event, and return what goes now, in order."""
        lane, is_shared = self._way(owed)
        if lane is None:
            return [*self._older(owed, now), owed] if is_shared else (owed,)
        key = key_of(owed)
        if key in lane.held and self.bytes + owed.size <= self.max_bytes:  # Most are these.
            del lane.held[key]
            lane.held[key] = None
            self._swap(owed, key)
            return ()
        free_at = lane.free_at(key, now)
        if not lane.held and free_at <= now:
            older = self._older(owed, now) if is_shared else ()
            lane.sent(key, now)
            return [*older, owed] if older else (owed,)
        early: Sequence[Owed] = ()
        if len(self._data) >= self.max_messages or self.bytes + owed.size > self.max_bytes:
            early = self.release_all(now)
            if owed.size > self.max_bytes:
                lane.sent(key, now)
                return [*early, owed]
        lane.due = max(free_at, lane.due if lane.held else now)
        lane.held[key] = None
        self.offer(owed, Overflow.CONFLATE, key)
        return early

    def release(self, now: float) -> Sequence[Owed]:
        """Return what is due, in order."""
        due = [lane for lane in self._lanes.values() if lane.due <= now]
        found = sorted([self._keys[key] for lane in due for key in lane.held])
        out = [self._data[sequence] for sequence in found]
        if len(out) < len(self._data) and any(self._way(owed)[1] for owed in out):
            return self.release_all(now)
        for lane in due:
            for key in lane.held:
                lane.sent(key, now)
            lane.clear()
        for sequence in found:
            self._remove(sequence)
        self._handed_on(len(out))
        return out

    def release_all(self, now: float) -> Sequence[Owed]:
        """Return all that is held, in order, due or not."""
        out = list(self._data.values())
        for lane in self._lanes.values():
            for key in lane.held:
                lane.sent(key, now)
            lane.clear()
        self._reset()
        self.bytes = 0
        self._handed_on(len(out))
        return out

    def newest(self, owed: Iterable[Owed], now: float) -> Sequence[Owed]:
        """Return the newest of each key of what is replayed, in order, and all without a rate."""
        kept: dict[object, Owed] = {}
        for each in owed:
            lane, _ = self._way(each)
            key: object = each
            if lane is not None:
                key = key_of(each)
                lane.sent(key, now)
                if kept.pop(key, None) is not None:
                    self.dropped += 1
                    self.conflated += 1
            kept[key] = each
        return list(kept.values())

    def clear(self) -> int:
        """Discard what is held."""
        for lane in self._lanes.values():
            lane.clear()
        return super().clear()

    def _swap(self, owed: Owed, key: object) -> None:
        """Hold an event in place of an older one with its key; as :meth:`offer`, but shorter."""
        data, keys, key_of = self._data, self._keys, self._key_of
        old = keys[key]
        sequence = self._sequence
        self.bytes += owed.size - data.pop(old).size
        data[sequence] = owed
        del key_of[old]
        keys[key], key_of[sequence] = sequence, key
        self._sequence = sequence + 1
        self.offered += 1
        self.accepted += 1
        self.dropped += 1
        self.conflated += 1

    def _way(self, owed: Owed) -> tuple[_Lane | None, bool]:
        channel = owed.channel or ""
        way = self._channels.get(channel)
        if way is None:
            rates = [rate for pattern, rate in self._rates.items() if pattern.matches(channel)]
            rate = fastest(rates)
            way = None if rate is None else self._lanes[rate], len(set(rates)) > 1
            if len(self._channels) >= _MAX_CHANNELS:
                self._channels.clear()
            self._channels[channel] = way
        return way

    def _older(self, owed: Owed, now: float) -> Sequence[Owed]:
        """Return what goes before an event on a channel that patterns of several rates match."""
        return () if owed.position is None else self.release_all(now)

    def _handed_on(self, count: int) -> None:
        """Leave events that go to the receiver, which counts them."""
        self.offered -= count
        self.accepted -= count
