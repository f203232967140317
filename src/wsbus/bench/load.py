"""The load: subscribers on raw sockets, a publisher, and the cost of a publication to the server.

It measures any WebSocket server that delivers what one client publishes to all clients. Messages
are counted, not frames, by a marker that each of them holds once; nothing is parsed, so that one
core can count more than a million messages a second. A :class:`Script` holds the messages for a
server::

    script = Script(
        subprotocol="nats",
        hello=[(b'{"subscribe":"bench"}', b"subscribed")],
        publish=b'{"publish":"bench","pad":"..."}',
        marker=b'"pad"',
    )
    server_core, load_core = cores()
    need_files(500)
    with running([sys.executable, "server.py"], core=server_core) as server, pinned(load_core):
        result = fanout(
            server.port, server.pid, script, subscribers=500, outstanding=16, publications=2000
        )
    print(result.cpu_us, result.p99_ms)

The server prints ``host:port`` or its port when it is ready, and nothing before. Payloads are
those of WebSocket messages; a protocol within (Socket.IO, NATS, STOMP) puts its own frames there.
Pings of the WebSocket protocol are not answered: a server that closes silent clients before the
run is over needs another setting, or :attr:`Script.alive`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Final, Self

import msgspec

from .errors import BenchError
from .processes import (
    Server,
    cores,
    cpu_seconds,
    listener_pid,
    need_files,
    pinned,
    resident_bytes,
    running,
)
from .pump import ALIVE_SECONDS, Pump
from .schedules import FixedRate, Schedule, Window
from .sockets import RawClient, frame

__all__ = [
    "BenchError",
    "FanoutResult",
    "FixedRate",
    "Load",
    "Schedule",
    "Script",
    "Server",
    "Window",
    "cores",
    "cpu_seconds",
    "fanout",
    "listener_pid",
    "need_files",
    "pinned",
    "resident_bytes",
    "round_trips",
    "running",
]

_STUCK_BUFFER: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The messages that clients exchange with a server."""

    path: str = "/ws"
    """The path of the handshake, with the query if there is one."""
    subprotocol: str | None = None
    """Offered in the handshake; the server must choose it. None: none is offered."""
    hello: Sequence[tuple[bytes | None, bytes | None]] = ()
    """The first steps of a subscriber: each a payload to send, or None, and a marker to read up
    to, or None."""
    publisher_hello: Sequence[tuple[bytes | None, bytes | None]] = ()
    """The first steps of the publisher."""
    publish: bytes
    """The payload that makes the server deliver one message to each subscriber."""
    marker: bytes
    """Occurs exactly once in each message delivered, and in no other message."""
    is_binary: bool = False
    """Whether clients send binary frames."""
    also_publish: Sequence[bytes] = ()
    """More payloads, published in turn with the first one: to further channels, for example."""
    digits: int = 0
    """If not 0, a number of so many digits (at least two) follows the marker, in publications and
    in deliveries: the publication's number, by which order is checked."""
    alive: bytes | None = None
    """A message that every connection sends now and then in long runs, to show that it is alive."""


class FanoutResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run; a publication's latency ends when the last subscriber has it."""

    subscribers: int
    """Subscribers that read."""
    publications: int
    deliveries: int
    """Messages that came."""
    lost: int
    """Messages that did not come."""
    reordered: int | None
    """Messages that came after a later one, or twice; None: publications are not numbered."""
    closed: int
    """Connections that the server closed."""
    seconds: float
    rate: float
    """Deliveries per second of wall time."""
    cpu_us: float | None
    """The server's time on a core per delivery, in microseconds; None: its process is not known."""
    cpu_share: float | None
    """The share of a core that the server was busy."""
    load_share: float
    """The share of a core that the load was busy. Near 1 the figures are those of the load."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    rss_per_connection: float | None
    """Bytes by which the server grew with each subscriber that connected."""
    rss_start: int | None
    """The server's memory in bytes, all subscribers connected."""
    rss_end: int | None
    """The same after the last publication."""


def fanout(
    port: int,
    pid: int | None,
    script: Script,
    *,
    subscribers: int,
    outstanding: int,
    publications: int,
    host: str = "127.0.0.1",
    warm_up: int | None = None,
    stuck: int = 0,
    patience: float = 10.0,
    progress: Callable[[int], None] | None = None,
) -> FanoutResult:
    """Publish to all subscribers with a window of publications under way, and measure.

    Args:
        port: The server's port.
        pid: The server's process id; None: CPU and memory are not measured.
        script: The messages to send.
        subscribers: Number of subscribers that read.
        outstanding: The window: the most publications that some subscriber does not have yet.
        publications: Number of publications that are measured.
        host: The server's host.
        warm_up: Publications before those; None: a fifth as many, at least 200.
        stuck: Number of further subscribers that never read.
        patience: Seconds without any message after which missing messages count as lost.
        progress: Called now and then with the number of publications completed since.

    Raises:
        BenchError: The server is not there, refused, or closed the publisher's connection.
    """
    warm_up = max(200, publications // 5) if warm_up is None else warm_up
    with Load(port, pid, script, host=host) as load:
        load.join(subscribers, stuck=stuck)
        load.run(Window(outstanding), warm_up, patience=patience)
        return load.run(Window(outstanding), publications, patience=patience, progress=progress)


def round_trips(
    port: int,
    pid: int | None,
    script: Script,
    *,
    outstanding: int,
    calls: int,
    host: str = "127.0.0.1",
    warm_up: int | None = None,
    patience: float = 10.0,
    progress: Callable[[int], None] | None = None,
) -> FanoutResult:
    """Call with a window of calls under way on one connection, and measure.

    Arguments and result are those of :func:`fanout`, an answer being a delivery: the script
    publishes the call, and the marker occurs once in each answer. The publisher's hello is used.

    Raises:
        BenchError: The server is not there, refused, or closed the connection.
    """
    warm_up = max(200, calls // 5) if warm_up is None else warm_up
    with Load(port, pid, script, host=host) as load:
        load.call()
        load.run(Window(outstanding), warm_up, patience=patience)
        return load.run(Window(outstanding), calls, patience=patience, progress=progress)


class Load:
    """Connections to one server, and a publisher; to be used as a context manager.

    Args:
        port: The server's port.
        pid: The server's process id; None: CPU and memory are not measured.
        script: The messages to send.
        host: The server's host.
        subscriber_ports: The ports of the servers that subscribers connect to, in turn: further
            nodes of a service. Empty: all connect to ``port``, as the publisher does.
    """

    def __init__(
        self,
        port: int,
        pid: int | None,
        script: Script,
        *,
        host: str = "127.0.0.1",
        subscriber_ports: Sequence[int] = (),
    ) -> None:
        self._host: Final = host
        self._port: Final = port
        self._subscriber_ports: Final = subscriber_ports or (port,)
        self._pid: Final = pid
        self._script: Final = script
        self._clients: list[RawClient] = []
        self._alive_at = 0.0
        self._pump: Pump | None = None
        self._rss_per_connection: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        if self._pump is not None:
            self._pump.close()

    def join(
        self,
        subscribers: int,
        *,
        stuck: int = 0,
        idle: int = 0,
        hello: Callable[[int], Sequence[tuple[bytes | None, bytes | None]]] | None = None,
        is_spread: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Connect a publisher and all subscribers; once.

        Args:
            subscribers: Number of subscribers that read.
            stuck: Number of further subscribers that never read.
            idle: Number of further subscribers to something else.
            hello: Returns the first steps of subscriber number n; None: those of the script.
            is_spread: Each publication goes to one of the subscribers, not to all.
            progress: Called with 1 for each subscriber that has joined.

        Raises:
            BenchError: The server is not there, or refused a connection.
        """
        script = self._script
        publisher = self._connect(script.publisher_hello, self._port)
        before = resident_bytes(self._pid) if self._pid else 0
        total = subscribers + stuck + idle
        for number in range(total):
            is_stuck = subscribers <= number < subscribers + stuck
            steps = hello(number) if hello else script.hello
            port = self._subscriber_ports[number % len(self._subscriber_ports)]
            self._connect(steps, port, receive_buffer=_STUCK_BUFFER if is_stuck else None)
            if progress is not None:
                progress(1)
        if self._pid and total:
            self._rss_per_connection = (resident_bytes(self._pid) - before) / total
        clients = self._clients[1:]
        self._pump = self._make_pump(
            publisher, clients[:subscribers], clients[subscribers + stuck :], is_spread=is_spread
        )

    def call(self) -> None:
        """Connect one client that sends commands and reads the answers; instead of :meth:`join`.

        Raises:
            BenchError: The server is not there, or refused it.
        """
        client = self._connect(self._script.publisher_hello, self._port)
        self._pump = self._make_pump(client, [client], [], is_spread=False)

    def _connect(
        self,
        steps: Sequence[tuple[bytes | None, bytes | None]],
        port: int,
        receive_buffer: int | None = None,
    ) -> RawClient:
        path, subprotocol = self._script.path, self._script.subprotocol
        client = RawClient(self._host, port, path, subprotocol, receive_buffer=receive_buffer)
        self._clients.append(client)
        client.converse(steps, is_binary=self._script.is_binary)
        now = perf_counter()
        if self._script.alive is not None and now - self._alive_at > ALIVE_SECONDS:
            # Thousands take longer to join than a server waits for a silent client.
            self._alive_at = now
            for each in self._clients:
                each.converse([(self._script.alive, None)], is_binary=self._script.is_binary)
        return client

    def _make_pump(
        self,
        publisher: RawClient,
        clients: Sequence[RawClient],
        idle: Sequence[RawClient],
        *,
        is_spread: bool,
    ) -> Pump:
        script = self._script
        is_binary, alive = script.is_binary, script.alive
        return Pump(
            publisher,
            clients,
            wires=[
                frame(payload, is_binary=is_binary)
                for payload in (script.publish, *script.also_publish)
            ],
            marker=script.marker,
            digits=script.digits,
            alive=frame(alive, is_binary=is_binary) if alive else None,
            idle=idle,
            is_spread=is_spread,
        )

    def run(
        self,
        schedule: Schedule,
        publications: int,
        *,
        patience: float = 10.0,
        progress: Callable[[int], None] | None = None,
    ) -> FanoutResult:
        """Publish, wait until all subscribers have everything, and measure; may be repeated.

        Args:
            schedule: When the next publication is due: :class:`Window` or :class:`FixedRate`.
            publications: Number of publications.
            patience: Seconds without any message after which missing messages count as lost.
            progress: Called now and then with the number of publications completed since.

        Raises:
            BenchError: The server closed the publisher's connection.
        """
        assert self._pump is not None, "join first"
        pid = self._pid
        rss_start = resident_bytes(pid) if pid else None
        cpu, own, began = cpu_seconds(pid) if pid else 0.0, process_time(), perf_counter()
        run = self._pump.run(schedule, publications, patience, progress)
        wall = (run.ended or perf_counter()) - began
        cpu = cpu_seconds(pid) - cpu if pid else 0.0
        return FanoutResult(
            subscribers=self._pump.size,
            publications=publications,
            deliveries=run.deliveries,
            lost=run.lost,
            reordered=run.reordered if self._script.digits else None,
            closed=run.closed,
            seconds=wall,
            rate=run.deliveries / wall,
            cpu_us=cpu / max(1, run.deliveries) * 1e6 if pid else None,
            cpu_share=cpu / wall if pid else None,
            load_share=(process_time() - own) / wall,
            p50_ms=run.latency(0.5) * 1e3,
            p99_ms=run.latency(0.99) * 1e3,
            p999_ms=run.latency(0.999) * 1e3,
            rss_per_connection=self._rss_per_connection,
            rss_start=rss_start,
            rss_end=resident_bytes(pid) if pid else None,
        )
