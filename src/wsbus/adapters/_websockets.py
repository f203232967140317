"""The parts that the adapters for both servers of `websockets` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response

from ..transport import Handshake, HeaderView, split_list
from ..web import ASSETS, asset
from ._intake import SMALL_FRAGMENT

__all__ = ["handshake_of", "is_small", "web_routes"]


def web_routes(prefix: str = "/wsbus") -> Callable[[Any, Request], Response | None]:
    """Return a ``process_request`` that serves the JavaScript client: ``/wsbus/wsbus.js``.

    All other paths go to the endpoint. The library accepts no method but GET.

    Args:
        prefix: Prefix of the paths.
    """
    names = {f"{prefix}/{name}": name for name in ASSETS}

    def process_request(_connection: Any, request: Request) -> Response | None:
        name = names.get(request.path.partition("?")[0])
        if name is None:
            return None
        found = asset(name)
        headers = Headers(found.headers | {"connection": "close"})
        if found.is_known(request.headers.get("if-none-match")):
            return Response(304, "Not Modified", headers)
        headers["content-length"] = str(len(found.body))
        return Response(200, "OK", headers, found.body)

    return process_request


def is_small(frame: Frame) -> bool:
    """Tell whether a frame keeps the server busy without content."""
    kind = frame.opcode
    if frame.fin and (kind is Opcode.TEXT or kind is Opcode.BINARY):
        return False
    return kind is Opcode.PING or kind is Opcode.PONG or len(frame.data) < SMALL_FRAGMENT


def handshake_of(request: Request, address: Any) -> Handshake:
    """Return the handshake of a request from an address, as the system names it."""
    path, _, query = request.path.partition("?")
    headers = HeaderView(request.headers.raw_items)
    return Handshake(
        path=unquote(path),
        query_string=query,
        headers=headers,
        client=(address[0], address[1]) if isinstance(address, tuple) else None,
        subprotocols=split_list(headers.get("sec-websocket-protocol", "")),
    )
