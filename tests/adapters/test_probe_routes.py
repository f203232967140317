"""Readiness and liveness over HTTP, as Kubernetes asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import pytest
from aiohttp import ClientSession, web
from anyio import fail_after
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.applications import Starlette

from tests.adapters.serving import serving
from tests.adapters.test_status_routes import Unplugged
from tests.docs.documents import HOW_TO, running
from wsbus import Bus, UsageError
from wsbus.adapters import aiohttp, asgi, fastapi, starlette

Serve: TypeAlias = Callable[[Bus], AbstractAsyncContextManager[int]]
STOPPED: Final = {"ready": False, "reason": "the bus is not running"}

# None of the applications starts the bus: the tests do.


@asynccontextmanager
async def on_asgi(bus: Bus) -> AsyncIterator[int]:
    """Serve on plain ASGI."""
    probe = asgi.probe_app(bus)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await probe(scope, receive, send)

    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_starlette(bus: Bus) -> AsyncIterator[int]:
    """Serve on Starlette."""
    async with serving(Starlette(routes=starlette.probe_routes(bus))) as (port, _):
        yield port


def forbid() -> None:
    """Refuse all requests of an application."""
    raise HTTPException(401)


@asynccontextmanager
async def on_fastapi(bus: Bus) -> AsyncIterator[int]:
    """Serve on FastAPI, in an application that a dependency guards."""
    app = FastAPI(dependencies=[Depends(forbid)])
    fastapi.mount(app, "/ws", bus, lifespan=False)
    fastapi.mount_probes(app, bus)
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(bus: Bus) -> AsyncIterator[int]:
    """Serve on aiohttp."""
    app = web.Application()
    aiohttp.add_probe_routes(app, bus)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(
    params=[on_asgi, on_starlette, on_fastapi, on_aiohttp],
    ids=["asgi", "starlette", "fastapi", "aiohttp"],
)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run a test on each framework."""
    found: Serve = request.param
    return found


async def ask(port: int, name: str, method: str = "GET") -> tuple[int, Any]:
    """Ask a probe; return the status and the JSON of the answer."""
    url = f"http://127.0.0.1:{port}/-/{name}"
    async with ClientSession() as session, session.request(method, url) as answer:
        if answer.status not in {200, 503}:
            return answer.status, None
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.content_type == "application/json"
        return answer.status, await answer.json() if method == "GET" else await answer.read()


async def test_a_bus_is_ready_from_its_start_to_its_drain(serve: Serve) -> None:
    """Traffic comes while it runs; drained, it goes on living until it stops."""
    bus = Bus()
    async with serve(bus) as port:
        assert await ask(port, "ready") == (503, STOPPED)
        assert (await ask(port, "live"))[0] == 503
        async with bus:
            assert await ask(port, "ready") == (200, {"ready": True})
            assert await ask(port, "live") == (200, {"live": True})
            await bus.drain(0)
            reason = {"ready": False, "reason": "the bus was drained"}
            assert await ask(port, "ready") == (503, reason)
            assert await ask(port, "live") == (200, {"live": True})
        assert await ask(port, "ready") == (503, STOPPED)


async def test_a_bus_without_its_broker_is_not_ready(serve: Serve) -> None:
    """It is once the link is there; meanwhile it lives, and no address is shown."""
    broker = Unplugged()
    async with Bus(broker=broker) as bus, serve(bus) as port:
        reason = {"ready": False, "reason": "there is no link to the broker"}
        assert await ask(port, "ready") == (503, reason)
        assert await ask(port, "live") == (200, {"live": True})
        broker.is_plugged = True
        with fail_after(10):
            while not bus.healthy:
                await checkpoint()
        assert await ask(port, "ready") == (200, {"ready": True})


async def test_other_requests_are_refused(serve: Serve) -> None:
    """HEAD is answered as GET is; other methods and paths are not."""
    async with Bus() as bus, serve(bus) as port:
        assert await ask(port, "ready", "HEAD") == (200, b"")
        assert (await ask(port, "ready", "POST"))[0] == 405
        assert (await ask(port, "statistics"))[0] == 404
        await bus.drain(0)
        assert await ask(port, "ready", "HEAD") == (503, b"")


async def test_a_router_of_fastapi_may_hold_them() -> None:
    """They are below its prefix, and its dependencies do not apply."""
    router = APIRouter(prefix="/-", dependencies=[Depends(forbid)])
    app = FastAPI()
    async with Bus() as bus:
        fastapi.mount_probes(router, bus, "")
        app.include_router(router)
        async with serving(app) as (port, _):
            assert await ask(port, "ready") == (200, {"ready": True})


async def test_the_guide_mounts_them() -> None:
    """The application of the guide about deployment answers both, and runs its bus."""
    with running(HOW_TO / "deployment.md") as guide:
        async with serving(guide.app) as (port, _):
            assert await ask(port, "ready") == (200, {"ready": True})
            assert await ask(port, "live") == (200, {"live": True})


async def test_wrong_uses_fail_at_once() -> None:
    """Something else than a bus is refused when the route is made, and a WebSocket in the call."""
    endpoint: Any = Bus().default_endpoint
    for make in (asgi.probe_app, starlette.probe_routes):
        with pytest.raises(UsageError, match="a probe asks a bus"):
            make(endpoint)
    unused: Any = None
    with pytest.raises(UsageError, match="not websocket"):
        await asgi.probe_app(Bus())({"type": "websocket"}, unused, unused)
