"""Two nodes and a broker beside the raw client library: ``python -m tests.benchmarks.nodes``.

Each part runs in one go, the two sides in turn, so that their ratio holds although a machine is
busy with other things.

- *latency*: a client publishes at node A, a client of node B gets it; beside it one process that
  publishes with the library, and one that subscribes with it.
- *cpu*: CPU seconds of both nodes for each publication with 1, 16 and 64 outstanding; beside them
  those of the two raw processes.
- *thrift*: connections on both nodes, publications at a fixed rate; how many messages and how much
  of a core the broker needs, and what is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from wsbus.bench.load import FixedRate, Load, Script, Window, cpu_seconds, need_files
from wsbus.bench.processes import Server, running
from wsbus.bench.scripts import bus_script

_PAD: Final = "x" * 160


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(kind: str) -> Iterator[tuple[str, int]]:
    """Run a broker; yield its URL and its process id."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = {
            "redis": ["redis-server", "--port", str(port), "--save", "", "--dir", directory],
            "nats": ["nats-server", "-a", "127.0.0.1", "-p", str(port)],
        }[kind]
        if shutil.which(command[0]) is None:
            raise SystemExit(f"{command[0]} is not installed")
        log = Path(directory, "log").open("w")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(500):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.01)  # Another process opens the port; no event tells.
            yield f"{kind}://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()
            log.close()


# --- the raw library, two processes ---------------------------------------------------------------


async def _redis_raw(url: str, role: str, outstanding: int, count: int) -> None:
    import redis.asyncio as redis

    client = redis.Redis.from_url(url)
    payload = json.dumps({"pad": _PAD}).encode()
    if role == "subscriber":
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("raw")
            await pubsub.get_message(timeout=5)
            _say(0)
            async for message in pubsub.listen():
                _count()
        return
    _say(0)
    await _publish_raw(lambda: client.publish("raw", payload), outstanding, count)


async def _nats_raw(url: str, role: str, outstanding: int, count: int) -> None:
    import nats

    client = await nats.connect(url)
    payload = json.dumps({"pad": _PAD}).encode()
    if role == "subscriber":

        async def take(_message: Any) -> None:
            _count()

        await client.subscribe("raw", cb=take)
        await client.flush()
        _say(0)
        await asyncio.Event().wait()

    async def publish() -> None:
        await client.publish("raw", payload)
        await client.flush()

    _say(0)
    await _publish_raw(publish, outstanding, count)


def _say(number: int) -> None:
    print(number, flush=True)


_received = 0


def _count() -> None:
    global _received
    _received += 1
    os.write(1, b".")


async def _publish_raw(publish: Callable[[], Any], outstanding: int, count: int) -> None:
    """Publish what stdin asks for: each byte is one publication, done by its own task."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[Any]] = set()
    while chunk := await reader.read(65536):
        for _ in chunk:
            task = asyncio.ensure_future(publish())
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def _raw_process(url: str, role: str, outstanding: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.benchmarks.nodes", "--raw", url, role]
    command += [str(outstanding), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def raw(url: str, outstanding: int, count: int) -> tuple[float, float]:
    """Return the median seconds from publish to receive, and CPU seconds for each message."""
    subscriber = _raw_process(url, "subscriber", outstanding, count)
    publisher = _raw_process(url, "publisher", outstanding, count)
    assert publisher.stdin is not None
    assert subscriber.stdout is not None
    asked, got = publisher.stdin.fileno(), subscriber.stdout.fileno()
    latencies: list[float] = []
    cpu = 0.0
    try:
        for warm in (True, False):
            before = cpu_seconds(publisher.pid) + cpu_seconds(subscriber.pid)
            sent, done = 0, 0
            moments: list[float] = []
            total = 200 if warm else count
            latencies.clear()
            while done < total:
                want = min(outstanding - (sent - done), total - sent)
                if want > 0:
                    moments += [time.perf_counter()] * want
                    os.write(asked, b"." * want)
                    sent += want
                arrived = len(os.read(got, 65536))
                now = time.perf_counter()
                latencies += [now - moments[done + n] for n in range(arrived)]
                done += arrived
            cpu = cpu_seconds(publisher.pid) + cpu_seconds(subscriber.pid) - before
    finally:
        for process in (publisher, subscriber):
            process.kill()
            process.wait()
    return statistics.median(latencies), cpu / count


# --- two nodes -----------------------------------------------------------------------------------


@contextmanager
def nodes(url: str, *options: str) -> Iterator[tuple[Server, Server]]:
    """Run two servers that share a broker."""
    command = [sys.executable, "-m", "wsbus", "bench", "serve", "--server", "websockets"]
    command += ["--port", "0", "--broker", url, *options]
    with running(command) as first, running(command) as second:
        yield first, second


def over_two(url: str, outstanding: int, count: int, script: Script) -> tuple[float, float]:
    """Return the median seconds from a client's publish to another's event, and CPU for each."""
    with nodes(url) as (here, there), ExitStack() as stack:
        load = stack.enter_context(Load(here.port, None, script, subscriber_ports=[there.port]))
        load.join(1)
        load.run(Window(outstanding), 200)
        pids = [server.pid for server in (here, there) if server.pid]
        before = sum(map(cpu_seconds, pids))
        result = load.run(Window(outstanding), count)
        cpu = sum(map(cpu_seconds, pids)) - before
        if result.lost or result.reordered:
            raise SystemExit(f"{result.lost} lost, {result.reordered} reordered")
        return result.p50_ms / 1e3, cpu / count


def compare(url: str, windows: Sequence[int], rounds: int) -> None:
    """Print latency and CPU beside the raw library."""
    script = bus_script(payload=200)
    print("outstanding | raw p50 µs | two nodes p50 µs | ratio | raw µs CPU | wsbus µs CPU | ratio")
    for window in windows:
        count = 2000 if window == 1 else 10_000
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(raw(url, window, count))
            ours.append(over_two(url, window, count, script))
        p50, raw_p50 = (statistics.median([x[0] for x in side]) * 1e6 for side in (ours, theirs))
        cpu, raw_cpu = (statistics.median([x[1] for x in side]) * 1e6 for side in (ours, theirs))
        print(
            f"{window:11} | {raw_p50:10.0f} | {p50:16.0f} | {p50 / raw_p50:5.2f} | "
            f"{raw_cpu:10.1f} | {cpu:12.1f} | {raw_cpu / cpu:5.2f} × less"
        )


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
    parser.add_argument("--thrift", action="store_true", help="measure that instead")
    parser.add_argument("--connections", type=int, default=250, help="on each node")
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--raw", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.raw:
        url, role, outstanding, count = given.raw
        run = _redis_raw if url.startswith("redis") else _nats_raw
        asyncio.run(run(url, role, int(outstanding), int(count)))
        return
    with broker(given.broker) as (url, pid):
        if given.thrift:
            thrift(url, pid, given.connections, given.rate, given.seconds)
        else:
            compare(url, given.outstanding, given.rounds)


if __name__ == "__main__":
    main()
