from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import pytest
from aiohttp import ClientSession, web
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.adapters.serving import serving
from tests.catalogue.application import EVIL, make
from wsbus import Bus, History, UsageError
from wsbus import catalogue as package
from wsbus.adapters import aiohttp, asgi, fastapi, starlette
from wsbus.catalogue import Catalogue
from wsbus.schema import asyncapi

PAGE: Final = Path(package.__file__).with_name("page")
FILES: Final = sorted(path.name for path in PAGE.iterdir())

Serve: TypeAlias = Callable[[Catalogue], AbstractAsyncContextManager[int]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """What serves here is made for asyncio."""
    return "asyncio"


@asynccontextmanager
async def on_starlette(catalogue: Catalogue) -> AsyncIterator[int]:
    """Serve it on Starlette, below a mount."""
    app = Starlette(routes=[Mount("/ops", routes=starlette.catalogue_routes(catalogue))])
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_asgi(catalogue: Catalogue) -> AsyncIterator[int]:
    """Serve it as an ASGI application of its own."""
    app = Starlette(routes=[Mount("/ops/catalogue", asgi.catalogue_app(catalogue))])
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_fastapi(catalogue: Catalogue) -> AsyncIterator[int]:
    """Serve it in a router of FastAPI."""
    app, router = FastAPI(), APIRouter(prefix="/ops")
    fastapi.mount_catalogue(router, catalogue)
    app.include_router(router)
    async with serving(app) as (port, _):
        yield port


@asynccontextmanager
async def on_aiohttp(catalogue: Catalogue) -> AsyncIterator[int]:
    """Serve it on aiohttp, in a sub-application."""
    app, below = web.Application(), web.Application()
    aiohttp.add_catalogue_routes(below, catalogue)
    app.add_subapp("/ops", below)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(params=[on_starlette, on_asgi, on_fastapi, on_aiohttp], ids=lambda on: on.__name__)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Run a test on each framework."""
    found: Serve = request.param
    return found


# --- over HTTP --------------------------------------------------------------------------------


async def test_the_page_and_its_files_are_served(serve: Serve) -> None:
    """The page leads to all of its files, under a policy that allows nothing from elsewhere."""
    bus, _ = make()
    async with serve(Catalogue(bus)) as port, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/ops/catalogue") as response:
            assert (response.status, response.url.path) == (200, "/ops/catalogue/")
            assert "Channels and commands" in await response.text()
        for name in [*FILES, "wsbus.js", "base.css", "contents.json", "asyncapi.json"]:
            async with session.get(f"http://127.0.0.1:{port}/ops/catalogue/{name}") as response:
                assert response.status == 200, name
                assert response.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'none'" in response.headers["content-security-policy"]
        for name in ("none.js", "%2e%2e%2fcatalogue.py", "wsbus.d.ts"):
            async with session.get(f"http://127.0.0.1:{port}/ops/catalogue/{name}") as response:
                assert response.status == 404, name


async def test_the_document_is_beside_the_page(serve: Serve) -> None:
    """Other programs read the same declarations as AsyncAPI; nothing can be posted."""
    bus, _ = make()
    async with (
        serve(Catalogue(bus, title="Grids", version="2")) as port,
        ClientSession() as session,
    ):
        url = f"http://127.0.0.1:{port}/ops/catalogue/asyncapi.json"
        async with session.get(url) as response:
            assert response.content_type == "application/json"
            expected = asyncapi(bus, title="Grids", version="2")
            assert await response.json() == json.loads(msgspec.json.encode(expected))
        async with session.post(url) as response:
            assert response.status == 405


async def test_dependencies_of_fastapi_guard_it() -> None:
    """A dependency that refuses closes the page and its documents."""

    def refuse() -> None:
        raise HTTPException(401)

    app = FastAPI()
    fastapi.mount_catalogue(app, Catalogue(make()[0]), dependencies=[Depends(refuse)])
    async with serving(app) as (port, _), ClientSession() as session:
        for name in ("", "contents.json", "asyncapi.json", "catalogue.js"):
            async with session.get(f"http://127.0.0.1:{port}/catalogue/{name}") as response:
                assert response.status == 401, name


# --- the contents --------------------------------------------------------------------------------


def contents_of(catalogue: Catalogue) -> Any:
    """Return what the page is made from."""
    answer = catalogue.page("contents.json")
    assert answer.status == 200
    return json.loads(answer.body)


def test_all_that_is_declared_is_there() -> None:
    """Channels have their policy in words; commands have defaults, answers and docstrings."""
    found = contents_of(Catalogue(make()[0], title="Grids"))
    status, notes, secret = found["channels"]
    add, move, *_ = found["commands"]

    assert (found["title"], found["takes_token"]) == ("Grids", False)
    assert (status["template"], status["parameters"]) == ("grid.{id}.status", ["id"])
    assert (status["text"], list(status["events"])) == ("How far a grid is.", ["update", "removed"])
    assert status["policy"] == {
        "Overflow": "a newer event replaces an older one",
        "History": "keeps the newest 1 for 2 h, and a new subscriber gets the latest at once",
    }
    assert notes["policy"]["Presence"] == "names up to 20 connections"
    assert secret["policy"] == {
        "Overflow": "a full queue closes the connection",
        "History": "keeps nothing",
    }
    assert (add["action"], add["text"]) == ("add", "Add two numbers.")
    assert add["params"]["properties"]["b"] == {"type": "integer", "default": 2}
    assert (add["params"]["required"], add["result"]) == (["a"], {"type": "integer"})
    assert move["params"]["properties"]["fast"]["default"] is False


def test_a_policy_with_a_key_and_times_is_in_words() -> None:
    """The key of a policy is named, and a time has the largest unit that fits."""
    bus = Bus()
    bus.channel("a", int, overflow="conflate", key="symbol")
    bus.channel("b", int, history=History(size=1000, ttl=86_400))
    bus.channel("c", int, history=History(size=2, ttl=90.5), overflow="drop_newest")
    a, b, c = (each["policy"] for each in contents_of(Catalogue(bus))["channels"])

    assert a["Overflow"] == "a newer event replaces an older one of the same symbol"
    assert b == {"Overflow": "that of the endpoint", "History": "keeps the newest 1,000 for 1 d"}
    assert c == {
        "Overflow": "a full queue drops the newest",
        "History": "keeps the newest 2 for 90.5 s",
    }


def test_what_is_declared_later_is_there_too() -> None:
    """The documents are made again once more is declared, and not before."""
    bus = Bus()
    catalogue = Catalogue(bus)
    assert contents_of(catalogue)["commands"] == []
    bus.command("late")(lambda: None)

    assert [each["action"] for each in contents_of(catalogue)["commands"]] == ["late"]
    assert catalogue.page("contents.json").body is catalogue.page("contents.json").body


def test_the_page_knows_whether_a_token_is_taken() -> None:
    """An endpoint with an authenticator takes one."""
    assert contents_of(Catalogue(make(lambda _token, _handshake: None)[0]))["takes_token"]


def test_a_type_without_a_schema_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The page and the log say what cannot be shown."""
    bus = Bus()
    bus.command("odd")(odd)
    with caplog.at_level(logging.ERROR, "wsbus.catalogue"):
        answer = Catalogue(bus).page("contents.json")

    assert answer.status == 500
    assert b"a type has no schema" in answer.body
    assert "a type has no schema" in caplog.text


class Odd:
    """JSON has no such thing."""


def odd() -> Odd:
    return Odd()


@pytest.mark.parametrize("url", ["", 'a"b', "a b", "<ws>", "wss://ä", None, 5])
def test_an_address_that_is_none_is_refused(url: Any) -> None:
    """What stands in the page's markup is checked first."""
    with pytest.raises(UsageError, match="url is the path or URL"):
        Catalogue(Bus(), url=url)


def test_something_else_than_a_bus_is_refused() -> None:
    """The mistake is named where it is made."""
    with pytest.raises(UsageError, match="title is a text, not 5"):
        Catalogue(Bus(), title=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="version is a text, not 1"):
        Catalogue(Bus(), version=1.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a catalogue shows a bus"):
        Catalogue("bus")  # type: ignore[arg-type]


def test_the_page_says_where_it_connects() -> None:
    """A URL of another host is in the page and in its policy; a path of the same host is not."""
    near = Catalogue(Bus(), url="/live/ws").page("")
    far = Catalogue(Bus(), url="wss://app.example/ws").page("")

    assert b'name="wsbus-endpoint" content="/live/ws"' in near.body
    assert "connect-src 'self';" in near.headers["content-security-policy"]
    assert b'name="wsbus-endpoint" content="wss://app.example/ws"' in far.body
    assert "connect-src 'self' wss://app.example;" in far.headers["content-security-policy"]


# --- the files ----------------------------------------------------------------------------------


def test_no_text_becomes_markup() -> None:
    """Scripts make elements and set their text; nothing parses markup or code at run time."""
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"\b(\w*[iI]nnerH\w*|outerHTML|insertAdjacentHTML|eval|write)\b", text)
        assert found == [], path.name
        assert "new Function" not in text
    markup = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\s(style|on\w+)=", markup)
    assert re.findall(r"<script[^>]*>", markup) == ['<script type="module" src="catalogue.js">']
    assert EVIL not in Catalogue(make()[0]).page("").body.decode()


def test_every_file_is_used_and_none_names_another_host() -> None:
    """The page and its scripts name every file there is, and load nothing from elsewhere."""
    texts = {name: (PAGE / name).read_text(encoding="utf-8") for name in FILES}
    together = "".join(texts.values())

    assert [name for name in FILES if name != "index.html" and name not in together] == []
    for name, text in texts.items():
        hosts = set(re.findall(r"(?:https?|wss?)://[\w.-]+", text))
        assert hosts <= {"http://www.w3.org"}, name  # The namespace of SVG.
