"""The console's endpoint, for administrators only."""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import Callable, Collection
from hashlib import sha256
from inspect import isawaitable
from typing import Final, Literal, NamedTuple

from anyio import CancelScope

from .._log import BoundedLog, escaped
from ..auth import Authenticator
from ..bus import Bus
from ..core.errors import CloseCode, Unauthenticated, UsageError
from ..core.limits import Limits
from ..core.permissions import Grants, Identity
from ..endpoint import Admission, Endpoint, Refusal
from ..protocols import protocol
from ..transport import Handshake, Transport
from .observation import Observation

__all__ = ["Console"]

logger: Final = logging.getLogger("wsbus.console")

MIN_TOKEN: Final = 16
"""Characters. The console shows subjects and addresses: its token must not be guessed."""

_LIMITS: Final = Limits(
    max_message_bytes=16 * 1024,
    max_subscriptions=1,
    messages_per_second=20,
    queue_messages=64,  # A page that reads too slowly gets newer samples, not more of them.
    max_connections=None,  # Counted by the console: strangers apart from operators.
    auth_timeout=5,
)
MAX_STRANGERS: Final = 32
"""Connections that have not shown a token yet; one more takes the place of the oldest."""
_ACTIONS: Final = ("console.*",)


class Console:
    """An operator's view of a bus; mount it with ``console_routes`` of an adapter.

    Consoles talk to a small bus of their own, which runs only while one is connected. So they are
    none of the bus's connections: its hooks, ``authorize``, counters and commands never meet them,
    and nothing sent to a console can reach a subscriber of the bus, not even of ``*``.

    Args:
        bus: What to look at.
        token: Admits a client that shows it in an ``auth`` message; at least 16 characters.
        authenticator: Instead of a token: judges as at any endpoint. Only identities whose grants
            have ``admin`` are let in, and the channels that they are denied do not show in tails.
        allow_changes: Whether an operator may disconnect; else nothing can be changed.
        origins: Whose pages may connect; the console's own page has the same host.

    Raises:
        UsageError: Neither a token nor an authenticator is given, or both; or the token is short.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        token: str | None = None,
        authenticator: Authenticator | None = None,
        allow_changes: bool = False,
        origins: Collection[str] | Literal["same-host", "*"] = "same-host",
    ) -> None:
        if (token is None) == (authenticator is None):
            raise UsageError("a console needs a token or an authenticator")
        if token is not None and len(token) < MIN_TOKEN:
            raise UsageError(f"the token of a console has at least {MIN_TOKEN} characters")
        if isinstance(origins, str) and origins not in {"same-host", "*"}:
            raise UsageError("origins are a collection of texts, 'same-host' or '*'")
        self.bus: Final = bus
        self.allow_changes: Final = allow_changes
        """Whether an operator may disconnect."""
        self.endpoint: Final = Endpoint(
            gate=self,
            protocols=(protocol("wsbus.v1"),),
            authenticator=_admitting(authenticator or _by_token(token or ""), self._admitted),
            origins=origins,
            limits=_LIMITS,
        )
        """Where the page connects; adapters mount it at ``ws`` beside the page."""
        self._observation: Observation | None = None
        self._strangers: dict[int, _Stranger] = {}
        """By the identity of their handshakes, oldest first."""
        self._operators: set[int] = set()
        """The same of those whose token was accepted."""
        self._is_draining = False

    @property
    def is_open(self) -> bool:
        """Whether anybody is connected; if not, no task is left."""
        return self._observation is not None

    @property
    def is_sampling(self) -> bool:
        """Whether the task that samples runs: from the first accepted token on."""
        return self._observation is not None and self._observation.is_sampling

    # --- for its endpoint ------------------------------------------------------------------------

    @property
    def has_run(self) -> bool:
        """Whether the bus has been started, be it running still or not."""
        return self.bus.has_run

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether consoles are let in now: as long as the bus runs."""
        return self.bus.is_running and not self._is_draining

    def refusal(self, endpoint: Endpoint, name: str | None, subject: str) -> Refusal | None:
        """Return nothing: consoles have no names of their own."""
        return None

    async def serve(self, endpoint: Endpoint, transport: Transport, admission: Admission) -> None:
        """Run a console's connection to its end; the bus of the consoles ends with the last.

        Sampling begins once an operator is there. A connection without an identity is a stranger
        until its token is accepted.
        """
        if not self.accepts(endpoint):  # Stopped, since it was admitted.
            await transport.close(CloseCode.GOING_AWAY, "the server is shutting down")
            return
        observation = self._observation
        if observation is None or observation.is_over:
            observation = self._observation = Observation(
                self.bus, allow_changes=self.allow_changes
            )
        observation.guests += 1
        key = id(admission.handshake)
        if admission.identity is not None:
            self._operators.add(key)
        else:
            self._count_stranger(admission.handshake, transport)
        try:
            await observation.opened()
            if key in self._operators:
                observation.begin()
            await observation.bus.serve(endpoint, transport, admission)
        finally:
            observation.guests -= 1
            self._strangers.pop(key, None)
            self._operators.discard(key)
            if not observation.guests:
                if self._observation is observation:
                    self._observation = None
                with CancelScope(shield=True):
                    await observation.close()

    def _count_stranger(self, handshake: Handshake, transport: Transport) -> None:
        """Note a stranger; if there are too many, cut off the oldest of the busiest address."""
        strangers = self._strangers
        if len(strangers) >= MAX_STRANGERS:
            by_address = Counter(stranger.address for stranger in strangers.values())
            busiest = max(by_address.values())
            for key, stranger in strangers.items():
                if by_address[stranger.address] == busiest:
                    del strangers[key]
                    stranger.transport.abort()
                    logger.info("the console cut off a client that had shown no token")
                    break
        address = handshake.client[0] if handshake.client else ""
        strangers[id(handshake)] = _Stranger(address, transport)

    def _admitted(self, handshake: Handshake) -> None:
        """An operator's token was accepted: it is no stranger any more, and sampling begins."""
        if self._strangers.pop(id(handshake), None) is not None:
            self._operators.add(id(handshake))
            if self._observation is not None:
                self._observation.begin()

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End all consoles; see :meth:`.Endpoint.drain`."""
        observation = self._observation
        if observation is not None:
            self._is_draining = True
            try:
                await observation.bus.aclose(deadline=deadline, code=code)
            finally:
                self._is_draining = False


class _Stranger(NamedTuple):
    """A connection whose token has not been accepted yet."""

    address: str
    transport: Transport


def _by_token(expected: str) -> Authenticator:
    digest = _digest(expected)

    def judge(token: str | None, handshake: Handshake) -> Identity | None:
        if token is None:
            return None
        # In constant time, also over the length.
        if not hmac.compare_digest(_digest(token), digest):
            raise Unauthenticated
        return Identity("operator", Grants.of(admin=True))

    return judge


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _admitting(
    authenticator: Authenticator, admitted: Callable[[Handshake], None]
) -> Authenticator:
    """Admit administrators only, with the grants of a console; log refusals."""
    log = BoundedLog(logger)

    async def judge(token: str | None, handshake: Handshake) -> Identity | None:
        try:
            verdict = authenticator(token, handshake)
            identity = await verdict if isawaitable(verdict) else verdict
            operator = None if identity is None else _operator(identity)
        except Unauthenticated as exc:
            exc.is_logged = True
            client = handshake.client[0] if handshake.client else "an unknown address"
            log.warning("the console refused a token from %s", escaped(client))
            raise
        if operator is not None:
            admitted(handshake)
        return operator

    return judge


def _operator(identity: Identity) -> Identity:
    if not identity.grants.admin:
        raise Unauthenticated("the console is for administrators")
    denied = [pattern.text for pattern in identity.grants.deny_subscribe]
    grants = Grants.of(admin=True, command=_ACTIONS, deny_subscribe=denied)
    return Identity(identity.subject, grants, identity.expires_at)
