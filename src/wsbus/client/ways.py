"""The ways of a client to its server: a WebSocket, HTTP, or whichever gets through."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from anyio import move_on_after
from websockets.uri import WebSocketURI

from ..core.client.retry import Advice
from ..core.errors import ConnectError, Unauthenticated, UsageError
from .address import DialFailed
from .dialects import ClientDialect
from .settings import ClientWire, OpenWire
from .socket import Wire

__all__ = ["ClientWay", "opener"]

ClientWay: TypeAlias = Literal["websocket", "http", "either"]
"""The transport of a connection; ``either``: HTTP where no WebSocket gets through."""

_PATIENCE: Final = 5.0
"""Seconds for a WebSocket, where HTTP is another way: a proxy may swallow a handshake."""


def opener(way: ClientWay, speaks: ClientDialect) -> OpenWire:
    """Return what opens connections.

    Raises:
        UsageError: HTTP does not carry the dialect.
        ImportError: The extra ``http`` is not installed.
    """
    if way == "websocket":
        return Wire.open
    if speaks.name != "wsbus.v1":
        raise UsageError(f"HTTP carries wsbus.v1, not {speaks.name}")
    from .http import HttpWire  # needs an extra

    if way == "http":
        return HttpWire.open

    async def open_either(
        uri: WebSocketURI,
        speaks: ClientDialect,
        *,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        max_bytes: int,
    ) -> ClientWire:
        refused = DialFailed(ConnectError("no WebSocket gets through"), Advice.NOW)
        with move_on_after(_PATIENCE):
            try:
                return await Wire.open(
                    uri,
                    speaks,
                    subprotocols=subprotocols,
                    headers=headers,
                    tls=tls,
                    max_bytes=max_bytes,
                )
            except DialFailed as exc:
                if isinstance(exc.error, Unauthenticated):
                    raise
                refused = exc
        try:
            return await HttpWire.open(
                uri,
                speaks,
                subprotocols=subprotocols,
                headers=headers,
                tls=tls,
                max_bytes=max_bytes,
            )
        except DialFailed as exc:
            raise exc if isinstance(exc.error, Unauthenticated) else refused from None

    return open_either
