"""The console: its settings, its endpoint, and the host of its connections."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection
from dataclasses import replace
from hashlib import sha256
from inspect import isawaitable
from typing import Final, Literal

from anyio import CancelScope, create_task_group

from .._log import BoundedLog, about, escaped
from ..auth import Authenticator
from ..bus import Bus, host_of
from ..core.errors import CloseCode, Unauthenticated, UsageError
from ..core.limits import Limits
from ..core.permissions import Grants, Identity
from ..endpoint import Admission, Endpoint, Refusal
from ..protocols import protocol
from ..server.host import BusHost
from ..transport import Handshake, Transport
from ..web.pages import AssetResponse
from .assets import answer, redirect
from .observation import Observation
from .strangers import Stranger, Strangers

__all__ = ["Console"]

logger: Final = logging.getLogger("wsbus.console")

MIN_TOKEN: Final = 16
"""Characters. The console shows subjects and addresses: its token must not be guessed."""

_LIMITS: Final = Limits(
    max_message_bytes=16 * 1024,
    max_subscriptions=1,
    messages_per_second=20,
    queue_messages=64,  # A page that reads too slowly gets newer samples, not more of them.
    max_connections=None,  # Counted here: strangers and operators separately.
    auth_timeout=5,
)
_ACTIONS: Final = ("console.*",)


class Console:
    """An operator's view of a bus; mount it with ``console_routes`` of an adapter.

    Consoles talk to a small bus of their own, which runs only while one is connected. So they are
    not connections of the bus: they do not affect its hooks, ``authorize``, counters and commands,
    and nothing sent to a console can reach a subscriber of the bus, not even of ``*``.

    Args:
        bus: The bus to show.
        token: Admits a client that sends it in an ``auth`` message; at least 16 characters.
        authenticator: Instead of a token, an authenticator as at any endpoint. Only identities
            whose grants have ``admin`` can connect, and tails omit channels that they are denied.
        allow_changes: Whether an operator may disconnect clients; otherwise nothing can be changed.
        origins: Origins of the pages that may connect; the console's own page has the same host.

    Raises:
        UsageError: Neither a token nor an authenticator is given, or both; or the token is short;
            or pages of all origins may connect, and an authenticator says who they are.
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
        if authenticator is not None and (origins == "*" or "null" in origins):
            raise UsageError(
                "an authenticator may read a cookie, which a browser sends for pages of any site: "
                "leave '*' and 'null' out of origins, and list your own"
            )
        self.bus: Final = bus
        self.allow_changes: Final = allow_changes
        """Whether an operator may disconnect clients."""
        self._host: Final = _ConsoleHost(host_of(bus), allow_changes=allow_changes)
        self.endpoint: Final = Endpoint(
            host=self._host,
            protocols=(protocol("wsbus.v1"),),
            authenticator=_admitting(authenticator or _by_token(token or "")),
            origins=origins,
            limits=_LIMITS,
        )
        """The page's endpoint; adapters mount it at ``ws`` beside the page."""

    @property
    def is_open(self) -> bool:
        """Whether an operator is connected; if not, nothing runs and no task is left."""
        return self._host.observation is not None

    # --- for adapters ----------------------------------------------------------------------------

    def page(self, name: str) -> AssetResponse:
        """Return the file of this name, the page itself for the empty one, or a 404.

        Args:
            name: The last segment of the path.
        """
        return answer(name)

    def redirect(self, prefix: str) -> AssetResponse:
        """Return the redirect from the page's path without a slash at the end to the page."""
        return redirect(prefix)


class _ConsoleHost:
    """The host of a console's endpoint: for strangers first, then with the consoles' own bus."""

    def __init__(self, watched: BusHost, *, allow_changes: bool) -> None:
        self.observation: Observation | None = None
        self._watched: Final = watched
        self._allow_changes: Final = allow_changes
        self._strangers: Final = Strangers()
        self._is_draining = False

    @property
    def has_run(self) -> bool:
        return self._watched.has_run

    def accepts(self, endpoint: Endpoint) -> bool:
        """Whether consoles can connect now: while the bus runs."""
        return self._watched.is_running and not self._is_draining

    def count(self, endpoint: Endpoint) -> int:
        return 0 if self.observation is None else self.observation.guests

    def refusal(self, endpoint: Endpoint, name: str | None, subject: str) -> Refusal | None:
        """Return nothing: consoles have no names of their own."""
        return None

    async def serve(self, endpoint: Endpoint, transport: Transport, admission: Admission) -> None:
        """Run a console's connection to its end.

        Until its token is accepted, the connection is a stranger's. The bus of the consoles begins
        with the first operator, and ends with the last.
        """
        try:
            if admission.identity is None and self.accepts(endpoint):
                stranger = Stranger(endpoint, transport, admission)
                identity = await self._strangers.meet(stranger)
                if identity is None:
                    return
                admission = replace(
                    admission, identity=identity, connection_id=stranger.id, is_greeted=True
                )
            if self.accepts(endpoint):
                await self._observe(endpoint, transport, admission)
            else:  # The bus was stopped after the admission.
                await transport.close(CloseCode.GOING_AWAY, "the server is shutting down")
        finally:
            if admission.place is not None:
                admission.place.release()

    async def _observe(
        self, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> None:
        """Run an operator's connection to its end."""
        observation = self.observation
        if observation is None or observation.is_over:
            observation = Observation(self._watched, allow_changes=self._allow_changes)
            self.observation = observation
        observation.guests += 1
        try:
            await observation.begin()
            await host_of(observation.bus).serve(endpoint, transport, admission)
        finally:
            observation.guests -= 1
            if not observation.guests:
                if self.observation is observation:
                    self.observation = None
                with CancelScope(shield=True):
                    await observation.close()

    async def drain(self, endpoint: Endpoint, *, deadline: float, code: int) -> None:
        """End all consoles; see :meth:`.Endpoint.drain`."""
        self._is_draining = True
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(self._strangers.end, deadline, code)
                if self.observation is not None:
                    await self.observation.bus.aclose(deadline=deadline, code=code)
        finally:
            self._is_draining = False


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


def _admitting(authenticator: Authenticator) -> Authenticator:
    """Admit administrators only, with the grants of a console; log refusals."""
    log = BoundedLog(logger)

    async def judge(token: str | None, handshake: Handshake) -> Identity | None:
        try:
            verdict = authenticator(token, handshake)
            identity = await verdict if isawaitable(verdict) else verdict
            return None if identity is None else _operator(identity)
        except Unauthenticated as exc:
            exc.is_logged = True
            client = handshake.client[0] if handshake.client else "an unknown address"
            log.warning(
                "the console refused a token from %s",
                escaped(client),
                extra=about("console_token_refused", address=escaped(client)),
            )
            raise

    return judge


def _operator(identity: Identity) -> Identity:
    if not identity.grants.admin:
        raise Unauthenticated("the console is for administrators")
    denied = [pattern.text for pattern in identity.grants.deny_subscribe]
    grants = Grants.of(admin=True, command=_ACTIONS, deny_subscribe=denied)
    return Identity(identity.subject, grants, identity.expires_at)
