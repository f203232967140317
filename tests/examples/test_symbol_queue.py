"""``MessageQueue`` of the symbol stream: it smooths bursts, and promises nothing more."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, TypeAlias

import pytest

from examples.symbol_stream import MessageQueue, Queued
from tests.examples.symbols import settled, stream
from wsbus import UsageError

Call: TypeAlias = tuple[Any, str | None]


class Broadcasts:
    """What a queue calls; it fails for the messages it is told to, that many times."""

    def __init__(self, **failures: int) -> None:
        self.calls: list[Call] = []
        self.failures = failures

    async def __call__(self, message: dict[str, Any], target: str | None) -> None:
        self.calls.append((message["n"], target))
        if self.failures.get(message["n"], 0):
            self.failures[message["n"]] -= 1
            raise ConnectionError(message["n"])


async def filled(queue: MessageQueue, numbers: Any, target: str | None = None) -> MessageQueue:
    """Enqueue messages of these numbers."""
    for n in numbers:
        await queue.enqueue({"n": n}, target)
    return queue


async def test_messages_come_out_in_order_with_their_targets() -> None:
    """What is enqueued is broadcast once, in order; without a target it is for everybody."""
    queue, broadcasts = MessageQueue(), Broadcasts()
    await filled(queue, [1], "BTC/USDT")
    await filled(queue, [2])
    await filled(queue, range(3, 251), "*")
    assert len(queue) == 250
    await queue.process_queue(broadcasts)

    assert broadcasts.calls == [(1, "BTC/USDT"), (2, None), *((n, "*") for n in range(3, 251))]
    assert (len(queue), queue.dropped, queue.failed) == (0, 0, 0)
    await queue.process_queue(broadcasts)
    assert len(broadcasts.calls) == 250


@pytest.mark.parametrize("maxlen", [1, 2, 100, 101, 1000])
async def test_the_oldest_go_when_it_is_full(maxlen: int) -> None:
    """At most ``maxlen`` wait, the newest; those that went are counted."""
    queue, broadcasts = MessageQueue(maxlen=maxlen), Broadcasts()
    await filled(queue, range(maxlen + 7))
    assert (len(queue), queue.dropped) == (maxlen, 7)
    await queue.process_queue(broadcasts)

    assert [n for n, _ in broadcasts.calls] == list(range(7, maxlen + 7))
    assert len(queue) == 0


def test_by_default_a_thousand_wait() -> None:
    """The page's bound is the default; a bound that bounds nothing is refused."""
    assert MessageQueue().maxlen == 1000
    with pytest.raises(UsageError):
        MessageQueue(maxlen=0)


async def test_the_loop_turns_between_batches() -> None:
    """A long queue keeps nobody waiting for longer than a batch."""
    queue, broadcasts = MessageQueue(), Broadcasts()
    await filled(queue, range(10))
    seen: list[int] = []

    async def watch() -> None:
        while len(queue):
            seen.append(len(broadcasts.calls))
            await asyncio.sleep(0)

    await asyncio.gather(queue.process_queue(broadcasts, batch_size=3), watch())
    assert {3, 6, 9} <= set(seen)


async def test_what_is_enqueued_meanwhile_waits_for_the_next_call() -> None:
    """A queue that is fed while it is processed comes to an end, and loses nothing."""
    queue = MessageQueue()
    calls: list[Any] = []

    async def feed_it(message: dict[str, Any], target: str | None) -> None:
        calls.append(message["n"])
        await queue.enqueue({"n": message["n"] + 100})

    await filled(queue, range(3))
    await queue.process_queue(feed_it)
    assert (calls, len(queue)) == ([0, 1, 2], 3)
    await queue.process_queue(feed_it)
    assert calls == [0, 1, 2, 100, 101, 102]


async def test_a_failure_is_given_up_unless_the_hook_says_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that fails holds up no other; without a hook it is counted, logged and gone."""
    queue, broadcasts = MessageQueue(), Broadcasts(b=9)
    await filled(queue, "abc")
    await queue.process_queue(broadcasts)

    assert [n for n, _ in broadcasts.calls] == ["a", "b", "c"]
    assert (len(queue), queue.failed) == (0, 1)
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "a queued message was given up: ConnectionError",
    )


async def test_the_hook_decides_about_retries() -> None:
    """It sees what waits, since when, how often it was tried, and why; then it is tried again."""
    asked: list[tuple[Queued, Exception]] = []

    def should_retry(queued: Queued, error: Exception) -> bool:
        asked.append((queued, error))
        return queued.attempts < 3

    began = time.time()
    queue, broadcasts = MessageQueue(should_retry=should_retry), Broadcasts(a=1, b=9)
    await filled(queue, "abc", "AAPL")
    for left in (2, 1, 0):
        await queue.process_queue(broadcasts)
        assert len(queue) == left

    assert [n for n, _ in broadcasts.calls] == ["a", "b", "c", "a", "b", "b"]
    assert [(q.message["n"], q.attempts) for q, _ in asked] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("b", 3),
    ]
    for queued, error in asked:
        assert queued.target == "AAPL"
        assert began <= queued.queued_at <= time.time()
        assert isinstance(error, ConnectionError)
    assert queue.failed == 1


async def test_cancelling_loses_at_most_the_one_that_is_being_sent() -> None:
    """What stood behind it is processed by the next call, in order."""
    queue, broadcasts = MessageQueue(), Broadcasts()
    reached = asyncio.Event()

    async def hang(message: dict[str, Any], target: str | None) -> None:
        reached.set()
        await asyncio.Event().wait()

    await filled(queue, range(5))
    task = asyncio.create_task(queue.process_queue(hang))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    await queue.process_queue(broadcasts)

    assert [n for n, _ in broadcasts.calls] == [1, 2, 3, 4]


async def test_two_that_process_share_the_work() -> None:
    """Each message is broadcast once, whoever does it."""
    queue, broadcasts = MessageQueue(), Broadcasts()
    await filled(queue, range(500))
    await asyncio.gather(queue.process_queue(broadcasts), queue.process_queue(broadcasts))

    assert [n for n, _ in broadcasts.calls] == list(range(500))


async def test_a_burst_goes_through_the_queue_to_clients() -> None:
    """The manager's ``send`` is what a queue calls: targets are symbols, None is everybody."""
    async with stream() as served, served.connect("^GSPC") as peer:
        queue = MessageQueue(maxlen=100)
        for n in range(150):
            await queue.enqueue({"n": n}, "^GSPC" if n % 2 else None)
        await queue.process_queue(served.manager.send)
        assert [(await peer.next())["n"] for _ in range(100)] == list(range(50, 150))
        await settled(peer)
