"""Options for `uvicorn <https://uvicorn.dev>`_, and functions that serve an application on it.

A script of its own runs an application to the end with :func:`serve`::

    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    asyncio.run(serve(app, endpoint, port=8000, ready=print))

Everything else that starts uvicorn passes :func:`uvicorn_options`, or at least
``ws=WebSocketProtocol`` and ``http=HTTPProtocol``: on the command line,
``--ws wsbus.adapters.uvicorn:WebSocketProtocol --http wsbus.adapters.uvicorn:HTTPProtocol``.

Needs the extra ``starlette``.
"""

from __future__ import annotations

from .._extras import missing_extra

try:
    import h11 as _h11  # noqa: F401  # uvicorn brings it
    import uvicorn as _uvicorn  # noqa: F401  # what the extra brings
    import websockets as _websockets  # noqa: F401  # the same
except ModuleNotFoundError as _exc:
    raise missing_extra("wsbus.adapters.uvicorn", "starlette", _exc) from None

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final

import uvicorn

from ..bus import Bus
from ..endpoint import Endpoint
from ._endpoint import endpoint_of
from ._logs import RedactQuery, redact
from ._uvicorn_http import HTTPProtocol
from ._uvicorn_ws import WebSocketProtocol

__all__ = [
    "HTTPProtocol",
    "RedactQuery",
    "WebSocketProtocol",
    "address",
    "listen",
    "redact",
    "serve",
    "serving",
    "uvicorn_options",
]


# --- options ---------------------------------------------------------------------------------


def uvicorn_options(endpoint: Bus | Endpoint) -> dict[str, Any]:
    """Return the options for ``uvicorn.run`` or ``uvicorn.Config`` that suit an endpoint.

    Messages are bounded before they are in memory. uvicorn does not compress, which costs memory
    and time per connection; an endpoint with ``compression=`` does. uvicorn's own keepalive (20 s)
    is on where wsbus does not close silent
    connections. A socket that sends no complete request is freed after 10 s
    (:data:`HTTPProtocol`). There is no access log, which would hold the tokens of query strings.
    The shutdown does not wait without end for a peer that does not read. The protocol class is
    :class:`WebSocketProtocol`; ``| {"ws": "auto"}`` selects uvicorn's own. Where the endpoint takes
    tokens from the query, queries are removed from uvicorn's logs from now on (:func:`redact`).

    Args:
        endpoint: The endpoint; of several, the one with the largest messages.
    """
    endpoint = endpoint_of(endpoint)
    if endpoint.query_token is not None:
        redact()
    keepalive = 20.0 if endpoint.heartbeat.timeout is None else None
    return {
        "http": HTTPProtocol,
        "ws": WebSocketProtocol,
        "ws_max_size": endpoint.limits.max_message_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": keepalive,
        "ws_ping_timeout": keepalive,
        "timeout_graceful_shutdown": 10,
        "access_log": False,
    }


# --- running ---------------------------------------------------------------------------------


async def serve(
    app: Any,
    endpoint: Endpoint,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; then send all clients what they are owed, and close with 1001.

    Call it in the main thread.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options are made for it.
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.
        ready: Called with ``host:port`` once the server accepts connections.
        **options: As for :func:`serving`.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
        RuntimeError: The application did not start.
    """
    with listen(host, port) as listener, _stop_by_signal() as stop:
        async with serving(app, endpoint, listener, **options):
            if ready is not None:
                ready(address(listener))
            await stop.wait()


@contextmanager
def _stop_by_signal() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT and SIGTERM set, until the context ends."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = signal.SIGINT, signal.SIGTERM
    try:
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # Windows' event loops have no signal handlers.
        former = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
            for number in numbers
        }
        try:
            yield stop
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        return
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def serving(
    app: Any, endpoint: Endpoint, listener: socket.socket, **options: Any
) -> AsyncIterator[None]:
    """Serve while the context is open; at its end send all clients what they are owed, and 1001.

    It does not configure logging; uvicorn logs nothing below WARNING, and query strings are
    redacted.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options are made for it.
        listener: The listening socket; see :func:`listen`.
        **options: For ``uvicorn.Config``, in place of those.

    Raises:
        RuntimeError: The application did not start.
    """
    redact()
    quiet: dict[str, Any] = {"log_config": None, "log_level": "warning", "lifespan": "on"}
    quiet["timeout_graceful_shutdown"] = (
        2  # Connections that are left then were drained, and do not read.
    )
    server = _Server(uvicorn.Config(app, **uvicorn_options(endpoint) | quiet | options), endpoint)
    task = asyncio.create_task(server.serve([listener]))
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            raise RuntimeError("the application did not start; uvicorn's log says why")
        yield
    finally:
        up.cancel()
        server.should_exit = True
        await task


def listen(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Open a listening socket.

    Args:
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    # Accepted sockets inherit it. asyncio sets it only for sockets that name their protocol, which
    # this one does not; without it a response of two writes takes 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """Return the address of a listening socket, as ``host:port``."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, endpoint: Endpoint) -> None:
        super().__init__(config)
        self.up: Final = asyncio.Event()
        self._endpoint: Final = endpoint

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # Signals belong to the owner of the process.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.drain()  # While the bus runs: all clients get what they are owed.
        await super().shutdown(sockets)
