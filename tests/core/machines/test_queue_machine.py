from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsbus.core import queue as module
from wsbus.core.overflow import Offer, Overflow
from wsbus.core.queue import MessageQueue

CONTROL_BYTES: Final = 10


class Item(NamedTuple):
    """Something to queue; numbered in the order of coming."""

    number: int
    size: int
    is_control: bool = False
    key: str | None = None


class Marker(NamedTuple):
    """So many publications are lost here."""

    lost: int


Entry: TypeAlias = Item | Marker


class Model:
    """A queue as one would write it who has all the time in the world: a list."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.entries: list[Entry] = []

    @property
    def publications(self) -> list[Item]:
        return [e for e in self.entries if isinstance(e, Item) and not e.is_control]

    @property
    def controls(self) -> list[Item]:
        return [e for e in self.entries if isinstance(e, Item) and e.is_control]

    @property
    def lost(self) -> int:
        return sum(entry.lost for entry in self.entries if isinstance(entry, Marker))

    def fits(self, item: Item) -> bool:
        held = self.publications
        size = sum(each.size for each in held) + item.size
        return len(held) < self.max_messages and size <= self.max_bytes

    def lose(self, index: int) -> None:
        """Put the one marker at ``index``, or where it stands if that is before."""
        standing = [n for n, entry in enumerate(self.entries) if isinstance(entry, Marker)]
        lost = self.lost
        for n in standing:
            del self.entries[n]
            index = min(index, n)
        self.entries.insert(index, Marker(lost + 1))

    def drop_oldest(self) -> Item:
        oldest = self.publications[0]
        index = self.entries.index(oldest)
        self.entries.remove(oldest)
        self.lose(index)
        return oldest

    def conflate(self, key: str | None) -> Item | None:
        for item in self.publications:
            if key is not None and item.key == key:
                self.entries.remove(item)
                return item
        return None

    def take(self, max_bytes: int) -> tuple[int, list[Item]]:
        lost, items = 0, list[Item]()
        while self.entries:
            first = self.entries[0]
            if isinstance(first, Marker):
                if items:
                    break
                lost = first.lost
            elif items and sum(each.size for each in items) + first.size > max_bytes:
                break
            else:
                items.append(first)
            del self.entries[0]
        return lost, items


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue and the model alike, and reads what comes out as a client would."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = MessageQueue[Item](1, 1, CONTROL_BYTES)
        self.model = Model(1, 1)
        self.count = 0
        self.lost_numbers: set[int] = set()
        self.conflated = self.sent = self.told = self.discarded = 0
        self.forgotten = 0

    @initialize(max_messages=st.integers(1, 5), max_bytes=st.integers(1, 30))
    def start(self, max_messages: int, max_bytes: int) -> None:
        self.queue = MessageQueue[Item](max_messages, max_bytes, CONTROL_BYTES)
        self.model = Model(max_messages, max_bytes)

    def number(self) -> int:
        self.count += 1
        return self.count

    # Mostly what fits: a queue that refuses everything shows little.
    @rule(
        size=st.integers(0, 6) | st.integers(0, 32),
        policy=st.sampled_from([*Overflow, Overflow.CONFLATE]),
        key=st.sampled_from(["a", "b", None]),
    )
    def offer(self, size: int, policy: Overflow, key: str | None) -> None:
        kept_key = key if policy is Overflow.CONFLATE else None
        item = Item(self.number(), size, key=kept_key)
        expected = self.expect(item, policy)

        assert self.queue.offer(item, policy, key) is expected

    def expect(self, item: Item, policy: Overflow) -> Offer:
        """Do to the model what ``policy`` says."""
        evicts = policy in {Overflow.DROP_OLDEST, Overflow.CONFLATE}
        if item.size > self.model.max_bytes or not (evicts or self.model.fits(item)):
            self.model.lose(len(self.model.entries))
            self.lost_numbers.add(item.number)
            return Offer.OVERFLOW if policy is Overflow.CLOSE else Offer.REFUSED
        if policy is Overflow.CONFLATE and self.model.conflate(item.key):
            self.conflated += 1
        while not self.model.fits(item):
            self.lost_numbers.add(self.model.drop_oldest().number)
        self.model.entries.append(item)
        return Offer.ACCEPTED

    @rule(size=st.integers(0, 8))
    def put(self, size: int) -> None:
        item = Item(self.number(), size, is_control=True)
        self.model.entries.append(item)

        self.queue.put(item)

    @rule(max_bytes=st.integers(0, 10) | st.just(100))
    def take(self, max_bytes: int) -> None:
        waiting = not self.queue.is_empty
        batch = self.queue.take(max_bytes)

        assert (batch.lost, batch.items) == self.model.take(max_bytes)
        assert waiting == bool(batch.lost or batch.items)
        self.told += batch.lost
        for item in batch.items:
            if not item.is_control:
                self.sent += 1
                missing = {number for number in self.lost_numbers if number < item.number}
                # Told in time: what is missing before an item was told before the item.
                assert self.told + self.forgotten >= len(missing)

    @rule()
    def clear(self) -> None:
        self.discarded += len(self.model.publications)
        self.forgotten += self.model.lost

        assert self.queue.clear() == len(self.model.publications)
        self.model.entries.clear()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        held = self.model.publications
        controls = self.model.controls

        assert len(self.queue) == len(held)
        assert self.queue.bytes == sum(item.size for item in held)
        assert self.queue.control_bytes == sum(item.size for item in controls)
        assert self.queue.is_choked == (self.queue.control_bytes > CONTROL_BYTES)
        assert self.queue.lost == self.model.lost
        assert self.queue.is_empty == (not self.model.entries)
        assert bool(self.queue) == bool(self.model.entries)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.queue) <= self.queue.max_messages
        assert self.queue.bytes <= self.queue.max_bytes
        # Nothing but what is queued is held, neither entries nor keys.
        assert len(self.queue._keys) == len({i.key for i in self.model.publications} - {None})
        assert len(self.queue._data) == len(self.queue)

    @invariant()
    def counts(self) -> None:
        s = self.queue.statistics()

        assert s.offered == s.accepted + s.refused
        assert s.accepted == s.sent + s.queued + s.dropped + s.discarded
        assert s.control_put == s.control_sent + s.control_queued + s.control_discarded
        assert s.offered + s.control_put == self.count
        assert (s.sent, s.conflated, s.discarded) == (self.sent, self.conflated, self.discarded)
        assert s.refused + s.dropped - s.conflated == len(self.lost_numbers)
        assert len(self.lost_numbers) == self.told + self.forgotten + s.lost
        assert (s.queued, s.bytes) == (len(self.queue), self.queue.bytes)
        assert s.control_bytes == self.queue.control_bytes
        assert s.control_queued == len(self.model.controls)

    @invariant()
    def shares_nothing_with_other_queues(self) -> None:
        for shared in (module._NO_DATA, module._NO_KEYS, module._NO_CONTROL):
            assert len(shared) == 0


# Several kinds of trouble at a time are rare.
QueueMachine.TestCase.settings = settings(max_examples=2 * settings().max_examples)
TestQueueMachine = QueueMachine.TestCase
