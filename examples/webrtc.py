"""Prices over a WebRTC data channel, which a page asks for over its WebSocket.

::

    python examples/webrtc.py

Open http://127.0.0.1:8000. The page connects with a WebSocket, and calls the command
``webrtc.offer``; the prices come over the data channel, and go on when the WebSocket is closed.

To learn here: ``DataChannels`` answers offers, ``overDataChannel`` in the page makes them, and the
data channel has the grants of the WebSocket.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import create_task_group
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

from wsbus import Bus, Connection, Grants
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.adapters.webrtc import DataChannels

PRICES = {"BTC": 94_000.0, "ETH": 3_400.0, "SOL": 190.0, "XRP": 2.3, "ADA": 0.9, "DOT": 7.1}

bus = Bus()
bus.family("prices.*", overflow="conflate")
endpoint = bus.endpoint(anonymous=Grants.of(subscribe=["prices.*"], command=["webrtc.offer"]))
channels = DataChannels(endpoint)


@bus.command("webrtc.offer")
async def offer(connection: Connection, sdp: str, protocol: str | None = None) -> str:
    """Answer a page that asks for a data channel."""
    return await channels.answer(connection, sdp, protocol)


async def move() -> None:
    """Move one price fifty times a second."""
    while True:
        symbol = random.choice(list(PRICES))
        PRICES[symbol] *= 1 + random.uniform(-0.0005, 0.0005)
        await bus.publish(f"prices.{symbol}", round(PRICES[symbol], 4))
        await asyncio.sleep(1 / 50)


@asynccontextmanager
async def live(_: Starlette) -> AsyncIterator[None]:
    """Take offers, and move the prices."""
    async with channels, create_task_group() as tasks:
        tasks.start_soon(move)
        yield
        tasks.cancel_scope.cancel()


page = FileResponse(Path(__file__).with_name("webrtc.html"))
routes = [Route("/", lambda _: page), websocket_route("/ws", endpoint), *web_routes()]
app = Starlette(routes=routes, lifespan=lifespan(bus, live))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prices over a data channel.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    asyncio.run(serve(app, endpoint, port=port, ready=lambda at: print(f"http://{at}")))
