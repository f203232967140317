"""The agreements with clients about permessage-deflate, for adapters built on `websockets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

from ..bus import Bus
from ..endpoint import Endpoint
from ._endpoint import endpoint_of

__all__ = ["agreements", "window_bits"]

_CLIENT_BITS: Final = 12
"""The window that clients are asked to keep to, where they offer that: 4 KiB."""


def agreements(endpoint: Bus | Endpoint) -> list[ServerExtensionFactory]:
    """Return the extensions that an endpoint agrees on: permessage-deflate, if it compresses.

    Neither side refers to earlier messages, so that the server keeps no window for a connection.
    """
    if endpoint_of(endpoint).deflate is None:
        return []
    return [
        ServerPerMessageDeflateFactory(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            client_max_window_bits=_CLIENT_BITS,
        )
    ]


def window_bits(extensions: Sequence[Any]) -> int:
    """Return the window that was agreed on for the server; 0: nothing is compressed."""
    found = [each for each in extensions if isinstance(each, PerMessageDeflate)]
    return found[0].local_max_window_bits if found else 0
