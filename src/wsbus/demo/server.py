"""Runs the demo's application under uvicorn, quietly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn

from wsbus.adapters.asgi import redact, uvicorn_options

from .app import app, endpoint

__all__ = ["address", "listen", "run", "running"]


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to serve on, so that a port that is taken is known before anything runs.

    Args:
        host: A name or an address, of IPv4 or IPv6.
        port: 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, sockaddr = found[0]
    return socket.create_server(sockaddr[:2], family=family)


def address(listener: socket.socket) -> str:
    """Return the URL of the page."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        _server().run(sockets=[listener])


@asynccontextmanager
async def running(listener: socket.socket) -> AsyncIterator[None]:
    """Serve as long as the context is open."""
    server = _server()
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await endpoint.drain(deadline=2)  # While there is a bus: all get what they are owed.
        await super().shutdown(sockets)


def _server() -> uvicorn.Server:
    redact()
    # Its warnings are printed plainly: nothing here is configured, and nothing else is said.
    quiet = {"log_config": None, "log_level": "warning", "lifespan": "on"}
    return _Server(uvicorn.Config(app, **quiet | uvicorn_options(endpoint)))
