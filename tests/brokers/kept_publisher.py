"""A process that stores publications in a file, and prints the numbers that were acknowledged."""

from __future__ import annotations

import sys

import anyio

from wsbus import Bus, History
from wsbus.brokers import MemoryBroker


async def main(path: str, start: int) -> None:
    bus = Bus(broker=MemoryBroker(path))
    bus.family("kept.*", history=History(size=100_000))
    async with bus, anyio.create_task_group() as tasks:

        async def publish(lane: int) -> None:
            for number in range(start, start + 1_000_000):
                receipt = await bus.publish(f"kept.{lane}", number)
                assert receipt.position is not None
                position = receipt.position
                line = f"{lane} {number} {position.epoch} {position.offset} {position.tag}\n"
                sys.stdout.write(line)
                sys.stdout.flush()

        for lane in range(8):
            tasks.start_soon(publish, lane)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
