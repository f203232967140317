"""What an adapter must offer: one socket's I/O, and the handshake that opened it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from urllib.parse import parse_qsl

from .core.frame import Frame

__all__ = ["Handshake", "Transport", "WriteNow", "join_headers", "split_list"]


@dataclass(frozen=True, slots=True)
class Handshake:
    """The HTTP request that asked for a WebSocket; every word of it is the client's own."""

    path: str
    """Percent-decoded, without the query."""
    query_string: str = field(default="", repr=False)
    """As sent, without the question mark. It may hold a token: never log it."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case; of several with one name, the values joined by commas."""
    client: tuple[str, int] | None = None
    """Address and port of the peer, as the server library sees it."""
    subprotocols: tuple[str, ...] = ()
    """What the client offered, in its order."""
    path_params: Mapping[str, str] = field(default_factory=dict)
    """What the framework's router found in the path."""

    def query(self, name: str) -> str | None:
        """Return the first query parameter of this name, percent-decoded, or None."""
        pairs = parse_qsl(self.query_string, keep_blank_values=True)
        return next((value for key, value in pairs if key == name), None)


class Transport(Protocol):
    """One WebSocket's I/O.

    Guarantees: frames arrive in the order sent. :meth:`receive` has one caller, and one task at
    a time sends.
    """

    async def receive(self) -> str | bytes:
        """Wait for the next message.

        Raises:
            TransportClosed: The connection ended, whoever ended it; also promptly after
                :meth:`abort`.
        """
        ...

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send in order; return when the layer below has room for more.

        Raises:
            TransportClosed: Nobody can be reached any more.
        Cancellation: the connection must be aborted afterwards.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """End the connection with a close frame; abort where none can be written.

        Idempotent. It never waits for room, and for the peer's close frame only a bounded time.
        """
        ...

    def abort(self) -> None:
        """Free the socket now; what was not sent is lost. Idempotent."""
        ...


@runtime_checkable
class WriteNow(Protocol):
    """What a transport offers in addition if it can write without waiting.

    Looked up once, when the connection is attached. It is what makes fan-out fast: no coroutine,
    no task, one system call for all that a connection owes in a turn of the event loop.
    """

    def write_now(self, wire: bytes) -> None:
        """Write RFC 6455 frames (:attr:`.Frame.wire`), all of them.

        Raises:
            anyio.WouldBlock: There is no room; nothing was written.
            TransportClosed: Nobody can be reached any more; nothing was written.
        """
        ...

    async def room(self) -> None:
        """Wait until :meth:`write_now` would not block.

        Raises:
            TransportClosed: Nobody can be reached any more.
        """
        ...

    def unsent(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        ...


def join_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by lower-case name; values of one name joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for name, value in items:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def split_list(value: str) -> tuple[str, ...]:
    """Return the elements of a comma-separated header (RFC 9110, section 5.6.1)."""
    return tuple(element for part in value.split(",") if (element := part.strip()))
