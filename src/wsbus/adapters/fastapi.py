"""Adapter for `FastAPI <https://fastapi.tiangolo.com>`_: everything in one line.

::

    bus = Bus()
    app = FastAPI()
    mount(app, "/ws", bus)

    @app.post("/prices/{symbol}")
    async def price(symbol: str, value: float) -> None:
        await bus.publish(channel("price", symbol), value)

All routes are made by FastAPI's own methods, so that the dependencies of the application, of its
routers and of ``include_router`` guard them, and the prefixes of routers apply. Run it with
``uvicorn.run(app, **uvicorn_options(bus))``, or on the command line with
``uvicorn main:app --ws wsbus.adapters.uvicorn:WebSocketProtocol``.

Needs the extra ``fastapi``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import fastapi as _fastapi  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.fastapi", "fastapi", _exc) from None

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI, WebSocket, params
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from ..bus import Bus
from ..core.errors import UsageError
from ..core.permissions import Identity
from ..endpoint import Endpoint
from ..server.host import BusHost
from ..server.status import status_views
from ..web.pages import MountedFiles, MountedPage
from ._endpoint import endpoint_of
from ._http import is_spoken
from ._placed import settle
from ._starlette_http import HttpSide
from .asgi import Application, decline
from .starlette import (
    catalogue_routes,
    console_routes,
    drain_route,
    http_routes,
    probe_routes,
    publish_route,
    running,
    serve,
    view_routes,
    web_routes,
)

__all__ = [
    "mount",
    "mount_catalogue",
    "mount_console",
    "mount_drain",
    "mount_probes",
    "mount_publish",
    "serve",
]


def mount(
    target: FastAPI | APIRouter,
    path: str,
    endpoint: Bus | Endpoint,
    *,
    dependencies: Sequence[params.Depends] = (),
    identity: Callable[..., Any] | None = None,
    status: str | None = None,
    client: str | None = None,
    http: bool = True,
    lifespan: bool = True,
    name: str = "wsbus",
) -> None:
    """Serve a bus in an application of FastAPI, or in a router that it includes.

    An HTTP request to the path is answered 426, unless a route before it takes it.

    Args:
        target: An application or a router. FastAPI runs the lifespan of a router that is included
            afterwards, and none of applications that are mounted in others: start the bus in the
            outermost one, there.
        path: As FastAPI's routes have it: ``/ws/{client_id}``. What is found in it is in
            ``connection.handshake.path_params``; write ``{client_id:path}`` if it may hold ``/``.
        endpoint: Where clients come in; a bus means its default endpoint.
        dependencies: Such as ``[Depends(members_only)]``, for the WebSocket, besides those of the
            application and its routers. They run before the WebSocket is accepted; one that refuses
            raises ``WebSocketException`` or ``HTTPException``. Attributes that one sets on
            ``websocket.state`` are in ``handshake.scope["state"]``. Those with ``yield`` end when
            the connection has ended, so one that holds a database session holds it for long.
        identity: A dependency that returns an :class:`.Identity`, or None to ask the endpoint's
            authenticator.
        status: Prefix of the routes that show operators the state of the bus, such as ``/-``; see
            :func:`.starlette.status_routes`. None: there are no such routes.
        client: Prefix of the JavaScript client, such as ``/wsbus``; see
            :func:`.starlette.web_routes`. None: it is not served.
        http: Serve clients that speak HTTP only, too, at ``/ws/events``, ``/ws/poll`` and
            ``/ws/requests``, if the endpoint speaks ``wsbus.v1``; see
            :func:`.starlette.http_routes`. With ``identity=`` there are none: it takes a WebSocket.
        lifespan: Start the bus before the application's own lifespan, and stop it afterwards.
        name: For ``url_path_for``.

    Raises:
        UsageError: The target is neither an application nor a router, or the endpoint neither a bus
            nor an endpoint.
    """
    router = _router_of(target)
    if not str(path).startswith("/"):
        raise UsageError('a path begins with a slash: mount(app, "/ws", bus)')
    endpoint = endpoint_of(endpoint)
    host = endpoint.host
    if not isinstance(host, BusHost):
        raise UsageError("a console is mounted with mount_console(app, console)")
    router.add_api_websocket_route(
        path, _conversation(endpoint, identity), name=name, dependencies=dependencies
    )
    _decline_http(router, path, name)
    if http and identity is None and is_spoken(endpoint):
        _add(router, http_routes(path, endpoint), dependencies, _METHODS)
    if status is not None:
        _add(router, view_routes(status, status_views(host)))
    if client is not None:
        _add(router, web_routes(client))
    if lifespan:
        router.lifespan_context = _around(router.lifespan_context, host)


def mount_console(
    target: FastAPI | APIRouter,
    console: MountedPage,
    prefix: str = "/console",
    *,
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """Serve an operator's console: its page at ``/console/``, and its endpoint.

    Args:
        target: An application or a router; its dependencies apply.
        console: The console.
        prefix: Prefix of the paths.
        dependencies: For all of its routes; they must work for HTTP and WebSockets, as those do
            that take ``HTTPConnection``.

    Raises:
        UsageError: The target is neither an application nor a router.
    """
    _add(_router_of(target), console_routes(console, prefix), dependencies)


def mount_catalogue(
    target: FastAPI | APIRouter,
    catalogue: MountedFiles,
    prefix: str = "/catalogue",
    *,
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """Serve a catalogue of channels and commands: its page is at ``/catalogue/``.

    Args:
        target: An application or a router; its dependencies apply.
        catalogue: The catalogue.
        prefix: Prefix of the paths.
        dependencies: More of them.

    Raises:
        UsageError: The target is neither an application nor a router.
    """
    _add(_router_of(target), catalogue_routes(catalogue, prefix), dependencies)


def mount_publish(
    target: FastAPI | APIRouter,
    bus: Bus,
    path: str = "/-/publish",
    *,
    token: str | Collection[str],
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """Add a route that publishes what is posted to it, for programs in other languages.

    Args:
        target: An application or a router; its dependencies apply.
        bus: The bus.
        path: The path.
        token: As for :func:`.starlette.publish_route`.
        dependencies: More of them.

    Raises:
        UsageError: An argument is wrong.
    """
    _add(_router_of(target), [publish_route(bus, path, token=token)], dependencies, _METHODS)


def mount_drain(
    target: FastAPI | APIRouter,
    bus: Bus,
    path: str = "/-/drain",
    *,
    token: str | Collection[str] | None = None,
    window: float = 20.0,
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """Add a route that drains the bus, for Kubernetes' ``preStop``.

    Args:
        target: An application or a router; its dependencies apply.
        bus: The bus.
        path: The path.
        token: As for :func:`.asgi.drain_app`.
        window: The same.
        dependencies: More of them.

    Raises:
        UsageError: An argument is wrong.
    """
    route = drain_route(bus, path, token=token, window=window)
    _add(_router_of(target), [route], dependencies, _METHODS)


def mount_probes(target: FastAPI | APIRouter, bus: Bus, prefix: str = "/-") -> None:
    """Add routes for the probes of Kubernetes: ``/-/ready`` and ``/-/live``.

    They are open to all, also where dependencies guard the application: a probe has no token. They
    ask for :attr:`.Bus.healthy` and :attr:`.Bus.is_running`, and name no address.

    Args:
        target: An application or a router; its dependencies do not apply.
        bus: The bus.
        prefix: Prefix of the paths.

    Raises:
        UsageError: The target is neither an application nor a router, or the bus is none.
    """
    router = _router_of(target)
    for route in probe_routes(bus, prefix):
        path = router.prefix + route.path
        router.add_route(path, route.endpoint, ["GET"], name=route.name, include_in_schema=False)


_METHODS: Final = ("POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The route itself refuses those that it does not take."""


def _router_of(target: FastAPI | APIRouter) -> APIRouter:
    if isinstance(target, FastAPI):
        return target.router
    if isinstance(target, APIRouter):
        return target
    raise UsageError(
        f"mount takes an application or a router of FastAPI first, not {type(target).__name__}; "
        "for Starlette write websocket_route(path, bus) of wsbus.adapters.starlette"
    )


def _conversation(endpoint: Endpoint, identity: Callable[..., Any] | None) -> Callable[..., Any]:
    if identity is None:

        async def converse(websocket: WebSocket) -> None:
            await serve(websocket, endpoint)

        return converse

    async def converse_with(
        websocket: WebSocket,
        who: Any = Depends(identity),  # noqa: B008  # FastAPI's way
    ) -> None:
        if who is not None and not isinstance(who, Identity):
            raise UsageError(
                "the dependency given to mount(identity=…) returns an Identity or None, "
                f"not {type(who).__name__}"
            )
        await serve(websocket, endpoint, identity=who)

    return converse_with


class _Decline:
    """Answers HTTP at the path of a WebSocket; open to all, since it reveals nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await decline(scope, receive, send)


def _decline_http(router: APIRouter, path: str, name: str) -> None:
    router.add_route(router.prefix + path, _Decline(), name=f"{name}-http", include_in_schema=False)  # type: ignore[arg-type]  # an ASGI application


def _add(
    router: APIRouter,
    routes: Iterable[BaseRoute],
    dependencies: Sequence[params.Depends] = (),
    methods: Sequence[str] = ("GET", "HEAD"),
) -> None:
    """Add the Starlette routes through FastAPI's own methods."""
    for route in routes:
        if isinstance(route, WebSocketRoute) and isinstance(route.endpoint, Application):
            converse = _conversation(route.endpoint.endpoint, None)
            router.add_api_websocket_route(
                route.path, converse, name=route.name, dependencies=dependencies
            )
            _decline_http(router, route.path, route.name)
        elif isinstance(route, Route) and isinstance(route.endpoint, HttpSide):
            router.add_api_route(
                route.path,
                route.endpoint.respond,
                methods=[*methods],
                name=route.name,
                dependencies=dependencies,
                include_in_schema=False,
                response_model=None,
            )


def _around(inner: Any, host: BusHost) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def live(application: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        settle(application)
        async with running(host), AsyncExitStack() as stack:
            try:
                state = await stack.enter_async_context(inner(application))
            except UsageError as exc:
                exc.add_note("mount(…) runs the bus; where something else does, say lifespan=False")
                raise
            yield state

    return live
