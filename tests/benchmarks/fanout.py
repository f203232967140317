"""One publication to many connections: server CPU per delivery, with so many outstanding.

``python tests/benchmarks/fanout.py [SERVER ...]`` runs each server in turn, pinned to one core,
against raw sockets on the other, and prints a table. Messages are counted, not frames; a
publication is outstanding until every subscriber has it. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import base64
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.benchmarks.servers import SERVERS

MARKER: Final = b'"pad"'
PAYLOAD: Final = "x" * 95
_DATA: Final = f'{{"pad":"{PAYLOAD}"}}'
PUBLISH: Final = {
    "wsbus.v1": f'{{"type":"publish","channel":"bench","data":{_DATA}}}',
    "zigquant-v2": f'{{"type":"command","action":"publish","params":{_DATA}}}',
}


class Result(NamedTuple):
    """One measurement."""

    cpu_us: float
    """Server CPU per delivery, in microseconds."""
    rate: float
    """Deliveries per second of wall time."""
    p99_ms: float
    """Publication to last delivery."""


class Client:
    """A raw socket that has upgraded; it counts messages and understands nothing."""

    def __init__(self, port: int, protocol: str | None) -> None:
        self.sock: Final = socket.create_connection(("127.0.0.1", port))
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n{offer}"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = 0
        self._tail = b""

    def count(self) -> int:
        """Read what is there; return how many messages begin in it."""
        data = self._tail + self.sock.recv(1 << 18)
        self._tail = data[1 - len(MARKER) :]
        return data.count(MARKER)

    def send(self, text: str) -> None:
        """Send a masked text frame; the mask is zero, which is legal and costs nothing."""
        data = text.encode()
        head = (
            bytes((0x81, 0x80 | len(data)))
            if len(data) < 126
            else (b"\x81\xfe" + len(data).to_bytes(2))
        )
        self.sock.sendall(head + bytes(4) + data)

    def drain_until(self, marker: bytes) -> None:
        """Read up to an answer."""
        data = b""
        while marker not in data:
            data += self.sock.recv(65536)


@contextmanager
def running(name: str, core: int) -> Iterator[tuple[int, int]]:
    """Run a server on one core; give its process id and port."""
    command = [sys.executable, str(Path(__file__).with_name("servers.py")), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def cpu_seconds(pid: int) -> float:
    """Return the time the process has spent on a core, in all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(
    name: str, *, protocol: str, subscribers: int, outstanding: int, publications: int, core: int
) -> Result:
    """Publish with a window of ``outstanding``; count until everybody has everything."""
    with running(name, core) as (pid, port):
        offer = None if name.endswith("bare") else protocol
        clients = [Client(port, offer) for _ in range(subscribers)]
        if offer:
            for client in clients:
                client.send('{"type":"subscribe","channels":["bench"]}')
                client.drain_until(b"subscribed")
        publisher = Client(port, offer)
        selector = selectors.EpollSelector()
        for client in clients:
            client.sock.setblocking(False)
            selector.register(client.sock, selectors.EVENT_READ, client)
        warm_up = max(200, publications // 5)
        _pump(selector, clients, publisher, PUBLISH[protocol], warm_up, outstanding)
        for client in clients:
            client.received = 0
        cpu, began = cpu_seconds(pid), time.perf_counter()
        latencies = _pump(
            selector, clients, publisher, PUBLISH[protocol], publications, outstanding
        )
        wall, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
        for client in [*clients, publisher]:
            client.sock.close()
    deliveries = publications * subscribers
    p99 = statistics.quantiles(latencies, n=100)[98]
    return Result(cpu / deliveries * 1e6, deliveries / wall, p99 * 1e3)


def _pump(
    selector: selectors.BaseSelector,
    clients: list[Client],
    publisher: Client,
    text: str,
    publications: int,
    outstanding: int,
) -> list[float]:
    missing = [len(clients)] * publications
    sent_at: list[float] = []
    latencies: list[float] = []
    done = 0
    while done < publications:
        while len(sent_at) < min(publications, done + outstanding):
            sent_at.append(time.perf_counter())
            publisher.send(text)
        for key, _ in selector.select():
            client: Client = key.data
            with suppress(BlockingIOError):
                count = client.count()
                for i in range(client.received, client.received + count):
                    missing[i] -= 1
                client.received += count
        with suppress(BlockingIOError):  # What the publisher itself is told.
            publisher.sock.recv(1 << 18, socket.MSG_DONTWAIT)
        while done < publications and not missing[done]:
            latencies.append(time.perf_counter() - sent_at[done])
            done += 1
    return latencies


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=list(SERVERS))
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--publications", type=int, default=2000)
    parser.add_argument("--outstanding", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--protocol", default="wsbus.v1", choices=list(PUBLISH))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    print(f"{options.subscribers} subscribers, {options.protocol}, medians of {options.rounds}")
    print("| server | outstanding | CPU µs/delivery | deliveries/s | p99 ms |")
    print("|---|---|---|---|---|")
    for name in options.servers:
        for outstanding in options.outstanding:
            results = [
                measure(
                    name,
                    protocol=options.protocol,
                    subscribers=options.subscribers,
                    outstanding=outstanding,
                    publications=options.publications,
                    core=cores[0],
                )
                for _ in range(options.rounds)
            ]
            cpu, rate, p99 = (statistics.median(column) for column in zip(*results, strict=True))
            print(f"| {name} | {outstanding} | {cpu:.2f} | {rate:,.0f} | {p99:.1f} |", flush=True)


if __name__ == "__main__":
    main()
