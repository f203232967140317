"""The application of ``wsbus demo``: a bus, three feeds, a few commands, and a page to try them.

It is meant to be read: what most backends do with wsbus is here once, in order.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from random import expovariate, gauss
from time import monotonic
from typing import Annotated, Any, Final

from anyio import create_task_group, sleep
from msgspec import Meta
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsbus import Bus, Connection, Grants, Handshake, Identity, Overflow
from wsbus.adapters.starlette import (
    catalogue_routes,
    console_routes,
    lifespan,
    web_routes,
    websocket_route,
)
from wsbus.catalogue import Catalogue
from wsbus.console import Console
from wsbus.core.addresses import is_loopback, shows_proxy
from wsbus.web import asset

__all__ = ["app", "bus", "endpoint"]

bus: Final = Bus()
"""It may be built at import; it runs inside ``async with bus:``, below."""

# Conflated: a client that reads too slowly misses old prices, never the latest.
bus.family("prices.*", overflow=Overflow.CONFLATE)

endpoint: Final = bus.endpoint()
"""An endpoint that lets everybody in, to subscribe to anything and to call any command."""


# --- commands: clients send parameters; what does not fit the types is refused for us ---------


@bus.command("echo")
def echo(params: dict[str, Any]) -> dict[str, Any]:
    """Answer with what was sent."""
    return params


Number = Annotated[float, Meta(ge=-1e12, le=1e12)]


@bus.command("add")
def add(a: Number, b: Number) -> float:
    """Answer with the sum."""
    return a + b


@bus.command("time")
def time() -> str:
    """Answer with the server's clock."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@bus.command("chat.say")
async def say(text: Annotated[str, Meta(min_length=1, max_length=280)], who: Connection) -> int:
    """Publish a line to everybody in the lobby; answer with how many that is."""
    line = {"from": short(who), "text": text}
    receipt = await bus.publish("chat.lobby", line, event="said")
    return receipt.local_accepted


@bus.command("ticker.pause")
def pause(who: Connection) -> dict[str, bool]:
    """Stop the prices, for everybody."""
    ticker.is_running = False
    log("warn", "ticker", f"paused by {short(who)}")
    return {"running": False}


@bus.command("ticker.resume")
def resume(who: Connection) -> dict[str, bool]:
    """Let the prices move again."""
    ticker.is_running = True
    log("info", "ticker", f"resumed by {short(who)}")
    return {"running": True}


# --- hooks: somebody came, somebody went ------------------------------------------------------


@bus.on_connect
def came(who: Connection) -> None:
    """Say so in the log."""
    log("info", "bus", f"{short(who)} connected")


@bus.on_disconnect
def went(who: Connection) -> None:
    """Say so in the log."""
    log("info", "bus", f"{short(who)} left with close code {who.close_code}")


# --- feeds: tasks that publish; subscribers to a matching pattern get it -----------------------


@dataclass
class Ticker:
    """Made-up prices."""

    opening: dict[str, float]
    is_running: bool = True

    async def run(self, symbol: str) -> None:
        """Publish a trade of ``symbol`` about three times a second."""
        opening = price = self.opening[symbol]
        while True:
            await sleep(expovariate(3))
            if not self.is_running:
                continue
            # A random walk, drawn gently back to where it began.
            price += (opening - price) * 0.002 + price * gauss(0, 0.0003)
            tick = {
                "price": round(price, 2),
                "change": round((price / opening - 1) * 100, 3),
                "size": round(expovariate(2), 3),
            }
            await bus.publish(f"prices.{symbol}", tick, event="tick")


ticker: Final = Ticker({"BTC-USDT": 95_000.0, "ETH-USDT": 3_300.0, "600519": 1_680.0})

MADE_UP: Final = (
    ("debug", "scheduler", "tick: 3 jobs due, 3 done"),
    ("info", "orders", "BUY 0.003 BTC-USDT filled at market"),
    ("debug", "cache", "hit rate 0.97 over the last minute"),
    ("info", "orders", "SELL 1.2 ETH-USDT placed, good till cancelled"),
    ("warn", "risk", "exposure in 600519 at 82 % of its limit"),
    ("info", "backtest", "贵州茅台 600519: run finished, 127 trades"),
    ("error", "exchange", "order book feed timed out, reconnecting"),
    ("info", "exchange", "order book feed is back after 0.8 s"),
)


async def keep_log() -> None:
    """Publish a made-up line every two seconds or so."""
    for level, source, message in cycle(MADE_UP):
        log(level, source, message)
        await sleep(0.5 + expovariate(0.6))


async def watch_health() -> None:
    """Publish what the bus tells about itself, once a second."""
    started = monotonic()
    sent, at = 0, started
    while True:
        await sleep(1)
        statistics, now = bus.statistics(), monotonic()
        health = {
            "connections": statistics.connections,
            "patterns": statistics.patterns,
            "rate": round((statistics.sent - sent) / (now - at), 1),
            "dropped": statistics.dropped + statistics.refused,
            "uptime": round(now - started),
            "ticker": "running" if ticker.is_running else "paused",
        }
        sent, at = statistics.sent, now
        await bus.publish("system.health", health, event="update")


def log(level: str, source: str, message: str) -> None:
    """Publish a line on ``system.log``; ``publish_soon`` is for code that cannot await."""
    line = {"level": level, "source": source, "message": message}
    bus.publish_soon("system.log", line, event=level)


def short(who: Connection) -> str:
    """Return a name for a connection, as nobody has given theirs."""
    return f"guest-{who.id[:4]}"


# --- the application: any ASGI framework would do ----------------------------------------------


@asynccontextmanager
async def feeds(app: Starlette) -> AsyncIterator[None]:
    """Run the feeds; the bus runs around them."""
    async with create_task_group() as tasks:
        for symbol in ticker.opening:
            tasks.start_soon(ticker.run, symbol)
        tasks.start_soon(keep_log)
        tasks.start_soon(watch_health)
        yield
        tasks.cancel_scope.cancel()


is_local_host: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.ASCII).fullmatch


def operator(token: str | None, handshake: Handshake) -> Identity | None:
    """Let people at this machine see the console; an application has a token, or its sign-on.

    Behind a proxy on this machine everybody has its address, and a page of elsewhere may have a
    name that leads here: so neither may show in the request.
    """
    headers = handshake.headers
    is_here = (
        handshake.client is not None
        and is_loopback(handshake.client[0])
        and is_local_host(headers.get("host", "")) is not None
        and not any(shows_proxy(name) for name in headers)
    )
    return Identity("you", Grants.of(admin=True)) if is_here else None


console: Final = Console(bus, authenticator=operator)
"""The view of an operator, at ``/console/``."""

PAGE: Final = Path(__file__).with_name("page")


async def base_style(request: Request) -> Response:
    """Serve the style sheet that the pages of wsbus share; an application has its own."""
    style = asset("base.css")
    return Response(style.body, headers=style.headers)


async def code(request: Request) -> Response:
    """Serve this file."""
    return FileResponse(__file__, media_type="text/plain")


app: Final = Starlette(
    routes=[
        websocket_route("/ws", endpoint),
        *web_routes("/wsbus"),  # the client that the page imports: /wsbus/wsbus.js
        *console_routes(console),
        *catalogue_routes(Catalogue(bus, title="wsbus demo")),
        Route("/base.css", base_style),
        Route("/app.py", code),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ],
    lifespan=lifespan(bus, feeds),
)
