"""Mistakes in mounting a bus: an error where it is mounted, or a line in the log with the cure."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from aiohttp import web
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from tests.mistakes.rows import Row, check, table
from wsbus import JWT, Bus, UsageError
from wsbus.adapters import aiohttp, asgi, fastapi, uvicorn, websockets
from wsbus.adapters.starlette import lifespan, websocket_route

SECRET = "change me: at least 32 bytes long"


def start(app: Any, path: str | None = None) -> list[Any]:
    """Start an ASGI application as a server does; return what a client of a path is sent."""
    return anyio.run(_live, app, path)


async def _live(app: Any, path: str | None) -> list[Any]:
    answers: list[Any] = []
    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        event = next(events)
        if event == "lifespan.shutdown" and path is not None:
            answers.extend(await _visit(app, path))
        return {"type": event}

    async def send(message: Any) -> None:
        """Hear that it has started, or failed: then it raises, too."""

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return answers


async def _visit(app: Any, path: str) -> list[Any]:
    answers: list[Any] = []
    events = iter(["websocket.connect", "websocket.disconnect"])

    async def receive() -> dict[str, Any]:
        return {"type": next(events), "code": 1005}

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")],
        "subprotocols": ["wsbus.v1"],
        "extensions": {},
        "state": {},
    }
    await app(scope, receive, send)
    return answers


async def bare(app: Any) -> AsyncIterator[None]:
    """Forget the decorator of a lifespan."""
    yield


async def coroutine(app: Any) -> None:
    """Take a lifespan for something that starts."""


def nothing(app: Any) -> None:
    """Return nothing."""


@asynccontextmanager
async def good(app: Any) -> AsyncIterator[None]:
    """Do as it should be."""
    yield


ROWS = [
    Row("lifespan=lifespan", lambda: start(Starlette(lifespan=lifespan)), ("lifespan(bus)", "not")),  # type: ignore[arg-type]
    Row("lifespan=bus", lambda: start(FastAPI(lifespan=Bus())), ("lifespan=lifespan(bus)",)),
    Row("lifespan(app)", lambda: lifespan(FastAPI()), ("takes a bus", "FastAPI")),  # type: ignore[arg-type]
    Row("a lifespan without decorator", lambda: lifespan(Bus(), bare), ("@asynccontextmanager",)),  # type: ignore[arg-type]
    Row("a lifespan without yield", lambda: lifespan(Bus(), coroutine), ("coroutine", "yield")),  # type: ignore[arg-type]
    Row(
        "a lifespan that returns nothing",
        lambda: start(Starlette(lifespan=lifespan(Bus(), nothing))),  # type: ignore[arg-type]
        ("nothing", "@asynccontextmanager"),
    ),
    Row("a lifespan that was called", lambda: lifespan(Bus(), good(None)), ("lifespan",)),
    Row("websocket_route(bus, path)", lambda: websocket_route(Bus(), "/ws"), ("path", "first")),  # type: ignore[arg-type]
    Row("websocket_route(path, JWT)", lambda: websocket_route("/ws", JWT), ("bus.endpoint(…)",)),  # type: ignore[arg-type]
    Row(
        "@app.websocket of a route",
        lambda: FastAPI().websocket("/ws")(websocket_route("/ws", Bus())),
        ("websocket_route(…)", "mount(app, path, bus)"),
    ),
    Row(
        "WebSocketRoute of a route",
        lambda: WebSocketRoute("/ws", websocket_route("/ws", Bus())),
        ("websocket_route(…)", "routes=[…]"),
    ),
    Row("mount(path, app, bus)", lambda: fastapi.mount("/ws", FastAPI(), Bus()), ("FastAPI",)),  # type: ignore[arg-type]
    Row("mount(app, bus, path)", lambda: fastapi.mount(FastAPI(), Bus(), "/ws"), ("path",)),  # type: ignore[arg-type]
    Row("mount(app, no slash)", lambda: fastapi.mount(FastAPI(), "ws", Bus()), ("slash", '"/ws"')),
    Row("mount(app, path, JWT)", lambda: fastapi.mount(FastAPI(), "/ws", JWT), ("a bus",)),  # type: ignore[arg-type]
    Row("mount(Starlette)", lambda: fastapi.mount(Starlette(), "/ws", Bus()), ("Starlette",)),  # type: ignore[arg-type]
    Row("mount(router class)", lambda: fastapi.mount(APIRouter, "/ws", Bus()), ("router",)),  # type: ignore[arg-type]
    Row("asgi.app(text)", lambda: asgi.app("bus"), ("bus.endpoint(…)", "str")),  # type: ignore[arg-type]
    Row("uvicorn_options(app)", lambda: uvicorn.uvicorn_options(FastAPI()), ("FastAPI",)),  # type: ignore[arg-type]
    Row("setup(bus, path)", lambda: aiohttp.setup(Bus(), "/ws", Bus()), ("first", "setup(app")),  # type: ignore[arg-type]
    Row(
        "setup(app, bus, path)",
        lambda: aiohttp.setup(web.Application(), Bus(), "/ws"),  # type: ignore[arg-type]
        ("bus.endpoint(…)", "str"),
    ),
    Row("handler(authenticator)", lambda: aiohttp.handler(JWT(SECRET)), ("a bus", "JWT")),  # type: ignore[arg-type]
    Row("websockets.serve(port)", lambda: websockets.serve(8000), ("a bus", "int")),  # type: ignore[arg-type]
    Row("websockets.handler(app)", lambda: websockets.handler(FastAPI()), ("a bus", "FastAPI")),  # type: ignore[arg-type]
]


@table(ROWS)
def test_a_wrong_way_to_mount_is_refused_in_words(row: Row) -> None:
    """Where it is mounted, or where the application starts; not at the first client."""
    with pytest.raises(row.error) as refused:
        row.do()
    check(row, str(refused.value))


# --- what only shows when a client comes ----------------------------------------------------------


def no_lifespan() -> Any:
    return Starlette(routes=[websocket_route("/ws", Bus())])


def lifespan_of_a_mounted_application() -> Any:
    bus = Bus()
    inner = Starlette(routes=[websocket_route("/ws", bus)], lifespan=lifespan(bus))
    return Starlette(routes=[Mount("/inner", inner)])


def fastapi_without_lifespan() -> Any:
    app = FastAPI()
    fastapi.mount(app, "/ws", Bus(), lifespan=False)
    return app


def endpoint_of_another_bus() -> Any:
    return Starlette(routes=[websocket_route("/ws", Bus().endpoint())], lifespan=lifespan(Bus()))


def plain_asgi_without_lifespan() -> Any:
    served = asgi.app(Bus())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Pass on WebSockets only, as Django does."""
        if scope["type"] == "websocket":
            await served(scope, receive, send)
        else:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    return app


def bus_as_application() -> Any:
    app = FastAPI()
    app.mount("/ws", Bus())
    return app


def bus_as_websocket_route() -> Any:
    return Starlette(routes=[WebSocketRoute("/ws", Bus())])


def http_route() -> Any:
    bus = Bus()
    app = Starlette(lifespan=lifespan(bus))
    app.add_route("/ws", asgi.app(bus))  # type: ignore[arg-type]
    return app


def route_behind_guards() -> Any:
    bus = Bus()

    def guard() -> None: ...

    from fastapi import Depends

    app = FastAPI(lifespan=lifespan(bus), dependencies=[Depends(guard)])
    app.router.routes.append(websocket_route("/ws", bus))
    return app


def route_without_prefix() -> Any:
    bus = Bus()
    app, router = FastAPI(lifespan=lifespan(bus)), APIRouter(prefix="/api")
    router.routes.append(websocket_route("/ws", bus))
    app.include_router(router)
    return app


SILENT: list[tuple[Callable[[], Any], str, tuple[str, ...]]] = [
    (no_lifespan, "/ws", ("nobody has started the bus", "Starlette(lifespan=lifespan(bus))")),
    (lifespan_of_a_mounted_application, "/inner/ws", ("/inner/ws", "outermost application")),
    (fastapi_without_lifespan, "/ws", ("wsbus.adapters.fastapi.mount(app, path, bus)",)),
    (endpoint_of_another_bus, "/ws", ("nobody has started the bus of this endpoint", "/ws")),
    (plain_asgi_without_lifespan, "/ws", ("autostart=True", "lifespan")),
    (http_route, "/ws", ("add_route", "websocket_route('/ws', bus)")),
    (route_behind_guards, "/ws", ("dependencies", "wsbus.adapters.fastapi.mount(")),
    (route_without_prefix, "/ws", ("prefix '/api'", "wsbus.adapters.fastapi.mount(router")),
]


@pytest.mark.parametrize(
    ("make", "path", "words"), [pytest.param(*row, id=row[0].__name__) for row in SILENT]
)
def test_a_refused_client_is_explained_in_the_log(
    make: Callable[[], Any], path: str, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Clients hear a number; one line at WARNING or higher tells the cause and what to write."""
    (answer,) = start(make(), path)
    assert answer["type"] == "websocket.close"

    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any(all(word in line for word in words) for line in lines), lines


@pytest.mark.parametrize(
    ("make", "path"), [(bus_as_application, "/ws/"), (bus_as_websocket_route, "/ws")]
)
def test_a_bus_is_no_application(make: Callable[[], Any], path: str) -> None:
    """Where a framework calls it, the error says what can be called."""
    with pytest.raises(UsageError, match=r"asgi\.app\(bus\)"):
        start(make(), path)
