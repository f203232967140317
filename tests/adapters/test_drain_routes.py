"""Draining over HTTP, as Kubernetes does before it stops a container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import pytest
from aiohttp import ClientSession, web
from fastapi import FastAPI
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.adapters.serving import serving
from wsbus import Bus, UsageError
from wsbus.adapters import aiohttp, asgi, fastapi, starlette
from wsbus.adapters._draining import Draining
from wsbus.core.returning import return_in

TOKEN: Final = "0123456789abcdef"
PATH: Final = "/-/drain"

Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[int]]


@asynccontextmanager
async def on_asgi(bus: Bus, **options: Any) -> AsyncIterator[int]:
    """Serve on plain ASGI."""
    drain, sockets = asgi.drain_app(bus, **options), asgi.app(bus)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (drain if scope["type"] == "http" else sockets)(scope, receive, send)

    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_starlette(bus: Bus, **options: Any) -> AsyncIterator[int]:
    """Serve on Starlette."""
    routes = [starlette.websocket_route("/ws", bus), starlette.drain_route(bus, **options)]
    async with serving(Starlette(routes=routes, lifespan=starlette.lifespan(bus))) as (port, _):
        yield port


@asynccontextmanager
async def on_fastapi(bus: Bus, **options: Any) -> AsyncIterator[int]:
    """Serve on FastAPI."""
    app = FastAPI()
    fastapi.mount(app, "/ws", bus)
    fastapi.mount_drain(app, bus, **options)
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(bus: Bus, **options: Any) -> AsyncIterator[int]:
    """Serve on aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", bus)
    aiohttp.add_drain_route(app, bus, **options)
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


pytestmark = pytest.mark.anyio


async def ask(port: int, method: str = "POST", **headers: str) -> tuple[int, Any]:
    """Make a request; return the status and the JSON of the answer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{PATH}", headers=given) as answer,
    ):
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status, await answer.json()


async def test_a_program_on_the_same_machine_drains_the_bus(serve: Serve) -> None:
    """The answer comes when the clients are gone; each has been told when to come again."""
    bus = Bus()
    async with serve(bus, window=5.0) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with connect(url, proxy=None) as peer:
            await peer.recv()
            assert await ask(port) == (200, {"drained": True})
            assert bus.connections() == []
            with pytest.raises(ConnectionClosed) as ended:
                await peer.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1012
        assert 0 < (return_in(ended.value.rcvd.reason) or 0) <= 2.5
        with pytest.raises(InvalidStatus):
            await connect(url, proxy=None)
        assert await ask(port) == (200, {"drained": True})


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "x-forwarded-proto", "Forwarded", "X-Real-IP", "Via", "Origin"],
)
async def test_what_comes_from_elsewhere_drains_nothing(header: str) -> None:
    """Without a token, a proxy and a page in a browser are refused, though they are near."""
    bus = Bus()
    async with on_starlette(bus) as port:
        assert (await ask(port, **{header: "127.0.0.1"}))[0] == 403
        assert (await ask(port, "GET"))[0] == 405
        assert bus.healthy


async def test_a_token_drains_from_anywhere(serve: Serve) -> None:
    """With a token only the token counts; GET works, too, since the kubelet sends nothing else."""
    bus = Bus()
    async with serve(bus, token=[TOKEN, TOKEN[::-1]]) as port:
        for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            status, answer = await ask(port, **wrong)
            assert (status, "token" in answer["error"]["message"]) == (401, True)
        good = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "203.0.113.1"}
        assert (await ask(port, "DELETE", **good))[0] == 405
        assert bus.healthy
        assert await ask(port, "GET", **good) == (200, {"drained": True})
        assert not bus.healthy


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 503),
        ("127.8.8.8", 503),
        ("::1", 503),
        ("::ffff:127.0.0.1", 503),
        ("::ffff:10.0.0.1", 403),
        ("10.0.0.1", 403),
        ("0.0.0.0", 403),
        ("localhost", 403),
        ("", 403),
        (None, 403),
    ],
)
async def test_only_the_loopback_is_the_same_machine(address: str | None, status: int) -> None:
    """An address that says nothing, as over a Unix socket, is not. A bus that is down answers."""
    answer = await Draining(Bus(), None, 20).answer("POST", [], address)

    assert answer.status == status


@pytest.mark.parametrize("wrong", [{"token": "short"}, {"token": []}, {"window": -1}], ids=str)
def test_wrong_settings_fail_when_the_route_is_made(wrong: dict[str, Any]) -> None:
    """A token that could be guessed, and a window out of its range, are refused at once."""
    for make in (asgi.drain_app, starlette.drain_route):
        with pytest.raises(UsageError):
            make(Bus(), **wrong)
