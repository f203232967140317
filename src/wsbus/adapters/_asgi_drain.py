"""Draining over HTTP on ASGI; for :mod:`.asgi`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from ..bus import Bus
from ..core.errors import UsageError
from ._asgi import ASGIMessage, ASGIReceive, ASGISend
from ._asgi_http import respond_with
from ._draining import Draining

__all__ = ["drain_app"]


def drain_app(
    bus: Bus, *, token: str | Collection[str] | None = None, window: float = 20.0
) -> Callable[[ASGIMessage, ASGIReceive, ASGISend], Awaitable[None]]:
    """Return an ASGI application that drains a bus, on any path: see :meth:`.Bus.drain`.

    It answers within ten seconds, when all clients are gone: for Kubernetes' ``preStop``.

    Args:
        bus: The bus.
        token: What a ``POST`` or ``GET`` must have as ``Authorization: Bearer``; or several.
            None: only ``POST`` of a program on the same machine, without a proxy, is accepted.
        window: Seconds over which the clients come again.

    Raises:
        UsageError: An argument is wrong.
    """
    draining = Draining(bus, token, window)

    async def drain(scope: ASGIMessage, _receive: ASGIReceive, send: ASGISend) -> None:
        if scope["type"] != "http":
            raise UsageError(f"drain_app takes HTTP requests only, not {scope['type']}")
        pairs, (address, *_) = scope["headers"], scope.get("client") or (None,)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]
        await respond_with(await draining.answer(scope["method"], headers, address), send)

    return drain
