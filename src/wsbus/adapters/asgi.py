"""Adapter for every ASGI framework and server: one application object.

As the whole application, it starts and stops the bus, too::

    uvicorn.run(app(bus), **uvicorn_options(bus))

In a framework, mount it where a WebSocket route or another ASGI application goes, and run the bus
with the framework's own lifespan; :mod:`.starlette` does both in a line each for Starlette and
FastAPI.

Plain ASGI differs from the other adapters in one thing: it has no access to the socket. A peer that
never reads costs the bus nothing after the write deadline, but its socket stays open until the
server closes it; uvicorn waits for the peer to leave. Where that matters, set ``TCP_USER_TIMEOUT``
on the listening socket. Nor is there a bound on the pongs that uvicorn writes for a peer that
floods it with pings and reads nothing.

uvicorn must be 0.52.1 or newer: older ones, and daphne, keep all sent data in memory, so that no
bound and no overflow policy can hold. uvicorn closes a connection that sends invalid UTF-8 with
1007, and logs an error with a traceback, see :class:`.RedactQuery`; it reports a reset connection
as 1005, and hypercorn reports every close by the client as 1006.

Under uvicorn with :func:`.uvicorn_options` none of this applies, and fan-out is twice as fast:
wsbus then has access to the socket, through ``scope["extensions"]["wsbus"]``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final

from anyio import Lock
from anyio.lowlevel import checkpoint

from .._log import about
from ..bus import Bus
from ..core.errors import UsageError
from ..core.permissions import Identity
from ..endpoint import Endpoint, Refusal
from ..server.host import BusHost
from ..transport import NO_UPGRADE, Handshake, HeaderView
from ._asgi import ASGIMessage, ASGIReceive, ASGISend, agree, transport
from ._asgi_drain import drain_app
from ._asgi_http import chunks_of, respond_with, serve_http
from ._asgi_pages import catalogue_app
from ._asgi_probes import probe_app
from ._endpoint import endpoint_of
from ._http import METHODS, is_spoken
from ._logs import is_redacted
from ._placed import MISPLACED, Placed
from ._publishing import Publishing

__all__ = [
    "Application",
    "app",
    "catalogue_app",
    "converse",
    "decline",
    "drain_app",
    "probe_app",
    "publish_app",
    "serve",
]

logger: Final = logging.getLogger("wsbus.asgi")


class Application(Placed):
    """An ASGI application; made by :func:`app`."""

    __slots__ = ("_autostart", "_is_http", "_starting", "endpoint")

    speaks = "websocket"

    def __init__(self, endpoint: Endpoint, *, autostart: bool = False, http: bool = False) -> None:
        super().__init__()
        self.endpoint: Final = endpoint
        self._is_http: Final = http
        self._autostart = autostart
        self._starting: Lock | None = None

    async def __call__(self, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        """Serve one connection, or the server's lifespan."""
        match scope["type"]:
            case "websocket":
                if self._autostart:
                    await self._start()
                if self.is_refused(scope):
                    await _refuse(Refusal(500, MISPLACED), scope, send)
                else:
                    await converse(self.endpoint, scope, receive, send)
            case "http":
                what = self._what(scope)
                if what is None:
                    await decline(scope, receive, send)
                    return
                if self._autostart:
                    await self._start()
                await serve(self.endpoint, what, scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case other:
                raise UsageError(f"no such ASGI scope is known here: {other!r}")

    def _what(self, scope: ASGIMessage) -> str | None:
        what: str = scope.get("path", "").rpartition("/")[2]
        return what if self._is_http and what in METHODS and is_spoken(self.endpoint) else None

    async def _start(self) -> None:
        """Start the bus, unless it runs; only once, so that it stays stopped when it stops."""
        host = self.endpoint.host
        if self._starting is None:
            self._starting = Lock()
        async with self._starting:
            if self._autostart and isinstance(host, BusHost) and not host.runs_here():
                await host.start()
            self._autostart = False

    async def _live(self, receive: ASGIReceive, send: ASGISend) -> None:
        """Start the bus, unless it is running, and stop it at the end."""
        await receive()
        host = self.endpoint.host
        is_ours = False
        try:
            if isinstance(host, BusHost) and not host.runs_here():
                await host.start()
                is_ours = True
        except Exception as exc:  # noqa: BLE001  # told; raised, uvicorn would go on without a bus
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        self._autostart = False
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            if isinstance(host, BusHost) and is_ours:
                await host.stop()
        await send({"type": "lifespan.shutdown.complete"})


def app(endpoint: Bus | Endpoint, *, autostart: bool = False, http: bool = True) -> Application:
    """Return an ASGI application whose WebSockets, on any path, come in at this endpoint.

    Refused handshakes are answered with their HTTP status where the server can (uvicorn,
    hypercorn, granian), with 403 otherwise. Paths that end in ``/events``, ``/poll`` and
    ``/requests`` are for clients that speak HTTP only; other HTTP requests are answered 426.

    Args:
        endpoint: Where clients come in; a bus means its default endpoint.
        autostart: Start the bus with the first connection, if nothing has started it: for
            servers without a lifespan, such as daphne, and for applications that do not pass it
            on, such as Django's. Such a bus can publish once a client has been there, and it ends
            with its process, without a close frame to its clients.
        http: Whether it serves HTTP, too, if the endpoint speaks ``wsbus.v1``.

    Raises:
        UsageError: It is neither a bus nor an endpoint.
    """
    return Application(endpoint_of(endpoint), autostart=autostart, http=http)


def serve(
    endpoint: Endpoint, what: str, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend
) -> Coroutine[Any, Any, None]:
    """Return a coroutine that serves an HTTP request; for adapters of frameworks.

    Args:
        endpoint: The endpoint.
        what: ``events``, ``poll`` or ``requests``.
        scope: The scope of the ASGI server and the framework.
        receive: The server's callable.
        send: The server's callable.
    """
    if not endpoint.host.has_run:
        endpoint.notices.of_rest(scope["path"], _how_to_start(scope))
    if endpoint.query_token is not None:
        _warn_of_query_token(endpoint)
    return serve_http(endpoint, what, _handshake(scope), scope, receive, send)


def publish_app(
    bus: Bus, *, token: str | Collection[str]
) -> Callable[[ASGIMessage, ASGIReceive, ASGISend], Awaitable[None]]:
    """Return an ASGI application that publishes what is posted to it, on any path.

    For programs in other languages. The bus must be running. The reference page of the HTTP route
    has the form of requests and answers.

    Args:
        bus: The bus.
        token: The token that a request must have as ``Authorization: Bearer``, of 16 characters or
            more; or several, all of them valid, while one replaces another.

    Raises:
        UsageError: An argument is wrong.
    """
    publishing = Publishing(bus, token)

    async def publish(scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        if scope["type"] != "http":
            raise UsageError(f"publish_app takes HTTP requests only, not {scope['type']}")
        found = await publishing.answer(
            scope["method"], _decoded(scope["headers"]), chunks_of(receive)
        )
        await respond_with(found, send)

    return publish


async def converse(
    endpoint: Endpoint,
    scope: ASGIMessage,
    receive: ASGIReceive,
    send: ASGISend,
    *,
    identity: Identity | None = None,
    is_connected: bool = False,
    is_accepted: bool = False,
) -> None:
    """Serve one WebSocket to its end; for adapters of ASGI frameworks.

    Args:
        endpoint: The endpoint.
        scope: The scope of the ASGI server and the framework.
        receive: The server's callable.
        send: The server's callable.
        identity: From the framework, if it identified the client; None: ask the authenticator.
        is_connected: Whether ``websocket.connect`` has been received.
        is_accepted: Whether ``websocket.accept`` has been sent.
    """
    if not is_connected and (await receive())["type"] != "websocket.connect":
        return
    _look_at_server(scope)
    if not endpoint.host.has_run:
        endpoint.notices.of_rest(scope["path"], _how_to_start(scope))
    if endpoint.query_token is not None:
        _warn_of_query_token(endpoint)
    verdict = await endpoint.admit(_handshake(scope), identity)
    try:
        if isinstance(verdict, Refusal):
            if is_accepted:
                reason = verdict.reason
                await send(
                    {"type": "websocket.close", "code": verdict.close_code, "reason": reason}
                )
            else:
                await _refuse(verdict, scope, send)
            return
        if not is_accepted:
            accept: ASGIMessage = {"type": "websocket.accept"}
            agree(endpoint, scope)
            if verdict.subprotocol is not None:
                accept["subprotocol"] = verdict.subprotocol
            await send(accept)
    except OSError:  # The client left during the authentication.
        return
    link = transport(endpoint, scope, receive, send)
    try:
        await endpoint.run(link, verdict)
    finally:
        link.abort()  # ASGI does not allow sends after the application has returned.


def _how_to_start(scope: ASGIMessage) -> str:
    around = {base.__module__.partition(".")[0] for base in type(scope.get("app")).__mro__}
    if "fastapi" in around:
        return (
            "wsbus.adapters.fastapi.mount(app, path, bus) runs it with the application, and so "
            "does FastAPI(lifespan=lifespan(bus)) with wsbus.adapters.starlette.lifespan; let the "
            "outermost application do it, since the lifespan of mounted ones is not run"
        )
    if "starlette" in around:
        return (
            "Starlette(lifespan=lifespan(bus)) with wsbus.adapters.starlette.lifespan runs it; "
            "let the outermost application do it, since the lifespan of mounted ones is not run"
        )
    return (
        "the server has no lifespan (daphne), or the framework does not pass it on (Django): "
        "wsbus.adapters.asgi.app(bus, autostart=True) starts it with the first connection, and "
        "`async with bus:` wherever the application starts"
    )


async def _refuse(refusal: Refusal, scope: ASGIMessage, send: ASGISend) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        # Before the handshake is complete, this means 403.
        await send({"type": "websocket.close", "code": refusal.close_code})
        return
    await _respond("websocket.http.response", refusal.status, refusal.reason, send)
    # uvicorn logs an error if the application returns before uvicorn has closed the connection.
    await checkpoint()


async def decline(scope: ASGIMessage, _receive: ASGIReceive, send: ASGISend) -> None:
    """Answer an HTTP request to the path of a WebSocket with 426, and say what to do."""
    if str(scope.get("http_version", "")).startswith("1"):
        headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        await _respond("http.response", 426, NO_UPGRADE, send, headers)
    else:
        await _respond("http.response", 404, NO_UPGRADE, send)


async def _respond(
    kind: str,
    status: int,
    text: str,
    send: ASGISend,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    body = f"{text}\n".encode()
    own = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": [*own, *headers]})
    await send({"type": f"{kind}.body", "body": body})


def _handshake(scope: ASGIMessage) -> Handshake:
    client = scope.get("client")
    return Handshake(
        path=scope["path"],
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers=HeaderView(partial(_decoded, scope["headers"])),
        client=None if client is None else tuple(client[:2]),  # The server's own, mostly.
        subprotocols=tuple(name for name in scope.get("subprotocols", ()) if name),
        path_params={name: str(value) for name, value in scope.get("path_params", {}).items()},
        scope=scope,
    )


def _decoded(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)


def _look_at_server(scope: ASGIMessage) -> None:
    """Warn, once in a process, if uvicorn runs without the options that it needs."""
    _warn_of_old_uvicorn()
    with suppress(RuntimeError):  # uvicorn does not run on trio.
        _warn_of_options(is_fast="wsbus" in (scope.get("extensions") or {}))


@cache
def _warn_of_old_uvicorn() -> None:
    version = getattr(sys.modules.get("uvicorn"), "__version__", "")
    if _is_too_old(version):
        logger.warning(
            "uvicorn %s keeps all that a slow client does not read in memory; take 0.52.1 or newer",
            version,
            extra=about("old_server", version=version),
        )


def _is_too_old(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return found is not None and tuple(int(part or 0) for part in found.groups()) < (0, 52, 1)


@cache
def _warn_of_options(*, is_fast: bool) -> None:
    if _uvicorn_config() is not None and not is_fast:
        logger.warning(
            "uvicorn runs with a WebSocket protocol of its own, which makes fan-out half as fast "
            "and leaves stuck connections open; start it with "
            "`--ws wsbus.adapters.uvicorn:WebSocketProtocol`, with "
            "uvicorn.run(app, **uvicorn_options(bus)), or under gunicorn with "
            "`-k wsbus.adapters.gunicorn.UvicornWorker`",
            extra=about("slow_server"),
        )


def _warn_of_query_token(endpoint: Endpoint) -> None:
    """Warn, once, that logs may hold tokens, unless uvicorn's logs are redacted."""
    config = None
    with suppress(RuntimeError):
        config = _uvicorn_config()
    if config is None:
        endpoint.notices.of_query_token(
            "turn the server's access log off, or call wsbus.adapters.uvicorn.redact(…) with the "
            "name of its logger"
        )
        return
    log = logging.getLogger("uvicorn.error")
    if log.isEnabledFor(logging.INFO) and not is_redacted(log):
        endpoint.notices.of_query_token("wsbus.adapters.uvicorn.redact() takes queries out")


def _uvicorn_config() -> Any:
    """Return uvicorn's configuration, if the running task is one of uvicorn's."""
    task = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    runner = frame.f_locals.get("self") if frame is not None else None
    config = getattr(runner, "config", None)
    return config if type(config).__module__ == "uvicorn.config" else None
