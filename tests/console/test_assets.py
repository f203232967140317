from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, web
from anyio import Event, create_task_group, fail_after
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.adapters.serving import client, receive, serving
from tests.console.operators import TOKEN
from wsbus import Bus
from wsbus import console as package
from wsbus.adapters import aiohttp, starlette
from wsbus.console import Console, strangers
from wsbus.console.assets import answer, redirect

PAGE: Final = Path(package.__file__).with_name("page")
FILES: Final = sorted(path.name for path in PAGE.iterdir())

Serve: TypeAlias = Callable[[str], AbstractAsyncContextManager[int]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """What serves here is made for asyncio."""
    return "asyncio"


@asynccontextmanager
async def on_starlette(prefix: str) -> AsyncIterator[int]:
    """Serve a console on Starlette, below a mount."""
    bus = Bus()
    routes = starlette.console_routes(Console(bus, token=TOKEN), prefix)
    app = Starlette(routes=[Mount("/ops", routes=routes)], lifespan=starlette.lifespan(bus))
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(prefix: str) -> AsyncIterator[int]:
    """Serve a console on aiohttp, in a sub-application."""
    bus, app, below = Bus(), web.Application(), web.Application()
    aiohttp.setup(app, "/ws", bus)
    aiohttp.add_console_routes(below, Console(bus, token=TOKEN), prefix)
    app.add_subapp("/ops", below)
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


# --- over HTTP --------------------------------------------------------------------------------


async def test_the_page_and_its_files_are_served(serve: Serve) -> None:
    """The page leads to all of its files, wherever the routes were put; there are no others."""
    async with serve("/console") as port, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/ops/console") as response:
            assert (response.status, response.url.path) == (200, "/ops/console/")
            assert "<title>wsbus console</title>" in await response.text()
        for name in [*FILES, "wsbus.js"]:
            async with session.get(f"http://127.0.0.1:{port}/ops/console/{name}") as response:
                assert (response.status, await response.read()) == (200, answer(name).body)
                assert response.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'none'" in response.headers["content-security-policy"]
        for name in ("none.js", "%2e%2e%2fconsole.py", "..%5cconsole.py", "wsbus.d.ts"):
            async with session.get(f"http://127.0.0.1:{port}/ops/console/{name}") as response:
                assert response.status == 404


async def test_the_endpoint_is_beside_the_page(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The WebSocket takes the token in a message, of pages of the same host; no log tells it."""
    with caplog.at_level(logging.DEBUG, "wsbus"):
        async with serve("/console") as port:
            origin = f"http://127.0.0.1:{port}"
            async with client(port, "/ops/console/ws", origin=origin) as peer:
                await receive(peer)
                await peer.send(f'{{"type": "auth", "token": "{TOKEN}"}}')
                assert (await receive(peer))["success"]

    assert TOKEN not in caplog.text


@pytest.mark.parametrize("addresses", [1, 200])
async def test_a_flood_of_strangers_keeps_no_operator_out(
    serve: Serve, addresses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers who come again and again, from one address or many, keep no operator out.

    One who was there before them stays, and others sign in while they come.
    """
    monkeypatch.setattr(strangers, "MAX_STRANGERS", 48)
    hosts = [f"127.0.0.{2 + i}" for i in range(addresses)]
    async with serve("/console") as port, AsyncExitStack() as stack, create_task_group() as tasks:
        url, arrived = f"ws://127.0.0.1:{port}/ops/console/ws", Event()
        flooding = [
            await stack.enter_async_context(
                ClientSession(connector=TCPConnector(local_addr=(host, 0), limit=0))
            )
            for host in hosts
        ]

        async def flood() -> None:
            held: deque[ClientWebSocketResponse] = deque()
            for session in cycle(flooding):
                held.append(await session.ws_connect(url))
                if len(held) > 2 * strangers.MAX_STRANGERS:
                    arrived.set()
                    held.popleft()._response.close()

        async def signed_in() -> ClientWebSocketResponse:
            operator = await stack.enter_async_context(operators.ws_connect(url))
            await operator.send_json({"type": "auth", "token": TOKEN})
            assert (await operator.receive_json())["type"] == "connected"
            assert (await operator.receive_json())["success"]
            return operator

        operators = await stack.enter_async_context(ClientSession())
        with fail_after(60):
            early = await signed_in()
            tasks.start_soon(flood)
            await arrived.wait()
            late = [await signed_in() for _ in range(3)]
            for operator in (early, *late):
                await operator.send_json(
                    {"type": "command", "id": "1", "action": "console.watch", "params": {}}
                )
                assert '"type":"response"' in await operator.receive_str()
        tasks.cancel_scope.cancel()


async def test_a_prefix_may_be_empty(serve: Serve) -> None:
    """Below a prefix of the application's own, none is needed."""
    async with (
        serve("") as port,
        ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/ops/") as response,
    ):
        assert "<title>wsbus console</title>" in await response.text()


# --- the files ----------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """No file names another host, and the policy would not let it be asked."""
    for name in FILES:
        text = (PAGE / name).read_text(encoding="utf-8")
        hosts = set(re.findall(r"(?:https?|wss?)://[\w.-]+", text))
        assert hosts <= {"http://www.w3.org"}, name  # The namespace of SVG.

    policy = answer("").headers["content-security-policy"]
    assert "'unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


def test_no_text_becomes_markup() -> None:
    """Scripts make elements and set their text; nothing parses markup or code at run time."""
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"\b(\w*[iI]nner\w*|outerHTML|insertAdjacentHTML|eval|write)\b", text)
        assert found == [], path.name
        assert "new Function" not in text
    markup = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\s(style|on\w+)=", markup)
    assert re.findall(r"<script[^>]*>", markup) == ['<script type="module" src="console.js">']


def test_every_file_is_used() -> None:
    """The page and its scripts name every file there is."""
    texts = "".join((PAGE / name).read_text(encoding="utf-8") for name in FILES)

    assert [name for name in FILES if name != "index.html" and name not in texts] == []


def test_a_page_served_elsewhere_says_where_it_connects() -> None:
    """Given an endpoint, the page names it, and its policy lets that be reached."""
    page = answer("", "wss://app.example/console/ws")

    assert b'name="wsbus-endpoint" content="wss://app.example/console/ws"' in page.body
    assert "connect-src 'self' wss://app.example;" in (page.headers["content-security-policy"])
    assert b'name="wsbus-endpoint" content="ws"' in answer("").body


@pytest.mark.parametrize(("prefix", "location"), [("/console", "console/"), ("/a/b", "b/")])
def test_a_missing_slash_is_added(prefix: str, location: str) -> None:
    """The redirection is relative, so that no proxy's prefix is lost."""
    assert redirect(prefix).headers["location"] == location
