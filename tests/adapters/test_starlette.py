from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from anyio import Event, connect_tcp, create_task_group, fail_after
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, Router
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.adapters.serving import Server, client, receive, serving, subscribe
from wsbus import Bus, Connection, Grants, Handshake, Identity, UsageError
from wsbus.adapters.asgi import app
from wsbus.adapters.starlette import lifespan, status_routes, websocket_route
from wsbus.adapters.uvicorn import uvicorn_options


def starlette(bus: Bus) -> Any:
    return Starlette(routes=[websocket_route("/ws/{name}", bus)], lifespan=lifespan(bus))


def fastapi(bus: Bus) -> Any:
    application = FastAPI(lifespan=lifespan(bus))
    application.router.routes.append(websocket_route("/ws/{name}", bus))
    return application


def added_to_fastapi(bus: Bus) -> Any:
    application = FastAPI(lifespan=lifespan(bus))
    application.router.add_websocket_route("/ws/{name}", app(bus))  # type: ignore[arg-type]
    return application


def in_a_mount(bus: Bus) -> Any:
    routes = [Mount("/ws", routes=[websocket_route("/{name}", bus)])]
    return Starlette(routes=routes, lifespan=lifespan(bus))


@pytest.mark.parametrize("make", [starlette, fastapi, added_to_fastapi, in_a_mount])
async def test_a_bus_in_an_application(make: Any) -> None:
    """Publications and commands pass, and what the router found is told, however it is mounted."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    bus.command("double")(lambda number: number * 2)
    async with serving(make(bus)) as (port, _):
        async with client(port, "/ws/a%20b?x=1") as peer:
            await subscribe(peer, "a.*")
            await bus.publish("a.b", {"n": 1}, event="e")
            event = await receive(peer)
            await peer.send('{"type":"command","id":"1","action":"double","params":{"number":2}}')
            response = await receive(peer)
        with pytest.raises(InvalidStatus) as refused:
            await client(port, "/elsewhere")

    assert (event["channel"], event["data"], response["data"]) == ("a.b", {"n": 1}, 4)
    handshake = seen[0].handshake
    assert (handshake.path, handshake.query("x")) == ("/ws/a b", "1")
    assert handshake.path_params["name"] == "a b"
    assert refused.value.response.status_code == 403
    assert not bus.is_running


@pytest.mark.parametrize("make", [starlette, fastapi, in_a_mount])
async def test_an_escaped_slash_separates_nothing(make: Any) -> None:
    """A parameter is one segment of the path as it was sent, percent-decoded once."""
    bus = Bus()
    async with serving(make(bus)) as (port, _):
        for path, name in {
            "a%2Fb": "a/b",
            "a%2fb": "a/b",
            "%2F?x=a%2Fb": "/",
            "a%252Fb": "a%2Fb",
            "%E9%A2%91": "频",
        }.items():
            async with client(port, f"/ws/{path}") as peer:
                await receive(peer)
                [connection] = bus.connections()
                found = bus.connection(connection.connection_id)
                assert found is not None
                assert found.handshake.path_params["name"] == name
                await peer.close()
                while bus.connections():
                    await checkpoint()
        for path in ("a/b", "a/b%2Fc", "", "a%2Fb/"):
            with pytest.raises(InvalidStatus):
                await client(port, f"/ws/{path}")


def made_by_lifespan(bus: Bus) -> Any:
    return Starlette(routes=[Mount("/ws", app(bus))], lifespan=lifespan(bus))


def mounted_in_starlette(bus: Bus) -> Any:
    application = Starlette(lifespan=lifespan(bus))
    application.mount("/ws", app(bus))
    return application


def mounted_in_fastapi(bus: Bus) -> Any:
    application = FastAPI(lifespan=lifespan(bus))
    application.mount("/ws", app(bus))
    return application


def mounted_in_mount(bus: Bus) -> Any:
    return Starlette(routes=[Mount("/", routes=[Mount("/ws", app(bus))])], lifespan=lifespan(bus))


def mounted_in_application(bus: Bus) -> Any:
    inner = Starlette(routes=[Mount("/ws", app(bus))])
    return Starlette(routes=[Mount("/", inner)], lifespan=lifespan(bus))


def mounted_in_router(bus: Bus) -> Any:
    application, router = FastAPI(lifespan=lifespan(bus)), APIRouter()
    router.mount("/ws", app(bus))
    application.include_router(router)
    return application


MOUNTS = [
    made_by_lifespan,
    mounted_in_starlette,
    mounted_in_fastapi,
    mounted_in_mount,
    mounted_in_application,
    mounted_in_router,
]


@pytest.mark.parametrize("make", MOUNTS)
async def test_a_mount_serves_its_path_with_and_without_a_slash(make: Any) -> None:
    """``/ws`` and ``/ws/`` and what is below are WebSockets; HTTP is answered 426."""
    application = make(Bus())
    for _ in range(2):  # An application may be run again.
        async with serving(application) as (port, _):
            for path in ("/ws", "/ws/", "/ws/deep"):
                async with client(port, path) as peer:
                    assert (await receive(peer))["type"] == "connected"
                assert await status_of(port, path) == 426
    assert len(application.routes) <= 7  # Nothing is added twice; FastAPI has four of its own.


async def status_of(port: int, path: str, *headers: str) -> int:
    stream = await connect_tcp("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    await stream.send("\r\n".join([*lines, "", ""]).encode())
    answer = b"".join([chunk async for chunk in stream])
    await stream.aclose()
    return int(answer.split()[1])


@pytest.mark.parametrize("make", [starlette, fastapi, added_to_fastapi, in_a_mount])
async def test_http_to_a_route_is_told_to_upgrade(make: Any) -> None:
    """A GET at a WebSocket's path says what is wrong; other paths are not there."""
    async with serving(make(Bus())) as (port, _):
        assert await status_of(port, "/ws/a") == 426
        assert await status_of(port, "/elsewhere") == 404


async def test_a_page_may_have_the_path_of_a_route() -> None:
    """HTTP goes to the page, but for a handshake whose Upgrade a proxy has dropped."""
    bus = Bus()
    page = Route("/ws", lambda request: PlainTextResponse("page"))
    for routes in ([websocket_route("/ws", bus), page], [page, websocket_route("/ws", bus)]):
        application = Starlette(routes=routes, lifespan=lifespan(bus))
        async with serving(application) as (port, _):
            assert await status_of(port, "/ws") == 200
            async with client(port, "/ws") as peer:
                assert (await receive(peer))["type"] == "connected"
    async with serving(
        Starlette(routes=[websocket_route("/ws", bus), page], lifespan=lifespan(bus))
    ) as (port, _):
        assert await status_of(port, "/ws", "Sec-WebSocket-Key: x") == 426


async def test_middleware_around_a_route_guards_it() -> None:
    """What Starlette puts around an application, a mount or a router holds for WebSockets."""
    bus = Bus()

    class Closed:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await self.inner(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse("no", 401)(scope, receive, send)

    closed = [Middleware(Closed)]
    routes = [websocket_route("/ws", bus), *status_routes(bus)]
    for application in (
        Starlette(routes=routes, lifespan=lifespan(bus), middleware=closed),
        Starlette(routes=[Mount("/", routes=routes, middleware=closed)], lifespan=lifespan(bus)),
        Starlette(routes=[Mount("/", Router(routes, middleware=closed))], lifespan=lifespan(bus)),
    ):
        async with serving(application) as (port, _):
            with pytest.raises(InvalidStatus) as refused:
                await client(port)
            assert refused.value.response.status_code == 403
            assert await status_of(port, "/-/connections") == 401


async def test_session_and_user_are_in_the_scope() -> None:
    """What Starlette's own middleware knows of a client is there for authenticators."""
    bus = Bus()

    class ByHeader(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> Any:
            return AuthCredentials(["in"]), SimpleUser(conn.headers["x-user"])

    def judge(token: str | None, handshake: Handshake) -> Identity:
        assert handshake.scope is not None
        return Identity(handshake.scope["user"].display_name, Grants.open())

    application = Starlette(
        routes=[websocket_route("/ws", bus.endpoint(authenticator=judge))],
        lifespan=lifespan(bus),
        middleware=[Middleware(AuthenticationMiddleware, backend=ByHeader())],
    )
    user = {"x-user": "ada"}
    async with serving(application) as (port, _), client(port, additional_headers=user) as peer:
        assert (await receive(peer))["data"]["subject"] == "ada"


async def test_a_session_is_in_the_scope() -> None:
    """A signed session of Starlette's middleware is read for WebSockets as for pages."""
    sessions = pytest.importorskip("starlette.middleware.sessions", exc_type=ImportError)
    bus = Bus()

    def judge(token: str | None, handshake: Handshake) -> Identity | None:
        assert handshake.scope is not None
        assert handshake.scope["app"].state.note == "mine"
        name = handshake.scope["session"].get("user")
        return None if name is None else Identity(name, Grants.open())

    async def sign_in(request: Request) -> PlainTextResponse:
        request.session["user"] = "ada"
        return PlainTextResponse("welcome")

    bus.command("who")(lambda: "me")
    seen: list[Any] = []
    bus.on_connect(lambda connection: seen.append((connection.handshake.scope or {})["session"]))
    application = Starlette(
        routes=[
            Route("/sign-in", sign_in),
            websocket_route("/ws", bus.endpoint(authenticator=judge)),
        ],
        lifespan=lifespan(bus),
        middleware=[Middleware(sessions.SessionMiddleware, secret_key="s")],
    )
    application.state.note = "mine"
    async with serving(application) as (port, _):
        stream = await connect_tcp("127.0.0.1", port)
        async with stream:
            await stream.send(b"GET /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = (await stream.receive()).decode()
        cookie = answer.split("set-cookie: ")[1].split(";")[0]
        async with client(port, additional_headers={"Cookie": cookie}) as peer:
            assert (await receive(peer))["data"]["subject"] == "ada"
        async with client(port) as peer:
            assert "subject" not in (await receive(peer))["data"]
    assert seen == [{"user": "ada"}, {}]


async def test_parameters_keep_their_types() -> None:
    """What Starlette converts stays converted, and a parameter of many segments is one."""
    bus = Bus()
    routes = [websocket_route("/{number:int}/{rest:path}", bus)]
    application = Starlette(routes=routes, lifespan=lifespan(bus))
    async with serving(application) as (port, _), client(port, "/7/a%2Fb/c") as peer:
        await receive(peer)
        [connection] = bus.connections()
        found = bus.connection(connection.connection_id)
        assert found is not None
        assert found.handshake.path_params == {"number": "7", "rest": "a/b/c"}


async def test_http_routes_publish() -> None:
    """An HTTP request handler publishes to the sockets of the same application."""
    bus = Bus()

    async def publish(request: Request) -> PlainTextResponse:
        receipt = await bus.publish("news", await request.json())
        return PlainTextResponse(str(receipt.local_accepted))

    routes = [websocket_route("/ws", bus), Route("/news", publish, methods=["POST"])]
    application = Starlette(routes=routes, lifespan=lifespan(bus))
    async with serving(application) as (port, _), client(port) as peer:
        await subscribe(peer, "news")
        with socket.create_connection(("127.0.0.1", port)) as http:
            http.sendall(b"POST /news HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n[1,2]")
            assert (await receive(peer))["data"] == [1, 2]


def test_routes_are_named() -> None:
    """The name is for url_path_for."""
    router = Router([websocket_route("/a/{x}", Bus()), websocket_route("/b", Bus(), "b")])

    assert router.url_path_for("wsbus", x="1") == "/a/1"
    assert router.url_path_for("b") == "/b"


async def test_converted_path_parameters_are_text() -> None:
    """Handshakes hold text, whatever the router converts to."""
    bus = Bus()
    seen: list[Connection] = []
    bus.on_connect(seen.append)
    application = Starlette(routes=[websocket_route("/{n:int}", bus)], lifespan=lifespan(bus))
    async with serving(application) as (port, _), client(port, "/12") as peer:
        await receive(peer)

    assert seen[0].handshake.path_params == {"n": "12"}


def noted(name: str, notes: list[str], bus: Bus, state: dict[str, Any] | None) -> Any:
    @asynccontextmanager
    async def own(application: Any) -> AsyncIterator[dict[str, Any] | None]:
        notes.append(f"{name} {bus.is_running}")
        yield state
        notes.append(f"not {name} {bus.is_running}")

    return own


async def test_own_lifespans_run_inside_the_bus() -> None:
    """They begin in order once the bus runs, end in reverse while it does; states are merged."""
    bus, notes, application = Bus(), list[str](), object()
    live = lifespan(
        bus,
        noted("a", notes, bus, {"x": 1}),
        noted("b", notes, bus, None),
        noted("c", notes, bus, {"y": 2}),
    )

    async with live(application) as state:
        assert state == {"x": 1, "y": 2}
        assert bus.is_running

    assert notes == ["a True", "b True", "c True", "not c True", "not b True", "not a True"]
    assert not bus.is_running


async def test_a_failing_lifespan_stops_the_bus() -> None:
    """An own lifespan that cannot begin leaves no bus running."""
    bus = Bus()

    @asynccontextmanager
    async def fails(application: Any) -> AsyncIterator[int]:
        yield 1 // application

    with pytest.raises(ZeroDivisionError):
        async with lifespan(bus, fails)(0):
            pass
    assert not bus.is_running


async def test_a_bus_is_run_once_at_a_time() -> None:
    """A bus that runs already is not taken over."""
    bus = Bus()
    live = lifespan(bus)
    async with bus:
        with pytest.raises(UsageError):
            async with live(None):
                pass
        assert bus.is_running
    async with live(None) as state:
        assert state is None


async def test_start_and_stop_in_different_tasks() -> None:
    """Servers and fixtures may enter a lifespan in one task and leave it in another."""
    bus = Bus()
    live: AbstractAsyncContextManager[Any] = lifespan(bus)(None)

    async def start() -> None:
        await live.__aenter__()

    async def stop() -> None:
        await live.__aexit__(None, None, None)

    async with create_task_group() as tasks:
        tasks.start_soon(start)
    assert (await bus.publish("a")).local_matched == 0
    async with create_task_group() as tasks:
        tasks.start_soon(stop)
    assert not bus.is_running


async def test_uvicorns_shutdown_is_fast_and_says_1012() -> None:
    """Clients are told 1012 by uvicorn, and the lifespan has nobody left to wait for."""
    bus = Bus()
    async with (
        serving(starlette(bus), **uvicorn_options(bus)) as (port, server),
        client(port, "/ws/a") as peer,
    ):
        await receive(peer)
        with fail_after(5):
            server.should_exit = True
            with pytest.raises(ConnectionClosed) as closed:
                await peer.recv()
            await server.down.wait()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert not bus.is_running


async def test_a_server_that_drains_first_owes_nobody_anything() -> None:
    """The server of the docstring: everything that was published arrives, then 1001."""
    bus = Bus()
    endpoint = bus.default_endpoint

    class Draining(Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await endpoint.drain()
            await super().shutdown(sockets)

    got: list[int | None] = []
    begun = Event()
    options = uvicorn_options(endpoint)
    async with serving(starlette(bus), Draining, **options) as (port, server):
        async with client(port, "/ws/a") as peer, create_task_group() as tasks:
            await subscribe(peer, "a")
            for n in range(500):
                await bus.publish("a", [n, "x" * 1000])

            async def read() -> None:
                begun.set()
                async for message in peer:
                    lines = str(message).splitlines()
                    got.extend(json.loads(line)["data"][0] for line in lines)
                got.append(peer.close_code)

            tasks.start_soon(read)
            await begun.wait()
            server.should_exit = True
        with fail_after(5):
            await server.down.wait()

    assert got == [*range(500), 1001]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("asked_by", ["client", "endpoint"])
def test_the_test_client_reads_json_under_traffic(asked_by: str) -> None:
    """limits.md: ``receive_json`` reads each message, if client or endpoint asks for it."""
    from starlette.testclient import TestClient

    bus = Bus()
    endpoint = bus.endpoint(joins=asked_by == "client")
    offers = ["wsbus.v1.single"] if asked_by == "client" else ["wsbus.v1"]

    async def tick(_: Request) -> JSONResponse:
        for number in range(20):
            await bus.publish("prices.BTC", number)
        return JSONResponse({})

    routes = [websocket_route("/ws", endpoint), Route("/tick", tick)]
    with (
        TestClient(Starlette(routes=routes, lifespan=lifespan(bus))) as client,
        client.websocket_connect("/ws", subprotocols=offers) as peer,
    ):
        assert peer.receive_json()["type"] == "connected"
        peer.send_json({"type": "subscribe", "channels": ["prices.*"]})
        assert peer.receive_json()["type"] == "subscribed"
        client.get("/tick")
        bus.publish_threadsafe("prices.ETH", 20)

        assert [peer.receive_json()["data"] for _ in range(21)] == [*range(21)]
