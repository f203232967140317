"""The client is handed out by every adapter."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
from aiohttp import ClientSession, web
from starlette.applications import Starlette
from websockets.asyncio.client import connect

from tests.adapters.serving import serving
from tests.web.running import WEB
from wsbus import Bus
from wsbus.adapters import aiohttp, starlette, websockets
from wsbus.web import ASSETS, asset

Serve: TypeAlias = Callable[[], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The servers run on asyncio only."""
    return "asyncio"


@asynccontextmanager
async def on_starlette() -> AsyncIterator[str]:
    """Serve the client with Starlette."""
    bus = Bus()
    routes = [starlette.websocket_route("/ws", bus), *starlette.web_routes("/static")]
    async with serving(Starlette(routes=routes, lifespan=starlette.lifespan(bus))) as (port, _):
        yield f"127.0.0.1:{port}"


@asynccontextmanager
async def on_aiohttp() -> AsyncIterator[str]:
    """Serve the client with aiohttp."""
    app = web.Application()
    aiohttp.setup(app, "/ws", Bus())
    aiohttp.add_web_routes(app, "/static")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_websockets() -> AsyncIterator[str]:
    """Serve the client with websockets' own server."""
    bus = Bus()
    routes = websockets.web_routes("/static")
    async with bus, websockets.serve(bus, "127.0.0.1", 0, process_request=routes) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


SERVERS = {"starlette": on_starlette, "aiohttp": on_aiohttp, "websockets": on_websockets}


@pytest.fixture(params=SERVERS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run a test on each adapter."""
    return SERVERS[request.param]


async def test_the_client_is_served(serve: Serve) -> None:
    """It comes as JavaScript, to pages of any origin; caches ask each time; a 304 has no body."""
    async with serve() as host, ClientSession() as session:
        url = f"http://{host}/static/wsbus.js"
        async with session.get(url) as answer:
            body = await answer.read()
            tag = answer.headers["etag"]
            assert answer.status == 200
            assert body == (WEB / "wsbus.js").read_bytes()
            assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.content_length == len(body)
        for known in (tag, f'"other", W/{tag}', "*"):
            async with session.get(url, headers={"If-None-Match": known}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
                assert answer.headers["etag"] == tag
        async with session.get(f"{url}?v=1", headers={"If-None-Match": '"other"'}) as answer:
            assert answer.status == 200


async def test_clients_come_in_beside_it(serve: Serve) -> None:
    """Serving the file takes nothing from the endpoint."""
    async with serve() as host, connect(f"ws://{host}/ws", proxy=None) as peer:
        assert '"connected"' in str(await peer.recv())


@pytest.mark.parametrize("name", ["starlette", "aiohttp"])
async def test_head_is_get_without_the_body(name: str) -> None:
    """HEAD tells the length and no more; the websockets library takes GET only."""
    async with (
        SERVERS[name]() as host,
        ClientSession() as session,
        session.head(f"http://{host}/static/wsbus.js") as answer,
    ):
        assert answer.status == 200
        assert answer.content_length == (WEB / "wsbus.js").stat().st_size
        assert await answer.read() == b""


def test_only_what_is_named_is_handed_out() -> None:
    """There is no way from a name to another file."""
    beside = [name.removeprefix("wsbus-") for name in ASSETS]
    assert beside == ["wsbus.js", "http.js", "msgpack.js", "presence.js", "webrtc.js"]
    for name in ("__init__.py", "../bus.py", "package.json", ""):
        with pytest.raises(KeyError):
            asset(name)


def test_pages_of_wsbus_do_not_repeat_what_they_share() -> None:
    """No rule of ``base.css`` stands again in the sheet of the demo or of the console."""
    rule = re.compile(r"^[^\s@}][^{}]*\{[^{}]*\}", re.MULTILINE)
    shared = set(rule.findall(asset("base.css").body.decode()))

    assert len(shared) > 50
    for sheet in ("demo/page/demo.css", "console/page/console.css"):
        assert shared.isdisjoint(rule.findall((WEB.parent / sheet).read_text("utf-8")))
