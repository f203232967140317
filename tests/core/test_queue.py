from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from wsbus.core.channels import Channel, parse_channel
from wsbus.core.errors import UsageError
from wsbus.core.events import MAX_GAP_CHANNELS
from wsbus.core.overflow import Offer, Overflow
from wsbus.core.queue import Batch, MessageQueue


class Item(NamedTuple):
    """Something to queue."""

    name: str
    size: int = 1
    channel: Channel | None = None


def items(names: str) -> list[Item]:
    """Return one item a letter."""
    return [Item(name) for name in names]


def fill(queue: MessageQueue[Item], names: str, policy: Overflow = Overflow.DROP_OLDEST) -> None:
    """Offer one item a letter."""
    for item in items(names):
        queue.offer(item, policy)


def drain(queue: MessageQueue[Item], max_bytes: int = 100) -> list[tuple[int, str]]:
    """Take until nothing is left; each batch as (lost, names)."""
    batches = []
    while not queue.is_empty:
        batch = queue.take(max_bytes)
        lost = batch.loss.lost if batch.loss else 0
        batches.append((lost, "".join(item.name for item in batch.items)))
    return batches


def test_what_fits_comes_out_as_it_went_in() -> None:
    """A queue with room is first in, first out, whatever the policies."""
    queue = MessageQueue[Item]()
    for item, policy in zip(items("abcd"), Overflow, strict=True):
        assert queue.offer(item, policy, item.name) is Offer.ACCEPTED

    assert queue.take(100) == Batch(None, items("abcd"))
    assert queue.is_empty


def test_taking_from_an_empty_queue_gives_nothing() -> None:
    """There is a batch always, if need be an empty one."""
    assert MessageQueue[Item]().take(100) == Batch(None, [])


def test_a_batch_is_bounded_but_never_empty() -> None:
    """A batch has at most the bytes asked for; one item that is larger comes alone."""
    queue = MessageQueue[Item]()
    sizes = [3, 3, 9, 1, 9]
    for size in sizes:
        queue.offer(Item("x", size), Overflow.CLOSE)

    taken = [[item.size for item in queue.take(6).items] for _ in range(4)]

    assert taken == [[3, 3], [9], [1], [9]]


def test_a_batch_with_control_items_is_bounded_too() -> None:
    """Control items count in the bytes of a batch."""
    queue = MessageQueue[Item]()
    queue.put(Item("a", 4))
    queue.offer(Item("b", 4), Overflow.CLOSE)
    queue.put(Item("c", 4))

    assert drain(queue, 8) == [(0, "ab"), (0, "c")]


def test_drop_oldest_keeps_the_newest_and_tells_the_loss_first() -> None:
    """The oldest go, and their number precedes the oldest that is left."""
    queue = MessageQueue[Item](max_messages=2)
    fill(queue, "abcde")

    assert drain(queue) == [(3, "de")]


def test_drop_oldest_makes_room_in_bytes() -> None:
    """As many of the oldest go as the new one needs."""
    queue = MessageQueue[Item](max_bytes=10)
    for name, size in (("a", 4), ("b", 4), ("c", 2), ("d", 7)):
        queue.offer(Item(name, size), Overflow.DROP_OLDEST)

    assert drain(queue) == [(2, "cd")]


def test_drop_newest_keeps_the_oldest_and_tells_the_loss_last() -> None:
    """What is refused is told before the next one that is accepted."""
    queue = MessageQueue[Item](max_messages=2)
    fill(queue, "abcd", Overflow.DROP_NEWEST)
    first = queue.take(1)
    queue.offer(Item("e"), Overflow.DROP_NEWEST)

    assert first == Batch(None, items("a"))
    assert drain(queue) == [(0, "b"), (2, "e")]


def test_a_loss_at_the_end_is_told_without_items() -> None:
    """A queue that has only a loss to tell is not empty, and tells it."""
    queue = MessageQueue[Item](max_messages=1)
    fill(queue, "ab", Overflow.DROP_NEWEST)

    assert drain(queue) == [(0, "a"), (1, "")]


def test_losses_at_both_ends_are_told_together_at_the_first() -> None:
    """There is one marker, at the earliest place where something is missing."""
    queue = MessageQueue[Item](max_messages=2)
    fill(queue, "abc", Overflow.DROP_NEWEST)
    fill(queue, "d", Overflow.DROP_OLDEST)
    fill(queue, "e", Overflow.DROP_NEWEST)

    assert drain(queue) == [(3, "bd")]


def test_each_run_of_losses_is_told_once() -> None:
    """After a loss was told the next one counts anew."""
    queue = MessageQueue[Item](max_messages=1)
    fill(queue, "abc")
    first = drain(queue)
    fill(queue, "de")

    assert (first, drain(queue)) == ([(2, "c")], [(1, "e")])


def test_close_asks_for_a_close_and_loses_nothing_unknowingly() -> None:
    """A full queue answers OVERFLOW, and so does one that could never hold the item."""
    queue = MessageQueue[Item](max_messages=1, max_bytes=10)
    too_large = queue.offer(Item("x", 11), Overflow.CLOSE)
    queue.offer(Item("a"), Overflow.CLOSE)
    too_many = queue.offer(Item("b"), Overflow.CLOSE)

    assert too_large is too_many is Offer.OVERFLOW
    assert queue.refused == 2


@pytest.mark.parametrize(
    "policy", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.CONFLATE], ids=str
)
def test_what_is_larger_than_the_queue_is_refused_and_nothing_goes_for_it(
    policy: Overflow,
) -> None:
    """An item that cannot fit costs no other its place, not even with its key."""
    queue = MessageQueue[Item](max_bytes=10)
    queue.offer(Item("a"), Overflow.CONFLATE, "key")

    assert queue.offer(Item("b", 11), policy, "key") is Offer.REFUSED
    assert drain(queue) == [(0, "a"), (1, "")]


def test_conflate_replaces_the_same_key_and_stands_at_the_end() -> None:
    """The newest of a key is left, in the place where it came, and the old one is not lost."""
    queue = MessageQueue[Item]()
    for name in "ABaCb":
        queue.offer(Item(name), Overflow.CONFLATE, name.lower())

    assert drain(queue) == [(0, "aCb")]
    assert (queue.conflated, queue.dropped, queue.lost) == (2, 2, 0)


def test_conflate_replaces_before_it_drops() -> None:
    """In a full queue the one with the same key makes the room."""
    queue = MessageQueue[Item](max_messages=2)
    for name in "abB":
        queue.offer(Item(name), Overflow.CONFLATE, name.lower())

    assert drain(queue) == [(0, "aB")]


def test_conflate_drops_the_oldest_where_replacing_is_not_enough() -> None:
    """A larger replacement, or a new key, evicts from the front; those are lost."""
    queue = MessageQueue[Item](max_bytes=4)
    for name, size in (("a", 1), ("b", 1), ("c", 2), ("B", 2), ("d", 2)):
        queue.offer(Item(name, size), Overflow.CONFLATE, name.lower())

    assert drain(queue) == [(2, "Bd")]


def test_conflate_without_a_key_replaces_nothing() -> None:
    """No key is not a key that all of them share."""
    queue = MessageQueue[Item]()
    fill(queue, "ab", Overflow.CONFLATE)

    assert drain(queue) == [(0, "ab")]


def test_conflate_leaves_alone_what_was_published_with_another_policy() -> None:
    """Only what asked for it is replaced: it is not told as lost."""
    queue = MessageQueue[Item]()
    queue.offer(Item("a"), Overflow.DROP_OLDEST, "key")
    queue.offer(Item("b"), Overflow.CONFLATE, "key")
    queue.offer(Item("c"), Overflow.CONFLATE, "key")

    assert drain(queue) == [(0, "ac")]


def test_a_tight_loop_on_one_key_holds_one_item() -> None:
    """Conflation leaves nothing behind, neither when nobody takes nor when others stand before."""
    queue = MessageQueue[Item]()
    queue.offer(Item("first"), Overflow.CLOSE)
    for _ in range(10_000):
        queue.offer(Item("x"), Overflow.CONFLATE, "key")

    assert len(queue) == len(queue._data) == 2
    assert sys.getsizeof(queue._data) < 10_000


def test_control_items_keep_their_place_among_publications() -> None:
    """`subscribed` comes before the first event, and none comes after `unsubscribed`."""
    queue = MessageQueue[Item]()
    queue.put(Item("("))
    fill(queue, "ab")
    queue.put(Item(")"))

    assert drain(queue) == [(0, "(ab)")]


def test_control_items_are_never_dropped() -> None:
    """Neither full queues nor large control items cost one of them."""
    queue = MessageQueue[Item](max_messages=1, max_bytes=1)
    queue.put(Item("1", 50))
    fill(queue, "ab")
    queue.put(Item("2", 50))
    fill(queue, "c")

    assert drain(queue, 200) == [(0, "1"), (2, "2c")]


def test_a_queue_is_choked_by_control_bytes_alone() -> None:
    """Above its bound of control bytes, not at it, until they were taken."""
    queue = MessageQueue[Item](max_control_bytes=10)
    queue.offer(Item("x", 1000), Overflow.CLOSE)
    queue.put(Item("a", 10))
    at_the_bound = queue.is_choked
    queue.put(Item("b"))
    above_it = queue.is_choked
    queue.take(2000)

    assert (at_the_bound, above_it, queue.is_choked) == (False, True, False)


def test_a_loss_names_its_channels() -> None:
    """How many on each, evicted or refused, in the order of the first loss on each."""
    a, b, c = (parse_channel(name) for name in "abc")
    queue = MessageQueue[Item](max_messages=2)
    for channel in (a, b, a, c):
        queue.offer(Item("x", channel=channel), Overflow.DROP_OLDEST)
    for channel in (a, c):
        queue.offer(Item("x", channel=channel), Overflow.DROP_NEWEST)
    queue.put(Item("reply"))
    first, then = queue.take(100), queue.take(100)

    assert first.loss is not None
    assert first.loss.lost == 4
    assert list((first.loss.channels or {}).items()) == [(a, 2), (b, 1), (c, 1)]
    assert [item.channel for item in first.items] == [a, c, None]
    assert then == Batch(None, [])


def test_each_marker_names_its_own_losses() -> None:
    """What was reported, or cleared, is not named a second time."""
    a, b = parse_channel("a"), parse_channel("b")
    queue = MessageQueue[Item](max_messages=1)
    losses = []
    for channel in (a, b):
        for _ in range(2):
            queue.offer(Item("x", channel=channel), Overflow.DROP_NEWEST)
        losses.append(queue.take(1).loss or queue.take(1).loss)
    queue.offer(Item("x", channel=a), Overflow.DROP_NEWEST)
    queue.offer(Item("x", channel=a), Overflow.DROP_NEWEST)
    queue.clear()
    queue.offer(Item("x", 2 << 20, b), Overflow.DROP_NEWEST)

    assert losses == [(1, {a: 1}), (1, {b: 1})]
    assert queue.take(1).loss == (1, {b: 1})


@pytest.mark.parametrize("channels", [MAX_GAP_CHANNELS, MAX_GAP_CHANNELS + 1])
def test_a_loss_on_many_channels_names_none(channels: int) -> None:
    """The map is bounded: a client that lost on more fetches everything anew."""
    queue = MessageQueue[Item](max_messages=1)
    for n in [*range(channels), *range(channels)]:
        queue.offer(Item("x", channel=parse_channel(f"c{n}")), Overflow.DROP_OLDEST)
    loss = queue.take(100).loss

    assert loss is not None
    assert loss.lost == 2 * channels - 1
    assert (loss.channels is None) == (channels > MAX_GAP_CHANNELS)
    assert loss.channels is None or sum(loss.channels.values()) == loss.lost


def test_a_loss_on_no_channel_names_none() -> None:
    """Names that leave some of the losses out would be taken for all of them."""
    queue = MessageQueue[Item](max_messages=1)
    for channel in (parse_channel("a"), None, parse_channel("a"), parse_channel("a")):
        queue.offer(Item("x", channel=channel), Overflow.DROP_OLDEST)

    assert queue.take(100).loss == (3, None)


def test_clear_discards_everything_and_counts_it() -> None:
    """After a close nothing is left to take, and no publication is unaccounted for."""
    queue = MessageQueue[Item](max_messages=2)
    fill(queue, "abc")
    queue.put(Item("x"))

    assert queue.clear() == 2
    assert queue.is_empty
    assert drain(queue) == []
    assert (queue.discarded, queue.control_discarded, queue.lost) == (2, 1, 0)


def test_a_cleared_queue_forgets_its_keys() -> None:
    """What was discarded cannot be replaced."""
    queue = MessageQueue[Item]()
    queue.offer(Item("a"), Overflow.CONFLATE, "key")
    queue.clear()
    queue.offer(Item("b"), Overflow.CONFLATE, "key")

    assert (drain(queue), queue.conflated) == ([(0, "b")], 0)


def test_the_length_counts_publications_and_the_truth_everything() -> None:
    """`len` is what the bound is about; a queue with a reply in it is still worth taking from."""
    queue = MessageQueue[Item]()
    empty = bool(queue)
    queue.put(Item("x"))

    assert (empty, len(queue), bool(queue), queue.is_empty) == (False, 0, True, False)


def test_an_empty_queue_is_small() -> None:
    """One per connection: an idle queue, used or not, owns no container."""
    fresh, used = MessageQueue[Item](), MessageQueue[Item]()
    used.offer(Item("a"), Overflow.CONFLATE, "key")
    used.put(Item("b"))
    used.offer(Item("too large", 2 << 20), Overflow.DROP_OLDEST)
    used.take(100)
    used.take(100)

    assert sys.getsizeof(fresh) <= 256
    assert used._data is fresh._data
    assert used._keys is fresh._keys
    assert used._control is fresh._control
    assert used._marker is fresh._marker is None


def test_two_queues_share_nothing() -> None:
    """What goes into one does not come out of another."""
    first, second = MessageQueue[Item](), MessageQueue[Item]()
    first.offer(Item("a"), Overflow.CONFLATE, "key")
    first.put(Item("b"))

    assert second.is_empty
    assert drain(first) == [(0, "ab")]


@pytest.mark.parametrize("bound", ["max_messages", "max_bytes", "max_control_bytes"])
def test_bounds_must_leave_room_for_something(bound: str) -> None:
    """A queue that could hold nothing is a mistake of the caller."""
    bounds: dict[str, Any] = {bound: 0}

    with pytest.raises(UsageError):
        MessageQueue[Item](**bounds)


def test_statistics_are_a_snapshot() -> None:
    """What was read does not change afterwards."""
    queue = MessageQueue[Item]()
    before = queue.statistics()
    fill(queue, "a")

    assert (before.offered, queue.statistics().offered) == (0, 1)


def test_policies_have_the_names_that_configuration_uses() -> None:
    """An overflow policy can be made from its word."""
    words = {"drop_oldest", "drop_newest", "conflate", "close"}

    assert {policy.value for policy in Overflow} == words
    assert Overflow("conflate") is Overflow.CONFLATE
