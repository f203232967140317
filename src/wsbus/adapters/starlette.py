"""Adapter for `Starlette <https://www.starlette.io>`_ and FastAPI: a route and a lifespan.

::

    app = Starlette(routes=[websocket_route("/ws", bus)], lifespan=lifespan(bus))

    app = FastAPI(lifespan=lifespan(bus))
    app.router.routes.append(websocket_route("/ws/{client_id}", bus))

    @app.post("/prices/{symbol}")
    async def price(symbol: str, value: float) -> None:
        await bus.publish(channel("price", symbol), value)

What the router finds in the path is in ``connection.handshake.path_params``. Run it with
``uvicorn.run(app, **uvicorn_options(bus))``; everything else is said at :mod:`.asgi`.

Needs the extra ``starlette``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import starlette as _starlette  # noqa: F401  # what the extra brings
except ModuleNotFoundError as exc:
    raise missing_extra("wsbus.adapters.starlette", "starlette", exc) from None

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Scope

from ..bus import Bus, status_views
from ..console import Console
from ..console.assets import Answer, answer, redirect
from ..core.encoding import encode_data
from ..endpoint import Endpoint
from ..web import ASSETS, asset
from .asgi import app

__all__ = [
    "Lifespan",
    "console_routes",
    "lifespan",
    "status_routes",
    "web_routes",
    "websocket_route",
]

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What Starlette and FastAPI take as ``lifespan=``: the application → a context manager."""


def websocket_route(path: str, door: Bus | Endpoint, name: str | None = None) -> WebSocketRoute:
    """Return a route whose WebSockets come in by this door.

    Unlike with Starlette's own route, ``%2F`` in a path separates nothing (RFC 3986, section
    2.2): ``/ws/a%2Fb`` is for ``/ws/{client_id}``, whose ``client_id`` then is ``a/b``.

    Args:
        path: As Starlette's routes have it: ``/ws/{client_id}``.
        door: Where clients come in; a bus means its default endpoint.
        name: For ``url_path_for``; None: ``wsbus``.
    """
    return _Route(path, app(door), name="wsbus" if name is None else name)


# Stands for a slash within a segment while the path is matched; no decoded path can hold it.
_SLASH: Final = "\udc2f"


class _Route(WebSocketRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
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
        return match, found


def status_routes(
    bus: Bus, prefix: str = "/-", views: Mapping[str, Callable[[], object]] | None = None
) -> list[Route]:
    """Return routes that tell operators how the bus is: JSON, for ``GET``.

    By default ``/-/statistics`` (:meth:`.Bus.statistics`) and ``/-/connections``
    (:meth:`.Bus.connections`). They tell who is connected from where: keep strangers away from
    them, with middleware or a proxy.

    Args:
        bus: Which.
        prefix: Of the paths.
        views: Other names, and what to call for what each tells.
    """
    told = status_views(bus) if views is None else views
    return [Route(f"{prefix}/{name}", _view(tell), name=name) for name, tell in told.items()]


def _view(tell: Callable[[], object]) -> Callable[[Request], Awaitable[Response]]:
    async def view(_request: Request) -> Response:
        return Response(encode_data(tell()), media_type="application/json")

    return view


def console_routes(console: Console, prefix: str = "/console") -> list[BaseRoute]:
    """Return routes for an operator's console: its page at ``/console/``, and its endpoint.

    Args:
        console: Which.
        prefix: Of the paths.
    """

    async def page(request: Request) -> Response:
        return _response(answer(request.path_params.get("name", "")))

    async def to_page(_request: Request) -> Response:
        return _response(redirect(prefix))

    return [
        websocket_route(f"{prefix}/ws", console.endpoint, name="wsbus-console"),
        *([Route(prefix, to_page)] if prefix else []),
        Route(f"{prefix}/", page),
        Route(f"{prefix}/{{name}}", page),
    ]


def _response(found: Answer) -> Response:
    return Response(found.body, found.status, found.headers)


def web_routes(prefix: str = "/wsbus") -> list[Route]:
    """Return routes that serve the JavaScript client: ``/wsbus/wsbus.js``; see :mod:`wsbus.web`.

    Args:
        prefix: Of the paths.
    """
    return [Route(f"{prefix}/{name}", _serve_asset(name), name=name) for name in ASSETS]


def _serve_asset(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        found = asset(name)
        if found.is_known(request.headers.get("if-none-match")):
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)  # uvicorn leaves the body out for HEAD.

    return serve


def lifespan(bus: Bus, *more: Lifespan) -> Lifespan:
    """Return a lifespan that runs the bus while the application runs.

    At SIGTERM uvicorn first closes every WebSocket itself, with 1012, and ends the lifespan when
    all are gone: clients see 1012 at once, and what waited in the queues of slow ones is lost.
    The bus then has nobody left to wait for. To give everybody what they are owed, and 1001, drain
    before uvicorn begins::

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                await endpoint.drain()
                await super().shutdown(sockets)

        Server(uvicorn.Config(app, **uvicorn_options(endpoint))).run()

    Args:
        bus: It must not be running yet.
        *more: Lifespans of your own, begun in this order once the bus runs, and ended in reverse
            before it stops, so that they can publish. The states they yield are merged.
    """

    @asynccontextmanager
    async def live(application: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(bus)
            for each in more:
                state |= await stack.enter_async_context(each(application)) or {}
            yield state or None  # Not every server knows of state.

    return live
