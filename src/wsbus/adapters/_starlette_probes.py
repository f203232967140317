"""Probes in Starlette; for :mod:`.starlette`, which has checked that Starlette is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..bus import Bus
from ..web.pages import AssetResponse
from ._probes import probes_of

__all__ = ["probe_routes"]


def probe_routes(bus: Bus, prefix: str = "/-") -> list[Route]:
    """Return routes for the probes of Kubernetes, open to all: ``/-/ready`` and ``/-/live``.

    They ask for :attr:`.Bus.healthy` and :attr:`.Bus.is_running`, and answer 200, or 503 with the
    reason, which names no address.

    Args:
        bus: The bus.
        prefix: Prefix of the paths.

    Raises:
        UsageError: It is not a bus.
    """
    return [
        Route(f"{prefix}/{name}", _on(answer), name=f"wsbus-{name}", include_in_schema=False)
        for name, answer in probes_of(bus).items()
    ]


def _on(answer: Callable[[], AssetResponse]) -> Callable[[Request], Awaitable[Response]]:
    async def probe(_request: Request) -> Response:
        found = answer()
        return Response(found.body, found.status, found.headers)

    return probe
