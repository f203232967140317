from __future__ import annotations

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.core.machines.naive_queue import Item, NaiveQueue
from wsbus.core import queue as module
from wsbus.core.channels import Channel
from wsbus.core.overflow import Overflow
from wsbus.core.queue import MessageQueue

CONTROL_BYTES: Final = 10


class Waiting:
    """An item of the model, as a queue takes it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.size = item.size
        self.channel = None if item.channel is None else Channel(item.channel)


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue and the model alike, and reads what comes out as a client would."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = MessageQueue[Waiting](1, 1, CONTROL_BYTES)
        self.model = NaiveQueue(1, 1)
        self.count = self.told = self.forgotten = 0

    @initialize(max_messages=st.integers(1, 5), max_bytes=st.integers(1, 30))
    def start(self, max_messages: int, max_bytes: int) -> None:
        self.queue = MessageQueue[Waiting](max_messages, max_bytes, CONTROL_BYTES)
        self.model = NaiveQueue(max_messages, max_bytes)

    def number(self) -> int:
        self.count += 1
        return self.count

    # Mostly what fits: a queue that refuses everything shows little.
    @rule(
        size=st.integers(0, 6) | st.integers(0, 32),
        policy=st.sampled_from([*Overflow, Overflow.CONFLATE]),
        key=st.sampled_from(["a", "b", None]),
        channel=st.sampled_from([*"abc"] * 4 + [None]),
    )
    def offer(self, size: int, policy: Overflow, key: str | None, channel: str | None) -> None:
        kept_key = key if policy is Overflow.CONFLATE else None
        item = Item(self.number(), size, key=kept_key, channel=channel)
        expected = self.model.offer(item, policy)

        assert self.queue.offer(Waiting(item), policy, key) is expected

    @rule(channels=st.integers(15, 18))
    def lose_on_many(self, channels: int) -> None:
        """Each too large for the queue."""
        for n in range(channels):
            item = Item(self.number(), 100, channel=f"c{n}")
            self.model.offer(item, Overflow.DROP_OLDEST)
            self.queue.offer(Waiting(item), Overflow.DROP_OLDEST)

    @rule(size=st.integers(0, 8))
    def put(self, size: int) -> None:
        item = Item(self.number(), size, is_control=True)
        self.model.put(item)
        self.queue.put(Waiting(item))

    @rule(max_bytes=st.integers(0, 10) | st.just(100))
    def take(self, max_bytes: int) -> None:
        waiting = not self.queue.is_empty
        loss, items = self.queue.take(max_bytes)

        assert (loss, [each.item for each in items]) == self.model.take(max_bytes)
        assert waiting == bool(loss or items)
        self.told += 0 if loss is None else loss.lost
        for each in items:
            if not each.item.is_control:
                missing = {n for n in self.model.lost_numbers if n < each.item.number}
                # Told in time: what is missing before an item was told before the item.
                assert self.told + self.forgotten >= len(missing)

    @rule()
    def clear(self) -> None:
        self.forgotten += self.model.lost

        assert self.queue.clear() == self.model.clear()

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
        s, model = self.queue.statistics(), self.model

        assert s.offered == s.accepted + s.refused
        assert s.accepted == s.sent + s.queued + s.dropped + s.discarded
        assert s.control_put == s.control_sent + s.control_queued + s.control_discarded
        assert s.offered + s.control_put == self.count
        assert (s.sent, s.conflated, s.discarded) == (model.sent, model.conflated, model.discarded)
        assert s.refused + s.dropped - s.conflated == len(model.lost_numbers)
        assert len(model.lost_numbers) == self.told + self.forgotten + s.lost
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
