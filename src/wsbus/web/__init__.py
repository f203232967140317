"""The JavaScript client: ``wsbus.js``, and the functions with which adapters serve it.

The file lies beside this one, with its types (``wsbus.d.ts``) and a ``package.json``. So do
``wsbus-http.js``, which it loads where no WebSocket gets through, ``wsbus-msgpack.js``, the codec
for a client that speaks MessagePack, ``wsbus-presence.js``, which watches the connections on a
channel, and ``wsbus-webrtc.js``, with which a client speaks over a data channel.

::

    Starlette(routes=[websocket_route("/ws", bus), *web_routes("/wsbus")])

    <script type="module">
      import { Client } from "/wsbus/wsbus.js";
    </script>
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ASSETS", "Asset", "asset"]

_TYPES: Final = {
    "wsbus.js": "text/javascript; charset=utf-8",
    "wsbus-http.js": "text/javascript; charset=utf-8",
    "wsbus-msgpack.js": "text/javascript; charset=utf-8",
    "wsbus-presence.js": "text/javascript; charset=utf-8",
    "wsbus-webrtc.js": "text/javascript; charset=utf-8",
    # What the pages of wsbus itself, the demo and the console, share.
    "base.css": "text/css; charset=utf-8",
}

ASSETS: Final = (
    "wsbus.js",
    "wsbus-http.js",
    "wsbus-msgpack.js",
    "wsbus-presence.js",
    "wsbus-webrtc.js",
)
"""The names of the files that adapters serve."""


class Asset(NamedTuple):
    """A file to be served."""

    body: bytes
    content_type: str
    etag: str
    """An entity tag of the body, in its quotes (RFC 9110, section 8.8.3)."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer with or without the body.

        Caches may keep the file, and check each time whether it has changed. Pages of other origins
        may import it: it is public.
        """
        return {
            "content-type": self.content_type,
            "etag": self.etag,
            "cache-control": "no-cache",
            "access-control-allow-origin": "*",
            "x-content-type-options": "nosniff",
        }

    def is_known(self, if_none_match: str | None) -> bool:
        """Tell whether a client has this body already; the answer is then a 304 without a body.

        Args:
            if_none_match: The header's value, if there is one (RFC 9110, section 13.1.2).
        """
        tags = (if_none_match or "").split(",")
        return not {self.etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)


@cache
def asset(name: str) -> Asset:
    """Return a file of :data:`ASSETS`, or ``base.css``, the style sheet of wsbus's own pages.

    It is read once.

    Raises:
        KeyError: There is no such file.
    """
    content_type = _TYPES[name]
    body = Path(__file__).with_name(name).read_bytes()
    return Asset(body, content_type, f'"{sha256(body).hexdigest()[:32]}"')
