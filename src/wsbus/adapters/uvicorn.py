"""Run an ASGI application under `uvicorn <https://uvicorn.dev>`_, as a script does.

::

    app = Starlette(routes=[websocket_route("/ws", endpoint)], lifespan=lifespan(bus))
    asyncio.run(serve(app, endpoint, port=8000, ready=print))

Needs the extra ``starlette``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn

from ..endpoint import Endpoint
from .asgi import redact, uvicorn_options

__all__ = ["serve"]


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

    Nothing is configured for logging, uvicorn says nothing below WARNING, and query strings are
    redacted. To be called in the main thread.

    Args:
        app: The application, whose lifespan runs the bus.
        endpoint: Drained before the server stops; uvicorn's options suit it.
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.
        ready: Called with ``host:port`` once connections are taken.
        **options: For ``uvicorn.Config``, instead of those.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    redact()
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listener = socket.create_server(found[0][4][:2], family=found[0][0], backlog=2048)
    # Inherited by what is accepted: asyncio does it only for sockets that name their protocol, as
    # this one does not, and without it a response of two writes takes 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    quiet = {"log_config": None, "log_level": "warning", "lifespan": "on"}
    config = uvicorn.Config(app, **uvicorn_options(endpoint) | quiet | options)
    await _Server(config, endpoint, ready).serve([listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, endpoint: Endpoint, ready: Callable[[str], object] | None
    ) -> None:
        super().__init__(config)
        self._endpoint: Final = endpoint
        self._ready: Final = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises them again in the end, and then the process does not exit with 0.
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready is not None and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.drain()  # While there is a bus: all get what they are owed.
        await super().shutdown(sockets)
