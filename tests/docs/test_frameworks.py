"""What the guides promise of frameworks, of other processes and of tests happens."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import jwt
import pytest
from anyio import fail_after, sleep, to_thread
from starlette.applications import Starlette

from tests.docs.documents import HOW_TO, needing, running, served
from wsbus import JWT, Bus, Grants
from wsbus.adapters.starlette import lifespan, websocket_route
from wsbus.client import connect

SECONDS: Final = 20
pytest_plugins = ["wsbus.testing.pytest"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


def ask(url: str, data: object = None, **headers: str) -> Any:
    """Send a GET request, or a POST request with JSON; return the JSON of the answer."""
    body = None if data is None else json.dumps(data).encode()
    request = Request(url, body, {"Content-Type": "application/json", **headers})
    return json.loads(urlopen(request, timeout=SECONDS).read() or b"null")


@pytest.mark.parametrize(
    ("name", "path", "data"),
    [
        ("fastapi_app", None, None),
        ("starlette_app", None, None),
        ("litestar_app", "/prices/BTC?last=1.5", {}),
        ("quart_asgi", "/prices/BTC/1.5", {}),
        ("application", "/prices/BTC?last=1.5", None),
    ],
)
async def test_each_framework_serves_and_publishes(name: str, path: str | None, data: Any) -> None:
    """Clients connect at /ws, and a route of the framework's own publishes to them."""
    page = needing(HOW_TO / "frameworks.md")
    with running(page) as guide, fail_after(SECONDS):
        async with (
            served(vars(guide)[name], guide.bus) as host,
            connect(f"ws://{host}/ws") as client,
            client.subscribe("prices.*") as events,
        ):
            if path is None:
                await guide.bus.publish("prices.BTC", {"last": 1.5})
            else:
                await to_thread.run_sync(ask, f"http://{host}{path}", data)
            assert (await anext(events)).data == {"last": 1.5}


DJANGO: Final = """
import sys
__name__ = "documented"
sys.modules[__name__] = sys.modules["served"]
from wsbus import Bus, channel
from wsbus.adapters.beside import beside
bus = Bus()
"""


def django_section() -> str:
    """Return the blocks about Django as a module, with what the page imports above them."""
    text = needing(HOW_TO / "frameworks.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Django") : text.index("\n## aiohttp")]
    begin, end = r"(?:```python|<!---[^\n]*python)\n", r"^(?:```|-->)"
    return "\n".join([DJANGO, *re.findall(f"^{begin}(.*?){end}", section, re.M | re.S)])  # noqa: FURB167


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_django_is_served_by_daphne(tmp_path: Path) -> None:
    """A server without a lifespan: the bus starts with its first client, and a view publishes."""
    pytest.importorskip("daphne", reason="needs daphne: pip install -e '.[servers]'")
    (tmp_path / "served.py").write_text(django_section(), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "daphne", "-p", str(port), "served:application"]
    process = start(command, tmp_path)
    try:
        with fail_after(SECONDS):
            while not listens(port):
                assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
                await sleep(0.05)
            async with (
                connect(f"ws://127.0.0.1:{port}/ws") as client,
                client.subscribe("prices.*") as events,
            ):
                url = f"http://127.0.0.1:{port}/prices/BTC?last=1.5"
                assert await to_thread.run_sync(ask, url) == {"subscribers": 1}
                assert (await anext(events)).data == {"last": 1.5}
    finally:
        process.kill()
        process.wait()


def test_the_tests_of_the_guide_pass(request: pytest.FixtureRequest) -> None:
    """Each test function of the page about testing is true, also when it runs a second time."""
    with running(needing(HOW_TO / "testing.md")) as guide:
        tests = [value for name, value in vars(guide).items() if name.startswith("test_")]
        assert len(tests) == 10
        for test in [*tests, *tests]:
            test(**{name: request.getfixturevalue(name) for name in signature(test).parameters})


async def test_other_processes_publish_as_the_guide_says() -> None:
    """The sync client of the guide publishes with a token that grants nothing else."""
    secret = "at least 32 bytes long, as it must be"
    bus = Bus()
    browsers = bus.endpoint(anonymous=Grants.of(subscribe=["prices.*"]))
    services = bus.endpoint(authenticator=JWT(secret))
    routes = [websocket_route("/ws", browsers), websocket_route("/services", services)]
    app = Starlette(routes=routes, lifespan=lifespan(bus))
    with running(HOW_TO / "deployment.md") as guide, fail_after(SECONDS):
        claims = {"sub": "feed", "exp": 4102444800, "publish": ["prices.*"]}
        token = jwt.encode(claims, secret)
        async with (
            served(app, bus) as host,
            connect(f"ws://{host}/ws") as browser,
            browser.subscribe("prices.*") as events,
        ):
            url = f"ws://{host}/services"
            await to_thread.run_sync(guide.feed, url, token, {"BTC": 1.5})
            assert (await anext(events)).data == {"last": 1.5}


async def test_what_came_from_socketio_works() -> None:
    """A room is joined by a command, and who speaks does not hear it."""
    with running(HOW_TO / "socketio.md") as guide, fail_after(SECONDS):
        async with (
            served(guide.app, guide.bus) as host,
            connect(f"ws://{host}/ws") as ada,
            connect(f"ws://{host}/ws") as bob,
            ada.subscribe("room.1", ask=False) as ada_hears,
            bob.subscribe("room.1", ask=False) as bob_hears,
        ):
            for client in (ada, bob):
                assert await client.command("join", {"room": "1"}) == "welcome to 1"
            await ada.command("say", {"room": "1", "text": "from ada"})
            await bob.command("say", {"room": "1", "text": "from bob"})

            assert (await anext(bob_hears)).data == {"text": "from ada"}
            assert (await anext(ada_hears)).data == {"text": "from bob"}
