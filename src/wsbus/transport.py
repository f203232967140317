"""The interface of adapters: one socket's I/O, and the handshake that opened it."""

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
    """The HTTP request that asked for a WebSocket; all of it comes from the client.

    All texts can be encoded as UTF-8: U+FFFD replaces other bytes (``/�`` for ``/%FF``) and lone
    surrogates.
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
    """Subprotocols that the client offered, in its order. One may hold a token: never log them."""
    path_params: Mapping[str, str] = field(default_factory=dict)
    """Parameters that the framework's router found in the path."""
    scope: MutableMapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The ASGI scope, with the additions of middleware (``session``, ``user``, ``state``,
    ``app``); None without ASGI. It is the server's own object, not a copy."""
    request: Any = field(default=None, repr=False, compare=False)
    """aiohttp's request, with the additions of its middleware; None without aiohttp."""

    def __post_init__(self) -> None:
        """Replace what UTF-8 cannot encode, so that views and logs can show the texts."""
        put, parameters = object.__setattr__, self.path_params
        put(self, "path", encodable(self.path))
        put(self, "query_string", encodable(self.query_string))
        put(self, "subprotocols", tuple(map(encodable, self.subprotocols)))
        if parameters:
            texts = {encodable(name): encodable(text) for name, text in parameters.items()}
            put(self, "path_params", texts)
        if self.client is not None and encodable(self.client[0]) is not self.client[0]:
            put(self, "client", (encodable(self.client[0]), self.client[1]))
        if not isinstance(self.headers, HeaderView):
            put(self, "headers", HeaderView(self.headers.items))

    @property
    def size(self) -> int:
        """Bytes of path, query and headers, with 32 more for each header and subprotocol.

        RFC 9113 (6.5.2) counts headers like this: a small one costs more memory than its bytes.
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
            TransportClosed: The connection ended, on either side; also promptly after
                :meth:`abort`.
        """
        ...

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send in order; return when the layer below takes more.

        Raises:
            TransportClosed: The connection has ended.
        Cancellation: the connection must be aborted afterwards.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """End the connection with a close frame, or abort it if none can be written.

        Idempotent. It never waits until the transport is writable, and it waits for the peer's
        close frame for a bounded time only.
        """
        ...

    def abort(self) -> None:
        """Free the socket at once; unsent data are lost. Idempotent."""
        ...


@runtime_checkable
class WriteNow(Protocol):
    """The additional methods of a transport that can write without waiting.

    They are looked up once, when the connection is attached. They make fan-out fast: no
    coroutine, no task, one system call for all that a connection is owed in a turn of the loop.

    A transport that has agreed with its peer on permessage-deflate (RFC 7692) says so with one more
    attribute, ``window_bits``: the largest window that the server may use. It is then written
    compressed frames, too, if the endpoint has ``compression=``.
    """

    def write_now(self, wire: bytes) -> None:
        """Write RFC 6455 frames (:attr:`.Frame.wire`), all of them.

        Raises:
            anyio.WouldBlock: The buffer is full; nothing was written.
            TransportClosed: The connection has ended; nothing was written.
        """
        ...

    async def wait_writable(self) -> None:
        """Wait until :meth:`write_now` would not block.

        Raises:
            TransportClosed: The connection has ended.
        """
        ...

    def unsent(self) -> int:
        """Return the bytes written that the operating system has not taken yet."""
        ...


class HeaderView(Mapping[str, str]):
    """Headers by lower-case name, over a library's own object; nothing is copied.

    Many idle connections keep their handshakes. Values of one name are joined (RFC 9110,
    section 5.3).

    Args:
        items: Returns pairs of a name, in any case, and a value, in order.
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

    Libraries decode a client's bytes with ``surrogateescape``, or leave surrogates from a path.
    """
    return text if text.isascii() else _SURROGATES.sub("�", text)


def split_list(value: str) -> tuple[str, ...]:
    """Return the elements of a comma-separated header (RFC 9110, section 5.6.1)."""
    return tuple(element for part in value.split(",") if (element := part.strip()))
