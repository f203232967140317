"""Adapter for `aiohttp <https://docs.aiohttp.org>`_, its web server.

::

    app = web.Application()
    setup(app, "/ws", bus)
    web.run_app(app)

aiohttp's own access log has the request line, and with it the query, where clients may put a token
(``query_token=``). :func:`setup` keeps queries out of it for such an endpoint.
Needs the extra ``aiohttp``; asyncio only, as aiohttp is.
"""

from __future__ import annotations

from .._extras import missing_extra
from .._log import about

try:
    import aiohttp as _aiohttp  # noqa: F401  # what the extra brings
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.aiohttp", "aiohttp", _exc) from None

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote

from aiohttp import ClientError, web, web_log
from aiohttp.http_exceptions import HttpProcessingError

from ..bus import Bus, host_of
from ..core.errors import UsageError
from ..endpoint import Admission, Endpoint, Refusal
from ..server.host import BusHost
from ..server.status import respond, status_views
from ..transport import NO_UPGRADE, Handshake, HeaderView, split_list
from ..web.pages import MountedFiles, MountedPage
from ._aiohttp import AiohttpTransport, EndpointResponse, Guard
from ._aiohttp_drain import add_drain_route
from ._aiohttp_http import serve_request
from ._aiohttp_pages import add_page, add_web_routes, as_response
from ._aiohttp_probes import add_probe_routes
from ._endpoint import endpoint_of
from ._http import METHODS, is_spoken
from ._logs import is_redacted, redact
from ._publishing import Publishing

__all__ = [
    "AccessLogger",
    "add_catalogue_routes",
    "add_console_routes",
    "add_drain_route",
    "add_probe_routes",
    "add_publish_route",
    "add_status_routes",
    "add_web_routes",
    "handler",
    "setup",
]

logger: Final = logging.getLogger("wsbus.aiohttp")

_ACCESS_LOG: Final = "aiohttp.access"
_KEEPALIVE_SECONDS: Final = 20.0
_KEEPALIVE_TIMEOUT: Final = 10.0
"""Seconds for a request to come, as in websockets. aiohttp's own default is an hour."""


def setup(app: web.Application, path: str, endpoint: Bus | Endpoint, *, http: bool = True) -> None:
    """Add a WebSocket route to an application, or a sub-application, and all that it needs.

    The bus starts and stops with the application, unless it is running already. At shutdown the
    endpoint is drained: its connections get what they are owed and are closed with 1001, and those
    that are not writable are aborted. Under ``web.run_app`` a second SIGTERM, which would cut that
    short with the exit status 1, is ignored.

    A socket that sends no complete request within 10 s, also after another request, is closed.
    ``web.Application(handler_args={"keepalive_timeout": 75.0})`` sets another limit; the argument
    of ``web.run_app`` has no effect. This holds for an application that is run, not for one that
    is part of another.

    Where the endpoint takes tokens from the query, queries are kept out of the log
    ``aiohttp.access``; for other logs there is a warning, once.

    Args:
        app: To be set up before it starts, and before what publishes in its own start-up.
        path: As for any route; what variable parts hold is in :attr:`.Handshake.path_params`.
        endpoint: Where clients come in; a bus means its default endpoint. May be called for several
            endpoints of one bus.
        http: Serve clients that speak HTTP only, too, at ``/ws/events``, ``/ws/poll`` and
            ``/ws/requests``, if the endpoint speaks ``wsbus.v1``.

    Raises:
        UsageError: It is neither a bus nor an endpoint, or no application of aiohttp.
    """
    if not isinstance(app, web.Application):
        raise UsageError('the application of aiohttp comes first: setup(app, "/ws", bus)')
    served = endpoint_of(endpoint)

    async def live(_app: web.Application) -> AsyncIterator[None]:
        host = served.host
        if not isinstance(host, BusHost) or host.runs_here():
            yield
            return
        await host.start()
        try:
            yield
        finally:
            await host.stop()

    async def drain(_app: web.Application) -> None:
        _ignore_sigterm()
        await served.drain()

    _limit_idle_sockets(app)
    if served.query_token is not None:
        redact(_ACCESS_LOG)
    app.router.add_get(path, handler(served), allow_head=False)
    if http and is_spoken(served):
        for what in METHODS:
            app.router.add_route("*", f"{path.rstrip('/')}/{what}", _on_http(served, what))
    app.cleanup_ctx.append(live)
    app.on_shutdown.append(drain)


def _on_http(
    endpoint: Endpoint, what: str
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        _look_at_log(endpoint, request)
        chunks = _chunks(request)
        return await serve_request(endpoint, what, request, _handshake(request), chunks)

    return handle


def _limit_idle_sockets(app: web.Application) -> None:
    # An argument of its constructor, but not a public attribute.
    given: Mapping[str, Any] | None = getattr(app, "_handler_args", None)
    arguments = {"keepalive_timeout": _KEEPALIVE_TIMEOUT, **(given or {})}
    setattr(app, "_handler_args", arguments)  # noqa: B010  # for mypy


def _ignore_sigterm() -> None:
    """Ignore a second SIGTERM during the clean-up.

    ``web.run_app`` (3.14) raises SystemExit out of its own clean-up when a second signal comes.
    Only its own signal handler is replaced.
    """
    loop = asyncio.get_running_loop()
    handles: Mapping[int, object] = getattr(loop, "_signal_handlers", {})
    handler = getattr(handles.get(signal.SIGTERM), "_callback", None)
    if getattr(handler, "__module__", None) == "aiohttp.web_runner":
        loop.add_signal_handler(signal.SIGTERM, _go_on)


def _go_on() -> None:
    logger.info("SIGTERM once more: the shutdown goes on", extra=about("signal_again"))


def add_status_routes(
    app: web.Application,
    bus: Bus,
    prefix: str = "/-",
    views: Mapping[str, Callable[[], object]] | None = None,
) -> None:
    """Add routes that show operators the state of a bus as JSON, for ``GET``.

    By default ``/-/statistics`` (:meth:`.Bus.statistics`) and ``/-/connections``
    (:meth:`.Bus.connections`). They show subjects and addresses of clients: restrict access to
    them, with middleware or a proxy. For probes there are ``/-/ready`` (:attr:`.Bus.healthy`) and
    ``/-/live`` (:attr:`.Bus.is_running`), which answer 503 with the reason if it is not so.

    Args:
        app: The application.
        bus: The bus.
        prefix: Prefix of the paths.
        views: Other names, each with a function that returns the data.
    """
    for name, tell in (status_views(host_of(bus)) if views is None else views).items():
        app.router.add_get(f"{prefix}/{name}", _view(tell))


def _view(tell: Callable[[], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def view(_request: web.Request) -> web.StreamResponse:
        status, body = respond(tell)
        return web.Response(status=status, body=body, content_type="application/json")

    return view


def add_publish_route(
    app: web.Application, bus: Bus, path: str = "/-/publish", *, token: str | Collection[str]
) -> None:
    """Add a route that publishes what is posted to it, for programs in other languages.

    The reference page of the HTTP route has the form of requests and answers.

    Args:
        app: The application.
        bus: The bus.
        path: The path.
        token: The token that a request must have as ``Authorization: Bearer``, of 16 characters or
            more; or several, all of them valid, while one replaces another.

    Raises:
        UsageError: An argument is wrong.
    """
    publishing = Publishing(bus, token)

    async def publish(request: web.Request) -> web.StreamResponse:
        answer = publishing.answer(request.method, request.headers.items(), _chunks(request))
        return as_response(await answer)

    app.router.add_route("*", path, publish)


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (ClientError, HttpProcessingError, web.RequestPayloadError) as exc:
        raise ConnectionResetError from exc


def add_console_routes(
    app: web.Application, console: MountedPage, prefix: str = "/console"
) -> None:
    """Add routes for an operator's console: its page at ``/console/``, and its endpoint.

    Args:
        app: The application.
        console: The console.
        prefix: Prefix of the paths.
    """
    setup(app, f"{prefix}/ws", console.endpoint)
    add_page(app, console, prefix)


def add_catalogue_routes(
    app: web.Application, catalogue: MountedFiles, prefix: str = "/catalogue"
) -> None:
    """Add routes for a catalogue of channels and commands: its page is at ``/catalogue/``.

    Args:
        app: The application.
        catalogue: The catalogue.
        prefix: Prefix of the paths.
    """
    add_page(app, catalogue, prefix)


def handler(endpoint: Bus | Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return what handles the requests of a route of your own: ``add_get("/ws", …)``.

    The bus must be running, and ``endpoint.drain()`` should be called in ``app.on_shutdown``:
    aiohttp waits a minute for handlers that have not ended by themselves. :func:`setup` does both.
    """
    return _handler(endpoint_of(endpoint))


def _handler(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        refused = _refused(request)
        if refused is not None:
            return refused
        _look_at_log(endpoint, request)
        admission = await endpoint.admit(_handshake(request))
        if isinstance(admission, Refusal):
            return web.Response(status=admission.status, text=f"{admission.reason}\n")
        ws = _response(endpoint, admission)
        if request.transport is None:  # The client left during the authentication.
            return ws
        guard = Guard(request)
        try:
            writer = await ws.prepare(request)
        except ConnectionError:
            return ws
        except web.HTTPException:
            guard.leave()
            raise
        transport = AiohttpTransport(request, ws, writer, endpoint.limits, guard)
        try:
            await endpoint.run(transport, admission)
        finally:
            transport.abort()
        return ws

    return handle


def _look_at_log(endpoint: Endpoint, request: web.Request) -> None:
    if endpoint.query_token is not None and _logs_queries(request):
        endpoint.notices.of_query_token(
            "AppRunner(app, access_log_class=wsbus.adapters.aiohttp.AccessLogger) leaves "
            "queries out, as web.run_app(app, access_log_class=…) does"
        )


def _refused(request: web.Request) -> web.Response | None:
    """Return the answer to a request that is not a handshake, else None."""
    if request.headers.get("upgrade", "").lower() != "websocket":
        headers = {"Upgrade": "websocket", "Connection": "upgrade"}
        return web.Response(status=426, text=f"{NO_UPGRADE}\n", headers=headers)
    return None


class AccessLogger(web_log.AccessLogger):
    """aiohttp's access log without queries, which may hold tokens; pass it as a class.

    ``web.run_app(app, access_log_class=AccessLogger)``; any ``access_log_format=`` will do.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log one request."""
        super().log(cast("web.BaseRequest", _Queryless(request)), response, time)


class _Queryless:
    """A request without its query, for the access log."""

    __slots__ = ("_request",)

    def __init__(self, request: web.BaseRequest) -> None:
        self._request: Final = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    @property
    def path_qs(self) -> str:
        path, mark, _ = self._request.path_qs.partition("?")
        return f"{path}?…" if mark else path


def _logs_queries(request: web.Request) -> bool:
    log = request.protocol.access_logger
    if not isinstance(log, web_log.AccessLogger) or isinstance(log, AccessLogger):
        return False
    if is_redacted(log.logger):
        return False
    formats: Sequence[tuple[object, object]] = getattr(log, "_methods", ())
    return log.enabled and any(key == "first_request_line" for key, _ in formats)


def _response(endpoint: Endpoint, admission: Admission) -> EndpointResponse:
    chosen = admission.subprotocol
    ws = EndpointResponse(
        timeout=endpoint.limits.close_timeout,
        autoclose=False,
        autoping=False,
        # Where wsbus does not close silent connections, the library's own keepalive does.
        heartbeat=_KEEPALIVE_SECONDS if endpoint.heartbeat.timeout is None else None,
        protocols=() if chosen is None else (chosen,),
        compress=endpoint.deflate is not None,
        max_msg_size=endpoint.limits.max_message_bytes + 1,  # This one is refused itself.
    )
    if chosen is not None:
        # aiohttp reads only the first of several such headers (RFC 6455, section 11.3.4).
        ws.headers["Sec-WebSocket-Protocol"] = chosen
    return ws


def _handshake(request: web.Request) -> Handshake:
    headers = HeaderView(request.headers.items)
    transport = request.transport
    address = transport.get_extra_info("peername") if transport is not None else None
    return Handshake(
        path=unquote(request.rel_url.raw_path),
        query_string=request.rel_url.raw_query_string,
        headers=headers,
        client=(address[0], address[1]) if isinstance(address, tuple) else None,
        subprotocols=split_list(headers.get("sec-websocket-protocol", "")),
        path_params=dict(request.match_info),
        request=request,
    )
