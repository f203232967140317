"""A connection as the application holds it, and the interface of the driver that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from types import SimpleNamespace
from typing import Protocol

from .._log import escaped
from .._settings import text_setting
from ..core.actions import Action
from ..core.errors import CloseCode, check_sendable
from ..core.instant import Instant
from ..core.member import Member
from ..core.patterns import parse_pattern
from ..core.permissions import Identity
from ..core.protocol import WireProtocol
from ..core.session import Session, State
from ..endpoint import Endpoint
from ..transport import Handshake
from .outlet import SocketOutlet
from .statistics import ConnectionInfo

__all__ = ["Connection", "ConnectionDriver", "driver_of"]


class ConnectionDriver(Protocol):
    """Runs a connection; see :class:`wsbus.server.driver.Driver`.

    The registry holds drivers, the application holds :class:`Connection`; each knows the other.
    """

    @property
    def connection(self) -> Connection:
        """The connection as the application holds it."""
        ...

    @property
    def id(self) -> str:
        """Its name, or the id that the bus made."""
        ...

    @property
    def identity(self) -> Identity | None:
        """The identity; None until the client has authenticated."""
        ...

    @property
    def handshake(self) -> Handshake:
        """The client's handshake."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Its endpoint."""
        ...

    @property
    def context(self) -> Context:
        """The context of the handshake."""
        ...

    @property
    def connected_at(self) -> float:
        """Seconds since the epoch."""
        ...

    @property
    def close_code(self) -> int | None:
        """Why it ended, or is about to; None: it is open."""
        ...

    @property
    def close_reason(self) -> str:
        """The text that goes with :attr:`close_code`."""
        ...

    @property
    def messages_received(self) -> int:
        """Messages that came from the client, refused ones included."""
        ...

    @property
    def session(self) -> Session:
        """The session, which decides the actions for each input."""
        ...

    @property
    def member(self) -> Member:
        """Its member in the hub."""
        ...

    @property
    def outlet(self) -> SocketOutlet:
        """The place that its frames go to."""
        ...

    @property
    def protocol(self) -> WireProtocol:
        """The dialect of its client."""
        ...

    @property
    def is_stuck(self) -> bool:
        """Whether its transport has not taken all frames."""
        ...

    @property
    def deadline(self) -> float:
        """When to call :meth:`tick`, in monotonic seconds."""
        ...

    def tick(self, now: Instant) -> None:
        """Send pings, or close, if the time has come."""
        ...

    def review(self, now: Instant, stopped: float) -> None:
        """Apply the endpoint's present heartbeat, and forgive ``stopped`` seconds of silence."""
        ...

    def perform(self, todo: Sequence[Action], now: Instant | None = None) -> None:
        """Perform the session's actions, in order and with nothing in between."""
        ...

    def abort(self) -> None:
        """Cut it off at once, without a close frame. Idempotent."""
        ...

    async def gone(self) -> None:
        """Wait until it has ended and its hooks have returned."""
        ...

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        ...


class Connection:
    """One client, for as long as it is connected.

    Commands and hooks get it as an argument, and methods of :class:`.Bus` take it.
    """

    __slots__ = ("__weakref__", "_driver", "_state")

    def __init__(self, driver: ConnectionDriver) -> None:
        self._driver = driver
        self._state: SimpleNamespace | None = None

    @property
    def id(self) -> str:
        """Unique at its endpoint, among those that hold their names."""
        return self._driver.id

    @property
    def identity(self) -> Identity | None:
        """The identity; None until the client has authenticated."""
        return self._driver.identity

    @property
    def state(self) -> SimpleNamespace:
        """Attributes of the application; set any."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def handshake(self) -> Handshake:
        """The client's handshake: path, query, headers, cookies, address."""
        return self._driver.handshake

    @property
    def endpoint(self) -> Endpoint:
        """Its endpoint."""
        return self._driver.endpoint

    @property
    def context(self) -> Context:
        """The context of the handshake; each call into the application gets a copy."""
        return self._driver.context

    @property
    def connected_at(self) -> float:
        """Seconds since the epoch."""
        return self._driver.connected_at

    @property
    def close_code(self) -> int | None:
        """Why it ended, or is about to; None: it is open."""
        return self._driver.close_code

    @property
    def close_reason(self) -> str:
        """The text that goes with :attr:`close_code`; often empty."""
        return self._driver.close_reason

    @property
    def messages_received(self) -> int:
        """Messages that came from the client, refused ones included."""
        return self._driver.messages_received

    def subscribe(self, pattern: str) -> None:
        """Subscribe it for the server: regardless of its grants and limits, without a reply.

        Its denies still apply. Idempotent; subscriptions of the client itself are kept apart.

        Raises:
            InvalidChannel: The pattern is invalid.
        """
        parsed, session = parse_pattern(pattern), self._driver.session
        if session.state is not State.CLOSED:
            self._driver.perform(session.assign(parsed))

    def unsubscribe(self, pattern: str) -> None:
        """Undo :meth:`subscribe`; idempotent.

        Raises:
            InvalidChannel: The pattern is invalid.
        """
        parsed, session = parse_pattern(pattern), self._driver.session
        if session.state is not State.CLOSED:
            self._driver.perform(session.unassign(parsed))

    def revoke(self, pattern: str, reason: str | None = None) -> bool:
        """Take a subscription away, whether the client subscribed it, the server, or both.

        If the client had subscribed it, the protocol's own message says so, with the reason, and
        the shipped clients do not subscribe to it again. A request for the pattern that waits for
        ``authorize`` is refused. A wider pattern of the client stays, and the client may subscribe
        again: refuse that in ``authorize``. Idempotent.

        Args:
            pattern: As it was subscribed: ``chat.1`` does not take ``chat.*``.
            reason: A text for people, which ``wsbus.v1`` passes on; None: no reason.

        Returns:
            Whether it was subscribed.

        Raises:
            InvalidChannel: The pattern is invalid.
            UsageError: The reason is not a text, or one that UTF-8 cannot encode.
        """
        parsed, session = parse_pattern(pattern), self._driver.session
        if reason is not None:
            text_setting("reason", reason)
        had = session.state is not State.CLOSED and parsed in session.patterns
        self._driver.perform(session.revoke(parsed, reason))
        return had

    def disconnect(
        self, code: int = CloseCode.DISCONNECTED, reason: str = "disconnected by the server"
    ) -> None:
        """Close it after sending what it is owed; never waits. Idempotent.

        Args:
            code: After 4000-4499 clients reconnect, after 4500-4999 they do not.
            reason: At most 123 bytes of UTF-8 (RFC 6455, section 5.5.1); cut if longer.

        Raises:
            UsageError: The code may not be sent.
        """
        check_sendable(code)
        self._driver.perform(self._driver.session.close(code, reason))

    def abort(self) -> None:
        """Cut it off at once, without a close frame; unsent frames are lost. Idempotent."""
        self._driver.abort()

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        return self._driver.info()

    def __repr__(self) -> str:
        return f"<Connection {escaped(self.id)} {self._driver.protocol.name}>"


def driver_of(connection: Connection) -> ConnectionDriver:
    """Return the driver of a connection: for the bus, not for applications."""
    return connection._driver  # noqa: SLF001  # the two know each other
