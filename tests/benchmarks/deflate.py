"""What compression costs and saves: ``python -m tests.benchmarks.deflate``.

1,000 clients subscribe to one channel, which gets 16 publications of typical JSON a turn. A server
sends them as they are, or compressed once for all (``compression=True``), or compressed for each
connection, with a window of its own that is kept between messages (the default of `websockets`).
The servers are processes of their own, and take turns; each figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_library

from wsbus import Bus, Connection, Limits
from wsbus.adapters.websockets import serve

KINDS: Final = {
    "plain": "wsbus, not compressed",
    "shared": "wsbus, compression=True",
    "each": "websockets, a compressor for each connection",
}
BURST: Final = 16
_OFFER: Final = "permessage-deflate; client_max_window_bits"
_HANDSHAKE: Final = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Extensions: {_OFFER}\r\n\r\n"
)


class Figures(NamedTuple):
    """Those of one delivery."""

    micros: float
    """CPU time of the server."""
    size: float
    """Bytes that the client gets."""


def samples() -> Iterator[dict[str, Any]]:
    """Yield prices as a feed has them."""
    n = 0
    while True:
        n += 1
        yield {
            "symbol": ("BTC-USD", "ETH-USD", "SOL-USD")[n % 3],
            "last": round(95_000 + n * 7919 % 10_007 / 97, 2),
            "bid": round(94_999 + n * 104_729 % 10_007 / 97, 2),
            "ask": round(95_001 + n * 1_299_709 % 10_007 / 97, 2),
            "volume": n * 15_485_863 % 1_000_003,
            "exchange": "binance",
            "flags": ["spot", "live"],
        }


# --- the server ----------------------------------------------------------------------------------


async def _serve_bus(clients: int, turns: int, *, is_compressed: bool) -> None:
    bus = Bus()
    limits = Limits(messages_per_second=None)
    endpoint = bus.endpoint(compression=is_compressed, limits=limits, broadcast="prices")
    feed, full = samples(), asyncio.Event()

    @bus.on_connect
    def count(_connection: Connection) -> None:
        if endpoint.connection_count >= clients:
            full.set()

    async def burst() -> None:
        for _ in range(BURST):
            bus.publish_soon("prices", next(feed), event="tick")

    async with bus, serve(endpoint, "127.0.0.1", 0) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await full.wait()
        await _run(burst, turns)


async def _serve_each(clients: int, turns: int) -> None:
    connections: set[ServerConnection] = set()
    feed, full = samples(), asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        if len(connections) >= clients:
            full.set()
        await connection.wait_closed()

    async def burst() -> None:
        for _ in range(BURST):
            broadcast(connections, json.dumps(next(feed), separators=(",", ":")))

    async with serve_library(handle, "127.0.0.1", 0) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await full.wait()
        await _run(burst, turns)


async def _run(burst: Callable[[], Awaitable[None]], turns: int) -> None:
    """Print the CPU seconds of the turns; a pause after each lets the clients read."""
    used = 0.0
    for turn in range(turns + 5):
        began = time.process_time()
        await burst()
        await asyncio.sleep(0.02)  # A time without load, not a wait: it is no processor time.
        if turn >= 5:
            used += time.process_time() - began
    print(used, flush=True)
    await asyncio.sleep(0.2)  # What is on its way is read before the sockets close.


# --- the clients ---------------------------------------------------------------------------------


def measure(kind: str, clients: int, turns: int) -> Figures:
    """Run one server, and count the bytes that its clients get."""
    command = [sys.executable, "-m", "tests.benchmarks.deflate", "--serve", kind]
    command += ["--clients", str(clients), "--turns", str(turns)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with selectors.DefaultSelector() as selector:
            sockets = []
            for _ in range(clients):
                sock = socket.create_connection(("127.0.0.1", port))
                sock.sendall(_HANDSHAKE.encode())
                selector.register(sock, selectors.EVENT_READ)
                sockets.append(sock)
            total = _read_all(selector)
            for sock in sockets:
                sock.close()
        seconds = float(process.stdout.readline())
    deliveries = clients * BURST
    return Figures(seconds / deliveries / turns * 1e6, total / deliveries / (turns + 5))


def _read_all(selector: selectors.BaseSelector) -> int:
    total = 0
    while selector.get_map():
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            try:
                data = key.fileobj.recv(1 << 18)
            except ConnectionError:
                data = b""
            total += len(data)
            if not data:
                selector.unregister(key.fileobj)
    return total


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=list(KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve == "each":
        asyncio.run(_serve_each(given.clients, given.turns))
    elif given.serve:
        is_compressed = given.serve == "shared"
        asyncio.run(_serve_bus(given.clients, given.turns, is_compressed=is_compressed))
    else:
        rounds = [
            {kind: measure(kind, given.clients, given.turns) for kind in KINDS}
            for _ in range(given.rounds)
        ]
        for kind, name in KINDS.items():
            micros = statistics.median(found[kind].micros for found in rounds)
            ratio = statistics.median(
                found[kind].micros / found["plain"].micros for found in rounds
            )
            size = statistics.median(found[kind].size for found in rounds)
            print(f"{name:46} {micros:6.2f} µs ({ratio:5.2f} ×)  {size:6.1f} bytes a delivery")


if __name__ == "__main__":
    main()
