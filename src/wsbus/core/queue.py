"""The queue of one connection: bounded, in order, with a count of what it lost.

Two kinds of items share a queue and keep one order. *Publications* come through
:meth:`MessageQueue.offer`; they are bounded, and a policy says what gives way. *Control items*
(replies, gaps, pings) come through :meth:`MessageQueue.put`; no policy drops them.

A publication that was lost leaves a *marker*: :meth:`MessageQueue.take` returns how many are
missing right before its items, and on which channels. A queue holds one marker at most, none if
nothing is lost; a further loss adds to it. The marker stands at the earliest place it counts for,
never later: a client that learns it early and fetches the state anew sees at least everything lost
until then, while one that learns it late would have used a wrong state meanwhile.

One structure keeps order, bounds, keys and losses: each would need the insides of the others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from .errors import UsageError
from .loss import Loss, LossMarker, Queueable
from .overflow import Offer, Overflow

__all__ = ["Batch", "MessageQueue", "QueueStatistics", "Queueable"]


T = TypeVar("T", bound=Queueable)


class Batch(NamedTuple, Generic[T]):
    """The result of :meth:`MessageQueue.take`."""

    loss: Loss | None
    """The loss right before the first of ``items``; if there are none, at the end."""
    items: list[T]
    """In the order they came."""


class QueueStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a queue at one moment.

    ``offered == accepted + refused`` and ``accepted == sent + queued + dropped + discarded``
    for publications; ``control_put == control_sent + control_queued + control_discarded``.
    """

    offered: int
    accepted: int
    refused: int
    """Refused on arrival, those with :attr:`.Offer.OVERFLOW` included."""
    sent: int
    """Taken."""
    queued: int
    bytes: int
    """Of the publications that are queued."""
    dropped: int
    """Evicted after they were accepted: to admit newer ones, or conflated."""
    conflated: int
    """Those of ``dropped`` that a newer one with the same key replaced; they are not lost."""
    regained: int
    """Those of ``sent`` that were dropped at first, and then read from a store."""
    discarded: int
    """Queued still when the connection ended."""
    lost: int
    """Lost and not reported yet."""
    control_put: int
    control_sent: int
    control_queued: int
    control_bytes: int
    control_discarded: int


_NEVER: Final = 1 << 63  # A sequence number after all others.

# What idle queues hold instead of containers of their own. Nothing is ever put into these.
_NO_DATA: Final[OrderedDict[int, Any]] = OrderedDict()
_NO_KEYS: Final[dict[Any, Any]] = {}
_NO_CONTROL: Final[deque[tuple[int, Any]]] = deque(maxlen=0)

# Attributes of enum classes are slow to look up in Python 3.11.
_DROP_OLDEST: Final = Overflow.DROP_OLDEST
_CONFLATE: Final = Overflow.CONFLATE
_ACCEPTED: Final = Offer.ACCEPTED


class MessageQueue(Generic[T]):
    """First in, first out; bounded; never waits.

    Guarantees: publications and control items come out in the order they went in. At most
    ``max_messages`` publications of at most ``max_bytes`` are held, and every one that went in or
    was refused comes out, as an item or as lost, unless it was conflated or discarded by
    :meth:`clear`.

    Cost: every step O(1), amortised; an empty queue owns no container.

    Args:
        max_messages: Publications held at most.
        max_bytes: Bytes of publications held at most.
        max_control_bytes: Bytes of control items above which the queue :attr:`is_choked`.

    Raises:
        UsageError: A bound is below one.
    """

    __slots__ = (
        "_control",
        "_data",
        "_key_of",
        "_keys",
        "_marker",
        "_sequence",
        "accepted",
        "bytes",
        "conflated",
        "control_bytes",
        "control_discarded",
        "control_put",
        "control_sent",
        "discarded",
        "dropped",
        "max_bytes",
        "max_control_bytes",
        "max_messages",
        "offered",
        "refused",
        "regained",
        "sent",
    )

    def __init__(
        self,
        max_messages: int = 1000,
        max_bytes: int = 1 << 20,
        max_control_bytes: int = 256 * 1024,
    ) -> None:
        for bound in (max_messages, max_bytes, max_control_bytes):
            if not isinstance(bound, int) or bound < 1:  # type: ignore[redundant-expr]
                raise UsageError(
                    f"the bounds of a queue are whole numbers above 0, not {bound!r:.80}"
                )
        self.max_messages: Final = max_messages
        self.max_bytes: Final = max_bytes
        self.max_control_bytes: Final = max_control_bytes
        # By sequence number: an ordered dict removes from the front and from the middle in O(1).
        # No tuples, or the garbage collector would have a thousand more to look at in each queue.
        self._data: OrderedDict[int, T] = _NO_DATA
        self._keys: dict[object, int] = _NO_KEYS
        self._key_of: dict[int, object] = _NO_KEYS
        self._control: deque[tuple[int, T]] = _NO_CONTROL
        self._sequence = 0
        self._marker: LossMarker | None = None
        self.bytes: int = 0
        self.control_bytes: int = 0
        self.offered: int = 0
        self.accepted: int = 0
        self.refused: int = 0
        self.sent: int = 0
        self.dropped: int = 0
        self.conflated: int = 0
        self.regained: int = 0
        self.discarded: int = 0
        self.control_put: int = 0
        self.control_sent: int = 0
        self.control_discarded: int = 0

    def fresh(self) -> MessageQueue[T]:
        """Return another queue with the same bounds."""
        return MessageQueue(self.max_messages, self.max_bytes, self.max_control_bytes)

    def offer(self, item: T, policy: Overflow, key: object = None) -> Offer:
        """Put a publication at the end, or say why not; never waits.

        After ``OVERFLOW`` the caller owes the connection a close with ``TOO_SLOW``. What is larger
        than ``max_bytes`` alone is never queued, and nothing is dropped for it.

        Args:
            item: The publication.
            policy: The policy of a full queue.
            key: What ``conflate`` goes by; hashable. None: nothing replaces it.
        """
        self.offered += 1
        size = item.size
        if policy is not _CONFLATE:
            key = None
        if self.bytes + size > self.max_bytes or len(self._data) >= self.max_messages:
            evicts = policy is _DROP_OLDEST or policy is _CONFLATE
            if not evicts or size > self.max_bytes:
                return self._refuse(item, policy)
            self._make_room(size, key)
        elif key is not None:
            self._replace(key)
        self._append(item, size, key)
        return _ACCEPTED

    def put(self, item: T) -> None:
        """Put a control item at the end; it is never dropped.

        It has no bound here: while :attr:`is_choked`, callers must make no more control items.
        """
        if self._control is _NO_CONTROL:
            self._control = deque()
        self._control.append((self._sequence, item))
        self._sequence += 1
        self.control_put += 1
        self.control_bytes += item.size

    def take(self, max_bytes: int) -> Batch[T]:
        """Remove and return what comes first; it counts as sent.

        The batch ends before a marker, which the next one then starts with. It has neither items
        nor a loss only if :attr:`is_empty`.

        Args:
            max_bytes: The sizes of the items add up to no more, but one is returned always.
        """
        if not self._control and self._marker is None:
            return Batch(None, self._take_publications(max_bytes))
        return self._take_merged(max_bytes)

    def clear(self) -> int:
        """Discard everything, markers too; return how many publications that were."""
        count = len(self._data)
        self.discarded += count
        self.control_discarded += len(self._control)
        self._reset()
        self._control = _NO_CONTROL
        self.bytes = self.control_bytes = 0
        self._marker = None
        return count

    def restored(self, count: int) -> None:
        """Count as sent what was lost and is sent after all, from a store."""
        self.dropped -= count
        self.regained += count
        self.sent += count

    def __len__(self) -> int:
        """Return the number of publications queued; control items do not count."""
        return len(self._data)

    def __bool__(self) -> bool:
        """Tell whether :meth:`take` would return anything."""
        return not self.is_empty

    @property
    def lost(self) -> int:
        """Publications lost and not reported yet."""
        return 0 if self._marker is None else self._marker.count

    @property
    def unreported(self) -> Loss | None:
        """The loss that is not reported yet, with its channels; None: there is none."""
        return None if self._marker is None else self._marker.loss(_NEVER)

    @property
    def lost_ever(self) -> int:
        """Publications lost because the queue was full; conflated ones are not lost."""
        return self.dropped - self.conflated + self.refused

    @property
    def is_empty(self) -> bool:
        """Nothing waits: no publication, no control item, no unreported loss."""
        return not (self._data or self._control or self._marker)

    @property
    def is_choked(self) -> bool:
        """Too many bytes of control items: read no commands until it drains."""
        return self.control_bytes > self.max_control_bytes

    def statistics(self) -> QueueStatistics:
        """Return a snapshot of the counters."""
        return QueueStatistics(
            offered=self.offered,
            accepted=self.accepted,
            refused=self.refused,
            sent=self.sent,
            queued=len(self._data),
            bytes=self.bytes,
            dropped=self.dropped,
            conflated=self.conflated,
            regained=self.regained,
            discarded=self.discarded,
            lost=self.lost,
            control_put=self.control_put,
            control_sent=self.control_sent,
            control_queued=len(self._control),
            control_bytes=self.control_bytes,
            control_discarded=self.control_discarded,
        )

    # --- in ------------------------------------------------------------------------------

    def _append(self, item: T, size: int, key: object) -> None:
        if self._data is _NO_DATA:
            self._data = OrderedDict()
        self._data[self._sequence] = item
        if key is not None:
            if self._keys is _NO_KEYS:
                self._keys, self._key_of = {}, {}
            self._keys[key], self._key_of[self._sequence] = self._sequence, key
        self._sequence += 1
        self.bytes += size
        self.accepted += 1

    def _make_room(self, size: int, key: object) -> None:
        if key is not None:
            self._replace(key)
        while self.bytes + size > self.max_bytes or len(self._data) >= self.max_messages:
            sequence, item = self._data.popitem(last=False)
            self.bytes -= item.size
            if self._key_of and sequence in self._key_of:
                del self._keys[self._key_of.pop(sequence)]
            self.dropped += 1
            self._lose(item, sequence, was_first=True)

    def _replace(self, key: object) -> None:
        sequence = self._keys.get(key)
        if sequence is not None:
            self._remove(sequence)
            self.dropped += 1
            self.conflated += 1

    def _refuse(self, item: T, policy: Overflow) -> Offer:
        self.refused += 1
        # Whatever is put later comes after the place of this one.
        self._lose(item, self._sequence)
        return Offer.OVERFLOW if policy is Overflow.CLOSE else Offer.REFUSED

    def _lose(self, item: T, sequence: int, *, was_first: bool = False) -> None:
        if self._marker is None:
            self._marker = LossMarker(sequence)
        position = getattr(item, "position", None)  # Few items have one.
        self._marker.add(item.channel, sequence, position, was_first=was_first)

    # --- out -----------------------------------------------------------------------------

    def _take_publications(self, max_bytes: int) -> list[T]:
        """Take where there are neither control items nor a marker."""
        if self.bytes <= max_bytes:
            items = list(self._data.values())
            self._reset()
            self.bytes = 0
        else:
            items, room = [], max_bytes
            for item in self._data.values():
                room -= item.size
                if room < 0 and items:
                    break
                items.append(item)
            for sequence in list(islice(self._data, len(items))):
                self._remove(sequence)
        self.sent += len(items)
        return items

    def _take_merged(self, max_bytes: int) -> Batch[T]:
        """Take by sequence number over publications, control items and the marker."""
        loss: Loss | None = None
        items: list[T] = []
        room = max_bytes
        while True:
            data_at = next(iter(self._data), _NEVER)
            control_at = self._control[0][0] if self._control else _NEVER
            at = min(data_at, control_at)
            if self._marker is not None and self._marker.at <= at:
                if items:
                    break
                loss, self._marker = self._marker.loss(control_at), None
            if at == _NEVER:
                break
            item = self._data[at] if at == data_at else self._control[0][1]
            room -= item.size
            if room < 0 and items:
                break
            items.append(item)
            if at == data_at:
                self._remove(at)
                self.sent += 1
            else:
                self._remove_control()
        return Batch(loss, items)

    def _remove(self, sequence: int) -> None:
        self.bytes -= self._data.pop(sequence).size
        if sequence in self._key_of:
            del self._keys[self._key_of.pop(sequence)]
        if not self._data:
            self._reset()

    def _reset(self) -> None:
        self._data, self._keys, self._key_of = _NO_DATA, _NO_KEYS, _NO_KEYS

    def _remove_control(self) -> None:
        _, item = self._control.popleft()
        self.control_bytes -= item.size
        self.control_sent += 1
        if not self._control:
            self._control = _NO_CONTROL
