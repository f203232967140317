"""Two nodes and a broker beside the raw client library: ``python -m tests.benchmarks.nodes``.

Each part runs in one go, the two sides in turn, so that their ratio holds although a machine is
busy with other things.

- *latency*: a client publishes at node A, a client of node B gets it; beside it one process that
  publishes with the library, and one that subscribes with it.
- *cpu*: CPU seconds of both nodes for each publication with 1, 16 and 64 outstanding; beside them
  those of the two raw processes. Both hold what the benchmark itself takes, for the task of each
  publication and the pipes that ask for it and confirm it; that is measured by itself, in one
  process that carries nothing. The last column divides the raw library's time by that of the bus,
  as it is, and without the benchmark's own.
- *thrift*: connections on both nodes, publications at a fixed rate; how many messages and how much
  of a core the broker needs, and what is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

from tests.brokers.servers import KINDS, Server
from wsbus.bench.load import FixedRate, Load, Script, Window, cpu_seconds, need_files
from wsbus.bench.processes import Server as Node
from wsbus.bench.processes import running
from wsbus.bench.scripts import bus_script

_PAD: Final = "x" * 160
_WARM: Final = 500
"""Publications that are not measured."""


class Figures(NamedTuple):
    """Seconds of one run, by publication."""

    latency: float
    """From publish to receive, the median."""
    publisher: float
    """CPU time of the process that publishes."""
    receiver: float
    """CPU time of the process that subscribes."""


@contextmanager
def broker(kind: str) -> Iterator[tuple[str, int]]:
    """Run a broker; yield its URL and its process id."""
    with Server(KINDS[{"redis": "redis7", "nats": "nats2.15"}[kind]]) as server:
        yield server.url, server.pid


# --- two processes: each with the library alone, or each with a bus ------------------------------


async def _redis_raw(url: str, role: str, count: int) -> None:
    import redis.asyncio as redis

    client = redis.Redis.from_url(url, max_connections=1000)
    if role == "subscriber":
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("raw")
            await pubsub.get_message(timeout=5)
            arrivals = _Arrivals(count)
            async for message in pubsub.listen():
                arrivals.note(json.loads(message["data"]))
        return
    await _publish(lambda data: client.publish("raw", json.dumps(data)))


async def _nats_raw(url: str, role: str, count: int) -> None:
    import nats

    client = await nats.connect(url)
    if role == "subscriber":
        arrivals = _Arrivals(count)

        async def take(message: Any) -> None:
            arrivals.note(json.loads(message.data))

        await client.subscribe("raw", cb=take)
        await client.flush()
        await asyncio.Event().wait()

    async def publish(data: object) -> None:
        await client.publish("raw", json.dumps(data).encode())
        await client.flush()

    await _publish(publish)


async def _bus(url: str, role: str, count: int) -> None:
    from wsbus import Bus
    from wsbus.brokers import broker_of

    async with Bus(broker=broker_of(url)) as bus:
        if role == "bus-subscriber":
            async with bus.subscribe("raw.channel", max_messages=100_000) as events:
                arrivals = _Arrivals(count)
                async for event in events:
                    arrivals.note(event.data)
            return
        await _publish(lambda data: bus.publish("raw.channel", data))


async def _bare(count: int) -> None:
    """Take and confirm publications that nothing carries."""
    arrivals = _Arrivals(count)

    async def publish(data: object) -> None:
        arrivals.note(data)

    await _publish(publish)


async def _publish(publish: Callable[[object], Any]) -> None:
    """Publish what stdin asks for: each byte is one publication, awaited by a task of its own."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    tasks: set[asyncio.Task[object]] = set()

    def read() -> None:
        chunk = os.read(0, 65536)
        if not chunk:
            end.set()
        for _ in chunk:
            task = loop.create_task(publish({"sent": time.perf_counter(), "pad": _PAD}))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    loop.add_reader(0, read)
    _say("ready")
    await end.wait()


class _Arrivals:
    """Says how many publications have arrived, once in each turn of the loop."""

    def __init__(self, count: int) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._left = _WARM + count
        self._count: Final = count
        self._fresh = 0
        self._latencies: Final[list[float]] = []
        _say("ready")

    def note(self, data: Any) -> None:
        self._latencies.append(time.perf_counter() - data["sent"])
        if not self._fresh:
            self._loop.call_soon(self._tell)
        self._fresh += 1

    def _tell(self) -> None:
        fresh, self._fresh = self._fresh, 0
        self._left -= fresh
        text = b"." * fresh
        if self._left == 0:
            text += f"{statistics.median(self._latencies[-self._count :]):.9f}\n".encode()
        os.write(1, text)


def _say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def _process(url: str, role: str, count: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.benchmarks.nodes", "--raw", url, role, str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def two_processes(url: str, outstanding: int, count: int, kind: str = "") -> Figures:
    """Measure a process that publishes and one that subscribes.

    Args:
        url: The broker's.
        outstanding: Publications under way; each is awaited by a task of its own.
        count: How many publications are measured.
        kind: Empty: with the client library alone. ``bus-``: each with a bus.
    """
    with (
        _process(url, f"{kind}subscriber", count) as subscriber,
        _process(url, f"{kind}publisher", count) as publisher,
    ):
        return _ask(publisher, subscriber, outstanding, count)


def bare(outstanding: int, count: int) -> float:
    """Measure the seconds that the benchmark itself takes for a publication."""
    with _process("", "bare", count) as process:
        return _ask(process, process, outstanding, count).publisher


def _ask(
    publisher: subprocess.Popen[bytes],
    subscriber: subprocess.Popen[bytes],
    outstanding: int,
    count: int,
) -> Figures:
    """Have publications made, as many at once as may be under way, and see them arrive."""
    assert publisher.stdin is not None
    assert subscriber.stdout is not None
    asked, got = publisher.stdin.fileno(), subscriber.stdout.fileno()
    before = [0.0, 0.0]
    sent = done = 0
    text = b""
    for total in (_WARM, _WARM + count):
        before = [cpu_seconds(publisher.pid), cpu_seconds(subscriber.pid)]
        while done < total:
            want = min(outstanding - (sent - done), total - sent)
            if want > 0:
                os.write(asked, b"." * want)
                sent += want
            dots, _, text = os.read(got, 65536).partition(b"0")
            done += len(dots)
    cpu = [cpu_seconds(publisher.pid) - before[0], cpu_seconds(subscriber.pid) - before[1]]
    return Figures(float(b"0" + text), cpu[0] / count, cpu[1] / count)


# --- two nodes -----------------------------------------------------------------------------------


@contextmanager
def nodes(url: str, *options: str) -> Iterator[tuple[Node, Node]]:
    """Run two servers that share a broker."""
    command = [sys.executable, "-m", "wsbus", "bench", "serve", "--server", "websockets"]
    command += ["--port", "0", "--broker", url, *options]
    with running(command) as first, running(command) as second:
        yield first, second


def over_two(url: str, outstanding: int, count: int, script: Script) -> Figures:
    """Measure a client that publishes at one node, and one that subscribes at another."""
    with nodes(url) as (here, there), ExitStack() as stack:
        load = stack.enter_context(Load(here.port, None, script, subscriber_ports=[there.port]))
        load.join(1)
        load.run(Window(outstanding), 200)
        pids = [server.pid for server in (here, there) if server.pid]
        before = [cpu_seconds(pid) for pid in pids]
        result = load.run(Window(outstanding), count)
        cpu = [cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
        if result.lost or result.reordered:
            raise SystemExit(f"{result.lost} lost, {result.reordered} reordered")
        return Figures(result.p50_ms / 1e3, cpu[0] / count, cpu[1] / count)


def compare(url: str, windows: Sequence[int], rounds: int, *, by_websocket: bool) -> None:
    """Print latency and CPU beside the raw library; medians of the rounds."""
    script = bus_script(payload=200)
    heads = ["p50 µs", "CPU µs, publisher", "CPU µs, receiver", "CPU µs, both"]
    heads += ["p50 µs, by WebSocket"] * by_websocket
    titles = [f"{head:^22}" for head in heads]
    print(f"{'outstanding':>11} | {' | '.join(titles)} | of the benchmark | raw in ours")
    for window in windows:
        count = 3000 if window == 1 else 20_000
        pairs: list[list[tuple[float, float]]] = [[] for _ in heads]
        own_costs: list[float] = []
        for _ in range(rounds):
            theirs = two_processes(url, window, count)
            ours = two_processes(url, window, count, "bus-")
            own_costs.append(bare(window, count))
            for column, pair in enumerate(zip(ours, theirs, strict=True)):
                pairs[column].append(pair)
            pairs[3].append((sum(ours[1:]), sum(theirs[1:])))
            if by_websocket:
                pairs[4].append((over_two(url, window, 3000, script).latency, theirs.latency))
        cells = []
        for measured in pairs:
            own, other = (
                statistics.median([pair[side] for pair in measured]) * 1e6 for side in (0, 1)
            )
            cells.append(f"{own:6.1f} / {other:6.1f} = {own / other:4.2f}")
        bare_cost = statistics.median(own_costs)
        ours_both, raw_both = map(statistics.median, zip(*pairs[3], strict=True))
        cells.append(f"{bare_cost * 1e6:16.1f}")
        net = (raw_both - bare_cost) / (ours_both - bare_cost)
        cells.append(f"{raw_both / ours_both:.1f} times, {net:.1f} without the benchmark's")
        print(f"{window:11} | " + " | ".join(cells), flush=True)


def thrift(url: str, pid: int, connections: int, rate: int, seconds: float) -> None:
    """Print what a broker does for many deliveries."""
    script = bus_script(payload=200)
    need_files(2 * connections + 100)
    with nodes(url, "--flush-interval", "0.01") as (here, there), ExitStack() as stack:
        load = stack.enter_context(
            Load(here.port, None, script, subscriber_ports=[here.port, there.port])
        )
        load.join(2 * connections)
        load.run(FixedRate(rate), rate)
        pids = [server.pid for server in (here, there) if server.pid]
        messages, cpu, own = _messages(url), cpu_seconds(pid), sum(map(cpu_seconds, pids))
        result = load.run(FixedRate(rate), int(rate * seconds), patience=20)
        wall = result.seconds
        print(
            f"2 × {connections} connections, {rate} publications/s, {wall:.0f} s: "
            f"{result.rate:,.0f} deliveries/s, {(_messages(url) - messages) / wall:,.0f} broker "
            f"messages/s, broker {100 * (cpu_seconds(pid) - cpu) / wall:.1f} % of a core, nodes "
            f"{100 * (sum(map(cpu_seconds, pids)) - own) / wall:.0f} % of a core together, load "
            f"{100 * result.load_share:.0f} %; {result.lost} lost, {result.reordered} reordered, "
            f"p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms"
        )


def _messages(url: str) -> int:
    """Return the messages that the broker has taken so far."""
    if not url.startswith("redis"):
        return 0
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"INFO commandstats\r\n")
        text = b""
        while b"\r\n\r\n" not in text and not text.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            text += part
            if len(part) < 65536 and b"$" in text[:1]:
                size = int(text[1 : text.index(b"\r\n")])
                if len(text) >= size:
                    break
    found = [line for line in text.decode().splitlines() if line.startswith("cmdstat_publish:")]
    return int(found[0].split("calls=")[1].split(",")[0]) if found else 0


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["redis", "nats"], default="redis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--outstanding", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--by-websocket", action="store_true", help="also with clients")
    parser.add_argument("--thrift", action="store_true", help="measure that instead")
    parser.add_argument("--connections", type=int, default=250, help="on each node")
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--raw", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.raw:
        url, role, count = given.raw
        if role == "bare":
            asyncio.run(_bare(int(count)))
            return
        run = _redis_raw if url.startswith("redis") else _nats_raw
        run = _bus if role.startswith("bus-") else run
        asyncio.run(run(url, role, int(count)))
        return
    with broker(given.broker) as (url, pid):
        if given.thrift:
            thrift(url, pid, given.connections, given.rate, given.seconds)
        else:
            compare(url, given.outstanding, given.rounds, by_websocket=given.by_websocket)


if __name__ == "__main__":
    main()
