"""Probes in aiohttp; for :mod:`.aiohttp`, which has checked that aiohttp is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ..bus import Bus
from ..web.pages import AssetResponse
from ._probes import probes_of

__all__ = ["add_probe_routes"]


def add_probe_routes(app: web.Application, bus: Bus, prefix: str = "/-") -> None:
    """Add routes for the probes of Kubernetes, open to all: ``/-/ready`` and ``/-/live``.

    They ask for :attr:`.Bus.healthy` and :attr:`.Bus.is_running`, and answer 200, or 503 with the
    reason, which names no address.

    Args:
        app: The application.
        bus: The bus.
        prefix: Prefix of the paths.

    Raises:
        UsageError: It is not a bus.
    """
    for name, answer in probes_of(bus).items():
        app.router.add_get(f"{prefix}/{name}", _on(answer))


def _on(
    answer: Callable[[], AssetResponse],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def probe(_request: web.Request) -> web.StreamResponse:
        found = answer()
        return web.Response(body=found.body, status=found.status, headers=found.headers)

    return probe
