from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from anyio import Event, connect_tcp
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.routing import APIWebSocketRoute
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.adapters.serving import client, receive, serving, subscribe
from wsbus import Bus, Connection, Grants, Handshake, Identity, Unauthenticated, UsageError
from wsbus.adapters import asgi
from wsbus.adapters.fastapi import mount, mount_console, serve
from wsbus.adapters.starlette import (
    console_routes,
    lifespan,
    status_routes,
    web_routes,
    websocket_route,
)
from wsbus.console import Console

KEY = {"x-key": "right"}
WITH_KEY: dict[str, Any] = {"additional_headers": KEY}


def members_only(connection: HTTPConnection) -> None:
    if connection.headers.get("x-key") != "right":
        if connection.scope["type"] == "websocket":
            raise WebSocketException(1008)
        raise HTTPException(401)


GUARD = [Depends(members_only)]


async def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Ask by HTTP/1.1; return the status and the body."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    stream = await connect_tcp("127.0.0.1", port)
    await stream.send("\r\n".join([*lines, "", ""]).encode())
    head, _, body = b"".join([chunk async for chunk in stream]).partition(b"\r\n\r\n")
    await stream.aclose()
    return int(head.split()[1]), body


async def enters(port: int, path: str, **options: Any) -> int:
    """Try to connect; return 101, or the status of the refusal."""
    try:
        async with client(port, path, **options) as peer:
            assert (await receive(peer))["type"] == "connected"
    except InvalidStatus as refused:
        return refused.response.status_code
    return 101


# --- what mount serves -------------------------------------------------------------------------


def on_application(bus: Bus) -> tuple[FastAPI, str]:
    app = FastAPI()
    mount(app, "/ws/{name}", bus)
    return app, ""


def on_router(bus: Bus) -> tuple[FastAPI, str]:
    app, router = FastAPI(), APIRouter(prefix="/inner")
    mount(router, "/ws/{name}", bus)
    app.include_router(router, prefix="/outer")
    return app, "/outer/inner"


def on_router_of_router(bus: Bus) -> tuple[FastAPI, str]:
    app, outer, inner = FastAPI(), APIRouter(prefix="/a"), APIRouter(prefix="/b")
    mount(inner, "/ws/{name}", bus)
    outer.include_router(inner)
    app.include_router(outer)
    return app, "/a/b"


def on_included_router(bus: Bus) -> tuple[FastAPI, str]:
    app, router = FastAPI(lifespan=lifespan(bus)), APIRouter()
    app.include_router(router, prefix="/late")
    mount(router, "/ws/{name}", bus, lifespan=False)
    return app, "/late"


def in_mounted_application(bus: Bus) -> tuple[FastAPI, str]:
    app, inner = FastAPI(lifespan=lifespan(bus)), FastAPI()
    mount(inner, "/ws/{name}", bus, lifespan=False)
    app.mount("/inner", inner)
    return app, "/inner"


PLACES = [
    on_application,
    on_router,
    on_router_of_router,
    on_included_router,
    in_mounted_application,
]


@pytest.mark.parametrize("make", PLACES)
async def test_a_mounted_bus_is_served(make: Callable[[Bus], tuple[FastAPI, str]]) -> None:
    """Publications and commands pass, and what the router found is told, wherever it is mounted."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    bus.command("double")(lambda number: number * 2)
    app, prefix = make(bus)
    async with serving(app) as (port, _):
        async with client(port, f"{prefix}/ws/ada?x=1") as peer:
            await subscribe(peer, "a.*")
            await bus.publish("a.b", {"n": 1})
            event = await receive(peer)
            await peer.send('{"type":"command","id":"1","action":"double","params":{"number":2}}')
            response = await receive(peer)
        plain, _ = await get(port, f"{prefix}/ws/ada")

    assert (event["data"], response["data"], plain) == ({"n": 1}, 4, 426)
    handshake = seen[0].handshake
    assert (handshake.path_params["name"], handshake.query("x")) == ("ada", "1")
    assert not bus.is_running


@pytest.mark.parametrize("make", PLACES)
async def test_a_root_path_is_no_part_of_routes(
    make: Callable[[Bus], tuple[FastAPI, str]],
) -> None:
    """Behind a proxy that takes a prefix away, the server is told of it, and paths stay."""
    app, prefix = make(Bus())
    async with serving(app, root_path="/api") as (port, _):
        assert await enters(port, f"{prefix}/ws/ada") == 101


async def test_everything_in_one_line() -> None:
    """Status routes and the client are served where asked for, below the router's prefix."""
    bus, app, router = Bus(), FastAPI(), APIRouter(prefix="/live")
    mount(router, "/ws", bus, status="/-", client="/wsbus")
    app.include_router(router)
    async with serving(app) as (port, _):
        status, body = await get(port, "/live/-/statistics")
        assert (status, json.loads(body)["is_running"]) == (200, True)
        status, body = await get(port, "/live/wsbus/wsbus.js")
        assert (status, b"export" in body) == (200, True)
        assert not [path for path in app.openapi()["paths"] if "live" in path]


async def test_a_page_before_the_mount_keeps_its_path() -> None:
    """A route for HTTP that stands first is not shadowed by the answer 426."""
    bus, app = Bus(), FastAPI()
    app.get("/ws")(lambda: "page")
    mount(app, "/ws", bus)
    async with serving(app) as (port, _):
        assert (await get(port, "/ws"))[1] == b'"page"'
        assert await enters(port, "/ws") == 101


# --- guards hold -------------------------------------------------------------------------------


def of_application(bus: Bus, console: Console) -> FastAPI:
    app = FastAPI(dependencies=GUARD)
    mount(app, "/ws", bus, status="/-", client="/wsbus")
    mount_console(app, console)
    return app


def of_router(bus: Bus, console: Console) -> FastAPI:
    app, router = FastAPI(), APIRouter(dependencies=GUARD)
    mount(router, "/ws", bus, status="/-", client="/wsbus")
    mount_console(router, console)
    app.include_router(router)
    return app


def of_include(bus: Bus, console: Console) -> FastAPI:
    app, router = FastAPI(), APIRouter()
    mount(router, "/ws", bus, status="/-", client="/wsbus")
    mount_console(router, console)
    app.include_router(router, dependencies=GUARD)
    return app


@pytest.mark.parametrize("make", [of_application, of_router, of_include])
async def test_dependencies_guard_what_is_mounted(
    make: Callable[[Bus, Console], FastAPI],
) -> None:
    """Who is refused by FastAPI's routes is refused by ours, and who is let in is let in."""
    bus = Bus()
    app = make(bus, Console(bus, token="a token that is long enough"))
    async with serving(app) as (port, _):
        for path in ("/-/statistics", "/-/connections", "/wsbus/wsbus.js", "/console/"):
            assert ((await get(port, path))[0], (await get(port, path, KEY))[0]) == (401, 200)
        assert await enters(port, "/ws") == 403
        assert await enters(port, "/console/ws") == 403
        assert await enters(port, "/ws", **WITH_KEY) == 101
        assert (await get(port, "/ws"))[0] == 426


async def test_dependencies_of_the_mount_are_for_its_websocket() -> None:
    """They hold beside those of the application, and leave the others' routes alone."""
    bus, app = Bus(), FastAPI()
    mount(app, "/ws", bus, dependencies=GUARD)
    mount(app, "/open", bus)
    async with serving(app) as (port, _):
        assert await enters(port, "/ws") == 403
        assert await enters(port, "/ws", **WITH_KEY) == 101
        assert await enters(port, "/open") == 101


class Wrapped:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def appended(bus: Bus, app: FastAPI) -> None:
    app.router.routes.append(websocket_route("/ws", bus))


def extended(bus: Bus, app: FastAPI) -> None:
    app.routes.extend([*status_routes(bus), *web_routes(), websocket_route("/ws", bus)])


def added(bus: Bus, app: FastAPI) -> None:
    app.router.add_websocket_route("/ws", asgi.app(bus))  # type: ignore[arg-type]


def native(bus: Bus, app: FastAPI) -> None:
    app.routes.append(WebSocketRoute("/ws", asgi.app(bus)))


def as_mount(bus: Bus, app: FastAPI) -> None:
    app.mount("/ws", asgi.app(bus))


def in_mount(bus: Bus, app: FastAPI) -> None:
    app.routes.append(Mount("/", routes=[websocket_route("/ws", bus)]))


def wrapped(bus: Bus, app: FastAPI) -> None:
    app.mount("/", Wrapped(asgi.app(bus)))


def included(bus: Bus, app: FastAPI) -> None:
    router = APIRouter()
    router.routes.append(websocket_route("/ws", bus))
    app.include_router(router)


WAYS = [appended, extended, added, native, as_mount, in_mount, wrapped, included]


@pytest.mark.parametrize("is_started_by_us", [True, False])
@pytest.mark.parametrize("put", WAYS)
async def test_starlettes_routes_past_dependencies_are_refused(
    put: Callable[[Bus, FastAPI], None], is_started_by_us: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What FastAPI's dependencies do not reach is closed to all, and the log says what to write."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus) if is_started_by_us else own(bus), dependencies=GUARD)
    put(bus, app)
    async with serving(app) as (port, _):
        for path in ("/ws", "/ws/"):
            assert await enters(port, path, **WITH_KEY) in {500, 403}
            assert await enters(port, path) in {500, 403}
        for path in ("/-/connections", "/wsbus/wsbus.js"):
            assert (await get(port, path, KEY))[0] in {500, 404, 426}
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert 1 <= len(logged) <= 10
    assert all("wsbus.adapters.fastapi.mount(" in record.getMessage() for record in logged)
    assert all("dependencies" in record.getMessage() for record in logged)


def own(bus: Bus) -> Any:
    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        async with bus:
            yield

    return live


def by_router(bus: Bus, app: FastAPI) -> None:
    router = APIRouter(dependencies=GUARD)
    included_into(bus, router)
    app.include_router(router)


def by_include(bus: Bus, app: FastAPI) -> None:
    router = APIRouter()
    included_into(bus, router)
    app.include_router(router, dependencies=GUARD)


def by_outer_include(bus: Bus, app: FastAPI) -> None:
    outer, inner = APIRouter(), APIRouter()
    included_into(bus, inner)
    outer.include_router(inner)
    app.include_router(outer, dependencies=GUARD)


def by_outer_router(bus: Bus, app: FastAPI) -> None:
    outer, inner = APIRouter(dependencies=GUARD), APIRouter()
    included_into(bus, inner)
    outer.include_router(inner)
    app.include_router(outer)


def by_router_as_application(bus: Bus, app: FastAPI) -> None:
    router = APIRouter(dependencies=GUARD)
    included_into(bus, router)
    app.mount("/", router)


def included_into(bus: Bus, router: APIRouter) -> None:
    router.routes += [
        websocket_route("/ws", bus),
        *status_routes(bus),
        *console_routes(Console(bus, token="a token that is long enough")),
    ]


@pytest.mark.parametrize("is_started_by_us", [True, False])
@pytest.mark.parametrize(
    "put",
    [by_router, by_include, by_outer_include, by_outer_router, by_router_as_application],
)
async def test_starlettes_routes_in_guarded_routers_are_refused(
    put: Callable[[Bus, FastAPI], None], is_started_by_us: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Dependencies of routers, and of their inclusion, are not walked past either."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus) if is_started_by_us else own(bus))
    put(bus, app)
    async with serving(app) as (port, _):
        assert await enters(port, "/ws", **WITH_KEY) == 500
        assert await enters(port, "/console/ws") == 500
        for path in ("/-/connections", "/console/"):
            assert (await get(port, path))[0] == 500

    assert "wsbus.adapters.fastapi.mount(" in caplog.text


async def test_a_router_without_guards_takes_starlettes_routes() -> None:
    """They are served where nothing is bypassed, below the prefix of the inclusion."""
    bus = Bus()
    app, router = FastAPI(lifespan=lifespan(bus)), APIRouter()
    router.routes += [websocket_route("/ws", bus), *status_routes(bus)]
    app.include_router(router, prefix="/live")
    async with serving(app) as (port, _):
        assert await enters(port, "/live/ws") == 101
        assert (await get(port, "/live/-/statistics"))[0] == 200
        assert (await get(port, "/live/ws"))[0] == 426


async def test_a_prefix_that_does_not_apply_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A route of Starlette that its router's prefix does not reach is not served elsewhere."""
    bus = Bus()
    app, router = FastAPI(lifespan=lifespan(bus)), APIRouter(prefix="/live")
    router.routes.append(websocket_route("/ws", bus))
    router.routes.append(websocket_route("/live/whole", bus, "whole"))
    app.include_router(router)
    async with serving(app) as (port, _):
        assert await enters(port, "/ws") == 500
        assert await enters(port, "/live/whole") == 101

    assert "prefix '/live'" in caplog.text
    assert "wsbus.adapters.fastapi.mount(" in caplog.text


async def test_a_mounted_application_is_not_guarded_by_the_outer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FastAPI's dependencies end at a mounted application; the log reminds of it."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus), dependencies=GUARD)
    app.mount("/inner", Starlette(routes=[websocket_route("/ws", bus)]))
    async with serving(app) as (port, _):
        assert await enters(port, "/inner/ws") == 101

    assert "dependencies do not guard it" in caplog.text


# --- Depends, and routes written by hand -------------------------------------------------------


async def current_name(websocket: WebSocket) -> str:
    name = websocket.query_params.get("name")
    if name is None:
        raise WebSocketException(1008)
    return name


async def current_identity(name: Annotated[str, Depends(current_name)]) -> Identity | None:
    return None if name == "nobody" else Identity(name, Grants.open())


async def test_a_dependency_says_who_it_is() -> None:
    """The identity that a dependency returns is the connection's; None asks the endpoint."""
    bus, app = Bus(), FastAPI()
    mount(app, "/ws", bus, identity=current_identity)
    async with serving(app) as (port, _):
        assert await enters(port, "/ws") == 403
        for name, subject in {"ada": "ada", "nobody": "anonymous"}.items():
            async with client(port, f"/ws?name={name}") as peer:
                assert (await receive(peer))["data"]["subject"] == subject


async def test_a_dependency_of_another_kind_is_a_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is no identity lets nobody in, and the log says what is expected."""
    bus, app = Bus(), FastAPI()
    mount(app, "/ws", bus, identity=current_name)
    async with serving(app) as (port, _):
        assert await enters(port, "/ws?name=ada") == 500

    assert "returns an Identity or None, not str" in caplog.text


async def test_what_dependencies_find_reaches_commands() -> None:
    """What one puts on ``websocket.state`` is in the scope of the connection's handshake.

    One with ``yield`` is left after ``on_disconnect``, or at once if the handshake is refused.
    """
    bus, app, notes = Bus(), FastAPI(), list[str]()
    left = Event()

    async def database() -> AsyncIterator[str]:
        notes.append("opened")
        try:
            yield "a database"
        finally:
            notes.append("closed")
            left.set()

    def know(websocket: WebSocket, found: str = Depends(database)) -> None:
        if "x-no" in websocket.headers:
            raise HTTPException(402, "pay first")
        websocket.state.database = found

    @bus.command("what")
    def what(handshake: Handshake) -> str:
        assert handshake.scope is not None
        notes.append("asked")
        return str(handshake.scope["state"]["database"])

    bus.on_disconnect(lambda _: notes.append("left"))
    mount(app, "/ws", bus, dependencies=[Depends(know)])
    async with serving(app) as (port, _):
        async with client(port) as peer:
            await receive(peer)
            await peer.send('{"type":"command","id":"1","action":"what"}')
            assert (await receive(peer))["data"] == "a database"
            assert notes == ["opened", "asked"]
        await left.wait()
        assert notes == ["opened", "asked", "left", "closed"]

        left = Event()
        assert await enters(port, "/ws", additional_headers={"x-no": "1"}) == 402
        await left.wait()
        assert notes[4:] == ["opened", "closed"]


async def test_overridden_dependencies_are_overridden_here_too() -> None:
    """``app.dependency_overrides`` holds for guards and identities, as tests rely on it."""
    bus, app = Bus(), FastAPI(dependencies=GUARD)
    mount(app, "/ws", bus, identity=current_identity, dependencies=[Depends(never)])
    app.dependency_overrides |= {
        members_only: lambda: None,
        never: lambda: None,
        current_name: lambda: "bob",
    }
    async with serving(app) as (port, _):
        async with client(port) as peer:
            assert (await receive(peer))["data"]["subject"] == "bob"
        app.dependency_overrides.pop(never)
        assert await enters(port, "/ws") == 403


def never() -> None:
    raise WebSocketException(1008)


async def test_the_route_stands_in_the_applications_own_table() -> None:
    """It is a route of FastAPI, found by its name, and the pages of the API go on working."""
    bus, app, router = Bus(), FastAPI(), APIRouter(prefix="/inner")
    mount(app, "/ws/{room}", bus, identity=current_identity, status="/-", client="/wsbus")
    mount(router, "/ws", bus, name="inner")
    app.include_router(router, prefix="/outer")
    app.get("/prices")(lambda: [1])
    [route] = [each for each in app.routes if getattr(each, "name", "") == "wsbus"]
    assert isinstance(route, APIWebSocketRoute)
    assert route.path == "/ws/{room}"
    assert app.url_path_for("wsbus", room="a") == "/ws/a"
    assert app.url_path_for("inner") == "/outer/inner/ws"
    async with serving(app) as (port, _):
        assert (await get(port, "/docs"))[0] == 200
        status, body = await get(port, "/openapi.json")
        assert (status, [*json.loads(body)["paths"]]) == (200, ["/prices"])


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_a_route_by_hand_hands_over_in_one_line(is_accepted: bool) -> None:
    """A WebSocket is served as it comes, accepted or not, with what dependencies found out."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus))
    ended = list[str]()

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, name: Annotated[str, Depends(current_name)]) -> None:
        if is_accepted:
            await websocket.accept()
        await serve(websocket, bus, identity=Identity(name, Grants.open()))
        ended.append(websocket.application_state.name + websocket.client_state.name)

    async with serving(app) as (port, _), client(port, "/ws?name=ada") as peer:
        assert (await receive(peer))["data"]["subject"] == "ada"
        await subscribe(peer, "a")
        await bus.publish("a", 1)
        assert (await receive(peer))["data"] == 1
        bus.disconnect("ada", code=4511, reason="enough")
        with pytest.raises(ConnectionClosed) as closed:
            await receive(peer)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4511, "enough")
    assert len(ended) == 1


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_a_route_by_hand_refuses(is_accepted: bool) -> None:
    """A refusal is the HTTP status before the WebSocket is accepted, and a close after it."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus))
    endpoint = bus.endpoint(authenticator=lambda token, handshake: refuse())

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        if is_accepted:
            await websocket.accept()
        await serve(websocket, endpoint)

    async with serving(app) as (port, _):
        if not is_accepted:
            assert await enters(port, "/ws") == 401
        else:
            with pytest.raises(ConnectionClosed) as closed:
                await enters(port, "/ws")
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4500, "go away")


def refuse() -> Identity:
    raise Unauthenticated("go away")


# --- the bus's life ----------------------------------------------------------------------------


async def test_the_bus_starts_first_and_stops_last() -> None:
    """An application's own lifespan runs within the bus, and its state is kept."""
    bus, notes = Bus(), list[bool]()

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[dict[str, int]]:
        notes.append(bus.is_running)
        yield {"x": 1}
        notes.append(bus.is_running)

    app = FastAPI(lifespan=live)
    mount(app, "/ws", bus)
    mount(app, "/staff", bus.endpoint(), name="staff")
    async with app.router.lifespan_context(app) as state:
        assert state == {"x": 1}
        assert bus.is_running

    assert notes == [True, True]
    assert not bus.is_running


@pytest.mark.parametrize("runs", [True, False])
async def test_a_lifespan_given_besides_does_no_harm(runs: bool) -> None:
    """``lifespan(bus)`` and a mount agree on one start, in whatever order."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus))
    mount(app, "/ws", bus, lifespan=runs)
    for _ in range(2):
        async with app.router.lifespan_context(app):
            assert bus.is_running
        assert not bus.is_running


async def test_a_bus_that_somebody_else_runs_is_told() -> None:
    """Where an own lifespan runs the bus, the error says what to change."""
    bus = Bus()
    app = FastAPI(lifespan=own(bus))
    mount(app, "/ws", bus)
    with pytest.raises(UsageError) as failed:
        async with app.router.lifespan_context(app):
            pass
    assert "lifespan=False" in failed.value.__notes__[0]
    assert not bus.is_running


async def test_the_lifespan_of_an_included_router_runs_the_bus() -> None:
    """A router brings the bus into the application that includes it."""
    bus, app, router = Bus(), FastAPI(), APIRouter()
    mount(router, "/ws", bus)
    app.include_router(router)
    async with app.router.lifespan_context(app):
        assert bus.is_running
    assert not bus.is_running


async def test_a_bus_in_a_mounted_application_is_not_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients are refused with 503; the log says once which path it is, and what to write."""
    bus, app, inner = Bus(), FastAPI(), FastAPI()
    mount(inner, "/ws", bus)
    app.mount("/inner", inner)
    async with serving(app) as (port, _):
        for _ in range(3):
            assert await enters(port, "/inner/ws") == 503

    [told] = [record for record in caplog.records if "nobody has started" in record.message]
    assert told.levelno == logging.WARNING
    assert "/inner/ws" in told.message
    assert "outermost application" in told.message


# --- mistakes ----------------------------------------------------------------------------------


def test_what_is_no_application_is_refused_when_mounted() -> None:
    """Each wrong argument is told when it is given, with what to write."""
    bus = Bus()
    for target in (Starlette(), bus, object()):
        with pytest.raises(UsageError, match="websocket_route"):
            mount(target, "/ws", bus)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="slash"):
        mount(FastAPI(), "ws", bus)
    with pytest.raises(UsageError, match="slash"):
        mount(FastAPI(), bus, "/ws")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"bus\.endpoint"):
        mount(FastAPI(), "/ws", Bus)  # type: ignore[arg-type]
    console = Console(bus, token="a token that is long enough")
    with pytest.raises(UsageError, match="mount_console"):
        mount(FastAPI(), "/ws", console.endpoint)
    with pytest.raises(UsageError, match=r"bus\.endpoint"):
        websocket_route("/ws", FastAPI())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="path comes first"):
        websocket_route(bus, "/ws")  # type: ignore[arg-type]


MISUSES: dict[str, Callable[[FastAPI, Any], object]] = {
    "websocket": lambda app, route: app.websocket("/ws")(route),
    "named websocket": lambda app, route: app.websocket("/ws", name="x")(route),
    "add_api_websocket_route": lambda app, route: app.add_api_websocket_route("/ws", route),
    "add_route": lambda app, route: app.add_route("/ws", route),
    "add_websocket_route": lambda app, route: app.router.add_websocket_route("/ws", route),
    "Route": lambda app, route: Route("/ws", route),
    "get": lambda app, route: app.get("/ws")(route),
}


@pytest.mark.parametrize("use", MISUSES.values(), ids=MISUSES.keys())
def test_a_route_is_no_endpoint_of_a_route(use: Callable[[FastAPI, Any], object]) -> None:
    """The mistake is told when it is made, with what to write."""
    with pytest.raises(UsageError, match=r"wsbus\.adapters\.fastapi\.mount"):
        use(FastAPI(), websocket_route("/ws", Bus()))


APPLICATIONS: dict[str, tuple[Callable[[FastAPI, Any], object], str]] = {
    "add_route": (lambda app, endpoint: app.add_route("/ws", endpoint), "websocket_route"),
    "Route": (lambda app, endpoint: app.routes.append(Route("/ws", endpoint)), "websocket_route"),
    "websocket": (lambda app, endpoint: app.websocket("/ws")(endpoint), r"fastapi\.mount"),
}


@pytest.mark.parametrize(("put", "advice"), APPLICATIONS.values(), ids=APPLICATIONS.keys())
async def test_an_application_where_it_takes_no_websocket_is_told(
    put: Callable[[FastAPI, Any], object], advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When the application starts, the log says what to write."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus))
    put(app, asgi.app(bus))
    async with app.router.lifespan_context(app):
        pass
    [told] = caplog.records
    assert told.levelno == logging.ERROR
    assert re.search(advice, told.message)


async def test_a_host_of_its_own_is_served() -> None:
    """Other kinds of routes are no obstacle."""
    bus = Bus()
    app = FastAPI(lifespan=lifespan(bus))
    app.host("127.0.0.1", asgi.app(bus))
    async with serving(app) as (port, _):
        assert await enters(port, "/anything") == 101


@pytest.mark.parametrize("wrong", [lifespan, Bus()])
async def test_a_lifespan_that_was_not_called_is_told(wrong: Any) -> None:
    """The application does not start, and the error says what to write."""
    app = FastAPI(lifespan=wrong)
    with pytest.raises(UsageError, match=r"lifespan=lifespan\(bus\)"):
        async with app.router.lifespan_context(app):
            pass


def test_a_lifespan_takes_a_bus() -> None:
    """An endpoint is not run: its bus is."""
    with pytest.raises(UsageError, match="takes a bus, not Endpoint"):
        lifespan(Bus().endpoint())  # type: ignore[arg-type]
