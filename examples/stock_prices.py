"""The stock price push service on wsbus, with FastAPI and made-up prices.

::

    python examples/stock_prices.py --port 8000
    wscat -c ws://localhost:8000/ws/stock/prices
    > {"type":"subscribe","subscription_type":"strategy","target":"volume_wave"}
    curl -X POST 'http://localhost:8000/api/websocket/push/prices?strategy=volume_wave'

Several processes of it, each with ``--broker redis://…``, are one service: what is asked for at one
of them over HTTP is pushed by all.

Clients subscribe to a *strategy*, a *stock* or the *market*, and are pushed prices: every minute
in trading hours, and when somebody asks for it over HTTP.

What there is to learn here: a dialect in which one message holds one subscription; the bus tells
who subscribes, so that each client gets one message with all that concerns it (:func:`push`); and
figures for operators. Prices are fetched by one task, pushed by the bus, and waited for by nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from datetime import time as time_of_day
from typing import Any, ClassVar, Final

import msgspec
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from msgspec import Raw, Struct

from wsbus import (
    Bus,
    Connection,
    Endpoint,
    HeartbeatPolicy,
    Limits,
    Pattern,
    channel,
    parse_pattern,
)
from wsbus.adapters.starlette import lifespan, status_routes, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.broker import Broker
from wsbus.brokers import broker_of
from wsbus.protocols import Frame, Instant, TaggedJson
from wsbus.protocols import messages as m

logger: Final = logging.getLogger("stock_prices")

PATH: Final = "/ws/stock/prices"
OPENS, CLOSES = time_of_day(9, 30), time_of_day(15, 0)
MARKET: Final = "market"
ASKED: Final = "workers.push"
"""The channel on which a process asks the others to push."""
PROCESS: Final = secrets.token_hex(8)


def moment(seconds: float) -> str:
    """Return the local time, in whole seconds, without a zone."""
    return datetime.fromtimestamp(seconds).isoformat(timespec="seconds")  # noqa: DTZ006


# --- the dialect --------------------------------------------------------------------------------

KINDS: Final = ("strategy", "stock", MARKET)
ERRORS: Final = {
    "UNKNOWN_TYPE": "未知的消息类型",
    "INVALID_CHANNEL": "无效的订阅目标",
    "TOO_MANY_SUBSCRIPTIONS": "订阅数量超过上限",
}


class _FromClient(Struct, frozen=True, tag_field="type"):
    is_call: ClassVar[bool] = False  # nothing that clients send asks for a response


class _Ping(_FromClient, frozen=True, tag="ping"):
    def request(self) -> m.Request:
        return m.Ping()


class _Subscription(_FromClient, frozen=True):
    subscription_type: str
    target: str

    @property
    def name(self) -> str:
        """What it is called on the bus, such as ``stock:600519``."""
        if self.subscription_type not in KINDS:
            raise msgspec.ValidationError(f"`subscription_type` is one of {', '.join(KINDS)}")
        return f"{self.subscription_type}:{self.target}"


class _Subscribe(_Subscription, frozen=True, tag="subscribe"):
    def request(self) -> m.Request:
        return m.Subscribe((self.name,))


class _Unsubscribe(_Subscription, frozen=True, tag="unsubscribe"):
    def request(self) -> m.Request:
        return m.Unsubscribe((self.name,))


def subscription(name: str) -> dict[str, str]:
    """Return what the client said."""
    kind, _, target = name.partition(":")
    return {"subscription_type": kind, "target": target}


class StockPrices(TaggedJson):
    """The dialect; a publication holds a list of prices."""

    name = "stock-prices"
    messages = (_Subscribe, _Unsubscribe, _Ping)
    _list_of: Final = msgspec.json.Decoder(list[Raw])

    def pattern(self, name: str) -> Pattern:
        """Return the channel of a subscription: of the market there is one, whatever its target."""
        kind, _, target = name.partition(":")
        return parse_pattern(MARKET if kind == MARKET else channel(kind, target))

    def encode(self, reply: m.ServerMessage, at: Instant) -> Frame | None:
        """Say a reply; the page has no word for gaps."""
        match reply:
            case m.Greeting(connection_id=name):
                said = {"type": "connected", "client_id": name, "message": "WebSocket连接成功"}
            case m.Subscribed(names=(name, *_)):
                said = {"type": "subscribed"} | subscription(name) | {"message": "订阅成功"}
            case m.Subscribed(rejected=(refused, *_)):
                said = self._error(refused.code, refused.message)
            case m.Unsubscribed(names=(name, *_)):
                said = {"type": "unsubscribed"} | subscription(name) | {"message": "取消订阅成功"}
            case m.Refused():
                said = self._error(reply.code, reply.message)
            case m.Pong():
                said = {"type": "pong"}
            case _:
                return None
        return Frame(msgspec.json.encode(said | {"timestamp": moment(at.wall)}))

    def _error(self, code: str, details: str) -> dict[str, str]:
        return {"type": "error", "error": ERRORS.get(code, "消息格式错误"), "details": details}

    def encode_publication(self, publication: m.Publication) -> Frame:
        """Say ``price_update``."""
        said: dict[str, Any] = {"type": "price_update", "data": Raw(publication.data)}
        said["count"] = len(self._list_of.decode(publication.data))
        return Frame(msgspec.json.encode(said | {"timestamp": moment(publication.timestamp)}))


# --- the market ---------------------------------------------------------------------------------


class Price(Struct, frozen=True):
    """What a stock costs, and how that compares with the day before."""

    code: str
    name: str
    price: float
    change: float
    change_percent: float
    volume: int
    timestamp: str


NAMES: Final = {"600519": "贵州茅台", "000001": "平安银行", "000858": "五粮液"} | {
    f"{601000 + i}": f"模拟股票{i:02}" for i in range(1, 58)
}
STRATEGIES: Final = {"volume_wave": tuple(NAMES)[:50], "ma_cross": tuple(NAMES)[40:]}


class Market:
    """Made-up prices; those fetched last are at hand, and only the timer fetches."""

    def __init__(self) -> None:
        self._closed: Final = {code: round(random.uniform(5, 2000), 2) for code in NAMES}
        self.prices: dict[str, Price] = {}
        self._move(0.0)

    async def fetch(self) -> None:
        """Fetch all prices: over the network, in the original, which takes a second or two."""
        self._move(0.01)

    def _move(self, most: float) -> None:
        now = moment(time.time())
        for code, closed in self._closed.items():
            last = self.prices[code].price if code in self.prices else closed
            price = round(last * random.uniform(1 - most, 1 + most), 2)
            change, volume = round(price - closed, 2), random.randrange(10**6, 10**8)
            percent = round(change / closed * 100, 2)
            self.prices[code] = Price(code, NAMES[code], price, change, percent, volume, now)


# --- who gets what ------------------------------------------------------------------------------


async def push(bus: Bus, market: Market, strategies: Collection[str]) -> dict[str, int]:
    """Push the prices of strategies, in one message to each client that is concerned.

    Whole lists go to subscribers of a strategy or the market, single prices to those of a stock,
    and who is both gets what is widest. It waits for nobody, and fetches nothing.
    """
    # A push comes in parts, each for its subscribers; who gets the same parts gets the same frame.
    parts = [(s, STRATEGIES[s], [channel("strategy", s), MARKET]) for s in strategies]
    parts += [(s, (code,), [channel("stock", code)]) for s, codes, _ in parts for code in codes]
    concerned: defaultdict[Connection, list[int]] = defaultdict(list)
    for number, (_, _, channels) in enumerate(parts):
        for client in bus.local_subscribers(*channels):
            concerned[client].append(number)
    audiences: defaultdict[tuple[int, ...], list[Connection]] = defaultdict(list)
    for client, numbers in concerned.items():
        audiences[tuple(numbers)].append(client)

    subscribers, sent = Counter[str](), Counter[str]()
    for wanted, clients in audiences.items():
        codes = dict.fromkeys(code for number in wanted for code in parts[number][1])
        receipt = await bus.send("prices", [market.prices[code] for code in codes], to=clients)
        for counted in {"", *(parts[number][0] for number in wanted)}:
            subscribers[counted] += len(clients)
            sent[counted] += receipt.local_accepted
    for strategy in strategies:
        reached = f"{sent[strategy]}/{subscribers[strategy]}个客户端"
        stocks = len(STRATEGIES[strategy])
        logger.info("推送策略 %s 价格更新: %d个股票, %s", strategy, stocks, reached)
    logger.info("价格更新已推送到 %d 个WebSocket客户端", sent[""])
    stocks = len({code for strategy in strategies for code in STRATEGIES[strategy]})
    return {"stocks": stocks, "sent": sent[""], "subscribers": subscribers[""]}


async def push_with_others(bus: Bus, market: Market) -> None:
    """Push to this process's clients what another process was asked to push."""
    async with bus.subscribe(ASKED) as events:
        async for event in events:
            if event.data["by"] != PROCESS:
                await push(bus, market, event.data["strategies"])


async def every_minute(
    update: Callable[[], Awaitable[object]],
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[object]],
) -> None:
    """Update at each full minute of the trading hours, the first and the last included.

    Args:
        update: What it raises is logged; the next minute is another one.
        now: Reads the clock.
        sleep: Waits for some seconds of that clock.
    """
    minute = now().replace(second=0, microsecond=0)
    while True:
        while (at := now()).replace(second=0, microsecond=0) == minute:
            await sleep(60 - at.second - at.microsecond / 1e6)
        minute = at.replace(second=0, microsecond=0)
        if OPENS <= minute.time() <= CLOSES:
            try:
                began = time.perf_counter()
                await update()
                logger.info("实时数据更新完成，耗时 %.2f秒", time.perf_counter() - began)
            except Exception:
                logger.exception("实时数据更新失败")


# --- the application ----------------------------------------------------------------------------


def envelope(message: str, data: object, code: int = 200) -> dict[str, object]:
    """Return what every answer over HTTP comes in."""
    return {"code": code, "message": message, "data": data}


def statistics(bus: Bus) -> dict[str, object]:
    """Count connections, messages, and subscriptions."""
    counted, held = bus.statistics(), [info.subscriptions for info in bus.connections()]
    targets = {name for names in held for name in names}
    of_kind = Counter(name.partition(":")[0] for name in targets)
    connections = {
        "total_connections": counted.connections_ever,
        "active_connections": counted.connections,
        "total_subscriptions": 0,  # the original never counted, and its clients expect that
        "messages_sent": counted.messages_sent,
        "messages_received": counted.messages_received,
    }
    subscriptions = {
        "total_subscriptions": sum(map(len, held)),
        "total_clients": sum(map(bool, held)),
        "total_targets": len(targets),
        **{f"{kind}_targets": of_kind[kind] for kind in KINDS},
    }
    data = {"connections": connections, "subscriptions": subscriptions}
    return envelope("获取统计信息成功", data)


def clients(bus: Bus) -> dict[str, object]:
    """List who is connected, and what each subscribes to."""
    listed = [
        {
            "client_id": info.connection_id,
            "connected_at": moment(info.connected_at),
            "subscriptions": [subscription(name) for name in info.subscriptions],
        }
        for info in bus.connections()
    ]
    return envelope("获取客户端列表成功", {"total": len(listed), "clients": listed})


def make_app(
    market: Market,
    *,
    now: Callable[[], datetime] = datetime.now,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    broker: Broker | None = None,
) -> tuple[FastAPI, Endpoint]:
    """Return the application, and its endpoint; the clock is the timer's."""
    bus = Bus(broker=broker)
    endpoint = bus.endpoint(
        protocols=[StockPrices()],
        origins="*",  # no cookies are involved
        limits=Limits(
            max_subscriptions=10_000,
            max_names=10_000,
            messages_per_second=None,
            commands_per_second=None,
        ),
        heartbeat=HeartbeatPolicy.client_drives(),
        name_connection=lambda _: f"client_{secrets.token_hex(8)}",
    )

    @asynccontextmanager
    async def timer(_: FastAPI) -> AsyncIterator[None]:
        async def update() -> None:
            await market.fetch()
            await push(bus, market, STRATEGIES)

        async with asyncio.TaskGroup() as tasks:
            own = [every_minute(update, now, sleep)]
            own += [] if broker is None else [push_with_others(bus, market)]
            running = [tasks.create_task(each) for each in own]
            yield
            for task in running:
                task.cancel()

    app = FastAPI(title="Stock prices", lifespan=lifespan(bus, timer))
    views = {"stats": lambda: statistics(bus), "clients": lambda: clients(bus)}
    app.router.routes += [websocket_route(PATH, endpoint)]
    app.router.routes += status_routes(bus, "/api/websocket", views)
    unknown = JSONResponse(envelope("策略不存在", None, 404), 404)

    @app.get("/api/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/signals/buy")
    async def signals(strategy: str) -> Any:
        if strategy not in STRATEGIES:
            return unknown
        found = [{"code": code, "name": NAMES[code]} for code in STRATEGIES[strategy]]
        data = {"strategy": strategy, "count": len(found), "signals": found}
        return envelope("获取买入信号成功", data)

    @app.post("/api/websocket/push/prices")
    async def push_prices(strategy: str | None = None) -> Any:
        if strategy is not None and strategy not in STRATEGIES:
            return unknown
        wanted = [*STRATEGIES] if strategy is None else [strategy]
        await bus.publish(ASKED, {"by": PROCESS, "strategies": wanted})
        pushed = await push(bus, market, wanted)
        return envelope("推送成功", {"strategy": strategy} | pushed)

    return app, endpoint


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description="Pushes made-up stock prices.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 chooses a free one")
    parser.add_argument("--broker", type=broker_of, metavar="URL", help="joins several processes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    app, endpoint = make_app(Market(), broker=options.broker)

    def ready(address: str) -> None:
        print(f"ws://{address}{PATH}", flush=True)

    # Everybody has been told goodbye by then: 2 s are for those who never read.
    quick = {"timeout_graceful_shutdown": 2}
    asyncio.run(serve(app, endpoint, host=options.host, port=options.port, ready=ready, **quick))


if __name__ == "__main__":
    main()
