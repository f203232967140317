"""A storm of recoveries: ``python -m tests.benchmarks.recovery [--broker redis|memory]``.

Clients are cut at one moment, miss publications, and come back together, each with the position
that it had. The figures: how long until all of them have everything, and what the store was asked.
The server is one process, the clients are another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import websockets
from websockets.asyncio.client import ClientConnection

from tests.brokers.servers import KINDS, Server
from wsbus import Bus, History, Limits
from wsbus.adapters.websockets import serve
from wsbus.bench.load import need_files
from wsbus.bus import host_of

_READ: Final = 1 << 20


async def run_server(url: str | None) -> None:
    """Serve; each line of standard input is an order, each answer a line of output."""
    from wsbus.brokers import RedisBroker

    bus = Bus() if url is None else Bus(broker=RedisBroker(url))
    bus.family("room.*", history=History(size=1000))
    endpoint = bus.endpoint(limits=Limits(messages_per_second=None))
    loop = asyncio.get_running_loop()
    # The library drops a handshake that takes 10 s: on a busy machine many do.
    async with bus, serve(endpoint, "127.0.0.1", 0, backlog=4096, open_timeout=60) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order, *numbers = json.loads(line)
            if order == "cut":
                bus.disconnect("anonymous", code=4000)
                print("cut", flush=True)
            elif order == "publish":
                rooms, missed = numbers
                for number in range(missed):
                    await asyncio.gather(
                        *[bus.publish(f"room.{room}", {"n": number}) for room in range(rooms)]
                    )
                print("published", flush=True)
            else:
                storage = host_of(bus).services.storage
                calls = 0 if storage is None else storage.calls
                print(json.dumps([time.process_time(), calls]), flush=True)


class Client:
    """One client of the storm."""

    def __init__(self, port: int, room: int) -> None:
        self._url: Final = f"ws://127.0.0.1:{port}"
        self._channel: Final = f"room.{room}"
        self._position: dict[str, Any] = {}
        self.numbers: list[int] = []
        self.refusals = 0
        """Answers that the store cannot be read now; it asks again, as clients do."""

    async def connect(self) -> ClientConnection:
        """Connect and subscribe, from the position on if there is one."""
        socket = await websockets.connect(
            self._url,
            subprotocols=[websockets.Subprotocol("wsbus.v1")],
            compression=None,
            max_size=_READ,
            open_timeout=60,
        )
        await self._ask(socket)
        return socket

    async def _ask(self, socket: ClientConnection) -> None:
        ask: dict[str, Any] = {"type": "subscribe", "id": "s", "channels": [self._channel]}
        if self._position:
            ask["since"] = {self._channel: self._position}
        await socket.send(json.dumps(ask))

    async def read(self, socket: ClientConnection, count: int) -> None:
        """Read until it is subscribed and has so many publications."""
        is_subscribed = False
        while not is_subscribed or len(self.numbers) < count:
            for line in str(await socket.recv()).split("\n"):
                message = json.loads(line)
                if message["type"] == "subscribed" and message["data"].get("rejected"):
                    assert message["data"]["rejected"][0]["code"] == "UNAVAILABLE", message
                    self.refusals += 1
                    await asyncio.sleep(1)
                    await self._ask(socket)
                elif message["type"] == "subscribed":
                    is_subscribed = True
                    place = message["data"]["positions"][0]
                    assert place.get("recovered") is not False, message
                    self._position = {k: place[k] for k in ("epoch", "offset", "tag") if k in place}
                elif message["type"] == "event":
                    self.numbers.append(message["data"]["n"])


async def storm(port: int, server: subprocess.Popen[str], options: argparse.Namespace) -> None:
    """Run one storm and print its figures."""

    def order(*words: Any) -> Any:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(words) + "\n")
        server.stdin.flush()
        return server.stdout.readline()

    loop = asyncio.get_running_loop()
    clients = [Client(port, i % options.rooms) for i in range(options.clients)]
    sockets = []
    for client in clients:
        sockets.append(await client.connect())
        await client.read(sockets[-1], 0)
    await loop.run_in_executor(None, order, "cut")
    await asyncio.gather(*[socket.wait_closed() for socket in sockets])
    await loop.run_in_executor(None, order, "publish", options.rooms, options.missed)
    before = json.loads(await loop.run_in_executor(None, order, "figures"))
    began, spent = time.perf_counter(), time.process_time()

    async def come_back(client: Client) -> float:
        socket = await client.connect()
        try:
            await client.read(socket, options.missed)
        finally:
            socket.transport.abort()
        return time.perf_counter() - began

    ends = sorted(await asyncio.gather(*map(come_back, clients)))
    after = json.loads(await loop.run_in_executor(None, order, "figures"))
    wrong = sum(client.numbers != [*range(options.missed)] for client in clients)
    print(
        f"{options.broker}: {options.clients} clients on {options.rooms} channels, "
        f"{options.missed} missed each: all current after {ends[-1]:.1f} s "
        f"(half after {ends[len(ends) // 2]:.1f} s), {wrong} wrong, "
        f"{sum(client.refusals for client in clients)} asked again; "
        f"the server took {after[0] - before[0]:.1f} CPU s, the clients "
        f"{time.process_time() - spent:.1f}; the store was asked {after[1] - before[1]} times"
    )


@contextmanager
def serving(url: str | None) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run the server's process."""
    command = [sys.executable, "-m", "tests.benchmarks.recovery", "--serve", url or ""]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline()), server
        finally:
            server.kill()


def main() -> None:
    """Run the benchmark, or its server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["memory", "redis"], default="redis")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--missed", type=int, default=100)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        need_files(options.clients + 100)
        asyncio.run(run_server(options.serve or None))
        return
    need_files(2 * options.clients)
    if options.broker == "memory":
        with serving(None) as (port, server):
            asyncio.run(storm(port, server, options))
    else:
        with Server(KINDS["redis7"]) as redis, serving(redis.url) as (port, server):
            asyncio.run(storm(port, server, options))


if __name__ == "__main__":
    main()
