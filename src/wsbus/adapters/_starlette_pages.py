"""Pages and files on Starlette; for :mod:`.starlette`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..web import ASSETS, asset
from ..web.pages import AssetResponse, MountedFiles
from ._starlette_http import HttpSide

__all__ = ["as_response", "get_route", "page_routes", "web_routes"]


def get_route(path: str, respond: Callable[[Request], Awaitable[Response]], name: str) -> Route:
    """Return a route for ``GET`` and ``HEAD``."""
    return Route(path, HttpSide(respond), methods=["GET"], name=name, include_in_schema=False)


def page_routes(files: MountedFiles, prefix: str, name: str) -> list[Route]:
    """Return the routes of a page and its files; ``name`` begins the name of each."""

    async def page(request: Request) -> Response:
        return as_response(files.page(request.path_params.get("name", "")))

    async def to_page(_request: Request) -> Response:
        return as_response(files.redirect(prefix))

    return [
        *([get_route(prefix, to_page, f"{name}-redirect")] if prefix else []),
        get_route(f"{prefix}/", page, f"{name}-page"),
        get_route(f"{prefix}/{{name}}", page, f"{name}-file"),
    ]


def as_response(found: AssetResponse) -> Response:
    """Return an answer as one of Starlette."""
    return Response(found.body, found.status, found.headers)


def web_routes(prefix: str = "/wsbus") -> list[Route]:
    """Return routes that serve the JavaScript client: ``/wsbus/wsbus.js``; see :mod:`wsbus.web`.

    Args:
        prefix: Prefix of the paths.
    """
    return [get_route(f"{prefix}/{name}", _serve_asset(name), name) for name in ASSETS]


def _serve_asset(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        found = asset(name)
        if found.is_known(request.headers.get("if-none-match")):
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)  # uvicorn omits the body for HEAD.

    return serve
