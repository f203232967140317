"""One door of a bus: what it speaks, whom it lets in, and on what terms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final, Literal, Protocol

from anyio import fail_after

from .auth import Authenticator
from .core.channels import Channel
from .core.errors import CloseCode, Unauthenticated
from .core.frame import Frame
from .core.heartbeat import HeartbeatPolicy
from .core.limits import Limits
from .core.overflow import Overflow
from .core.permissions import Grants, Identity
from .core.queue import MessageQueue
from .protocols.base import WireProtocol
from .runner import awaited
from .transport import Handshake, Transport

__all__ = ["Admission", "Endpoint", "Refusal", "escaped"]

logger: Final = logging.getLogger("wsbus.endpoint")

ANONYMOUS: Final = "anonymous"
"""The subject of everybody at an endpoint without an authenticator."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The handshake is refused."""

    status: int
    """HTTP status, where the server can still answer with one."""
    reason: str
    """A sentence for the client."""
    close_code: CloseCode = CloseCode.DISCONNECTED
    """What to close with, where the server cannot refuse before it accepts."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The handshake is accepted, on these terms."""

    handshake: Handshake
    protocol: WireProtocol
    subprotocol: str | None
    """What to echo; None if the client offered nothing."""
    identity: Identity | None
    """None: the client has yet to authenticate."""
    connection_id: str | None = None
    """What the connection is to be called; None: whatever the bus makes up."""


class Gate(Protocol):
    """What an endpoint needs of its bus."""

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint takes connections now."""
        ...

    def count(self, endpoint: Endpoint) -> int:
        """Return how many connections the endpoint has."""
        ...

    def has(self, endpoint: Endpoint, connection_id: str) -> bool:
        """Whether the endpoint has a connection of this id."""
        ...

    def serve(
        self, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> Coroutine[Any, Any, None]:
        """Return what runs a connection to its end."""
        ...

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End the connections of the endpoint."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Endpoint:
    """One door of a bus; made by :meth:`.Bus.endpoint`, mounted by an adapter.

    ``heartbeat`` may be assigned while connections are open, and takes effect at the next sweep;
    the rest is settled.
    """

    gate: Gate = field(repr=False)
    protocols: Sequence[WireProtocol]
    """Spoken here. A client that offers no subprotocol gets the first."""
    authenticator: Authenticator | None = None
    """None: everybody is let in, with the grants of ``anonymous``."""
    anonymous: Grants = field(default_factory=Grants.open)
    query_token: str | None = None
    """Name of the query parameter that may hold a token; None: tokens in the URL, which end up in
    logs, are not taken."""
    origins: Collection[str] | Literal["same-host", "*"] = "same-host"
    """Whose pages may connect: the ``Origin`` values, exactly. A browser sends cookies along, so
    an endpoint that goes by them must not say ``*``. Clients that are no browsers send none."""
    limits: Limits = field(default_factory=Limits)
    heartbeat: HeartbeatPolicy = field(default_factory=HeartbeatPolicy)
    overflow: Overflow = Overflow.DROP_OLDEST
    """What a full queue does with publications that do not say."""
    broadcast: Channel | None = None
    """Every authenticated connection is subscribed to it."""
    name_connection: Callable[[Handshake], str] | None = None
    """Makes the ids of connections: from the path, say. None: the bus makes them up."""
    on_duplicate: Literal["replace", "reject"] = "replace"
    """What to do about a second connection with an id that is taken: close the first
    (``REPLACED``), or refuse the second (409)."""
    empty_queue: MessageQueue[Frame] = field(init=False, repr=False)
    """What connections have before they need a queue of their own."""
    _nobody: Identity | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Make what its connections share."""
        limits = self.limits
        self.empty_queue = MessageQueue(
            limits.queue_messages, limits.queue_bytes, limits.control_bytes
        )

    async def admit(self, handshake: Handshake) -> Admission | Refusal:
        """Judge a handshake; to be called before the connection is accepted."""
        if not self.gate.accepts(self):
            return Refusal(503, "the server is not ready, or shutting down", CloseCode.GOING_AWAY)
        most = self.limits.max_connections
        if most is not None and self.gate.count(self) >= most:
            return Refusal(503, "too many connections", CloseCode.SERVICE_RESTART)
        if not _is_welcome(self.origins, handshake):
            origin = escaped(handshake.headers.get("origin", ""))
            logger.info("refused a connection from the origin %s", origin)
            return Refusal(403, "this origin may not connect")
        spoken = {protocol.name: protocol for protocol in self.protocols}
        chosen = next((name for name in handshake.subprotocols if name in spoken), None)
        if chosen is None and handshake.subprotocols:
            return Refusal(400, f"none of the subprotocols is spoken here: {', '.join(spoken)}")
        protocol = self.protocols[0] if chosen is None else spoken[chosen]
        identity = await self._identify(handshake)
        if isinstance(identity, Refusal):
            return identity
        connection_id = None
        if self.name_connection is not None:
            connection_id = self.name_connection(handshake)
            if self.on_duplicate == "reject" and self.gate.has(self, connection_id):
                return Refusal(409, "this client id is taken", CloseCode.REPLACED)
        return Admission(handshake, protocol, chosen, identity, connection_id)

    async def _identify(self, handshake: Handshake) -> Identity | Refusal | None:
        if self.authenticator is None:
            if self._nobody is None:
                self._nobody = Identity(ANONYMOUS, self.anonymous)
            return self._nobody
        token = None if self.query_token is None else handshake.query(self.query_token)
        return await self.judge(token, handshake)

    async def judge(self, token: str | None, handshake: Handshake) -> Identity | Refusal | None:
        """Ask the authenticator, within the time limit for authentication; never raises.

        Returns:
            Who it is; or why nobody, through the client's fault (``TOKEN_REFUSED``) or not; or
            None, if the handshake says nothing.
        """
        assert self.authenticator is not None
        try:
            verdict = self.authenticator(token, handshake)
            if not isawaitable(verdict):
                return verdict
            with fail_after(self.limits.auth_timeout):
                identity: Identity | None = await awaited(verdict)
        except Unauthenticated as exc:
            return Refusal(401, exc.message, CloseCode.TOKEN_REFUSED)
        except Exception:
            logger.exception("an authenticator failed")
            return Refusal(503, "authentication is not available", CloseCode.SERVICE_RESTART)
        return identity

    def run(self, transport: Transport, admission: Admission) -> Coroutine[Any, Any, None]:
        """Return what runs an accepted connection to its end; never raises because of the peer.

        To be awaited at once, by a task that holds on to neither argument: idle connections are
        many, and each coroutine between their reader and the server costs 270 bytes.
        """
        return self.gate.serve(self, transport, admission)

    async def drain(self, *, deadline: float = 10.0, code: int = CloseCode.GOING_AWAY) -> None:
        """Take no more connections until all that are there have ended; then it may go on.

        Each is given what it is owed and a close frame; those that are not writable are aborted
        at once, and those left at the deadline then.

        Args:
            deadline: Seconds.
            code: 1001, or 1012 to say that the service restarts at once.
        """
        await self.gate.drain(self, deadline=deadline, code=code)


def _is_welcome(origins: Collection[str] | str, handshake: Handshake) -> bool:
    origin = handshake.headers.get("origin")
    if origin is None or origins == "*":
        return True
    if origins != "same-host":
        return origin in origins
    # From the raw headers: a URL rebuilt from them could be made to lie. "null" has no host.
    host = handshake.headers.get("host", "")
    scheme, _, authority = origin.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme.lower(), "")
    authority = authority.lower().removesuffix(default)
    return authority != "" and authority == host.lower().removesuffix(default)


def escaped(text: str, limit: int = 100) -> str:
    """Return a client's word as it may stand in a log line: control characters escaped, short."""
    short = text if len(text) <= limit else text[:limit] + "…"
    return short.encode("unicode_escape", "backslashreplace").decode("ascii")
