"""A node in a process of its own: ``python -m tests.brokers.node BROKER-URL PORT``.

It prints its port once it takes connections, writes its log to standard error, and ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import msgspec

from wsbus import Bus, Limits
from wsbus.adapters.websockets import serve
from wsbus.brokers import broker_of

__all__ = ["Report"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the command ``report``."""

    pid: int
    nodes: list[int]
    """The processes of all nodes that it knows."""
    losses: int
    gaps: int
    late: int
    unreadable: int


async def _main(url: str, port: int) -> None:
    bus = Bus(broker=broker_of(url))
    endpoint = bus.endpoint(limits=Limits(queue_messages=200_000, queue_bytes=1 << 30))

    @bus.command("report")
    def report() -> Report:
        link = bus.statistics().broker
        assert link is not None
        return Report(
            pid=os.getpid(),
            nodes=[node.pid for node in bus.nodes()],
            losses=link.losses,
            gaps=link.gaps,
            late=link.late,
            unreadable=link.unreadable,
        )

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with bus, serve(endpoint, "127.0.0.1", port) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
