"""One way into a bus: its protocols, its authenticator, its limits and its other rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from ._application import Overdue, ask, call, name_of
from ._log import about
from ._naming import name_for
from ._notices import Notices
from ._places import NOT_AVAILABLE, TOO_LARGE, Admission, Place, Places, Refusal
from ._settings import callable_setting, flag_setting, instance_setting
from .auth import Authenticator, check_token_sources, shown_token
from .core.addresses import Proxies, address_key
from .core.channels import Channel
from .core.choices import choice, member_of
from .core.errors import CloseCode, Unauthenticated, UsageError
from .core.forms import Compression, Deflate, deflate_of
from .core.heartbeat import HeartbeatPolicy
from .core.limits import Limits
from .core.origins import is_welcome, parse_origins
from .core.outlet import Owed
from .core.overflow import Overflow
from .core.permissions import Grants, Identity
from .core.protocol import WireProtocol
from .core.queue import MessageQueue
from .protocols.registry import spoken
from .transport import MAX_HANDSHAKE_BYTES, Handshake, Transport, split_list

__all__ = ["Admission", "Endpoint", "Host", "Place", "Refusal"]

ANONYMOUS: Final = "anonymous"
"""The subject of every connection at an endpoint without an authenticator."""


_FUNCTIONS: Final = {
    "authenticator": ("token, handshake", True),
    "name_connection": ("handshake", False),
    "client_address": ("handshake", False),
}
"""The settings that are functions: their arguments, and whether they may wait."""
_CLASSES: Final = {"anonymous": Grants, "limits": Limits, "heartbeat": HeartbeatPolicy}


class Host(Protocol):
    """Runs the connections of an endpoint; usually it belongs to a bus."""

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint takes connections now."""
        ...

    def refusal(self, endpoint: Endpoint, name: str | None, subject: str) -> Refusal | None:
        """Return why the bus would refuse a connection of this name and subject, or None."""
        ...

    def serve(
        self, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> Coroutine[Any, Any, None]:
        """Return a coroutine that runs a connection to its end."""
        ...

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End the connections of the endpoint."""
        ...

    def count(self, endpoint: Endpoint) -> int:
        """Return how many connections the endpoint has."""
        ...

    @property
    def has_run(self) -> bool:
        """Whether it has been started; it may have stopped since."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Endpoint:
    """One way into a bus; made by :meth:`.Bus.endpoint`, mounted by an adapter.

    ``heartbeat`` may be assigned while connections are open, and takes effect at the next sweep.
    ``overflow`` and the functions (``authenticator``, ``name_connection``, ``client_address``) may
    be assigned for handshakes from then on. All other settings are fixed.

    Raises:
        UsageError: A setting can never take effect, or contradicts another; or a fixed setting is
            assigned.
    """

    host: Host = field(repr=False)
    """The host that runs its connections; made by the bus, and for adapters."""
    protocols: Sequence[WireProtocol]
    """The dialects. A client that offers no subprotocol gets the first. For each dialect that
    joins messages (``wsbus.v1``) there is one that does not (``wsbus.v1.single``)."""
    joins: bool = True
    """Whether messages to a client may share a frame, in dialects that allow it (``wsbus.v1``).
    False: each message has a frame of its own for every client, so that
    ``JSON.parse(event.data)`` and ``receive_json()`` can read it, and a burst costs more. A client
    can choose this for itself by offering ``wsbus.v1.single``."""
    authenticator: Authenticator | None = None
    """Turns tokens into identities; None: all clients are accepted, with the grants of
    ``anonymous``."""
    anonymous: Grants = field(default_factory=Grants.open)
    query_token: str | None = None
    """Name of the query parameter that may hold a token; None: tokens in the URL, which end up in
    logs, are ignored."""
    cookie_token: str | None = None
    """Name of the cookie that may hold a token; None: cookies are ignored. Browsers send cookies
    for pages of any site, so ``origins`` must then not be ``*``."""
    header_token: bool = True
    """Whether a token is taken from ``Authorization: Bearer …``, and from an offered subprotocol
    ``wsbus.token.…``, which pages in a browser can send: base64url of the token, without ``=``.
    The order is :func:`.shown_token`'s."""
    origins: Collection[str] | Literal["same-host", "*"] = "same-host"
    """Origins of the pages that may connect, such as ``https://example.com``. Browsers send
    cookies for pages of any site, so an endpoint that uses cookies must not have ``*``. Clients
    that are not browsers send no origin, and may connect."""
    limits: Limits = field(default_factory=Limits)
    heartbeat: HeartbeatPolicy = field(default_factory=HeartbeatPolicy)
    overflow: Overflow = Overflow.DROP_OLDEST
    """The overflow policy of publications without one."""
    compression: Compression | bool = False
    """Whether messages to clients that offer permessage-deflate are compressed, and how. It needs
    an adapter that writes to the socket itself."""
    broadcast: Channel | None = None
    """Every authenticated connection is subscribed to it."""
    name_connection: Callable[[Handshake], str] | None = None
    """Returns the ids of connections, from the path, for example. None: the bus makes them."""
    on_duplicate: Literal["replace", "reject"] = "replace"
    """Whether a second connection of the same subject and name replaces the first (which is closed
    with ``REPLACED``), or is refused (409). A connection of another subject is always refused."""
    client_address: Callable[[Handshake], str | None] | None = None
    """Returns the address for ``max_connections_per_address``; None: the peer's address, or the
    one that trusted proxies report. A connection for which it returns None does not count."""
    trusted_proxies: Collection[str] = ()
    """Addresses, networks and ``unix`` (calls over a Unix socket) whose ``X-Forwarded-For`` is
    trusted."""
    realm: int = 0
    """Which subjects are the same: those of one authenticator. :class:`.Bus` counts realms up."""
    empty_queue: MessageQueue[Owed] = field(init=False, repr=False)
    """The queue of connections that do not need one of their own yet."""
    deflate: Deflate | None = field(init=False, repr=False)
    """Compresses; None: nothing is compressed."""
    places: Places = field(init=False, repr=False, default_factory=Places)
    """Counts for ``max_connections`` and ``max_connections_per_address``."""
    _nobody: Identity | None = field(default=None, init=False, repr=False)
    _proxies: Proxies = field(init=False, repr=False)
    notices: Notices = field(init=False, repr=False, default_factory=Notices)
    """Logs refused connections that show a mistake in the set-up."""

    def __post_init__(self) -> None:
        """Check the settings, and make the objects that its connections share."""
        for setting, (takes, may_wait) in _FUNCTIONS.items():
            callable_setting(setting, getattr(self, setting), takes, may_wait=may_wait)
        for setting, kind in _CLASSES.items():
            instance_setting(setting, getattr(self, setting), kind)
        self.overflow = member_of(Overflow, self.overflow, "overflow")
        choice(("replace", "reject"), self.on_duplicate, "on_duplicate")
        flag_setting("joins", self.joins)
        self.deflate = deflate_of(self.compression)
        self.protocols = spoken(self.protocols, joins=self.joins)
        limits = self.limits
        self.origins = parse_origins(self.origins)
        self._proxies = Proxies(self.trusted_proxies)
        check_token_sources(self.query_token, self.cookie_token, header=self.header_token)
        if self.cookie_token is not None and (self.origins == "*" or "null" in self.origins):
            raise UsageError(
                "cookie_token accepts any browser with the cookie, whatever page it shows: "
                "leave '*' and 'null' out of origins, and list your own"
            )
        if self.authenticator is None:
            for setting in ("query_token", "cookie_token"):
                if getattr(self, setting) is not None:
                    raise UsageError(f"{setting} needs an authenticator, which judges the token")
            if limits.max_connections_per_identity is not None:
                raise UsageError(
                    "max_connections_per_identity needs an authenticator: without one all "
                    "connections have the same identity"
                )
        if self.client_address is not None and self.trusted_proxies:
            raise UsageError("client_address finds the address itself: leave trusted_proxies out")
        self.empty_queue = MessageQueue(
            limits.queue_messages, limits.queue_bytes, limits.control_bytes
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Check a setting that is assigned later; refuse it if it would have no effect."""
        if hasattr(self, "empty_queue"):  # __post_init__ has run.
            if name in _FUNCTIONS:
                takes, may_wait = _FUNCTIONS[name]
                callable_setting(name, value, takes, may_wait=may_wait)
            elif name == "heartbeat":
                instance_setting(name, value, HeartbeatPolicy)
            elif name == "overflow":
                value = member_of(Overflow, value, name)
            elif name != "_nobody":
                raise UsageError(
                    f"{name} is settled when an endpoint is made: write bus.endpoint({name}=…)"
                )
        object.__setattr__(self, name, value)

    @property
    def connection_count(self) -> int:
        """The number of its connections that have not ended."""
        return self.host.count(self)

    async def admit(
        self, handshake: Handshake, identity: Identity | None = None
    ) -> Admission | Refusal:
        """Accept or refuse a handshake; call it before the connection is accepted.

        An admission takes a place: run the connection, or release :attr:`Admission.place`.

        Args:
            handshake: The client's handshake.
            identity: From the framework, if it identified the client; None: ask the authenticator.
        """
        refusal = self._look_at(handshake)
        if refusal is not None:
            return refusal
        place = self._enter(handshake)
        verdict: Admission | Refusal | None = place if isinstance(place, Refusal) else None
        if isinstance(place, Place):
            try:
                verdict = await self._judge_handshake(handshake, place, identity)
            finally:
                if not isinstance(verdict, Admission):
                    place.release()
        assert verdict is not None
        is_told = verdict is NOT_AVAILABLE  # The log has the reason already, as it has for 401.
        if isinstance(verdict, Refusal) and verdict.status != 401 and not is_told:
            self.notices.of_refusal(handshake, verdict.status, verdict.reason)
        return verdict

    async def identify(
        self, handshake: Handshake, identity: Identity | None = None
    ) -> Identity | Refusal:
        """Accept or refuse a request that is no connection, and so takes no place and no name.

        Args:
            handshake: The request, without its body.
            identity: From the framework, if it identified the client; None: ask the authenticator.
        """
        refusal = self._look_at(handshake)
        found = refusal or identity or await self._identify(handshake)
        return found or Refusal(401, "a token is needed", CloseCode.TOKEN_REFUSED)

    def address_of(self, handshake: Handshake) -> str | None:
        """Return the address that a client counts under; None: it counts under none."""
        try:
            return self._address_of(handshake)
        except Exception:
            self.notices.log.exception(
                "client_address failed", extra=about("client_address_failed")
            )
            return None

    def _look_at(self, handshake: Handshake) -> Refusal | None:
        """Judge what needs no wait."""
        if not self.host.accepts(self):
            if not self.host.has_run:
                self.notices.of_rest(handshake.path, "run the server within `async with bus:`")
            return Refusal(503, "the server is not ready, or shutting down", CloseCode.GOING_AWAY)
        if handshake.size > MAX_HANDSHAKE_BYTES:
            return TOO_LARGE
        headers = handshake.headers
        if not is_welcome(self.origins, headers.get("origin"), headers.get("host", "")):
            self.notices.of_origin(handshake, self.origins)
            return Refusal(403, "this origin may not connect")
        return None

    def _enter(self, handshake: Handshake) -> Place | Refusal:
        """Take a place before anything is awaited, so that no two handshakes get the last one."""
        address = None
        if self.limits.max_connections_per_address is not None:
            try:
                address = self._address_of(handshake)
            except Exception:
                self.notices.log.exception(
                    "client_address failed", extra=about("client_address_failed")
                )
                return NOT_AVAILABLE
        refusal = self.places.enter(address, self.limits)
        return Place(self.places, address) if refusal is None else refusal

    def _address_of(self, handshake: Handshake) -> str | None:
        if self.client_address is not None:
            found: Any = call(copy_context(), self.client_address, handshake)
            if not isinstance(found, str | None):
                raise TypeError(f"client_address returned a {type(found).__name__}, not a text")
        else:
            peer = None if handshake.client is None else handshake.client[0] or None
            forwarded = split_list(handshake.headers.get("x-forwarded-for", ""))
            found = self._proxies.client_of(peer, forwarded)
        return None if found is None else address_key(found)

    async def _judge_handshake(
        self, handshake: Handshake, place: Place, identity: Identity | None
    ) -> Admission | Refusal:
        spoken = {protocol.name: protocol for protocol in self.protocols}
        chosen = next((name for name in handshake.subprotocols if name in spoken), None)
        if chosen is None and handshake.subprotocols:
            return Refusal(400, f"none of the subprotocols is spoken here: {', '.join(spoken)}")
        protocol = self.protocols[0] if chosen is None else spoken[chosen]
        name = name_for(self.name_connection, handshake, self.notices)
        if isinstance(name, Refusal):
            return name
        found = await self._identify(handshake) if identity is None else identity
        if isinstance(found, Refusal):
            return found
        if (
            found is not None
        ):  # Checked again when it begins; here the answer can still be an HTTP status.
            refusal = self.host.refusal(self, name, found.subject)
            if refusal is not None:
                return refusal
        return Admission(handshake, protocol, chosen, found, name, place)

    async def _identify(self, handshake: Handshake) -> Identity | Refusal | None:
        if self.authenticator is None:
            if self._nobody is None:
                self._nobody = Identity(ANONYMOUS, self.anonymous)
            return self._nobody
        try:
            token = shown_token(
                handshake, self.query_token, self.cookie_token, header=self.header_token
            )
        except Unauthenticated as exc:
            self.notices.of_token(handshake, exc.message)
            return Refusal(401, exc.message, CloseCode.TOKEN_REFUSED)
        return await self.judge(token, handshake, copy_context())

    async def judge(
        self,
        token: str | None,
        handshake: Handshake,
        context: Context,
        ask: Callable[..., Awaitable[Any]] = ask,
    ) -> Identity | Refusal | None:
        """Ask the authenticator, with ``ask``: :meth:`.Runner.ask` in a call of the runner.

        Returns:
            The identity; or a refusal, whose close code says whether it is the client's fault
            (``TOKEN_REFUSED``); or None, if there are no credentials yet.
        """
        name, seconds = name_of(self.authenticator), self.limits.auth_timeout
        log = self.notices.log
        try:
            verdict = await ask(seconds, context, self.authenticator, token, handshake)
        except Unauthenticated as exc:
            if not exc.is_logged:
                self.notices.of_token(handshake, exc.message)
            return Refusal(401, exc.message, CloseCode.TOKEN_REFUSED)
        except Overdue:
            log.warning(
                "the authenticator %s was cancelled after %g s (auth_timeout)",
                name,
                seconds,
                extra=about("authenticator_overdue", function=name),
            )
            return NOT_AVAILABLE
        except Exception:
            log.exception(
                "the authenticator %s failed",
                name,
                extra=about("authenticator_failed", function=name),
            )
            return NOT_AVAILABLE
        if verdict is None or isinstance(verdict, Identity):
            return verdict
        log.error(
            "the authenticator %s returned a %s; it must return an Identity, or None, or raise "
            "Unauthenticated",
            name,
            type(verdict).__qualname__,
            extra=about("authenticator_failed", function=name),
        )
        return NOT_AVAILABLE

    def run(self, transport: Transport, admission: Admission) -> Coroutine[Any, Any, None]:
        """Return a coroutine that runs an accepted connection; it never raises because of the peer.

        Await it at once, in a task that keeps neither argument: there are many idle connections,
        and each coroutine between their reader and the server costs 270 bytes.
        """
        return self.host.serve(self, transport, admission)

    async def drain(self, *, deadline: float = 10.0, code: int = CloseCode.GOING_AWAY) -> None:
        """End all connections; accept no others meanwhile.

        Each gets what it is owed and a close frame; those that are not writable are aborted at
        once, and those that are left at the deadline then.

        Args:
            deadline: Seconds.
            code: 1001, or 1012 to say that the service restarts at once.
        """
        await self.host.drain(self, deadline=deadline, code=code)
