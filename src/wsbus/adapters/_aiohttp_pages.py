"""Pages and files on aiohttp; for :mod:`.aiohttp`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ..web import ASSETS, asset
from ..web.pages import AssetResponse, MountedFiles

__all__ = ["add_page", "add_web_routes", "as_response"]


def add_page(app: web.Application, files: MountedFiles, prefix: str) -> None:
    """Add the routes of a page and its files."""

    async def page(request: web.Request) -> web.StreamResponse:
        return as_response(files.page(request.match_info.get("name", "")))

    async def to_page(_request: web.Request) -> web.StreamResponse:
        return as_response(files.redirect(prefix))

    if prefix:
        app.router.add_get(prefix, to_page)
    app.router.add_get(f"{prefix}/", page)
    app.router.add_get(f"{prefix}/{{name}}", page)


def as_response(found: AssetResponse) -> web.Response:
    """Return an answer as one of aiohttp."""
    return web.Response(body=found.body, status=found.status, headers=found.headers)


def add_web_routes(app: web.Application, prefix: str = "/wsbus") -> None:
    """Add routes that serve the JavaScript client: ``/wsbus/wsbus.js``; see :mod:`wsbus.web`.

    Args:
        app: The application.
        prefix: Prefix of the paths.
    """
    for name in ASSETS:
        app.router.add_get(f"{prefix}/{name}", _serve_asset(name))


def _serve_asset(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        found = asset(name)
        if found.is_known(request.headers.get("if-none-match")):
            return web.Response(status=304, headers=found.headers)
        return web.Response(body=found.body, headers=found.headers)

    return serve
