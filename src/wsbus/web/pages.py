"""Pages of wsbus's own, such as the console, as adapters serve them.

Their files come from the package and load nothing from elsewhere. Their policy forbids it, and also
forbids scripts in the markup and markup made from text.

The console and the catalogue stand above the adapters: applications without them load nothing of
them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ..endpoint import Endpoint
from . import asset

__all__ = ["AssetResponse", "MountedFiles", "MountedPage", "PageFiles", "redirect", "response"]

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_INDEX: Final = "index.html"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    # 'self' covers WebSockets to the same host, too (CSP level 3, section 6.7.2.8).
    "connect-src 'self'{more}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_ENDPOINT: Final = b'<meta name="wsbus-endpoint" content="'


class AssetResponse(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class MountedFiles(Protocol):
    """Files under a prefix; :class:`wsbus.catalogue.Catalogue` has some."""

    def page(self, name: str) -> AssetResponse:
        """Return the file of this name, the page itself for the empty one, or a 404."""
        ...

    def redirect(self, prefix: str) -> AssetResponse:
        """Return the redirect from the prefix without a slash at the end to the page."""
        ...


class MountedPage(MountedFiles, Protocol):
    """A page with an endpoint of its own; :class:`wsbus.console.console.Console` is one."""

    @property
    def endpoint(self) -> Endpoint:
        """The page's endpoint, at ``ws`` beside it."""
        ...


class PageFiles:
    """The files of one page, with those that all pages of wsbus share.

    Args:
        folder: Where they are; ``index.html`` is the page itself, and names its endpoint.
        shared: Assets of :mod:`wsbus.web` that are served beside them.
    """

    def __init__(self, folder: Path, shared: Collection[str] = ("wsbus.js", "base.css")) -> None:
        own = {
            path.name: path.read_bytes() for path in folder.iterdir() if path.suffix[1:] in _TYPES
        }
        self._files: Final = own | {name: asset(name).body for name in shared}

    def answer(self, name: str, endpoint: str | None = None) -> AssetResponse:
        """Return the file of this name; the page itself for the empty one; else a 404.

        Args:
            name: The last segment of the path.
            endpoint: The page's endpoint, if it is not the one that the page names: a URL of
                printable ASCII without quotes, angle brackets and white space.
        """
        name = name or _INDEX
        body = self._files.get(name)
        if body is None:
            return AssetResponse(404, {"content-type": _TYPES["txt"]}, b"not found\n")
        if name == _INDEX and endpoint is not None:
            head, _, rest = body.partition(_ENDPOINT)
            body = head + _ENDPOINT + endpoint.encode("ascii") + rest[rest.index(b'"') :]
        return response(name, body, endpoint)


def response(
    name: str, body: bytes, endpoint: str | None = None, *, status: int = 200
) -> AssetResponse:
    """Return an answer with a file, under the policy of all pages.

    Args:
        name: The file's name, whose ending tells its type.
        body: What is in it.
        endpoint: As for :meth:`PageFiles.answer`; the policy lets its host be reached.
        status: The status.
    """
    # All of its host, since the console also connects to the application's endpoints.
    scheme, mark, rest = (endpoint or "").partition("://")
    more = f" {scheme}://{rest.partition('/')[0]}" if mark else ""
    headers = {
        "content-type": _TYPES[name.rpartition(".")[2]],
        "content-security-policy": _POLICY.format(more=more),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
    }
    return AssetResponse(status, headers, body)


def redirect(prefix: str) -> AssetResponse:
    """Return the redirect from a page's path without a slash at the end to the one with it."""
    # Relative, so that it is right wherever an application, or a proxy, has put the prefix.
    return AssetResponse(307, {"location": f"{prefix.rpartition('/')[2]}/"}, b"")
