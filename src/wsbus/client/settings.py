"""The settings of a client, and what it needs of a connection."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from anyio import current_time
from websockets.uri import WebSocketURI

from ..core.instant import Instant
from .changes import Change
from .dialects import ClientDialect
from .socket import Wire
from .tokens import TokenSource

__all__ = ["ClientWire", "OnChange", "OpenWire", "Settings", "TokenIn", "read_loop_clock"]

OnChange: TypeAlias = Callable[[Change], Awaitable[None] | None]

TokenIn: TypeAlias = Literal["message", "header", "subprotocol", "query"]
"""The place in which a token is sent."""


class ClientWire(Protocol):
    """One connection, as the driver of a client uses it; :class:`.Wire` is that over a socket."""

    async def receive(self) -> list[str | bytes]:
        """Wait for messages, at least one.

        Raises:
            TransportClosed: The connection has ended.
        """
        ...

    def send(self, message: bytes) -> None:
        """Send one message without waiting. After the end of the connection it does nothing."""
        ...

    def hang_up(self, code: int, reason: str) -> None:
        """Send a close frame; :meth:`receive` raises once the server has answered it."""
        ...

    async def run_writer(self) -> None:
        """Write what was sent, until the connection breaks."""
        ...

    async def finish(self) -> None:
        """Give the server a moment to end the connection on its side."""
        ...

    async def abort(self) -> None:
        """End the connection at once."""
        ...


class OpenWire(Protocol):
    """Connects to a server, and performs the handshake; :meth:`.Wire.open` is one."""

    async def __call__(
        self,
        uri: WebSocketURI,
        speaks: ClientDialect,
        *,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        max_bytes: int,
    ) -> ClientWire:
        """Connect, once.

        Raises:
            DialFailed: It failed; the error says why.
        """
        ...


def read_loop_clock() -> Instant:
    """Read the clock of the event loop, and the wall clock."""
    return Instant(current_time(), time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of :func:`wsbus.client.connecting.connect`."""

    uri: WebSocketURI
    dialect: ClientDialect
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    fetch_token: TokenSource | None
    token_in: TokenIn
    token_name: str
    """The query parameter's name."""
    connect_timeout: float
    close_timeout: float
    max_message_bytes: int
    on_change: OnChange | None
    open_wire: OpenWire = Wire.open
    """Makes each connection."""
    clock: Callable[[], Instant] = read_loop_clock
