"""The cost of history for a publication: ``python -m tests.benchmarks.history [NAME …]``.

Each line is one way to publish, on a channel without history and on one with it, in one process and
on one bus. The rounds of both are short and in turn, and the least of them counts, so that other
work of the machine hardly shows.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from wsbus import Bus, History, Subscription
from wsbus.brokers import MemoryBroker

_DATA: Final = {"symbol": "ABC", "price": 101.25, "size": 300}
_CHUNK: Final = 16
"""Publications between two turns of the loop."""


async def one_by_one(bus: Bus, channel: str, count: int) -> None:
    """Await each publication."""
    for _ in range(count):
        await bus.publish(channel, _DATA)


async def in_turns(bus: Bus, channel: str, count: int) -> None:
    """Publish several in one turn of the loop."""
    for _ in range(0, count, _CHUNK):
        for _ in range(_CHUNK - 1):
            bus.publish_soon(channel, _DATA)
        await bus.publish(channel, _DATA)


Publish = Callable[[Bus, str, int], Awaitable[None]]
CASES: Final[dict[str, tuple[Callable[[], Bus], int, Publish]]] = {
    "Bus(), no subscriber": (Bus, 0, one_by_one),
    "Bus(), 5 subscriptions inside the process": (Bus, 5, one_by_one),
    "MemoryBroker(), 16 in a turn, no subscriber": (
        lambda: Bus(broker=MemoryBroker()),
        0,
        in_turns,
    ),
    "MemoryBroker(), 16 in a turn, 5 subscriptions inside the process": (
        lambda: Bus(broker=MemoryBroker()),
        5,
        in_turns,
    ),
}


async def read(subscription: Subscription[Any]) -> None:
    """Read, and do nothing with it."""
    async for _ in subscription:
        pass


async def measure(
    new: Callable[[], Bus], readers: int, publish: Publish, count: int, rounds: int
) -> tuple[float, float]:
    """Return the microseconds of CPU for a publication, without history and with it."""
    bus = new()
    bus.family("kept.*", history=History(size=100))
    bus.family("plain.*")
    least = {"plain.x": float("inf"), "kept.x": float("inf")}
    async with bus, asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        reading = []
        for channel in least:
            for _ in range(readers):
                subscription = await stack.enter_async_context(bus.subscribe(channel))
                reading.append(tasks.create_task(read(subscription)))
        for _ in range(rounds):
            for channel, best in least.items():
                began = time.process_time()
                await publish(bus, channel, count)
                spent = (time.process_time() - began) / count * 1e6
                least[channel] = min(best, spent)
        for task in reading:
            task.cancel()
    return least["plain.x"], least["kept.x"]


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only cases whose name holds one of these")
    parser.add_argument("--count", type=int, default=320, help="publications of a round")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    for name, (new, readers, publish) in CASES.items():
        if options.names and not any(part in name for part in options.names):
            continue
        run = measure(new, readers, publish, options.count, options.rounds)
        without, kept = asyncio.run(run)
        print(f"{name}: {without:.2f} without, {kept:.2f} with, {kept / without:.2f} times")


if __name__ == "__main__":
    main()
