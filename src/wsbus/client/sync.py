"""The client for code without an event loop: Celery, Django, scripts, notebooks.

::

    with connect("wss://example.org/ws", token=token) as client:
        client.publish("orders.42", {"state": "paid"})
        with client.subscribe("prices.*", wait=10) as events:
            for event in events:
                print(event.channel, event.data)

It runs :mod:`wsbus.client` on an event loop in a thread of its own. Any thread may use it.
Options, results and errors are those of the asynchronous client.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from ssl import SSLContext
from typing import Any, Final, Self, TypeVar, overload

from ..core.client.retry import Retry
from ..core.errors import UsageError
from ..core.events import Position
from ..core.families import Compact
from ..core.overflow import Overflow
from .connecting import Connecting
from .connecting import connect as connect_async
from .portal import Portal
from .settings import OnChange, TokenIn
from .sync_calls import SyncCaller
from .sync_events import SyncEvents
from .sync_streams import SyncClientStream
from .sync_watches import SyncPresenceWatch
from .tokens import TokenSource
from .ways import ClientWay

__all__ = ["SyncClient", "SyncClientStream", "SyncEvents", "SyncPresenceWatch", "connect"]

T = TypeVar("T")
_RETRY: Final = Retry()


def connect(
    url: str,
    *,
    token: str | TokenSource | None = None,
    token_in: TokenIn = "message",  # noqa: S107  # where it goes is no token
    token_name: str = "token",  # noqa: S107
    protocol: str = "wsbus.v1",
    way: ClientWay = "websocket",
    headers: Mapping[str, str] | None = None,
    tls: SSLContext | None = None,
    retry: Retry = _RETRY,
    ping_interval: float = 15.0,
    ping_timeout: float = 20.0,
    connect_timeout: float = 10.0,
    close_timeout: float = 5.0,
    max_message_bytes: int = 4 << 20,
    on_change: OnChange | None = None,
) -> SyncClient:
    """Connect to a server; return once it has accepted the client.

    Use it as ``with connect(…) as client:``, or close the client with :meth:`SyncClient.close`.
    After a fork, connect anew in the child.

    Args:
        url: The address. For all arguments see :func:`wsbus.client.connecting.connect`.
        token: A text or a function; a function runs in the client's thread, or a worker thread.
        token_in: Where the token is sent.
        token_name: The query parameter for ``token_in="query"``.
        protocol: The dialect.
        way: Over a WebSocket, or over HTTP.
        headers: More headers for the handshake.
        tls: The certificates to trust.
        retry: When to reconnect after a connection is lost.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds without a pong until the connection counts as lost.
        connect_timeout: Seconds for a connection to be opened.
        close_timeout: Seconds for the server to answer the close frame.
        max_message_bytes: The largest frame that the client reads.
        on_change: Called with each change, in the client's thread; it must not block.

    Raises:
        UsageError: An argument is invalid.
        RemoteError: It failed; the error says why.
    """
    return SyncClient(
        connect_async(
            url,
            token=token,
            token_in=token_in,
            token_name=token_name,
            protocol=protocol,
            way=way,
            headers=headers,
            tls=tls,
            retry=retry,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            max_message_bytes=max_message_bytes,
            on_change=on_change,
        )
    )


class SyncClient(SyncCaller):
    """A client of one server, across reconnects; made by :func:`wsbus.client.sync.connect`."""

    def __init__(self, connecting: Connecting) -> None:
        portal = Portal()
        with ExitStack() as stack:
            stack.callback(portal.close)
            super().__init__(portal, stack.enter_context(portal.enter(connecting)))
            self._stack: Final = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._client)[1:]}"

    def __enter__(self) -> Self:
        """Use it in a ``with`` block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the client."""
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and the server has accepted the token, if any."""
        return self._client.is_connected

    @property
    def connection_id(self) -> str | None:
        """The server's name for the connection; None without one, or in ``zigquant-v2``."""
        return self._client.connection_id

    @property
    def subject(self) -> str | None:
        """The identity's subject according to the server; None if there is none, or unknown."""
        return self._client.subject

    @overload
    def subscribe(
        self,
        pattern: str,
        *,
        wait: float | None = None,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> SyncEvents[Any]: ...

    @overload
    def subscribe(
        self,
        pattern: str,
        payload: type[T],
        *,
        wait: float | None = None,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> SyncEvents[T]: ...

    @overload
    def subscribe(  # What is no class: a union, say.
        self,
        pattern: str,
        payload: object,
        *,
        wait: float | None = None,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> SyncEvents[Any]: ...

    def subscribe(
        self,
        pattern: str,
        payload: Any = Any,
        *,
        wait: float | None = None,
        buffer: int = 1000,
        buffer_bytes: int = 4 << 20,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> SyncEvents[Any]:
        """Return what matches ``pattern``: use it in a ``with`` block, and iterate.

        Args:
            pattern: A channel, or a pattern of channels.
            payload: The type of the data; by default JSON as it is.
            wait: Seconds without an event after which the iteration ends; None: no limit.
            buffer: Largest number of events that wait to be taken.
            buffer_bytes: Largest size of their data, in bytes.
            overflow: What happens when the buffer is full.
            timeout: Seconds for the server to confirm it.
            since: Where it begins, as in :meth:`.Client.subscribe`.
            max_rate: Events of one key a second at most, as there.

        Raises:
            UsageError: The pattern or an option is invalid.
        """
        if wait is not None and not wait > 0:
            raise UsageError("the time to wait for an event must be positive seconds, or None")
        events = self._client.subscribe(
            pattern,
            payload,
            buffer=buffer,
            buffer_bytes=buffer_bytes,
            overflow=overflow,
            timeout=timeout,
            since=since,
            max_rate=max_rate,
        )
        return SyncEvents(self._portal, events, wait)

    def stream(
        self, channel: str, *, compact: Compact | None = None, timeout: float = 30.0
    ) -> SyncClientStream:
        """Return the parts of a stream: use it in a ``with`` block; see :meth:`.Client.stream`."""
        stream = self._client.stream(channel, compact=compact, timeout=timeout)
        return SyncClientStream(self._portal, stream)

    def watch_presence(self, channel: str, *, timeout: float = 30.0) -> SyncPresenceWatch:
        """Return a watch of the connections on a channel: use it in a ``with`` block, and iterate.

        Args:
            channel: A channel with presence; no wildcards.
            timeout: Seconds for the server to answer; see :meth:`.Client.watch_presence`.

        Raises:
            UsageError: The dialect cannot ask for it, or the channel or the timeout is invalid.
        """
        watch = self._client.watch_presence(channel, timeout=timeout)
        return SyncPresenceWatch(self._portal, watch)

    def close(self) -> None:
        """Close the client: iterators end, requests fail, its thread ends. Idempotent."""
        self._portal.check()
        self._stack.close()
