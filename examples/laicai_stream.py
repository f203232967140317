"""The Laicai trading stream on wsbus: clients drive the heartbeat, every event reaches everyone.

::

    python examples/laicai_stream.py --port 8000

Clients connect to ``/api/stream``. There is nothing to subscribe to: each gets every event of the
internal event bus, the first being the news of its own arrival. All that they say is ``ping`` and
``pong``; whatever else they send is dropped, counted (``malformed`` at ``/-/statistics``), and
logged by wsbus at DEBUG.

What there is to learn here: a dialect in forty lines (:class:`LaicaiStream`), an event bus of two
methods on a bus (:class:`EventBus`), and hooks, which cannot harm the connection they are about.
Nothing waits for a pong: the bus knows when it has read what from whom, and reads in one place.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from starlette.applications import Starlette

from wsbus import (
    Bus,
    Connection,
    Endpoint,
    ErrorCode,
    HeartbeatPolicy,
    Limits,
    UsageError,
    channel,
)
from wsbus.adapters.starlette import lifespan, status_routes, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.brokers import broker_of
from wsbus.protocols import Frame, Instant, WireProtocol, messages

logger: Final = logging.getLogger("laicai.stream")

PATH: Final = "/api/stream"
PONG_TIMEOUT: Final = 20.0
"""Seconds: with a server ping, who has sent nothing for so long after one is gone."""
EVENTS_PER_SECOND: Final = 4


# --- the dialect --------------------------------------------------------------------------------


class LaicaiStream(WireProtocol):
    """Events and the heartbeat, as objects told apart by ``type``; there is no word for errors."""

    name = "laicai-stream"

    def decode(self, frame: str | bytes) -> Iterable[messages.Request]:
        """Understand one frame: a ping, a pong, or nothing."""
        try:
            return (self.understand(self.parse(frame)),)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return (messages.Malformed(ErrorCode.INVALID_MESSAGE, "not JSON"),)

    def parse(self, frame: str | bytes) -> object:
        """Read JSON."""
        return msgspec.json.decode(frame)

    def understand(self, message: object) -> messages.Request:
        """Return what a message means."""
        match message:
            case {"type": "ping"}:
                return messages.Ping()
            case {"type": "pong"}:
                return messages.Pong()
        return messages.Malformed(ErrorCode.UNKNOWN_TYPE, "neither a ping nor a pong")

    def encode(self, reply: messages.ServerMessage, at: Instant) -> Frame | None:
        """Say ``ping`` or ``pong``."""
        match reply:
            case messages.Ping():
                return Frame(b'{"type":"ping"}')
            case messages.Pong():
                return Frame(b'{"type":"pong"}')
        return None

    def encode_publication(self, publication: messages.Publication) -> Frame:
        """Say ``{"type":<event type>, …data}``; the data is an object, see :class:`EventBus`."""
        kind = b'{"type":' + msgspec.json.encode(publication.event)
        rest = publication.data[1:]
        return Frame(kind + (rest if rest == b"}" else b"," + rest))


class LoggedStream(LaicaiStream):
    """The same, with the log lines that the operators check."""

    def parse(self, frame: str | bytes) -> object:
        """Read JSON, and log it."""
        logger.info("[WS] Received message: %s", on_one_line(str(frame)))
        message = super().parse(frame)
        logger.info("[WS] Parsed message: %s", on_one_line(repr(message)))
        return message

    def understand(self, message: object) -> messages.Request:
        """Return what a message means, and log pings."""
        command = super().understand(message)
        if isinstance(command, messages.Ping):
            logger.info("[WS] Received ping, sending pong")
        return command


def on_one_line(text: str, limit: int = 500) -> str:
    """Return text of a client as it stands, but short, and unable to forge a line of the log."""
    short = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


# --- the event bus ------------------------------------------------------------------------------


class EventBus:
    """The application's events: whoever listens in the process, and every connection, gets them.

    Args:
        bus: Carries them, each type on a channel of its own.
    """

    ALL: Final = "events.*"

    def __init__(self, bus: Bus) -> None:
        self._bus: Final = bus

    async def publish(self, event_type: str, data: Mapping[str, object]) -> None:
        """Publish; it waits for nobody who listens.

        Args:
            event_type: What clients see as ``type``.
            data: The rest of what they see.

        Raises:
            UsageError: Clients could not tell it from a heartbeat, or ``type`` from the data.
        """
        if event_type in {"ping", "pong"} or "type" in data:
            raise UsageError("`ping` and `pong` are no events, and `type` is no data")
        await self._bus.publish(channel("events", event_type), dict(data), event=event_type)

    async def listen(self, event_type: str, listener: Callable[[Any], Awaitable[None]]) -> None:
        """Await ``listener`` with the data of each event, one by one, until cancelled.

        It has a queue of its own: neither its pace nor what it raises is felt by a publisher.
        """
        async with self._bus.subscribe(channel("events", event_type)) as events:
            async for event in events:
                try:
                    await listener(event.data)
                except Exception:
                    logger.exception("[WS] A listener of %s failed", event_type)


def announce_connections(bus: Bus, endpoint: Endpoint, event_bus: EventBus) -> None:
    """Publish when a connection is there, before anything it says is acted on, and when it ends."""

    @bus.on_connect
    async def created(connection: Connection) -> None:
        connection.subscribe(EventBus.ALL)
        logger.info("[WS] WebSocket client connected to %s", connection.handshake.path)
        await publish("created", connection)
        logger.info("[WS] Published connected event (delayed)")

    @bus.on_disconnect
    async def closed(connection: Connection) -> None:
        await publish("closed", connection)

    async def publish(event: str, connection: Connection) -> None:
        count = endpoint.connection_count
        data = {"event": event, "connections": count, "client_id": connection.id}
        await event_bus.publish("connection", data)


# --- the application ----------------------------------------------------------------------------


def make_endpoint(bus: Bus, server_ping: float | None = None) -> Endpoint:
    """Return the endpoint, on the terms of the stream's page.

    Args:
        bus: The bus.
        server_ping: Seconds between the server's pings; None: it sends none, and closes nobody
            for being silent.

    Raises:
        UsageError: It is no duration.
    """
    heartbeat = HeartbeatPolicy.client_drives()
    if server_ping is not None:
        heartbeat = HeartbeatPolicy(server_ping, server_ping + PONG_TIMEOUT, spreads=False)
    return bus.endpoint(
        protocols=[LoggedStream()],
        heartbeat=heartbeat,
        origins="*",  # no cookies are involved
        limits=Limits(
            messages_per_second=None,
            commands_per_second=None,
            max_subscriptions=1000,
            max_names=1000,
            queue_messages=20_000,  # a burst of 10,000 events is lost to nobody who reads
            queue_bytes=8 << 20,
        ),
    )


def make_app(bus: Bus, endpoint: Endpoint, event_bus: EventBus) -> Starlette:
    """Return the application; its lifespan runs the bus, the market and a listener."""

    @asynccontextmanager
    async def background(_app: object) -> AsyncIterator[None]:
        jobs = (run_market(event_bus), event_bus.listen("connection", count_connections))
        tasks = [asyncio.create_task(job) for job in jobs]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    routes = [websocket_route(PATH, endpoint)]
    operators = status_routes(bus, views={"statistics": bus.statistics})
    return Starlette(routes=[*routes, *operators], lifespan=lifespan(bus, background))


async def count_connections(data: Any) -> None:
    """Listen inside the process."""
    logger.debug("[WS] %d connections after one was %s", data["connections"], data["event"])


async def run_market(event_bus: EventBus) -> None:
    """Publish made-up prices several times a second."""
    price = 1688.0
    while True:
        price = round(price * (1 + random.gauss(0, 0.001)), 2)
        await event_bus.publish("market", {"symbol": "600519", "name": "贵州茅台", "price": price})
        await asyncio.sleep(1 / EVENTS_PER_SECOND)


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description="The Laicai trading stream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 chooses a free one")
    parser.add_argument("--server-ping", type=float, metavar="SECONDS", help="default: none")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--broker", type=broker_of, metavar="URL", help="joins several processes")
    options = parser.parse_args()
    logging.basicConfig(level=options.log_level.upper(), format="%(message)s")
    bus = Bus(broker=options.broker)
    try:
        endpoint = make_endpoint(bus, options.server_ping)
    except UsageError as error:
        parser.error(str(error))
    event_bus = EventBus(bus)
    announce_connections(bus, endpoint, event_bus)

    def ready(address: str) -> None:
        print(f"ws://{address}{PATH}", flush=True)

    app = make_app(bus, endpoint, event_bus)
    asyncio.run(serve(app, endpoint, host=options.host, port=options.port, ready=ready))


if __name__ == "__main__":
    main()
