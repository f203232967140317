"""The way to the broker: each publisher learns once whether the broker has taken its own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import anyio.lowlevel
import pytest
import trio
from anyio import CancelScope, Event, create_task_group, fail_after, sleep, sleep_forever
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from wsbus.core.envelope import Published, Turn, encode_item, open_envelope, read_items
from wsbus.core.errors import BrokerUnavailable, UsageError
from wsbus.core.feeds import Feed
from wsbus.server.outgoing import MAX_BYTES, MAX_ITEMS, Handover, Outgoing

FEED = Feed("=a")


def item(number: int) -> bytes:
    return encode_item(Published(number, "a", "e", b"1", 1.0))


class ScriptedLink:
    """A link whose calls take some time, and then succeed, fail, or do not return."""

    def __init__(self, script: list[tuple[float, str]]) -> None:
        self._script = script
        self._is_busy = False
        self.taken: list[list[int]] = []
        self.confirmed: list[int] = []

    async def publish(self, turn: Turn) -> None:
        assert not self._is_busy, "one call at a time"
        self._is_busy = True
        try:
            numbers = [
                number for _, message in turn.messages(spread=False) for number in _read(message)
            ]
            self.taken.append(numbers)
            seconds, outcome = self._script.pop(0) if self._script else (0.0, "ok")
            await sleep(seconds)
            if outcome == "fail":
                raise BrokerUnavailable("failed", may_have_arrived=True)
            if outcome == "hang":
                await sleep_forever()
            self.confirmed += numbers
        finally:
            self._is_busy = False

    async def follow(self, feeds: Collection[Feed]) -> None:
        """Nothing is followed here."""

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        """Nothing is followed here."""

    @property
    def has_others(self) -> bool:
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True


def _read(message: bytes) -> list[int]:
    envelope = open_envelope(message)
    assert envelope is not None
    return [item.number for item in read_items(envelope)[0] if isinstance(item, Published)]


calls = st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from(["ok"] * 6 + ["fail", "hang"]))
steps = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 5)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.5])),
    st.tuples(st.just("lose"), st.none()),
)


@given(st.lists(calls, max_size=8), st.lists(steps, max_size=30))
def test_each_handover_settles_once(script: list[tuple[float, str]], plan: list[object]) -> None:
    """Whatever becomes of the link, each handover settles once, and tells the truth.

    What the broker has confirmed is confirmed; what it never got is refused for certain; the rest
    may have arrived. Items leave in order, one call at a time, and none leaves twice.
    """
    settled: dict[int, list[BrokerUnavailable | UsageError | None]] = {}
    link = ScriptedLink(script)

    async def main() -> None:
        outgoing, number = Outgoing("node"), 0
        with fail_after(1_000):
            async with create_task_group() as tasks:
                scope, ended = CancelScope(), Event()
                ended.set()
                for step in [*plan, ("lose", None)]:
                    match step:
                        case "put", int(count):
                            if not outgoing.is_open:
                                await ended.wait()
                                scope, ended = CancelScope(), Event()
                                outgoing.open(link)
                                tasks.start_soon(_serve, outgoing, link, scope, ended)
                            for _ in range(count):
                                number += 1
                                notes = settled.setdefault(number, [])
                                outgoing.put(FEED, item(number)).then(notes.append)
                        case "wait", float(seconds):
                            await sleep(seconds)
                        case _:
                            scope.cancel()
                            await anyio.lowlevel.checkpoint()
                            outgoing.close(BrokerUnavailable("lost"))

    trio.run(main, clock=MockClock(autojump_threshold=0))

    taken = [number for numbers in link.taken for number in numbers]
    assert taken == sorted({*taken})
    for number, notes in settled.items():
        (error,) = notes
        if number in link.confirmed:
            assert error is None
        else:
            assert isinstance(error, BrokerUnavailable)
            assert error.may_have_arrived == (number in taken)


async def _serve(outgoing: Outgoing, link: ScriptedLink, scope: CancelScope, ended: Event) -> None:
    with scope, suppress(BrokerUnavailable):
        await outgoing.run(link)
    ended.set()


async def test_a_turn_is_one_call() -> None:
    """What is put before the loop turns leaves together, and what comes meanwhile with the next."""
    link, outgoing = ScriptedLink([(0.05, "ok")]), Outgoing("node")
    outgoing.open(link)
    async with create_task_group() as tasks:
        tasks.start_soon(outgoing.run, link)
        first = [outgoing.put(FEED, item(number)) for number in (1, 2, 3)]
        assert len({*first}) == 1
        while not link.taken:
            await anyio.lowlevel.checkpoint()
        later = outgoing.put(FEED, item(4))
        outgoing.put(FEED, item(5))
        await first[0].wait()
        await later.wait()
        assert link.taken == [[1, 2, 3], [4, 5]]
        assert (outgoing.turns, outgoing.items, outgoing.unconfirmed) == (2, 5, 0)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, MAX_BYTES // 4])
async def test_what_waits_is_bounded(size: int) -> None:
    """More than a second's worth is refused, and what waits is not: it leaves when it can."""
    link, outgoing = ScriptedLink([]), Outgoing("node")
    outgoing.open(link)
    data = encode_item(Published(1, "a", "e", b"x" * size, 1.0))
    waiting: Handover = outgoing.put(FEED, data)
    count = 1
    while (handover := outgoing.put(FEED, data)) is waiting:
        count += 1
    assert count == MAX_ITEMS or count * size >= MAX_BYTES // 2
    with pytest.raises(BrokerUnavailable, match="wait for the broker already"):
        await handover.wait()
    async with create_task_group() as tasks:
        tasks.start_soon(outgoing.run, link)
        await waiting.wait()
        assert outgoing.items == count
        tasks.cancel_scope.cancel()


async def test_each_waiter_has_an_error_of_its_own() -> None:
    """Waiters of one turn get equal errors, and not one object: it would collect tracebacks."""
    handover = Handover()
    handover.settle(BrokerUnavailable("lost", may_have_arrived=True))
    handover.settle(None)
    errors = []
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="lost") as caught:
            await handover.wait()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert all(error.may_have_arrived for error in errors)


async def test_waiters_of_one_turn_do_not_depend_on_each_other() -> None:
    """One that is cancelled takes nobody along, and the others learn the outcome."""
    handover, done = Handover(), []

    async def wait(number: int, scope: CancelScope) -> None:
        with scope:
            await handover.wait()
            done.append(number)

    async with create_task_group() as tasks:
        scopes = [CancelScope() for _ in range(3)]
        for number, scope in enumerate(scopes):
            tasks.start_soon(wait, number, scope)
        await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        assert done == []
        handover.settle(None)
    assert sorted(done) == [0, 2]
    await handover.wait()


async def test_without_a_link_nothing_is_put() -> None:
    """Before the first link, and after the last one, a put is refused with the reason."""
    outgoing = Outgoing("node")
    with pytest.raises(BrokerUnavailable, match="no link"):
        outgoing.put(FEED, item(1)).check()
    outgoing.open(ScriptedLink([]))
    waiting = outgoing.put(FEED, item(2))
    outgoing.close(BrokerUnavailable("the cable"))
    for handover in (waiting, outgoing.put(FEED, item(3))):
        with pytest.raises(BrokerUnavailable, match="the cable"):
            await handover.wait()
    assert outgoing.unconfirmed == 1
    await outgoing.drain()
