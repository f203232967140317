"""A connection as the application holds it, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from types import SimpleNamespace
from typing import Protocol

import msgspec

from ._log import escaped
from ._settings import text_setting
from .core.actions import Action
from .core.errors import CloseCode, check_sendable
from .core.instant import Instant
from .core.member import Member
from .core.messages import Status
from .core.patterns import parse_pattern
from .core.permissions import Identity
from .core.protocol import WireProtocol
from .core.session import Session, State
from .endpoint import Endpoint
from .transport import Handshake

__all__ = ["Connection", "ConnectionId", "ConnectionInfo", "Driven"]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One connection at one moment; times are seconds since the epoch."""

    connection_id: str
    subject: str | None
    protocol: str
    path: str
    client: tuple[str, int] | None
    connected_at: float
    last_ping: float | None
    """When the server sent its last ping."""
    last_pong: float
    """When the last frame of any kind came from the client."""
    subscriptions: tuple[str, ...]
    """As the client spelled them, in the order subscribed."""
    assigned: tuple[str, ...]
    """Patterns that the server subscribed (:meth:`.Connection.subscribe`, ``broadcast=``)."""
    message_count: int
    """Publications sent to it."""
    messages_sent: int
    """Publications, replies and pings sent to it."""
    messages_received: int
    is_alive: bool
    """Whether it is open and not closing."""
    queue_messages: int
    queue_bytes: int
    dropped: int
    """Publications lost because its queue was full."""
    thinned: int = 0
    """Publications that newer ones replaced because of a ``max_rate``; they are not lost. It counts
    anew when a subscription gets a rate while no other one has one."""

    @classmethod
    def of(  # noqa: PLR0917  # called once
        cls,
        session: Session,
        members: Sequence[Member],
        handshake: Handshake,
        now: Instant,
        connection_id: str,
        protocol: str,
        connected_at: float,
        messages_received: int,
    ) -> ConnectionInfo:
        """Collect the information about a connection."""
        member, beat = members[0], session.heartbeat
        queue = member.queue
        offset = now.wall - now.monotonic
        return cls(
            connection_id=connection_id,
            subject=session.identity.subject if session.identity else None,
            protocol=protocol,
            path=handshake.path,
            client=handshake.client,
            connected_at=connected_at,
            last_ping=None if beat.last_ping is None else beat.last_ping + offset,
            last_pong=beat.last_seen + offset,
            subscriptions=tuple(session.subscriptions),
            assigned=tuple([pattern.text for pattern in session.assigned]),
            message_count=member.message_count,
            messages_sent=member.message_count + member.control_count,
            messages_received=messages_received,
            is_alive=session.state is not State.CLOSED,
            queue_messages=len(queue),
            queue_bytes=queue.bytes,
            dropped=queue.lost_ever,
            thinned=sum([pacer.queue.conflated for pacer in members[1:]]),
        )

    def status(self, ref: str | None) -> Status:
        """Return the part that its client may see."""
        return Status(
            connection_id=self.connection_id,
            subject=self.subject,
            connected_at=self.connected_at,
            subscriptions=self.subscriptions,
            message_count=self.message_count,
            dropped=self.dropped,
            ref=ref,
        )


class ConnectionId(msgspec.Struct, frozen=True):
    """A connection on any node, by its id, where only that is known: ``ConnectionId("3f…")``.

    A browser has the id of its connection from ``connected``, and can send it along with an HTTP
    request that another process answers.
    """

    id: str
    """A name that ``name_connection=`` returned, or the id that the bus made."""


class Driven(Protocol):
    """The part of a connection's driver that :class:`Connection` needs."""

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
    def protocol(self) -> WireProtocol:
        """The dialect of its client."""
        ...

    def perform(self, todo: Sequence[Action], now: Instant | None = None) -> None:
        """Perform the session's actions, in order and with nothing in between."""
        ...

    def abort(self) -> None:
        """Cut it off at once, without a close frame. Idempotent."""
        ...

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        ...


class Connection:
    """One client, for as long as it is connected.

    Commands and hooks get it as an argument, and methods of :class:`.Bus` take it.
    """

    __slots__ = ("__weakref__", "_driver", "_state")

    def __init__(self, driver: Driven) -> None:
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
