from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aiohttp import ClientSession, web
from anyio import sleep
from starlette.applications import Starlette
from websockets.asyncio.client import connect

from tests.adapters.serving import serving
from wsbus import Bus
from wsbus.adapters import aiohttp, starlette
from wsbus.broker import Link, Receive
from wsbus.brokers import MemoryBroker
from wsbus.core.errors import BrokerUnavailable

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


class Unplugged(MemoryBroker):
    """A broker that cannot be reached until it is plugged in."""

    is_plugged: bool = False

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Refuse, or join the others."""
        if not self.is_plugged:
            raise BrokerUnavailable("the cable is not plugged in")
        async with super().connect(receive) as link:
            yield link


async def test_probes_of_a_bus_without_a_broker(serve: Serve) -> None:
    """It is live and ready while it runs; afterwards it is neither, and says so."""
    bus = Bus()
    async with serve(bus, None) as port:
        assert await get(port, "/ops/ready") == (200, "application/json", {"ready": True})
        assert await get(port, "/ops/live") == (200, "application/json", {"live": True})

        await bus.aclose()
        reason = "the bus is not running"
        assert (await get(port, "/ops/ready"))[::2] == (503, {"ready": False, "reason": reason})
        assert (await get(port, "/ops/live"))[::2] == (503, {"live": False, "reason": reason})


async def test_a_process_without_its_broker_is_live_but_not_ready(serve: Serve) -> None:
    """Readiness tells the address, the seconds and the reason; liveness does not change."""
    broker = Unplugged()
    bus = Bus(broker=broker)
    async with serve(bus, None) as port:
        status, _, body = await get(port, "/ops/ready")
        assert (status, body["ready"]) == (503, False)
        assert body["reason"].startswith("there is no link to memory: since 0 s: the cable")
        assert (await get(port, "/ops/live"))[::2] == (200, {"live": True})
        link = (await get(port, "/ops/statistics"))[2]["broker"]
        assert (link["is_up"], link["failure"]) == (False, "the cable is not plugged in")

        broker.is_plugged = True
        for _ in range(200):
            if bus.healthy:
                break
            await sleep(0.05)
        assert (await get(port, "/ops/ready"))[::2] == (200, {"ready": True})
        link = (await get(port, "/ops/statistics"))[2]["broker"]
        assert (link["is_up"], link["failure"]) == (True, None)
