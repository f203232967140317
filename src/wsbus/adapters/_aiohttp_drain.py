"""Draining over HTTP in aiohttp; for :mod:`.aiohttp`, which has checked that aiohttp is there."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from ..bus import Bus
from ._draining import Draining

__all__ = ["add_drain_route"]


def add_drain_route(
    app: web.Application,
    bus: Bus,
    path: str = "/-/drain",
    *,
    token: str | Collection[str] | None = None,
    window: float = 20.0,
) -> None:
    """Add a route that drains the bus; the arguments are those of :func:`.asgi.drain_app`."""
    draining = Draining(bus, token, window)

    async def drain(request: web.Request) -> web.StreamResponse:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else None
        found = await draining.answer(request.method, request.headers.items(), address)
        return web.Response(body=found.body, status=found.status, headers=found.headers)

    app.router.add_route("*", path, drain)
