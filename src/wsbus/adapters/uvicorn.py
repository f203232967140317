"""Run an ASGI application under `uvicorn <https://uvicorn.dev>`_, as a script does.

::

    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    asyncio.run(serve(app, endpoint, port=8000, ready=print))

Needs the extra ``starlette``.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import uvicorn

from ..endpoint import Endpoint
from .asgi import redact, uvicorn_options

__all__ = ["address", "listen", "serve", "serving"]


async def serve(
    app: Any,
    endpoint: Endpoint,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; then give everybody what they are owed, and 1001, and return.

    To be called in the main thread.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options suit it.
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.
        ready: Called with ``host:port`` once connections are taken.
        **options: As for :func:`serving`.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
        RuntimeError: The application did not start.
    """
    stop = asyncio.Event()
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    with listen(host, port) as listener:
        for number in numbers:
            loop.add_signal_handler(number, stop.set)
        try:
            async with serving(app, endpoint, listener, **options):
                if ready is not None:
                    ready(address(listener))
                await stop.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@asynccontextmanager
async def serving(
    app: Any, endpoint: Endpoint, listener: socket.socket, **options: Any
) -> AsyncIterator[None]:
    """Serve as long as the context is open; at its end give everybody what they are owed, and 1001.

    Nothing is configured for logging, uvicorn says nothing below WARNING, and query strings are
    redacted.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options suit it.
        listener: Where connections come in; see :func:`listen`.
        **options: For ``uvicorn.Config``, instead of those.

    Raises:
        RuntimeError: The application did not start.
    """
    redact()
    quiet: dict[str, Any] = {"log_config": None, "log_level": "warning", "lifespan": "on"}
    quiet["timeout_graceful_shutdown"] = 2  # Who is left then was drained, and does not read.
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
    """Open a socket to serve on.

    Args:
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    # Inherited by what is accepted: asyncio does it only for sockets that name their protocol, as
    # this one does not, and without it a response of two writes takes 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """Return where it listens, as ``host:port``."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, endpoint: Endpoint) -> None:
        super().__init__(config)
        self.up: Final = asyncio.Event()
        self._endpoint: Final = endpoint

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # They are the business of whoever runs the process.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.drain()  # While there is a bus: all get what they are owed.
        await asyncio.sleep(0)
        for connection in [c for c in self.server_state.connections if _is_closing(c)]:
            connection.transport.abort()
        await asyncio.sleep(0)  # For the sockets to be lost,
        await asyncio.sleep(0)  # and uvicorn to hear of it.
        await super().shutdown(sockets)


def _is_closing(connection: Any) -> bool:
    """Tell whether the peer has closed it, and does not read the answer.

    uvicorn (0.54) would send another close frame, and its shutdown fail with InvalidState.
    """
    state = getattr(getattr(connection, "conn", None), "state", None)
    is_closing = getattr(state, "name", "") == "CLOSING"
    return is_closing and not getattr(connection, "close_sent", False)
