"""A bus behind one of the adapters, as a process of its own, for clients to be tested against.

``python -m tests.web.server ADAPTER [--ports PORT PORT]`` prints, once it serves, a line of JSON:
the addresses of an open endpoint with high limits, and of one that wants tokens (``SECRET``), with
the default limits but for few names in a request, and their ports.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import anyio
from aiohttp import web
from starlette.applications import Starlette

from wsbus import JWT, Bus, CommandError, Connection, Grants, History, Limits, Presence, Stream
from wsbus.adapters import aiohttp, asgi, starlette, websockets
from wsbus.adapters.uvicorn import listen, serving

HOST: Final = "127.0.0.1"
SECRET: Final = "for the tests: at least 32 bytes"
PROTOCOLS: Final = ("wsbus.v1", "wsbus.v1.msgpack", "zigquant-v2")

bus: Final = Bus()
bus.family("kept.*", history=History(size=100))
bus.family("short.*", history=History(size=2))
bus.family("price.*", history=History(size=1))
bus.family("here.*", presence=Presence())
bus.family("answers.*", stream=Stream())
bus.family("sums.*", stream=Stream(compact=lambda value, delta: (value or 0) + delta))
limits: Final = Limits(messages_per_second=1000, commands_per_second=500)
anonymous: Final = Grants.of(
    subscribe=["*"],
    publish=["*"],
    history=["*"],
    presence=["*"],
    cancel=["*"],
    command=["*"],
    deny_subscribe=["forbidden.*"],
    admin=True,
)
open_door: Final = bus.endpoint(
    protocols=PROTOCOLS, anonymous=anonymous, limits=limits, origins="*"
)
private_door: Final = bus.endpoint(
    protocols=PROTOCOLS, authenticator=JWT(SECRET), limits=Limits(max_names=16), origins="*"
)


@bus.command("echo")
def echo(params: dict[str, Any]) -> Any:
    """Answer with what was sent."""
    return params


@bus.command("__proto__")
def awkward(params: dict[str, Any]) -> Any:
    """Answer under a name that trips who keeps tables in objects."""
    return params


@bus.command("fail")
def fail(code: str, message: str) -> None:
    """Fail with this."""
    raise CommandError(code, message)


counts: Final[dict[str, int]] = {}


@bus.command("slow")
async def slow(milliseconds: float, name: str = "") -> int:
    """Take a while; answer with how often it was called under this name."""
    counts[name] = counts.get(name, 0) + 1
    await anyio.sleep(milliseconds / 1000)
    return counts[name]


@bus.command("flood")
async def flood(channel: str, count: int) -> int:
    """Publish the numbers from 0."""
    for number in range(count):
        await bus.publish(channel, number)
    return count


@bus.command("answer")
async def answer(channel: str, words: int, end: str = "", milliseconds: float = 0) -> str:
    """Write a stream; return its text."""
    text = ""
    try:
        async with bus.stream(channel) as stream:
            for number in range(words):
                await stream.append(1 if channel.startswith("sums") else f"word{number} ")
                text += f"word{number} "
                await anyio.sleep(milliseconds / 1000)
            if end:
                raise ValueError(end)
            stream.result = {"words": words}
    except ValueError:
        pass
    return text


@bus.command("typed")
def typed(what: bytes, at: datetime) -> dict[str, Any]:
    """Answer with both, changed, and with a large number."""
    return {"what": what[::-1], "at": at + timedelta(seconds=1), "large": 2**64 - 1}


@bus.command("leave")
def leave(code: int, reason: str, who: Connection) -> None:
    """End the connection with this code."""
    who.disconnect(code, reason)


@bus.command("revoke")
def revoke(pattern: str, reason: str, who: Connection) -> bool:
    """Take a subscription away."""
    return who.revoke(pattern, reason)


@bus.command("cut")
async def cut(who: Connection) -> None:
    """End the connection without a word, and this without an answer."""
    who.abort()
    await anyio.sleep(10)


@asynccontextmanager
async def on_starlette(ports: tuple[int, int]) -> AsyncIterator[list[str]]:
    """Serve both doors, and the client, with uvicorn."""
    routes = [
        starlette.websocket_route("/ws", open_door),
        starlette.websocket_route("/private", private_door, name="private"),
    ]
    app = Starlette(routes=routes, lifespan=starlette.lifespan(bus))
    with listen(HOST, ports[0]) as listener:
        port = listener.getsockname()[1]
        async with serving(app, open_door, listener, log_config=None):
            yield [f"ws://{HOST}:{port}/ws", f"ws://{HOST}:{port}/private"]


@asynccontextmanager
async def on_asgi(ports: tuple[int, int]) -> AsyncIterator[list[str]]:
    """Serve both doors on plain ASGI, over HTTP, too."""
    public, private = asgi.app(open_door), asgi.app(private_door)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_private = scope.get("path", "").startswith("/private")
        await (private if is_private else public)(scope, receive, send)

    with listen(HOST, ports[0]) as listener:
        port = listener.getsockname()[1]
        async with serving(app, open_door, listener, log_config=None):
            yield [f"ws://{HOST}:{port}/ws", f"ws://{HOST}:{port}/private"]


@asynccontextmanager
async def on_aiohttp(ports: tuple[int, int]) -> AsyncIterator[list[str]]:
    """Serve both doors with aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", open_door)
    aiohttp.setup(app, "/private", private_door)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, ports[0], reuse_address=True).start()
        port = runner.addresses[0][1]
        yield [f"ws://{HOST}:{port}/ws", f"ws://{HOST}:{port}/private"]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_websockets(ports: tuple[int, int]) -> AsyncIterator[list[str]]:
    """Serve each door on a port of its own."""
    async with (
        bus,
        websockets.serve(open_door, HOST, ports[0]) as one,
        websockets.serve(private_door, HOST, ports[1]) as other,
    ):
        yield [f"ws://{HOST}:{s.sockets[0].getsockname()[1]}/ws" for s in (one, other)]


SERVERS: Final[dict[str, Callable[[tuple[int, int]], AbstractAsyncContextManager[list[str]]]]] = {
    "asgi": on_asgi,
    "starlette": on_starlette,
    "aiohttp": on_aiohttp,
    "websockets": on_websockets,
}


async def main(adapter: str, ports: tuple[int, int]) -> None:
    """Serve until the standard input ends."""
    async with SERVERS[adapter](ports) as (public, private):
        found = [int(address.split(":")[2].split("/")[0]) for address in (public, private)]
        print(json.dumps({"url": public, "private": private, "ports": found}), flush=True)
        await anyio.to_thread.run_sync(input_ends)


def input_ends() -> None:
    """Wait until nobody holds the other end of the standard input."""
    sys.stdin.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter", choices=SERVERS)
    parser.add_argument("--ports", type=int, nargs=2, default=(0, 0))
    options = parser.parse_args()
    anyio.run(main, options.adapter, tuple(options.ports))
