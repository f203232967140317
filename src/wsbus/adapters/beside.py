"""Serve a bus beside an ASGI application that cannot mount it, such as Django's or Quart's.

::

    application = beside(get_asgi_application(), "/ws", bus)

Frameworks that can mount an ASGI application, or have an adapter, need none of this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..bus import Bus
from ..core.errors import UsageError
from ..endpoint import Endpoint, Host
from ..server.host import BusHost
from . import asgi
from ._asgi import ASGIMessage, ASGIReceive, ASGISend
from ._endpoint import endpoint_of

__all__ = ["Beside", "beside"]

_ENDS: Final = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class Beside:
    """An ASGI application; made by :func:`beside`."""

    __slots__ = ("_endpoint", "_other", "_path", "_sockets")

    def __init__(self, other: Callable[..., Awaitable[Any]], path: str, endpoint: Endpoint) -> None:
        self._other: Final = other
        self._path: Final = path
        self._endpoint: Final = endpoint
        self._sockets = asgi.app(endpoint, autostart=True)

    async def __call__(self, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        """Serve the path, and pass everything else to the other application."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["path"].removeprefix(scope.get("root_path", "")) == self._path:
            await self._sockets(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    async def _live(self, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        """Run the bus around the lifespan of the other application, or alone if it has none."""
        around = _Around(self._endpoint.host, receive, send)
        # What the server has stopped stays stopped: no client starts it again.
        self._sockets = asgi.app(self._endpoint)
        try:
            await self._other(scope, around.receive, around.send)
        except Exception:
            if around.was_asked:
                raise
        finally:
            await around.stop()
        if (
            not around.was_asked
        ):  # Applications without a lifespan: Django raises at once, others return.
            await self._sockets(scope, receive, send)


class _Around:
    """A lifespan's two callables, with the bus started before and stopped after the other one."""

    __slots__ = ("_host", "_is_ours", "_receive", "_send", "was_asked")

    def __init__(self, host: Host, receive: ASGIReceive, send: ASGISend) -> None:
        self._host: Final = host
        self._receive: Final = receive
        self._send: Final = send
        self._is_ours = False
        self.was_asked = False

    async def receive(self) -> ASGIMessage:
        message = await self._receive()
        if not self.was_asked:
            self.was_asked = True
            if isinstance(self._host, BusHost) and not self._host.runs_here():
                await self._host.start()
                self._is_ours = True
        return message

    async def send(self, message: ASGIMessage) -> None:
        if message["type"] in _ENDS:
            await self.stop()
        await self._send(message)

    async def stop(self) -> None:
        if self._is_ours and isinstance(self._host, BusHost) and self._host.is_running:
            await self._host.stop()


def beside(other: Callable[..., Awaitable[Any]], path: str, endpoint: Bus | Endpoint) -> Beside:
    """Return an ASGI application that serves the endpoint at one path, and ``other`` elsewhere.

    The bus starts before the other application does, and stops after it. Where the server has no
    lifespan (daphne), the bus starts with its first client, see :func:`.asgi.app`.

    Args:
        other: The application, called for all other paths and for its lifespan.
        path: Where WebSockets connect; exactly this one, below the server's ``root_path``.
        endpoint: The endpoint; a bus means its default endpoint.

    Raises:
        UsageError: The path does not begin with a slash, or there is no endpoint.
    """
    if not path.startswith("/"):
        raise UsageError(f"a path begins with a slash: beside(application, '/{path}', bus)")
    return Beside(other, path, endpoint_of(endpoint))
