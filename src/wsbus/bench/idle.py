"""Idle connections, and their cost to a server in memory and time."""

from __future__ import annotations

import select
from collections.abc import Callable
from time import perf_counter

import msgspec

from .load import Script
from .processes import Server, cpu_seconds, need_files, resident_bytes
from .sockets import RawClient, frame

__all__ = ["IdleResult", "idle"]

_PING = b'"type":"ping"'
_PONG = b'{"type":"pong"}'
_READ = 65_536
_EVENTS_AT_ONCE = 256


class IdleResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of idle, subscribed connections."""

    connections: int
    seconds: float
    pings: int
    """Pings that were answered."""
    closed: int
    """Connections that the server closed."""
    cpu_share: float | None
    """The share of a core that the server was busy; None: its process is not known."""
    rss: int | None
    """The server's memory in bytes."""
    rss_per_connection: float | None
    """Bytes by which it grew with each connection."""


def idle(
    server: Server,
    script: Script,
    *,
    connections: int,
    seconds: float,
    progress: Callable[[int], None] | None = None,
) -> IdleResult:
    """Connect, subscribe, answer pings, and do nothing else.

    Args:
        server: The server.
        script: Its hello is used; pings are those of wsbus's dialects.
        connections: Number of connections.
        seconds: For how long the server's time is measured once all are connected.
        progress: Called with 1 for each connection that has joined.

    Raises:
        BenchError: The server is not there, or refused a connection.
    """
    need_files(connections)
    pid = server.pid
    before = resident_bytes(pid) if pid else 0
    clients: list[RawClient] = []
    try:
        with select.epoll() as epoll:
            watch = _Watch(epoll)
            for _ in range(connections):
                client = RawClient(server.host, server.port, script.path, script.subprotocol)
                clients.append(client)
                client.converse(script.hello, is_binary=script.is_binary)
                watch.add(client)
                watch.look(0)  # Some get a ping before all have joined.
                if progress is not None:
                    progress(1)
            rss = resident_bytes(pid) if pid else 0
            pings, cpu, began = watch.pings, cpu_seconds(pid) if pid else 0.0, perf_counter()
            while (left := seconds - (perf_counter() - began)) > 0:
                watch.look(left)
            wall = perf_counter() - began
            return IdleResult(
                connections=connections,
                seconds=wall,
                pings=watch.pings - pings,
                closed=watch.closed,
                cpu_share=(cpu_seconds(pid) - cpu) / wall if pid else None,
                rss=resident_bytes(pid) if pid else None,
                rss_per_connection=(rss - before) / max(1, connections) if pid else None,
            )
    finally:
        for client in clients:
            client.close()


class _Watch:
    """Answers pings."""

    def __init__(self, epoll: select.epoll) -> None:
        self.pings = 0
        self.closed = 0
        self._epoll = epoll
        self._clients: dict[int, RawClient] = {}
        self._pong = frame(_PONG)

    def add(self, client: RawClient) -> None:
        client.sock.settimeout(0)
        self._clients[client.sock.fileno()] = client
        self._epoll.register(client.sock.fileno(), select.EPOLLIN)

    def look(self, seconds: float) -> None:
        """Wait at most ``seconds`` for pings, and answer those that have come."""
        for number, _ in self._epoll.poll(seconds, _EVENTS_AT_ONCE):
            client = self._clients[number]
            try:
                data = client.sock.recv(_READ)
            except OSError:
                data = b""
            if not data:
                self._epoll.unregister(number)
                self.closed += 1
            for _ in range(data.count(_PING)):
                client.send_soon(self._pong)
                self.pings += 1
