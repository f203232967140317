"""Pages and files on ASGI; for :mod:`.asgi`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..core.errors import UsageError
from ..web.pages import AssetResponse, MountedFiles
from ._asgi import ASGIMessage, ASGIReceive, ASGISend
from ._asgi_http import respond_with

__all__ = ["catalogue_app"]

_NOT_GET = AssetResponse(405, {"allow": "GET, HEAD"}, b"")


def catalogue_app(
    catalogue: MountedFiles,
) -> Callable[[ASGIMessage, ASGIReceive, ASGISend], Awaitable[None]]:
    """Return an ASGI application that serves a catalogue of channels and commands.

    Mount it at ``/catalogue`` and all paths below; the page is at ``/catalogue/``.

    Args:
        catalogue: The catalogue.
    """

    async def serve(scope: ASGIMessage, _receive: ASGIReceive, send: ASGISend) -> None:
        if scope["type"] != "http":
            raise UsageError(f"catalogue_app takes HTTP requests only, not {scope['type']}")
        await respond_with(_answer(catalogue, scope), send)

    return serve


def _answer(catalogue: MountedFiles, scope: ASGIMessage) -> AssetResponse:
    if scope["method"] not in {"GET", "HEAD"}:
        return _NOT_GET
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    # Some frameworks leave their prefix in the path, and some do not.
    below = path.removeprefix(root)
    if not below:
        return catalogue.redirect(path or root)
    return catalogue.page(below.rpartition("/")[2])
