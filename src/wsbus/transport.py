"""What an adapter must offer: one socket's I/O, and the handshake that opened it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast, runtime_checkable
from urllib.parse import parse_qsl

from .core.frame import Frame

__all__ = [
    "MAX_HANDSHAKE_BYTES",
    "NO_UPGRADE",
    "Handshake",
    "HeaderView",
    "Transport",
    "WriteNow",
    "encodable",
    "split_list",
]

NO_UPGRADE: Final = (
    "this is a WebSocket; if you asked for one, a proxy between has dropped the header Upgrade"
)
"""The answer to a plain HTTP request for a WebSocket, with 426."""

MAX_HANDSHAKE_BYTES: Final = 16 * 1024
"""The largest :attr:`Handshake.size`; larger ones are refused with 431, whatever the server is.

A connection keeps its handshake for life, and strangers choose how large that is. Node's HTTP
server has the same bound.
"""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The HTTP request that asked for a WebSocket; every word of it is the client's own.

    All texts can be encoded as UTF-8. Where the client sent other bytes, U+FFFD stands for them
    (``/�`` for ``/%FF``), as it does for a lone surrogate.
    """

    path: str
    """Percent-decoded, without the query."""
    query_string: str = field(default="", repr=False)
    """As sent, without the question mark. It may hold a token: never log it."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case; of several with one name, the values joined by commas."""
    client: tuple[str, int] | None = None
    """Address and port of the peer, as the server library sees it."""
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    """What the client offered, in its order. One may hold a token: never log them."""
    path_params: Mapping[str, str] = field(default_factory=dict)
    """What the framework's router found in the path."""
    scope: MutableMapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The ASGI scope, with what middleware has put into it (``session``, ``user``, ``state``,
    ``app``); None where no ASGI server is below. It is the server's own: nothing is copied."""
    request: Any = field(default=None, repr=False, compare=False)
    """The request of aiohttp, with what its middleware has put into it; None elsewhere."""

    def __post_init__(self) -> None:
        """Make its texts such as can be encoded, so that views and logs can show them."""
        put, parameters = object.__setattr__, self.path_params
        put(self, "path", encodable(self.path))
        put(self, "query_string", encodable(self.query_string))
        put(self, "subprotocols", tuple(map(encodable, self.subprotocols)))
        if parameters:
            texts = {encodable(name): encodable(text) for name, text in parameters.items()}
            put(self, "path_params", texts)
        if self.client is not None:
            put(self, "client", (encodable(self.client[0]), self.client[1]))
        if not isinstance(self.headers, HeaderView):
            put(self, "headers", HeaderView(self.headers.items))

    @property
    def size(self) -> int:
        """Bytes of path, query and headers, with 32 more for each header and subprotocol.

        RFC 9113 (6.5.2) counts headers so: what is small costs more memory than its bytes.
        """
        target = len(self.path) + len(self.query_string)
        return target + cast("HeaderView", self.headers).size() + 32 * len(self.subprotocols)

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

    async def wait_writable(self) -> None:
        """Wait until :meth:`write_now` would not block.

        Raises:
            TransportClosed: Nobody can be reached any more.
        """
        ...

    def unsent(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        ...


class HeaderView(Mapping[str, str]):
    """Headers as some library holds them, by lower-case name; nothing is copied.

    Idle connections are many, and keep their handshakes. Values of one name are joined (RFC 9110,
    section 5.3).

    Args:
        items: Returns names, in any case, and values, in order.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._items: Final = items

    def __getitem__(self, name: str) -> str:
        found = [value for key, value in self._items() if encodable(key).lower() == name]
        if not found:
            raise KeyError(name)
        return encodable(", ".join(found))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(encodable(key).lower() for key, _ in self._items()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def size(self) -> int:
        """Return the bytes of all names and values, with 32 more for each."""
        return sum(len(name) + len(value) + 32 for name, value in self._items())

    def __repr__(self) -> str:
        return f"<HeaderView {', '.join(self)}>"  # Values may be secrets.


_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Return the text with U+FFFD for what UTF-8 cannot encode.

    Libraries decode a client's bytes with ``surrogateescape``, or as they are written in a path.
    """
    return text if text.isascii() else _SURROGATES.sub("�", text)


def split_list(value: str) -> tuple[str, ...]:
    """Return the elements of a comma-separated header (RFC 9110, section 5.6.1)."""
    return tuple(element for part in value.split(",") if (element := part.strip()))
