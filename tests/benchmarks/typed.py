"""What it costs to publish on a typed channel, beside an untyped one.

Two buses have the same number of subscribers; one of them declares the type of what is published.
Short rounds alternate, and the fastest round of each counts: other programs only make them slower.

::

    python -m tests.benchmarks.typed --subscribers 0 1 100

It prints microseconds of processor time for each publication, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import process_time
from typing import Final

import msgspec

from wsbus import Bus

_CHANNELS: Final = ("a", "b", "c", "d")


class Status(msgspec.Struct):
    """The data."""

    progress: float
    step: str = ""


async def measure(subscribers: int, rounds: int, per_round: int) -> tuple[float, float]:
    """Return the seconds of an untyped publication, and of a typed one."""
    untyped, typed = Bus(), Bus()
    status = typed.channel("grid.{id}.status", Status, events=["update"])
    data = Status(0.5, "cutting")

    async def publish_untyped(grid: str) -> object:
        return await untyped.publish(f"grid.{grid}.status", data, event="update")

    async def publish_typed(grid: str) -> object:
        return await status.publish(data, id=grid)

    async with untyped, typed, AsyncExitStack() as stack:
        for bus in [untyped, typed] * subscribers:
            await stack.enter_async_context(bus.subscribe("grid.*", max_messages=10))
        found = [
            (await _time(publish_untyped, per_round), await _time(publish_typed, per_round))
            for _ in range(rounds)
        ]
    return min(one for one, _ in found), min(other for _, other in found)


async def _time(publish: Callable[[str], Awaitable[object]], count: int) -> float:
    start = process_time()
    for number in range(count):
        await publish(_CHANNELS[number % len(_CHANNELS)])
    return (process_time() - start) / count


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, nargs="+", default=[0, 1, 100])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--per-round", type=int, default=2000)
    given = parser.parse_args()
    for subscribers in given.subscribers:
        count = max(1, given.per_round // max(1, subscribers // 10))
        untyped, typed = asyncio.run(measure(subscribers, given.rounds, count))
        print(
            f"{subscribers} subscribers: untyped {untyped * 1e6:.2f} µs, "
            f"typed {typed * 1e6:.2f} µs, {typed / untyped:.2f} times"
        )


if __name__ == "__main__":
    main()
