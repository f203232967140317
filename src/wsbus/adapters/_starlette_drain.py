"""Draining over HTTP in Starlette; for :mod:`.starlette`, which has checked that it is there."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..bus import Bus
from ._draining import Draining
from ._starlette_http import HttpSide

__all__ = ["drain_route"]


def drain_route(
    bus: Bus,
    path: str = "/-/drain",
    *,
    token: str | Collection[str] | None = None,
    window: float = 20.0,
) -> Route:
    """Return a route that drains the bus; the arguments are those of :func:`.asgi.drain_app`."""
    draining = Draining(bus, token, window)

    async def drain(request: Request) -> Response:
        address = None if request.client is None else request.client.host
        found = await draining.answer(request.method, request.headers.items(), address)
        return Response(found.body, found.status, found.headers)

    return Route(path, HttpSide(drain), name="wsbus-drain", include_in_schema=False)
