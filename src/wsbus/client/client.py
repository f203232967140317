"""The client, as an application holds it."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Final, TypeVar, overload

from anyio import move_on_after

from ..core.channels import parse_channel
from ..core.choices import member_of
from ..core.errors import UsageError
from ..core.events import Position
from ..core.families import Compact
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.thinning import check_rate
from .calls import Caller
from .changes import Changes, Closed, Connected
from .events import Events
from .past import checked_position
from .streams import ClientStream
from .watches import PresenceWatch

__all__ = ["Client"]

T = TypeVar("T")
_ABORT_SECONDS: Final = 1.0


class Client(Caller):
    """A client of one server, across reconnects; made by :func:`wsbus.client.connecting.connect`.

    Use it on the event loop that it was made on. Any number of tasks may use it at once.
    """

    def __del__(self) -> None:
        """Warn about a client that was not closed and has not ended."""
        if self._driver.is_running and not sys.is_finalizing():
            warnings.warn(
                f"{self!r} was not closed: use `async with connect(…)`, or await its aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        uri = self._driver.settings.uri
        return f"<Client of {uri.host}:{uri.port}{uri.path}>"

    # --- what it is -------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, and the server has accepted the token, if any."""
        return isinstance(self._driver.state, Connected)

    @property
    def connection_id(self) -> str | None:
        """The server's name for the connection; None without one, or in ``zigquant-v2``."""
        state = self._driver.state
        return state.connection_id if isinstance(state, Connected) else None

    @property
    def subject(self) -> str | None:
        """The identity's subject according to the server; None if there is none, or unknown."""
        state = self._driver.state
        return state.subject if isinstance(state, Connected) else None

    @property
    def protocol(self) -> str:
        """The dialect spoken."""
        return self._driver.settings.dialect.name

    @property
    def subscriptions(self) -> list[str]:
        """The patterns that the server has confirmed."""
        return list(self._driver.session.subscriptions)

    def changes(self) -> Changes:
        """Return the changes of the connection from now on, beginning with the present state."""
        self._driver.check_caller()
        return self._driver.changes()

    # --- what it does -----------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        pattern: str,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> Events[Any]: ...

    @overload
    def subscribe(
        self,
        pattern: str,
        payload: type[T],
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> Events[T]: ...

    @overload
    def subscribe(  # What is no class: a union, say.
        self,
        pattern: str,
        payload: object,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = ...,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> Events[Any]: ...

    def subscribe(
        self,
        pattern: str,
        payload: Any = Any,
        *,
        ask: bool = True,
        buffer: int = 1000,
        buffer_bytes: int = 4 << 20,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        timeout: float = 30.0,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> Events[Any]:
        """Return what matches ``pattern``: ``async with`` it, then iterate.

        Args:
            pattern: A channel, or with ``*`` (and in ``wsbus.v1`` ``+``) for segments.
            payload: The type of the data, any that msgspec decodes; by default JSON as it is.
            ask: Whether to ask the server for it. False: take only what the server sends without
                being asked.
            buffer: Largest number of events that wait to be taken.
            buffer_bytes: Largest size of their data, in bytes; more than the largest event has.
            overflow: What happens when the buffer is full. ``close`` ends the subscription.
            timeout: Seconds for the server to confirm it; they also pass without a connection.
            since: Where it begins: the position of an event, of ``events.position`` or of
                :meth:`.Bus.position`. What was published after it comes first, or entering raises
                :class:`.PositionLost`. None: it begins now. Only in ``wsbus.v1``, and only for a
                pattern that this client is not subscribed to already.
            max_rate: Events of one key a second at most, 0.01 to 1,000: the newest wins, and the
                last one always comes. The key is the channel, and in it the ``key`` of the
                publication or of the family. None: all events. Of several subscriptions of this
                client to one pattern, the one that wants most decides. Only in ``wsbus.v1``.

        Raises:
            UsageError: The pattern is invalid (:class:`.InvalidChannel`), or an option is.
        """
        if not timeout > 0:
            raise UsageError("a timeout must be positive seconds")
        if since is not None:
            self._require_rich("since")
            if not ask:
                raise UsageError("since= asks the server: leave ask=False out")
        if max_rate is not None:
            self._require_rich("max_rate")
            check_rate(max_rate)
            if not ask:
                raise UsageError("max_rate= asks the server: leave ask=False out")
        return Events(
            self._driver,
            parse_pattern(pattern, plus=self._driver.settings.dialect.has_plus),
            self._driver.settings.dialect.decoder(payload),
            asks=ask,
            buffer=buffer,
            buffer_bytes=buffer_bytes,
            overflow=member_of(Overflow, overflow, "overflow"),
            timeout=timeout,
            since=checked_position("since", since),
            max_rate=max_rate,
        )

    def stream(
        self, channel: str, *, compact: Compact | None = None, timeout: float = 30.0
    ) -> ClientStream:
        """Return the parts of a stream: ``async for part in client.stream("answers.42")``.

        Args:
            channel: A channel of a family of streams; its stream may be yet to come.
            compact: Joins deltas that are no texts, as :attr:`.Stream.compact` on the server.
            timeout: Seconds for the server to confirm it; they also pass without a connection.

        Raises:
            UsageError: The channel is invalid (:class:`.InvalidChannel`), or an option is.
        """
        self._require_rich("stream")
        if not timeout > 0:
            raise UsageError("a timeout must be positive seconds")
        return ClientStream(
            self._driver, parse_channel(channel), compact, timeout, self.cancel_stream
        )

    def watch_presence(self, channel: str, *, timeout: float = 30.0) -> PresenceWatch:
        """Return a watch of the connections on a channel: ``async with`` it, then iterate.

        A connection is on the channels that it subscribes to by their exact names.

        Args:
            channel: A channel with presence; no wildcards.
            timeout: Seconds for the server to answer; they also pass without a connection.

        Raises:
            UsageError: The dialect cannot ask for it, or the channel or the timeout is invalid.
        """
        self._require_rich("presence")
        if not timeout > 0:
            raise UsageError("a timeout must be positive seconds")
        return PresenceWatch(self._driver.watches, parse_channel(channel), timeout)

    async def aclose(self) -> None:
        """Close the client: iterators end, requests fail, and it does not reconnect. Idempotent.

        It takes at most ``close_timeout`` seconds, whatever the server does.

        Cancellation: the connection is cut, without a close frame.
        """
        driver = self._driver
        if not driver.is_running:
            return
        driver.check_caller()
        driver.perform(driver.session.close())
        try:
            await driver.over.wait()
        except BaseException:
            await self._abort()
            raise

    # --- small things -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time; called by :func:`wsbus.client.connecting.connect`.

        Raises:
            RemoteError: It failed; the error says why.
        """
        driver = self._driver
        driver.start()
        try:
            await driver.known.wait()
        except BaseException:
            driver.perform(driver.session.close())
            await self._abort()
            raise
        if isinstance(driver.state, Closed):
            await self.aclose()
            raise self._reason()

    async def _abort(self) -> None:
        self._driver.abort()
        # Bounded: the client's own callback may close it.
        with move_on_after(_ABORT_SECONDS, shield=True):
            await self._driver.over.wait()
