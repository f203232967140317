"""The load of commands: clients that send one, wait for the answer, and send the next."""

from __future__ import annotations

import math
import select
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from wsbus.bench.load import BenchError, Server, cpu_seconds
from wsbus.bench.sockets import RawClient, frame

from .registry import MARKER, Responder
from .results import Call

_PATIENCE: Final = 10.0
_READ: Final = 65_536


class Callers:
    """Clients of one server, each with one command outstanding; to be closed.

    Args:
        server: What answers.
        responder: How it is talked to.
        clients: How many.
    """

    def __init__(self, server: Server, responder: Responder, clients: int) -> None:
        assert server.pid is not None
        self._pid: Final = server.pid
        self._wire: Final = frame(responder.request)
        place = (server.host, server.port, responder.path, responder.subprotocol)
        self._clients: Final[dict[int, RawClient]] = {}
        self._epoll: Final = select.epoll()
        for _ in range(clients):
            client = RawClient(*place)
            client.converse(responder.hello)
            client.sock.setblocking(False)
            self._clients[client.sock.fileno()] = client
            self._epoll.register(client.sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Reset all connections."""
        self._epoll.close()
        for client in self._clients.values():
            client.close()

    def run(self, calls: int) -> Call:
        """Make at least so many calls, in whole rounds of all clients' own, and measure."""
        each = max(1, calls // len(self._clients))
        cpu, began = cpu_seconds(self._pid), perf_counter()
        latencies = self._call(each)
        wall, cpu = perf_counter() - began, cpu_seconds(self._pid) - cpu
        total = len(latencies)
        return Call(
            cpu_us=round(cpu / total * 1e6, 3),
            rate=round(total / wall),
            p50_ms=round(_quantile(latencies, 0.5) * 1e3, 3),
            p99_ms=round(_quantile(latencies, 0.99) * 1e3, 3),
        )

    def _call(self, each: int) -> list[float]:
        latencies: list[float] = []
        sent: dict[int, float] = {}
        for number, client in self._clients.items():
            client.received = 0
            sent[number] = perf_counter()
            client.send_soon(self._wire)
        while len(latencies) < each * len(self._clients):
            events = self._poll()
            for number, _ in events:
                client = self._clients[number]
                if not self._is_answered(client):
                    continue
                now = perf_counter()
                latencies.append(now - sent[number])
                client.received += 1
                if client.received < each:
                    sent[number] = now
                    client.send_soon(self._wire)
        return latencies

    def _poll(self) -> list[tuple[int, int]]:
        # It never sleeps: to wake another core costs a server more than its answer does, and only
        # servers that leave the load nothing to do for a moment would pay for that.
        deadline = perf_counter() + _PATIENCE
        while not (events := self._epoll.poll(0)):
            if perf_counter() > deadline:
                raise BenchError(f"no answer within {_PATIENCE:g} s")
        return events

    def _is_answered(self, client: RawClient) -> bool:
        more = client.sock.recv(_READ)
        if not more:
            raise BenchError("the server closed the connection")
        data = client.tail + more
        found = MARKER in data
        client.tail = b"" if found else data[1 - len(MARKER) :]
        return found


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
