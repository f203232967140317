"""ChronoRetrace's market data stream on wsbus, with made-up prices and a test page.

::

    python examples/chronoretrace.py --port 8000 [--on-duplicate reject]

Clients connect to ``/api/v1/ws/{client_id}`` by a name of their own, and subscribe to topics such
as ``stock.AAPL.1m``. A person may do so at ``/websocket-test``.

What there is to learn here: a dialect of its own says what the frames are, and what a topic is;
connections are named by their clients; and the source works only for what somebody listens to.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Raw, Struct, json
from starlette import requests
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

from wsbus import (
    Bus,
    Channel,
    Endpoint,
    HeartbeatPolicy,
    InvalidChannel,
    Limits,
    Pattern,
    escape_segment,
    parse_channel,
    parse_pattern,
    unescape_segment,
)
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.brokers import broker_of
from wsbus.protocols import Frame, Instant, PingMessage, TaggedJson, TaggedMessage
from wsbus.protocols import messages as m

# --- what a topic is ------------------------------------------------------------------------------

KINDS: Final = frozenset({"stock", "crypto", "futures", "options", "commodity", "market"})
INTERVALS: Final = frozenset({"1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"})


def is_topic(text: str) -> bool:
    """Tell whether it is ``{type}.{symbol}.{interval}``; the symbol may hold dots."""
    kind, _, rest = text.partition(".")
    symbol, _, interval = rest.rpartition(".")
    return (
        kind in KINDS
        and (interval in INTERVALS or (kind, interval) == ("market", "summary"))
        and all(symbol.split("."))
        and not any(character.isspace() or character == "*" for character in symbol)
    )


def channel_of(topic: str) -> Channel:
    """Return the channel of a topic: nearly always the same text, and never that of another."""
    return parse_channel(".".join(map(escape_segment, topic.split("."))))


def topic_of(channel: Channel) -> str:
    """Return the topic of a channel."""
    return ".".join(map(unescape_segment, channel.split(".")))


# --- what stands on the wire ----------------------------------------------------------------------


class Subscribe(TaggedMessage, frozen=True, tag="subscribe"):
    """The client wants a topic."""

    topic: str

    def request(self) -> m.Request:
        """Return what it means."""
        return m.Subscribe((self.topic,))


class Unsubscribe(TaggedMessage, frozen=True, tag="unsubscribe"):
    """The client gives a topic up."""

    topic: str

    def request(self) -> m.Request:
        """Return what it means."""
        return m.Unsubscribe((self.topic,))


class ChronoRetrace(TaggedJson):
    """The dialect.

    Args:
        accepts: Whether the source takes a topic on.
    """

    name = "chronoretrace"
    messages = (Subscribe, Unsubscribe, PingMessage)

    def __init__(self, accepts: Callable[[str], bool] = is_topic) -> None:
        super().__init__()
        self._accepts: Final = accepts

    def pattern(self, name: str) -> Pattern:
        """Return what a client subscribes to: one channel, whatever the topic holds."""
        if not is_topic(name):
            raise InvalidChannel("no topic")
        channel = channel_of(name)  # Not every topic fits: this may raise, too.
        if not self._accepts(name):
            raise InvalidChannel("the source does not take it on")
        return parse_pattern(channel)

    def encode(self, reply: m.ServerMessage, at: Instant) -> Frame | None:
        """Say ``reply``; what the protocol has no word for is not said."""
        match reply:
            case m.Greeting():
                return say("connection_ack", at.wall, client_id=reply.connection_id)
            case m.Subscribed(names=(topic,)):
                return say("subscribe_ack", at.wall, topic=topic)
            case m.Subscribed(rejected=(m.Rejection(name=topic),)) if is_topic(topic):
                return refuse("subscription_failed", f"订阅失败: {topic}", at)
            case m.Unsubscribed(names=(topic,)) if is_topic(topic):
                return say("unsubscribe_ack", at.wall, topic=topic)
            case m.Subscribed(rejected=(m.Rejection(name=topic),)) | m.Unsubscribed(names=(topic,)):
                return refuse("invalid_topic", f"无效的主题格式: {topic}", at)
            case m.Pong():
                return say("pong", at.wall)
            case m.Refused():
                return refuse("invalid_message", f"无效的消息格式: {reply.message}", at)
        return None

    def encode_publication(self, publication: m.Publication) -> Frame:
        """Say that there is data."""
        topic, data = topic_of(publication.channel), Raw(publication.data)
        return say("data", publication.timestamp, topic=topic, data=data)


def say(kind: str, at: float, **facts: object) -> Frame:
    """Return a message of this type: the time, local and to the microsecond, stands last."""
    timestamp = datetime.fromtimestamp(at).isoformat(timespec="microseconds")  # noqa: DTZ006
    return Frame(json.encode({"type": kind, **facts, "timestamp": timestamp}))


def refuse(code: str, text: str, at: Instant) -> Frame:
    """Return an error; the connection lives on."""
    return say("error", at.wall, error_code=code, error_message=text)


# --- where the data comes from --------------------------------------------------------------------


class Quote(Struct):
    """The latest of one topic."""

    price: float
    seq: int = 0


class Source:
    """Makes prices up, for as many topics as it can.

    Args:
        capacity: How many: what strangers can make it work on is bounded.
        chance: Moves the prices.
    """

    def __init__(self, capacity: int, chance: random.Random) -> None:
        self.capacity: Final = capacity
        self.quotes: Final[dict[str, Quote]] = {}
        self._chance: Final = chance

    def follow(self, topic: str) -> bool:
        """Take a topic on; false if there is no room."""
        if topic not in self.quotes and len(self.quotes) < self.capacity:
            self.quotes[topic] = Quote(price=round(self._chance.uniform(10, 500), 2))
        return topic in self.quotes

    def next(self, topic: str) -> dict[str, Any]:
        """Return the next data of a topic, numbered from 1."""
        quote = self.quotes[topic]
        quote.seq += 1
        quote.price = round(quote.price * (1 + self._chance.gauss(0, 0.002)), 2)
        volume = self._chance.randint(100, 10_000)
        return {"seq": quote.seq, "price": quote.price, "volume": volume}


async def stream(bus: Bus, source: Source, pause: float = 0.5) -> None:
    """Publish every topic that somebody listens to, every half second; forget the others."""
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        for topic in list(source.quotes):
            channel = channel_of(topic)
            if bus.local_subscribers(channel):
                await bus.publish(channel, source.next(topic))
            else:
                del source.quotes[topic]
        due = max(due + pause, clock())
        await asyncio.sleep(due - clock())


# --- the server -----------------------------------------------------------------------------------


def make_endpoint(
    bus: Bus, source: Source, on_duplicate: Literal["replace", "reject"] = "replace"
) -> Endpoint:
    """Return the endpoint, on the terms of the protocol's page."""
    return bus.endpoint(
        protocols=[ChronoRetrace(source.follow)],
        origins="*",  # no cookies are involved
        limits=Limits(messages_per_second=None, max_subscriptions=1000, max_names=1000),
        heartbeat=HeartbeatPolicy.client_drives(),
        name_connection=lambda handshake: handshake.path_params["client_id"],
        on_duplicate=on_duplicate,
    )


async def show_page(_request: requests.Request) -> FileResponse:
    """Return the page that lies beside this file."""
    return FileResponse(Path(__file__).with_suffix(".html"))


def make_app(bus: Bus, endpoint: Endpoint, source: Source) -> Starlette:
    """Return the application."""

    @asynccontextmanager
    async def streaming(_app: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(stream(bus, source))
            yield
            task.cancel()

    routes = [
        websocket_route("/api/v1/ws/{client_id}", endpoint),
        Route("/websocket-test", show_page),
    ]
    return Starlette(routes=routes, lifespan=lifespan(bus, streaming))


def main() -> None:
    """Read the options, and serve until a signal comes."""
    parser = argparse.ArgumentParser(description="ChronoRetrace's stream, with made-up prices.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 chooses a free one")
    parser.add_argument("--on-duplicate", choices=["replace", "reject"], default="replace")
    parser.add_argument("--capacity", type=int, default=10_000, help="topics at once")
    parser.add_argument("--seed", type=int, help="for the same prices each time")
    parser.add_argument("--broker", type=broker_of, metavar="URL", help="joins several processes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bus, source = Bus(broker=options.broker), Source(options.capacity, random.Random(options.seed))
    endpoint = make_endpoint(bus, source, options.on_duplicate)

    def ready(address: str) -> None:
        print(f"http://{address}/websocket-test", flush=True)

    app = make_app(bus, endpoint, source)
    asyncio.run(serve(app, endpoint, host=options.host, port=options.port, ready=ready))


if __name__ == "__main__":
    main()
