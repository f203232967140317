"""The console's page: its files, and the headers with which they are served.

The files come from the package and load nothing from elsewhere. Their policy forbids it, and also
forbids scripts in the markup and markup made from text.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from ..web import asset
from ..web.pages import AssetResponse

__all__ = ["answer", "redirect"]

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    # 'self' covers WebSockets to the same host, too (CSP level 3, section 6.7.2.8).
    "connect-src 'self'{more}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_ENDPOINT: Final = b'<meta name="wsbus-endpoint" content="ws"'


def answer(name: str, endpoint: str | None = None) -> AssetResponse:
    """Return the file of this name; the page itself for the empty one; else a 404.

    Args:
        name: The last segment of the path.
        endpoint: The console's endpoint, if it is not beside the page: a URL of printable ASCII
            without quotes, angle brackets and white space.
    """
    name = name or _INDEX
    body = _files().get(name)
    if body is None:
        return AssetResponse(404, {"content-type": "text/plain; charset=utf-8"}, b"not found\n")
    if name == _INDEX and endpoint is not None:
        body = body.replace(_ENDPOINT, _ENDPOINT.replace(b'"ws"', f'"{endpoint}"'.encode("ascii")))
    # All of its host, since the page also connects to the application's endpoints.
    more = "" if endpoint is None else " " + "/".join(endpoint.split("/")[:3])
    headers = {
        "content-type": _TYPES[name.rpartition(".")[2]],
        "content-security-policy": _POLICY.format(more=more),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
    }
    return AssetResponse(200, headers, body)


def redirect(prefix: str) -> AssetResponse:
    """Return the redirect from the page's path without a slash at the end to the one with it."""
    # Relative, so that it is right wherever an application, or a proxy, has put the prefix.
    return AssetResponse(307, {"location": f"{prefix.rpartition('/')[2]}/"}, b"")


@cache
def _files() -> dict[str, bytes]:
    page = Path(__file__).with_name("page")
    found = {path.name: path.read_bytes() for path in page.iterdir() if path.suffix[1:] in _TYPES}
    return found | {name: asset(name).body for name in ("wsbus.js", "base.css")}
