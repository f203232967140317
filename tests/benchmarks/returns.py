"""How evenly clients come again after a drain.

Clients, raw sockets that speak just enough of RFC 6455, are connected to one server. Its bus is
drained; each client waits as long as its close frame says, and connects to a second server.

::

    python -m tests.benchmarks.returns --clients 2000 --window 20

It prints how long the drain took, how many clients came back in each second, and the largest of
these numbers, as a multiple of the mean.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from websockets.asyncio.server import Server

from wsbus import Bus
from wsbus.adapters.websockets import serve
from wsbus.core.returning import return_in

_REQUEST: Final = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: wsbus.v1\r\n\r\n"
)
_CLOSE: Final = 8
_FILES: Final = 16_384
_AT_ONCE: Final = 50


@dataclass(frozen=True)
class Returns:
    """What a run has shown; moments are seconds since the beginning of the drain."""

    window: float
    took: float
    due: Sequence[float]
    """When each client was told to come again."""
    back: Sequence[float]
    """When it was connected again."""

    def per_second(self, moments: Sequence[float]) -> list[int]:
        """Return how many there are in each second of the window, and after it."""
        counts = [0] * max(1, int(max(self.window, *moments) + 1))
        for moment in moments:
            counts[int(moment)] += 1
        return counts

    def largest(self, moments: Sequence[float]) -> float:
        """Return the largest number of a second, as a multiple of the mean over the window."""
        return max(self.per_second(moments)) / (len(moments) / self.window)


async def measure(clients: int, window: float) -> Returns:
    """Connect the clients to a server, drain it, and let them come to another one."""
    async with (
        Bus() as old,
        Bus() as new,
        serve(old, "127.0.0.1", 0) as first,
        serve(new, "127.0.0.1", 0) as second,
    ):
        gate = asyncio.Semaphore(_AT_ONCE)
        links = [_connect(_port_of(first), gate) for _ in range(clients)]
        connected = await asyncio.gather(*links)
        began = monotonic()
        coming = [
            asyncio.create_task(_come_again(*link, _port_of(second), began)) for link in connected
        ]
        await old.drain(window)
        took = monotonic() - began
        moments = await asyncio.gather(*coming)
    return Returns(window, took, [due for due, _ in moments], [back for _, back in moments])


def _port_of(server: Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def _connect(
    port: int, gate: asyncio.Semaphore
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer


async def _come_again(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, began: float
) -> tuple[float, float]:
    opcode, payload = 0, b""
    while opcode != _CLOSE:
        head = await reader.readexactly(2)
        opcode, size = head[0] & 15, head[1]
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2))
        payload = await reader.readexactly(size)
    told = monotonic() - began
    writer.write(bytes([0x88, 0x82, 0, 0, 0, 0]) + payload[:2])
    seconds = return_in(payload[2:].decode())
    assert seconds is not None
    await reader.read()  # The server closes first.
    writer.close()
    await asyncio.sleep(told + seconds + began - monotonic())
    _, again = await _connect(port, asyncio.Semaphore())
    back = monotonic() - began
    again.close()
    return told + seconds, back


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it as the arguments say, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--window", type=float, default=20.0)
    options = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most), most))
    found = asyncio.run(measure(options.clients, options.window))
    print(f"drained {options.clients} clients in {found.took:.2f} s")
    print("came back, per second:", *found.per_second(found.back))
    print(f"largest: {found.largest(found.back):.2f} x the mean")


if __name__ == "__main__":
    main()
