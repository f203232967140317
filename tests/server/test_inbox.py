"""The inbox: what a broker brings reaches the members of a node once, in order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.envelope import Beacon, Item, Kept, Published, Turn, encode_item
from wsbus.core.feeds import Feed
from wsbus.server import inbox as module
from wsbus.server.inbox import Inbox


class Got:
    """An inbox, and what it passed on."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Item]] = []
        self.echoes: list[Beacon] = []
        self.kept: list[int] = []
        self.now = 5.0
        self.alone: list[bool] = []
        self.inbox = Inbox(
            "self",
            publish=self._take,
            carry_out=self._take,
            keep=self._keep,
            echo=self.echoes.append,
            wall=lambda: self.now,
            settle=self.alone.append,
        )

    def _take(self, item: Item, node: str) -> bool:
        self.items.append((node, item))
        return not isinstance(item, Published) or item.event != "unfit"

    def _keep(self, kept: Kept) -> bool:
        self.kept.append(kept.offset)
        return True

    @property
    def numbers(self) -> list[tuple[str, int]]:
        return [(node, item.number) for node, item in self.items if isinstance(item, Published)]


def item(number: int) -> Published:
    return Published(number, "a.b", "e", b"1", 1.0)


def message(node: str, turn: int, *items: Item) -> bytes:
    """Return one envelope."""
    new = Turn(node, turn, 3.5)
    for each in items:
        new.add(Feed("=a.b"), encode_item(each))
    ((_, envelope),) = new.messages(spread=False)
    return envelope


def test_each_item_is_passed_on_with_its_node() -> None:
    """Items of other nodes come in order, the own ones are an echo, and the lag is known."""
    got = Got()
    got.inbox.receive(message("one", 1, item(1), item(2)))
    got.inbox.receive(message("self", 1, item(1), Beacon(7, "host", 2, 3, 4.0)))
    got.inbox.receive(message("two", 1, item(1), Beacon(1, "host", 2, 3, 4.0)))

    assert got.numbers == [("one", 1), ("one", 2), ("two", 1)]
    assert [beacon.number for beacon in got.echoes] == [7]
    assert (got.inbox.envelopes, got.inbox.items, got.inbox.lag) == (2, 4, 1.5)


def test_what_is_unfit_is_counted() -> None:
    """Content that is unfit for subscribers costs its item only."""
    got = Got()
    got.inbox.receive(message("one", 1, Published(1, "a.b", "unfit", b"1", 1.0), item(2)))

    assert (len(got.items), got.inbox.unreadable) == (2, 1)


def test_envelopes_that_come_together_are_known() -> None:
    """What comes by itself is written at once; what comes right behind it waits for more."""
    got = Got()
    for turn, later in enumerate((1.0, 0.00005, 0.0, 0.5, -9.0), 1):
        got.now += later
        got.inbox.receive(message("one", turn, item(turn)))

    assert got.alone == [True, False, False, True, True]


def test_what_cannot_be_read_is_counted() -> None:
    """Neither broken envelopes nor broken items fail, and both are counted."""
    got = Got()
    for each in (b"", b"\x07", b"\x01", message("one", 1, item(1))[:-1]):
        got.inbox.receive(each)
    assert (got.items, got.inbox.unreadable) == ([], 4)


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), st.integers(1, 3)), max_size=20))
def test_copies_are_dropped_while_they_are_expected(turns: list[tuple[str, int]]) -> None:
    """Two feeds bring each turn: each item is passed on once, in order, and nothing is lost."""
    got, numbers = Got(), {"one": count(1), "two": count(1)}
    got.inbox.watch_copies()
    expected = []
    for turn, (node, size) in enumerate(turns, 1):
        items = [item(next(numbers[node])) for _ in range(size)]
        expected += [(node, each.number) for each in items]
        for _ in range(2):
            got.inbox.receive(message(node, turn, *items))

    assert got.numbers == expected
    assert got.inbox.copies == len(expected)


def test_copies_end() -> None:
    """Once none are expected, nothing is compared; a new watch knows nothing of the last one."""
    got = Got()
    got.inbox.watch_copies()
    got.inbox.receive(message("one", 1, item(1)))
    got.inbox.watch_copies()
    got.inbox.receive(message("one", 1, item(1)))
    got.inbox.expect_none()
    got.inbox.receive(message("one", 1, item(1)))
    got.inbox.watch_copies()
    got.inbox.receive(message("one", 1, item(1)))

    assert len(got.items) == 3
    assert got.inbox.copies == 1


def test_only_the_oldest_are_forgotten() -> None:
    """However many come, the copy of a late one is known."""
    got = Got()
    got.inbox.watch_copies()
    for number in range(1, module._MOST_COPIES + 100, 1_000):
        numbers = range(number, number + 1_000)
        got.inbox.receive(message("one", number, *map(item, numbers)))
        before = len(got.items)
        got.inbox.receive(message("one", number, *map(item, numbers)))
        assert len(got.items) == before


def turns_of(got: Got, turns: Iterable[int]) -> list[int]:
    got.items.clear()
    for turn in turns:
        got.inbox.receive(message("one", turn, item(turn)))
    return [number for _, number in got.numbers]


def test_a_turn_that_comes_late_is_dropped() -> None:
    """What was held up on a link that its node has given up does not break the order."""
    got = Got()
    assert turns_of(got, [1, 2, 4, 3, 4, 5, 1]) == [1, 2, 4, 4, 5]
    assert got.inbox.late == 2
    got.inbox.receive(message("two", 1, item(1)))
    assert got.numbers[-1] == ("two", 1)


def test_what_is_held_comes_after_the_release() -> None:
    """While it holds, nothing is passed on; then all of it is, in order."""
    got = Got()
    got.inbox.hold()
    assert turns_of(got, [1, 2, 3]) == []
    got.inbox.release()
    assert [number for _, number in got.numbers] == [1, 2, 3]
    assert turns_of(got, [4]) == [4]
    got.inbox.hold()
    turns_of(got, range(5, module._MOST_HELD + 100))
    got.inbox.release()
    numbers = [number for _, number in got.numbers]
    assert numbers == [*range(100, module._MOST_HELD + 100)]


def test_what_a_store_has_numbered_is_passed_on_whoever_sent_it() -> None:
    """Own ones are brought back, and so are those of an envelope that is late for the rest."""
    got = Got()

    def kept(offset: int) -> Kept:
        return Kept(item(offset), "any", "epoch", offset)

    got.inbox.receive(message("self", 1, item(1), kept(1)))
    got.inbox.receive(message("one", 2, item(2), kept(2)))
    got.inbox.receive(message("one", 1, item(1), kept(3)))

    assert got.kept == [1, 2, 3]
    assert got.numbers == [("one", 2)]
    assert got.inbox.late == 1
