from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession, web
from starlette.applications import Starlette
from websockets.asyncio.client import connect

from tests.adapters.serving import serving
from wsbus import Bus
from wsbus.adapters import aiohttp, starlette

Views: TypeAlias = Mapping[str, Callable[[], object]] | None
Serve: TypeAlias = Callable[[Bus, Views], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def on_starlette(bus: Bus, views: Views) -> AsyncIterator[int]:
    """Serve a bus and its status on Starlette."""
    routes = [
        starlette.websocket_route("/ws", bus),
        *starlette.status_routes(bus, "/ops", views),
    ]
    app = Starlette(routes=routes, lifespan=starlette.lifespan(bus))
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(bus: Bus, views: Views) -> AsyncIterator[int]:
    """Serve a bus and its status on aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", bus)
    aiohttp.add_status_routes(app, bus, "/ops", views)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(params=[on_starlette, on_aiohttp], ids=["starlette", "aiohttp"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run a test on each framework."""
    found: Serve = request.param
    return found


async def get(port: int, path: str) -> tuple[int, str, Any]:
    """Return status, content type and body of a GET."""
    async with (
        ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, answer.content_type, await answer.json()


async def test_operators_see_the_bus_and_its_connections(serve: Serve) -> None:
    """The two snapshots are there as JSON, under the prefix."""
    async with (
        serve(Bus(), None) as port,
        connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as peer,
    ):
        await peer.recv()
        status, kind, statistics = await get(port, "/ops/statistics")
        _, _, connections = await get(port, "/ops/connections")

        assert (status, kind) == (200, "application/json")
        assert (statistics["connections"], statistics["messages_sent"]) == (1, 1)
        assert [(c["path"], c["subject"]) for c in connections] == [("/ws", "anonymous")]


async def test_an_application_may_show_something_else(serve: Serve) -> None:
    """Views of its own take the place of the two; Chinese is sent unescaped."""
    bus = Bus()
    views = {"count": lambda: {"消息": bus.statistics().publications}}
    async with serve(bus, views) as port:
        await bus.publish("a", 1)

        assert await get(port, "/ops/count") == (200, "application/json", {"消息": 1})
