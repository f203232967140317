"""What an application holds of one client, and what the running bus asks of the client's driver."""

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
from ..core.patterns import parse_pattern
from ..core.permissions import Identity
from ..core.plan import Member
from ..core.session import Session, State
from ..endpoint import Endpoint
from ..transport import Handshake
from .statistics import ConnectionInfo

__all__ = ["Connection", "ConnectionDriver", "driver_of"]


class ConnectionDriver(Protocol):
    """What runs a connection; :class:`wsbus.server.driver.Driver` says more of each.

    The registry holds drivers, the application holds :class:`Connection`; each knows the other.
    """

    @property
    def connection(self) -> Connection:
        """What the application holds of it."""
        ...

    @property
    def id(self) -> str:
        """Its name, or the id that the bus made up for it."""
        ...

    @property
    def identity(self) -> Identity | None:
        """The identity; None until the client has authenticated."""
        ...

    @property
    def handshake(self) -> Handshake:
        """What the client asked for."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Where it came in."""
        ...

    @property
    def context(self) -> Context:
        """That of the handshake."""
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
        """Decides what follows from what the client and the application want."""
        ...

    @property
    def member(self) -> Member:
        """What stands for it in the hub."""
        ...

    @property
    def is_stuck(self) -> bool:
        """Whether its transport has not taken what it was given."""
        ...

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do; monotonic seconds."""
        ...

    def tick(self, now: Instant) -> None:
        """Do what time demands."""
        ...

    def review(self, now: Instant, stopped: float) -> None:
        """Go by the endpoint's heartbeat as it is now, and forgive seconds that were not ours."""
        ...

    def perform(self, todo: Sequence[Action], now: Instant | None = None) -> None:
        """Do what the session wants, in order and with nothing in between."""
        ...

    def abort(self) -> None:
        """Cut it off now, without a close frame. Idempotent."""
        ...

    async def gone(self) -> None:
        """Wait until it has ended and its hooks have returned."""
        ...

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        ...


class Connection:
    """One client, for as long as it is connected.

    Command handlers and hooks are given it; it is also what :class:`.Bus` methods take.
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
        """The application's own: set any attribute."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def handshake(self) -> Handshake:
        """What the client asked for: path, query, headers, cookies, address."""
        return self._driver.handshake

    @property
    def endpoint(self) -> Endpoint:
        """Where it came in."""
        return self._driver.endpoint

    @property
    def context(self) -> Context:
        """That of the handshake; each call into the application gets a copy."""
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
        """Subscribe it on the server's account: past its grants and limits, and not told to it.

        What its grants deny it still does not get. Idempotent; what the client itself subscribes
        and unsubscribes is kept apart.

        Raises:
            InvalidChannel: It is no pattern.
        """
        parsed, session = parse_pattern(pattern), self._driver.session
        if session.state is not State.CLOSED:
            self._driver.perform(session.assign(parsed))

    def unsubscribe(self, pattern: str) -> None:
        """Take :meth:`subscribe` back; idempotent.

        Raises:
            InvalidChannel: It is no pattern.
        """
        parsed, session = parse_pattern(pattern), self._driver.session
        if session.state is not State.CLOSED:
            self._driver.perform(session.unassign(parsed))

    def revoke(self, pattern: str, reason: str | None = None) -> bool:
        """Take a subscription away, whether the client subscribed it, the server, or both.

        The client learns, with the reason, of what it had subscribed itself, in the protocol's
        own form, and the shipped clients do not subscribe to it again. A request for the pattern
        that ``authorize`` is still being asked about is refused. A wider pattern of the client's
        stays, and so does its right to subscribe again: refuse that in ``authorize``. Idempotent.

        Args:
            pattern: As it was subscribed: ``room.1`` does not take ``room.*``.
            reason: A text for people, which ``wsbus.v1`` passes on; None: none is given.

        Returns:
            Whether it was subscribed.

        Raises:
            InvalidChannel: It is no pattern.
            UsageError: The reason is no text, or one that UTF-8 cannot carry.
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
        """End it, after what it is owed; never waits. Idempotent.

        Args:
            code: 4000-4499 invite the client to come again, 4500-4999 ask it not to.
            reason: At most 123 bytes of UTF-8 (RFC 6455, section 5.5.1); cut if longer.

        Raises:
            UsageError: The code may not be sent.
        """
        check_sendable(code)
        self._driver.perform(self._driver.session.close(code, reason))

    def abort(self) -> None:
        """Cut it off now, without a close frame; what it is owed is lost. Idempotent."""
        self._driver.abort()

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        return self._driver.info()

    def __repr__(self) -> str:
        return f"<Connection {escaped(self.id)} {self._driver.member.protocol.name}>"


def driver_of(connection: Connection) -> ConnectionDriver:
    """Return what runs a connection: for the bus, not for applications."""
    return connection._driver  # noqa: SLF001  # the two know each other
