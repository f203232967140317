"""A page and a bus on Starlette, for the JavaScript client; prints its address once it serves.

With a directory as its argument, it serves what is in it at ``/built/``.
"""

from __future__ import annotations

import asyncio
import sys

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from wsbus import Bus, Connection, Grants, History, Presence
from wsbus.adapters import asgi
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.adapters.uvicorn import serve

PAGE = "<!doctype html><html lang=en><title>page</title><link rel=icon href='data:,'>"

bus = Bus()
bus.family("kept.*", history=History(size=300))
bus.family("chat.*", history=History(size=300))
bus.family("here.*", presence=Presence())
grants = Grants.of(
    subscribe=["*"],
    publish=["*"],
    command=["*"],
    history=["*"],
    presence=["*"],
    deny_subscribe=["secret.*"],
)
endpoint = bus.endpoint(anonymous=grants, compression=True)


@bus.command("double")
def double(number: int) -> int:
    """Answer with twice as much."""
    return 2 * number


@bus.command("cut")
async def cut(who: Connection) -> None:
    """End the connection without a word."""
    who.abort()
    await anyio.sleep(10)


async def flood(seconds: float) -> None:
    """Publish 1,000 events a second, each some 200 bytes."""
    begun = anyio.current_time()
    sent = 0
    while (elapsed := anyio.current_time() - begun) < seconds:
        while sent < elapsed * 1000:
            sent += 1
            await bus.publish("ticks", {"number": sent, "text": "x" * 200})
        await anyio.sleep(0.001)
    await bus.publish("ticks", {"number": sent + 1, "is_last": True})


floods: set[asyncio.Task[None]] = set()


@bus.command("flood")
async def begin_flood(seconds: float) -> None:
    """Let a flood begin; the answer comes before it."""
    task = asyncio.ensure_future(flood(seconds))
    floods.add(task)
    task.add_done_callback(floods.discard)


async def page(_request: Request) -> HTMLResponse:
    """Show nothing much."""
    return HTMLResponse(PAGE)


class Proxy:
    """Lets no WebSocket through; with ``holds`` it keeps event streams back, too."""

    def __init__(self, *, holds: bool) -> None:
        self.app = asgi.app(endpoint)
        self.holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass HTTP on."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return

        async def hold(message: Message) -> None:
            if not message.get("more_body"):
                await send(message)

        is_held = self.holds and scope["path"].endswith("/events")
        await self.app(scope, receive, hold if is_held else send)


built = [Mount("/built", StaticFiles(directory=path, html=True)) for path in sys.argv[1:]]
"""A page that a bundler has made, from the directory that is given."""

app = Starlette(
    routes=[
        Route("/", page),
        *built,
        websocket_route("/ws", endpoint),
        *web_routes(),
        Mount("/refused", Proxy(holds=False)),
        Mount("/held", Proxy(holds=True)),
    ],
    lifespan=lifespan(bus),
)


def announce(address: str) -> None:
    """Print where it is."""
    print(f"http://{address}", flush=True)


if __name__ == "__main__":
    anyio.run(lambda: serve(app, endpoint, port=0, ready=announce))
