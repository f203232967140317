"""The symbol stream on wsbus: ``websocket_manager``, which the rest of a backend imports.

::

    python examples/symbol_stream.py --port 8765

Clients connect to any path, and subscribe to symbols: ``BTC/USDT``, ``^GSPC``, ``BRK.B``, ``A B``
or ``*`` are names, and none of them means more than itself. What they say that is bad is dropped,
counted (``websocket_manager.bus.statistics().malformed``) and logged at DEBUG.

What there is to learn here: a dialect (:class:`SymbolStream`) made of one struct per message, a
façade that keeps an old interface alive (:class:`WebSocketManager`) and keeps no state of its own
but one counter, and an async queue (:class:`MessageQueue`) that leaves the bounds to a pure one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

import msgspec
from msgspec import Struct

from wsbus import (
    Bus,
    CloseCode,
    Connection,
    HeartbeatPolicy,
    InvalidChannel,
    Limits,
    Overflow,
    Pattern,
    Receipt,
    UsageError,
    channel,
    parse_pattern,
)
from wsbus.adapters.websockets import serve
from wsbus.broker import Broker
from wsbus.brokers import broker_of
from wsbus.protocols import (
    Frame,
    Instant,
    PingMessage,
    PongMessage,
    StatusMessage,
    TaggedJson,
    TaggedMessage,
)
from wsbus.protocols import MessageQueue as BoundedQueue
from wsbus.protocols import messages as m

logger: Final = logging.getLogger("symbol_stream")

Json: TypeAlias = dict[str, Any]
QUOTES_PER_SECOND: Final = 2


def local_time(seconds: float) -> str:
    """Return a moment, in seconds since the epoch, as messages have it: ``2025-12-11T10:30:00``."""
    return datetime.fromtimestamp(seconds).isoformat(timespec="seconds")  # noqa: DTZ006  # local


# --- the dialect --------------------------------------------------------------------------------


class Symbols(TaggedMessage, frozen=True):
    """``symbols``, or ``symbol``, or both."""

    symbols: tuple[str, ...] | None = None
    symbol: str | None = None

    def names(self) -> tuple[str, ...]:
        """Return them; a message without any, or with one that is too long, is bad input."""
        if self.symbols is None and self.symbol is None:
            raise msgspec.ValidationError("neither `symbols` nor `symbol`")
        names = (self.symbols or ()) + (() if self.symbol is None else (self.symbol,))
        try:
            for name in names:
                symbol_channel(name)
        except InvalidChannel as error:
            raise msgspec.ValidationError(f"no symbol: {error.reason}") from None
        return names


class Subscribe(Symbols, frozen=True, tag="subscribe"):
    """From now on the client wants these."""

    def request(self) -> m.Request:
        """Return what the bus understands."""
        return m.Subscribe(self.names())


class Unsubscribe(Symbols, frozen=True, tag="unsubscribe"):
    """From now on it does not."""

    def request(self) -> m.Request:
        """Return what the bus understands."""
        return m.Unsubscribe(self.names())


class SymbolStream(TaggedJson):
    """The dialect: subscribing is not answered, there is no word for errors, data goes verbatim."""

    name = "symbol-stream"
    messages = (Subscribe, Unsubscribe, PingMessage, PongMessage, StatusMessage)

    def pattern(self, name: str) -> Pattern:
        """Return the one channel of a symbol."""
        return parse_pattern(symbol_channel(name))

    def encode(self, reply: m.ServerMessage, at: Instant) -> Frame | None:
        """Say ``ping``, ``pong`` or ``status``."""
        now = local_time(at.wall)
        match reply:
            case m.Ping():
                message: Json = {"type": "ping", "timestamp": now}
            case m.Pong():
                message = {"type": "pong", "timestamp": now}
            case m.Status():
                message = {
                    "type": "status",
                    "connected_at": reply.connected_at,
                    "subscriptions": reply.subscriptions,
                    "message_count": reply.message_count,
                    "timestamp": now,
                }
            case _:
                return None
        return Frame(msgspec.json.encode(message))

    def encode_publication(self, publication: m.Publication) -> Frame:
        """Say the data, and nothing else."""
        return Frame(publication.data)


def symbol_channel(symbol: str) -> str:
    """Return the channel of a symbol, which it shares with no other.

    Raises:
        InvalidChannel: It is longer than any channel can be.
    """
    return channel("symbol", symbol)


# --- the façade ---------------------------------------------------------------------------------


class ConnectionInfo(NamedTuple):
    """What is known of one connection; times are seconds since the epoch."""

    connected_at: float
    last_ping: float
    """When it was pinged last, or connected."""
    last_pong: float
    """Its last sign of life."""
    subscriptions: set[str]
    message_count: int
    """Broadcast messages sent to it."""
    is_alive: bool


class Sent(NamedTuple):
    """What became of a broadcast."""

    successes: int
    """Connections it is on its way to; one that breaks just now is removed all the same."""
    failures: int
    """Connections whose queue was full; they are removed."""


class WebSocketManager:
    """Connections, heartbeats and symbol subscriptions, as the backend has always known them.

    A connection that reads too slowly to be sent everything is closed (4409), since the dialect
    has no word to tell it what it missed.
    """

    def __init__(self, broker: Broker | None = None) -> None:
        self.bus: Final = Bus(broker=broker)
        self.endpoint: Final = self.bus.endpoint(
            protocols=[SymbolStream()],
            heartbeat=HeartbeatPolicy(interval=30, timeout=60, spreads=False),
            origins="*",  # no cookies are involved
            overflow=Overflow.CLOSE,
            broadcast="everybody",
            limits=Limits(
                messages_per_second=None,
                commands_per_second=None,
                max_subscriptions=10_000,
                max_names=10_000,
                queue_messages=5000,
                queue_bytes=4 << 20,
            ),
        )
        self._interval: float | None = 30
        self._timeout: float | None = 60
        self.dead_connections: int = 0
        """Removed because they were silent, too slow, or broken."""
        self.bus.on_disconnect(self._count)

    @property
    def heartbeat_interval(self) -> float | None:
        """Seconds between pings; takes effect at the next sweep, within a second."""
        return self._interval

    @heartbeat_interval.setter
    def heartbeat_interval(self, seconds: float | None) -> None:
        self._beat(seconds, self._timeout)

    @property
    def heartbeat_timeout(self) -> float | None:
        """Seconds of silence that end a connection (4408); the same."""
        return self._timeout

    @heartbeat_timeout.setter
    def heartbeat_timeout(self, seconds: float | None) -> None:
        self._beat(self._interval, seconds)

    def _beat(self, interval: float | None, timeout: float | None) -> None:
        policy = HeartbeatPolicy(interval, None, spreads=False)
        HeartbeatPolicy(None, timeout)
        self._interval, self._timeout = interval, timeout
        # Both are assigned one after the other: until they fit, the timeout waits.
        if interval is None or timeout is None or timeout > interval:
            policy = HeartbeatPolicy(interval, timeout, spreads=False)
        self.endpoint.heartbeat = policy

    async def broadcast_to_subscribers(self, symbol: str, message: Json) -> Sent:
        """Send a message to all who subscribe to a symbol."""
        receipt = await self.bus.publish(symbol_channel(symbol), message)
        return self._sent(f"the subscribers of {symbol!r}", receipt)

    async def broadcast_to_all(self, message: Json) -> Sent:
        """Send a message to everybody."""
        return self._sent("everybody", await self.bus.broadcast(message))

    async def send(self, message: Json, target: str | None = None) -> Sent:
        """Send a message to the subscribers of the target, or to everybody; for queues."""
        if target is None:
            return await self.broadcast_to_all(message)
        return await self.broadcast_to_subscribers(target, message)

    @property
    def connections(self) -> dict[str, ConnectionInfo]:
        """What is known of each connection now, by its id, oldest first."""
        return {
            info.connection_id: ConnectionInfo(
                info.connected_at,
                info.connected_at if info.last_ping is None else info.last_ping,
                info.last_pong,
                set(info.subscriptions),
                info.message_count,
                info.is_alive,
            )
            for info in self.bus.connections()
        }

    def get_stats(self) -> Json:
        """Return the figures of the operators; the sums are since the bus was started."""
        statistics = self.bus.statistics() if self.bus.is_running else None
        alive = [info for info in self.bus.connections() if info.is_alive] if statistics else []
        subscribers = Counter(symbol for info in alive for symbol in info.subscriptions)
        return {
            "active_connections": len(alive),
            "total_connections": statistics.connections_ever if statistics else 0,
            "total_messages": statistics.sent if statistics else 0,
            "subscriptions": dict(subscribers.most_common()),
            "is_running": statistics is not None,
        }

    def _sent(self, whom: str, receipt: Receipt) -> Sent:
        sent = Sent(receipt.local_accepted, receipt.local_matched - receipt.local_accepted)
        logger.debug("broadcast to %s: %d sent, %d failed", whom, sent.successes, sent.failures)
        return sent

    def _count(self, connection: Connection) -> None:
        dead = (CloseCode.HEARTBEAT_TIMEOUT, CloseCode.TOO_SLOW, CloseCode.ABNORMAL)
        self.dead_connections += connection.close_code in dead


websocket_manager: Final = WebSocketManager()


# --- the queue ----------------------------------------------------------------------------------


class Queued(Struct, frozen=True):
    """A message that waits."""

    message: Json
    target: str | None
    """The symbol whose subscribers it is for; None: everybody."""
    queued_at: float
    """Seconds since the epoch."""
    attempts: int = 0
    """How often it was tried to send it."""

    @property
    def size(self) -> int:
        """Return what it counts for: the queue is bounded in messages."""
        return 1

    @property
    def channel(self) -> None:
        """Return none: what is lost is only counted."""


class MessageQueue:
    """Smooths bursts: messages wait until they are processed, and the oldest go when it is full.

    Args:
        maxlen: Messages that wait at most; those of a batch that is being sent do not count.
        should_retry: Asked when a message could not be sent, with what was raised; it then goes
            to the end of the queue, to be tried in the next :meth:`process_queue`.
    """

    def __init__(
        self,
        maxlen: int = 1000,
        *,
        should_retry: Callable[[Queued, Exception], bool] = lambda *_: False,
    ) -> None:
        self.maxlen: Final = maxlen
        self.failed: int = 0
        """Messages given up."""
        self._queue: Final = BoundedQueue[Queued](max_messages=maxlen, max_bytes=maxlen)
        self._batch: Final[deque[Queued]] = deque()
        self._should_retry: Final = should_retry

    def __len__(self) -> int:
        return len(self._queue) + len(self._batch)

    @property
    def dropped(self) -> int:
        """Messages that had to go for newer ones."""
        return self._queue.dropped

    async def enqueue(self, message: Json, target: str | None = None) -> None:
        """Put a message at the end; never waits."""
        self._queue.offer(Queued(message, target, time.time()), Overflow.DROP_OLDEST)

    async def process_queue(
        self, broadcast_func: Callable[[Json, str | None], Awaitable[object]], batch_size: int = 100
    ) -> None:
        """Await ``broadcast_func(message, target)`` for all that is queued now, in order.

        Others have their turn after each batch. Cancellation: the message that is being sent may
        be lost, those behind it stay.
        """
        for _ in range(len(self)):
            if not self._batch:
                await asyncio.sleep(0)
                self._batch.extend(self._queue.take(batch_size).items)
            if not self._batch:  # Somebody else has processed it meanwhile.
                return
            queued = self._batch.popleft()
            try:
                await broadcast_func(queued.message, queued.target)
            except Exception as error:  # noqa: BLE001  # whatever it is, the hook decides
                tried = msgspec.structs.replace(queued, attempts=queued.attempts + 1)
                if self._should_retry(tried, error):
                    self._queue.offer(tried, Overflow.DROP_OLDEST)
                else:
                    self.failed += 1
                    logger.warning("a queued message was given up: %s", type(error).__name__)


# --- the application ----------------------------------------------------------------------------


async def feed(manager: WebSocketManager, queue: MessageQueue) -> None:
    """Quote each symbol that anybody subscribes to; ``seq`` grows by one from quote to quote."""
    seq, factor = 0, 1.0
    while True:
        seq, factor = seq + 1, factor * (1 + random.gauss(0, 0.001))
        for symbol in manager.get_stats()["subscriptions"]:
            price = round((crc32(symbol.encode()) % 100_000 + 1) * factor, 2)
            quote = {"type": "quote", "symbol": symbol, "price": price, "seq": seq}
            await queue.enqueue(quote | {"timestamp": local_time(time.time())}, symbol)
            if len(queue) >= queue.maxlen:
                await queue.process_queue(manager.send)
        await queue.process_queue(manager.send)
        await asyncio.sleep(1 / QUOTES_PER_SECOND)


async def run(manager: WebSocketManager, queue: MessageQueue, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; then everybody gets what they are owed, and 1001."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with manager.bus, serve(manager.endpoint, host, port, backlog=1024) as server:
        feeding = asyncio.create_task(feed(manager, queue))
        feeding.add_done_callback(lambda _: stop.set())
        host, port = server.sockets[0].getsockname()[:2]
        print(f"ws://[{host}]:{port}/" if ":" in host else f"ws://{host}:{port}/", flush=True)
        await stop.wait()
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description="The symbol stream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0 chooses a free one")
    parser.add_argument("--heartbeat-interval", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--heartbeat-timeout", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--queue", type=int, default=1000, metavar="MESSAGES")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--broker", type=broker_of, metavar="URL", help="joins several processes")
    options = parser.parse_args()
    logging.basicConfig(level=options.log_level.upper())
    logging.getLogger("websockets").setLevel(logging.WARNING)
    manager = WebSocketManager(options.broker) if options.broker else websocket_manager
    try:
        manager.heartbeat_interval = options.heartbeat_interval
        manager.heartbeat_timeout = options.heartbeat_timeout
        queue = MessageQueue(options.queue)
    except UsageError as error:
        parser.error(str(error))
    asyncio.run(run(manager, queue, options.host, options.port))


if __name__ == "__main__":
    main()
