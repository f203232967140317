"""Adapter for `Starlette <https://www.starlette.io>`_: routes and a lifespan.

::

    routes = [websocket_route("/ws", bus), *http_routes("/ws", bus)]
    app = Starlette(routes=routes, lifespan=lifespan(bus))

FastAPI has an adapter of its own, :mod:`.fastapi`: its dependencies and the prefixes of its routers
do not apply to routes of Starlette, and so routes of this module are refused where they would be
open for that reason.

Parameters of the path are in ``connection.handshake.path_params``, and data from middleware in
``connection.handshake.scope``. Run it with ``uvicorn.run(app, **uvicorn_options(bus))``; for
everything else see :mod:`.asgi`.

Needs the extra ``starlette``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import starlette as _starlette  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.starlette", "starlette", _exc) from None

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import unquote
from weakref import WeakSet

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Message, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .._application import name_of
from ..bus import Bus, host_of
from ..core.errors import UsageError
from ..core.permissions import Identity
from ..endpoint import Endpoint
from ..server.host import BusHost
from ..server.status import respond, status_views
from ..web.pages import MountedFiles, MountedPage
from ._endpoint import endpoint_of
from ._http import METHODS, is_spoken
from ._placed import settle
from ._publishing import Publishing
from ._starlette_drain import drain_route
from ._starlette_http import HttpSide, on_http
from ._starlette_pages import as_response, get_route, page_routes, web_routes
from ._starlette_probes import probe_routes
from .asgi import app, converse

__all__ = [
    "Lifespan",
    "catalogue_routes",
    "console_routes",
    "drain_route",
    "http_routes",
    "lifespan",
    "probe_routes",
    "publish_route",
    "serve",
    "status_routes",
    "web_routes",
    "websocket_route",
]

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""The type of ``lifespan=`` in Starlette and FastAPI: the application → a context manager."""


def websocket_route(path: str, endpoint: Bus | Endpoint, name: str | None = None) -> WebSocketRoute:
    """Return a route whose WebSockets come in at this endpoint.

    Unlike in Starlette's own route, ``%2F`` in a path is not a separator (RFC 3986, section
    2.2): ``/ws/a%2Fb`` matches ``/ws/{client_id}``, and ``client_id`` is ``a/b``.

    Args:
        path: As Starlette's routes have it: ``/ws/{client_id}``.
        endpoint: Where clients come in; a bus means its default endpoint.
        name: For ``url_path_for``; None: ``wsbus``.

    Raises:
        UsageError: It is neither a bus nor an endpoint.
    """
    if not isinstance(path, str):
        raise UsageError('the path comes first: websocket_route("/ws", bus)')
    return _Route(path, app(endpoint), name="wsbus" if name is None else name)


def http_routes(path: str, endpoint: Bus | Endpoint) -> list[Route]:
    """Return routes for clients that speak HTTP only, below the path of the WebSocket.

    They are ``/ws/events`` (an event stream), ``/ws/poll`` (long polling) and ``/ws/requests``,
    which takes single requests by ``POST``.

    Args:
        path: The WebSocket's: ``/ws``.
        endpoint: Where clients come in; a bus means its default endpoint.

    Raises:
        UsageError: It is neither a bus nor an endpoint, or the endpoint does not speak
            ``wsbus.v1``.
    """
    if not isinstance(path, str):
        raise UsageError('the path comes first: http_routes("/ws", bus)')
    found = endpoint_of(endpoint)
    if not is_spoken(found):
        raise UsageError("HTTP carries wsbus.v1, which this endpoint does not speak")
    below = path.rstrip("/")
    return [
        Route(f"{below}/{what}", HttpSide(on_http(found, what)), include_in_schema=False)
        for what in METHODS
    ]


async def serve(
    websocket: WebSocket, endpoint: Bus | Endpoint, *, identity: Identity | None = None
) -> None:
    """Serve a WebSocket of Starlette or FastAPI to its end.

    For a route that is written by hand, with all that the framework offers around it::

        @app.websocket("/ws")
        async def ws(websocket: WebSocket, user: Annotated[User, Depends(current_user)]) -> None:
            await serve(websocket, endpoint, identity=Identity(user.name, Grants.open()))

    It accepts the WebSocket with the subprotocol that both sides speak. If you accept the WebSocket
    yourself, with a subprotocol, name the right one.

    Args:
        websocket: Accepted or not.
        endpoint: Where the client comes in; a bus means its default endpoint.
        identity: The client's; None: ask the endpoint's authenticator, as everywhere.

    Raises:
        UsageError: The arguments are not a WebSocket and a bus or an endpoint.
    """
    if not isinstance(websocket, WebSocket):
        raise UsageError("serve(websocket, endpoint) takes the WebSocket of a route first")

    async def send(message: Message) -> None:
        try:
            await websocket.send(message)
        except WebSocketDisconnect as exc:
            raise OSError from exc  # ASGI's rule.

    await converse(
        endpoint_of(endpoint),
        websocket.scope,
        websocket.receive,
        send,
        identity=identity,
        is_connected=websocket.client_state is not WebSocketState.CONNECTING,
        is_accepted=websocket.application_state is WebSocketState.CONNECTED,
    )


# Replaces a slash within a segment while the path is matched; no decoded path can contain it.
_SLASH: Final = "\udc2f"


class _Route(WebSocketRoute):
    answers_http = True

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_http = scope["type"] == "http"
        if is_http:  # For the answer that says that the route is misplaced.
            scope = {**scope, "type": "websocket"}
        raw: bytes | None = scope.get("raw_path")
        if raw is not None and b"%2f" in raw.lower():
            segments = raw.decode("latin-1").partition("?")[0].split("/")
            path = "/".join([unquote(segment).replace("/", _SLASH) for segment in segments])
            scope = {**scope, "path": path}
        match, found = super().matches(scope)
        if "path_params" in found:
            found["path_params"] = {
                name: value.replace(_SLASH, "/") if isinstance(value, str) else value
                for name, value in found["path_params"].items()
            }
        if is_http and match is Match.FULL and not _is_handshake(scope):
            match = Match.PARTIAL  # A page may be served at the same path.
        return match, found

    # A framework that takes the route for an endpoint asks for one of these first.
    @property
    def __name__(self) -> str:
        _refuse_as_endpoint()

    @property
    def __signature__(self) -> object:
        _refuse_as_endpoint()


def _is_handshake(scope: Scope) -> bool:
    return any(name.lower() == b"sec-websocket-key" for name, _ in scope["headers"])


def _refuse_as_endpoint() -> NoReturn:
    raise UsageError(
        "websocket_route(…) is a route, not what a route calls; put it into Starlette(routes=[…]), "
        "or write wsbus.adapters.fastapi.mount(app, path, bus)"
    )


def status_routes(
    bus: Bus, prefix: str = "/-", views: Mapping[str, Callable[[], object]] | None = None
) -> list[Route]:
    """Return routes that show operators the state of a bus as JSON, for ``GET``.

    By default ``/-/statistics`` (:meth:`.Bus.statistics`) and ``/-/connections``
    (:meth:`.Bus.connections`). They show subjects and addresses of clients: restrict access to
    them, with middleware or a proxy. For probes there are ``/-/ready`` (:attr:`.Bus.healthy`) and
    ``/-/live`` (:attr:`.Bus.is_running`), which answer 503 with the reason if it is not so.

    Args:
        bus: The bus.
        prefix: Prefix of the paths.
        views: Other names, each with a function that returns the data.
    """
    return view_routes(prefix, status_views(host_of(bus)) if views is None else views)


def view_routes(prefix: str, views: Mapping[str, Callable[[], object]]) -> list[Route]:
    """Return a route for each view; see :func:`status_routes`."""
    return [get_route(f"{prefix}/{name}", _view(tell), name) for name, tell in views.items()]


def _view(tell: Callable[[], object]) -> Callable[[Request], Awaitable[Response]]:
    async def view(_request: Request) -> Response:
        status, body = respond(tell)
        return Response(body, status, media_type="application/json")

    return view


def publish_route(bus: Bus, path: str = "/-/publish", *, token: str | Collection[str]) -> Route:
    """Return a route that publishes what is posted to it, for programs in other languages.

    The reference page of the HTTP route has the form of requests and answers.

    Args:
        bus: The bus.
        path: The path.
        token: The token that a request must have as ``Authorization: Bearer``, of 16 characters or
            more; or several, all of them valid, while one replaces another.

    Raises:
        UsageError: An argument is wrong.
    """
    publishing = Publishing(bus, token)

    async def publish(request: Request) -> Response:
        answer = publishing.answer(request.method, request.headers.items(), _chunks(request))
        return as_response(await answer)

    return Route(path, HttpSide(publish), name="wsbus-publish", include_in_schema=False)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as exc:
        raise ConnectionResetError from exc


def console_routes(console: MountedPage, prefix: str = "/console") -> list[BaseRoute]:
    """Return routes for an operator's console: its page at ``/console/``, and its endpoint.

    Args:
        console: The console.
        prefix: Prefix of the paths.
    """
    socket = websocket_route(f"{prefix}/ws", console.endpoint, name="wsbus-console")
    return [socket, *page_routes(console, prefix, "wsbus-console")]


def catalogue_routes(catalogue: MountedFiles, prefix: str = "/catalogue") -> list[BaseRoute]:
    """Return routes for a catalogue of channels and commands: its page is at ``/catalogue/``.

    Args:
        catalogue: The catalogue.
        prefix: Prefix of the paths.
    """
    return [*page_routes(catalogue, prefix, "wsbus-catalogue")]


def lifespan(bus: Bus, *more: Lifespan) -> Lifespan:
    """Return a lifespan that runs the bus while the application runs.

    At SIGTERM uvicorn first closes every WebSocket itself, with 1012, and ends the lifespan when
    all are gone: clients see 1012 at once, and the queues of slow ones are lost. To send all
    clients what they are owed, and close with 1001, drain before uvicorn begins::

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                await endpoint.drain()
                await super().shutdown(sockets)

        Server(uvicorn.Config(app, **uvicorn_options(endpoint))).run()

    Args:
        bus: It must not be running yet.
        *more: Lifespans of your own, begun in this order once the bus runs, and ended in reverse
            before it stops, so that they can publish. The states they yield are merged.

    Raises:
        UsageError: It is not a bus.
    """
    if not isinstance(bus, Bus):
        raise UsageError(
            f"lifespan(bus) takes a bus, not {type(bus).__name__}; "
            "write Starlette(lifespan=lifespan(bus)), not lifespan=lifespan"
        )
    for each in more:
        _check_lifespan(each)

    @asynccontextmanager
    async def live(application: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        settle(application)
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            if host_of(bus) not in _mounted or not bus.is_running:
                await stack.enter_async_context(bus)
            for each in more:
                part: Any = each(application)
                if not hasattr(part, "__aenter__"):
                    raise UsageError(_NO_LIFESPAN.format(name_of(each)))
                state |= await stack.enter_async_context(part) or {}
            yield state or None  # Not every server has a state.

    return live


_NO_LIFESPAN: Final = (
    "{} is no lifespan: write @asynccontextmanager above `async def lifespan(app)`, with a yield"
)


def _check_lifespan(of: object) -> None:
    is_called = isinstance(of, AbstractAsyncContextManager)
    if is_called or not callable(of) or isasyncgenfunction(of) or iscoroutinefunction(of):
        raise UsageError(_NO_LIFESPAN.format(name_of(of)))


_mounted: Final[WeakSet[BusHost]] = WeakSet()
"""Those that :func:`running` has started, and stops."""


@asynccontextmanager
async def running(host: BusHost) -> AsyncIterator[None]:
    """Run a bus, unless it runs; lifespans within find it running, and leave it alone."""
    if host.runs_here():
        yield
        return
    await host.start()
    _mounted.add(host)
    try:
        yield
    finally:
        _mounted.discard(host)
        await host.stop()
