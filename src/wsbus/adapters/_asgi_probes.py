"""Probes on plain ASGI; for :mod:`.asgi`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ..bus import Bus
from ..core.errors import UsageError
from ..web.pages import AssetResponse
from ._asgi import ASGIMessage, ASGIReceive, ASGISend
from ._asgi_http import respond_with
from ._probes import probes_of

__all__ = ["probe_app"]

_NONE: Final = AssetResponse(404, {"Content-Type": "text/plain"}, b"ask for ready or live")
_ALLOW: Final = {"Content-Type": "text/plain", "Allow": "GET, HEAD"}
_WRONG: Final = AssetResponse(405, _ALLOW, b"ask with GET")


def probe_app(bus: Bus) -> Callable[[ASGIMessage, ASGIReceive, ASGISend], Awaitable[None]]:
    """Return an ASGI application that answers the probes of Kubernetes, open to all.

    A path that ends with ``/ready`` asks for :attr:`.Bus.healthy`, one that ends with ``/live`` for
    :attr:`.Bus.is_running`. The answer is 200, or 503 with the reason; it names no address.

    Args:
        bus: The bus.

    Raises:
        UsageError: It is not a bus.
    """
    probes = probes_of(bus)

    async def probe(scope: ASGIMessage, _receive: ASGIReceive, send: ASGISend) -> None:
        if scope["type"] != "http":
            raise UsageError(f"probe_app takes HTTP requests only, not {scope['type']}")
        answer = probes.get(scope["path"].rpartition("/")[2], lambda: _NONE)
        await respond_with(answer() if scope["method"] in {"GET", "HEAD"} else _WRONG, send)

    return probe
