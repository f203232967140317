"""What an application holds of one client; :mod:`wsbus.server.driver` runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import Context
from types import SimpleNamespace
from typing import Final

from .._application import handshake_context
from .._log import escaped
from .._settings import text_setting
from ..core.actions import Action
from ..core.errors import CloseCode, check_sendable
from ..core.instant import Instant
from ..core.member import Member
from ..core.patterns import parse_pattern
from ..core.permissions import Identity
from ..core.session import Session, State
from ..endpoint import Admission, Endpoint
from ..transport import Handshake, Transport
from .outlet import SocketOutlet
from .reader import Reader
from .services import Services
from .statistics import ConnectionInfo

__all__ = ["Connection"]


class Connection(ABC):
    """One client, for as long as it is connected.

    Command handlers and hooks are given it; it is also what :class:`.Bus` methods take.
    """

    __slots__ = (
        "__weakref__",
        "_adopting",
        "_endpoint",
        "_member",
        "_outlet",
        "_protocol",
        "_reader",
        "_services",
        "_session",
        "_state",
        "_transport",
        "close_code",
        "close_reason",
        "connected_at",
        "context",
        "handshake",
        "id",
    )

    _member: Member
    _outlet: SocketOutlet
    _reader: Reader

    def __init__(
        self, services: Services, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> None:
        now = services.clock()
        self.id: Final = admission.connection_id or services.new_id()
        """Unique at its endpoint, among those that hold their names."""
        self.handshake: Final[Handshake] = admission.handshake
        self.connected_at: Final = now.wall
        """Seconds since the epoch."""
        self.context: Final[Context] = handshake_context()
        """That of the handshake; each call into the application gets a copy."""
        self.close_code: int | None = None
        """Why it ended, or is about to; None: it is open."""
        self.close_reason: str = ""
        self._services: Final = services
        self._endpoint: Final = endpoint
        self._transport: Final = transport
        self._protocol: Final = admission.protocol
        self._adopting: Identity | None = None
        self._state: SimpleNamespace | None = None
        self._session: Final = Session(
            protocol=admission.protocol,
            limits=endpoint.limits,
            heartbeat=services.new_heartbeat(endpoint.heartbeat, now.monotonic),
            identity=admission.identity,
            now=now,
            takes_tokens=endpoint.authenticator is not None,
            asks=services.authorize is not None,
        )

    @property
    def identity(self) -> Identity | None:
        """The identity; None until the client has authenticated."""
        return self._session.identity or self._adopting

    @property
    def state(self) -> SimpleNamespace:
        """The application's own: set any attribute."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def messages_received(self) -> int:
        """Messages that came from the client, refused ones included."""
        return self._reader.messages_received

    @property
    def endpoint(self) -> Endpoint:
        """Where it came in."""
        return self._endpoint

    def subscribe(self, pattern: str) -> None:
        """Subscribe it on the server's account: past its grants and limits, and not told to it.

        What its grants deny it still does not get. Idempotent; what the client itself subscribes
        and unsubscribes is kept apart.

        Raises:
            InvalidChannel: It is no pattern.
        """
        parsed = parse_pattern(pattern)
        if self._session.state is not State.CLOSED:
            self._perform(self._session.assign(parsed))

    def unsubscribe(self, pattern: str) -> None:
        """Take :meth:`subscribe` back; idempotent.

        Raises:
            InvalidChannel: It is no pattern.
        """
        parsed = parse_pattern(pattern)
        if self._session.state is not State.CLOSED:
            self._perform(self._session.unassign(parsed))

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
        parsed = parse_pattern(pattern)
        if reason is not None:
            text_setting("reason", reason)
        had = self._session.state is not State.CLOSED and parsed in self._session.patterns
        self._perform(self._session.revoke(parsed, reason))
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
        self._perform(self._session.close(code, reason))

    def abort(self) -> None:
        """Cut it off now, without a close frame; what it is owed is lost. Idempotent."""
        if self.close_code is None:
            self.close_code = CloseCode.ABNORMAL
        self._transport.abort()

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        return ConnectionInfo.of(
            self._session,
            self._member,
            self.handshake,
            self._services.clock(),
            connection_id=self.id,
            protocol=self._protocol.name,
            connected_at=self.connected_at,
            messages_received=self.messages_received,
        )

    def __repr__(self) -> str:
        return f"<Connection {escaped(self.id)} {self._protocol.name}>"

    @property
    def member(self) -> Member:
        """What stands for it in the hub."""
        return self._member

    @property
    def is_stuck(self) -> bool:
        """Whether its transport has not taken what it was given."""
        return self._member.is_waiting and self._outlet.direct is not None

    @property
    def outlet(self) -> SocketOutlet:
        """Where what it is owed goes."""
        return self._outlet

    def describe(self) -> str:
        """Return id, subject and path, for a log line."""
        subject = self.identity.subject if self.identity else None
        whose = "without a subject" if subject is None else f"of {escaped(subject)}"
        path = escaped(self.handshake.path)
        return f"the connection {escaped(self.id)} {whose}, on {path},"

    def _note_end(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason

    @abstractmethod
    def _perform(self, todo: Sequence[Action], now: Instant | None = None) -> None:
        """Do what the session wants, in order and with nothing in between."""
