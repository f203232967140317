"""Makes a client: ``connect`` and its options."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, get_args

from ..core.choices import choice, is_number, shown
from ..core.client.liveness import Liveness
from ..core.client.retry import Retry
from ..core.client.session import ClientSession
from ..core.client.token import TokenUse
from ..core.errors import UsageError
from ..core.instant import Instant
from .address import parse_url
from .client import Client
from .dialects import dialect
from .driver import ClientDriver
from .events import Events
from .settings import OnChange, OpenWire, Settings, TokenIn
from .tokens import TokenSource
from .ways import ClientWay, opener

__all__ = ["Connecting", "connect"]

_RETRY: Final = Retry()
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~\w-]+", re.ASCII)
"""The characters of a name (RFC 9110, section 5.6.2)."""


def connect(
    url: str,
    *,
    token: str | TokenSource | None = None,
    token_in: TokenIn = "message",  # noqa: S107  # where it goes is no token
    token_name: str = "token",  # noqa: S107
    protocol: str = "wsbus.v1",
    way: ClientWay = "websocket",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    retry: Retry = _RETRY,
    ping_interval: float = 15.0,
    ping_timeout: float = 20.0,
    connect_timeout: float = 10.0,
    close_timeout: float = 5.0,
    max_message_bytes: int = 4 << 20,
    on_change: OnChange | None = None,
) -> Connecting:
    """Return a client that connects when the block is entered, or when it is awaited.

    The block begins once the server has accepted the client; at its end the client is closed. In
    between the client reconnects whenever the connection is lost, and subscribes anew. Close a
    client that was awaited with :meth:`.Client.aclose`.

    Args:
        url: The server's address: ``ws://`` or ``wss://``.
        token: A text; or a function, sync or async, that returns it: it is called before every
            connection, and again before the token expires. A sync one runs in a worker thread.
        token_in: Where the token is sent: in a ``message``; in a ``header`` of the handshake
            (``Authorization``) or a ``subprotocol``, which save a round trip; or in the ``query``
            of the address, which servers write to their logs.
        token_name: The query parameter for ``token_in="query"``.
        protocol: The dialect: ``wsbus.v1``, ``wsbus.v1.msgpack`` or ``zigquant-v2``.
        way: ``websocket``; ``http``, for networks that let nothing else through (an event stream,
            or long polls, and a request for each message to the server); or ``either``: HTTP where
            no WebSocket gets through, tried anew for each connection. HTTP needs the extra ``http``
            and ``wsbus.v1``.
        headers: More headers for the handshake, such as ``Cookie`` or ``Origin``.
        tls: Certificates to trust at a ``wss://`` address; None: those that the machine trusts.
        retry: When to reconnect after a connection is lost.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds without a pong until the connection counts as lost.
        connect_timeout: Seconds for a connection to be opened, again for the server's greeting,
            and for a function to return a token.
        close_timeout: Seconds for the server to answer the close frame.
        max_message_bytes: The largest frame that the client reads.
        on_change: Called with each change (:meth:`.Client.changes`), in a task of its own; it may
            be async, and must not block.

    Raises:
        UsageError: An argument is invalid; raised by the call itself.
        ConnectError: No server could be reached, or it does not speak the protocol; raised on
            entering the block, as are the following.
        Unauthenticated: The server refuses the token, or asks for one.
        ConnectionLost: The server closed the connection at once.
    """
    choice(get_args(TokenIn), token_in, "token_in")
    for name, seconds in (("connect_timeout", connect_timeout), ("close_timeout", close_timeout)):
        if not (is_number(seconds) and seconds > 0):
            raise UsageError(f"{name} must be a number of seconds above 0, not {shown(seconds)}")
    if token is not None and not _is_text(token) and not callable(token):
        why = "a token is a text that is not empty, or a function that returns one, not"
        raise UsageError(f"{why} {shown(token)}")
    if not _is_text(token_name):
        raise UsageError(f"token_name is the name of a parameter, not {shown(token_name)}")
    if type(max_message_bytes) is not int or max_message_bytes < 1:
        raise UsageError(
            f"max_message_bytes is a whole number of bytes, not {shown(max_message_bytes)}"
        )
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise UsageError(f"tls is an ssl.SSLContext, not {shown(tls)}")
    if not isinstance(retry, Retry):
        raise UsageError(f"retry is a Retry, such as Retry(attempts=3), not {shown(retry)}")
    if on_change is not None and not callable(on_change):
        raise UsageError(f"on_change is a function, not {shown(on_change)}")
    choice(get_args(ClientWay), way, "way")
    speaks = dialect(protocol)
    fixed = token if isinstance(token, str) else None
    fetched = token if not isinstance(token, str) else None
    settings = Settings(
        uri=parse_url(url),
        dialect=speaks,
        headers=_checked({} if headers is None else headers),
        tls=tls,
        fetch_token=fetched,
        token_in=token_in,
        token_name=token_name,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        max_message_bytes=max_message_bytes,
        on_change=on_change,
        open_wire=opener(way, speaks),
    )
    in_handshake = token_in != "message"  # noqa: S105
    use = TokenUse(fixed=fixed, is_fetched=fetched is not None, in_handshake=in_handshake)
    liveness = Liveness(ping_interval, ping_timeout)
    return Connecting(settings, partial(_client, token=use, retry=retry, liveness=liveness))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _checked(headers: object) -> dict[str, str]:
    """Return headers that fit into a request; errors do not repeat values, which may be secret."""
    if not isinstance(headers, Mapping):
        raise UsageError(f"headers are a mapping of names to values, not {shown(headers)}")
    for name, value in headers.items():
        if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
            raise UsageError(f"a header has a name such as Cookie, not {shown(name)}")
        if not (isinstance(value, str) and value.isprintable()):
            raise UsageError(f"the value of a header must be printable text; that of {name} is not")
    return dict(headers)


class Connecting(AbstractAsyncContextManager[Client]):
    """A client that is not connected yet: ``async with`` it, or ``await`` it.

    ``async with`` closes the client at the end of its block. After ``await``, close the client with
    :meth:`.Client.aclose`.
    """

    def __init__(self, settings: Settings, make: Callable[[Settings], Client]) -> None:
        self._settings = settings
        self._make: Final = make
        self._client: Client | None = None

    def over(self, open_wire: OpenWire, clock: Callable[[], Instant] | None = None) -> Self:
        """Connect by other means than a socket; for tests.

        Args:
            open_wire: Makes each connection.
            clock: Reads both clocks; None: as before.
        """
        own = self._settings
        self._settings = replace(own, open_wire=open_wire, clock=clock or own.clock)
        return self

    async def __aenter__(self) -> Client:
        """Connect."""
        if self._client is not None:
            raise UsageError("a connection is made once; call connect() again for another")
        client = self._client = self._make(self._settings)
        await client.open()
        return client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        if self._client is not None:
            await self._client.aclose()

    def __await__(self) -> Generator[Any, Any, Client]:
        """Connect; the caller closes the client."""
        return self.__aenter__().__await__()


def _client(settings: Settings, *, token: TokenUse, retry: Retry, liveness: Liveness) -> Client:
    session = ClientSession[Events[Any]](
        token=token,
        retry=retry,
        liveness=liveness,
        greets=settings.dialect.greets,
        connect_timeout=settings.connect_timeout,
        measure=settings.dialect.measure,
    )
    return Client(ClientDriver(settings, session))
