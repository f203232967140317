"""Finding the recipients that callers name: connections, or the subject of an identity."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from .._log import about, escaped
from ..auth import Authenticator
from ..connection import Connection, ConnectionId
from ..core.channels import Channel
from ..core.envelope import Addressed
from ..core.errors import UsageError
from ..core.hub import Hub
from ..core.member import Member
from ..endpoint import Endpoint
from .connection import ConnectionDriver, driver_of
from .registry import Registry

__all__ = ["Recipients", "RemoteWho", "Who", "addressed", "subscribers"]

logger: Final = logging.getLogger("wsbus.bus")

Who: TypeAlias = Connection | ConnectionId | Iterable[Connection | ConnectionId] | str
"""A connection, several, or the subject of an identity, meaning all its connections. A
:class:`.Connection` is always one of this process."""

RemoteWho: TypeAlias = ConnectionId | Iterable[ConnectionId] | str
"""Connections on any node by their ids, or the subject of an identity of the bus's first
authenticator, meaning all its connections."""

_NOBODY: Final[frozenset[Member]] = frozenset()


class Recipients:
    """Finds connections that the application names.

    Subjects are the same within a *realm*: the authenticators of a bus, numbered from 1.

    Args:
        endpoints: The endpoints of the bus.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints: Final = endpoints
        self._authenticators: Final[list[Authenticator]] = []
        self._has_warned = False
        self._has_told_of_ids = False

    def realm_of(self, authenticator: Authenticator | None) -> int:
        """Return the realm of an authenticator; 0 for None."""
        if authenticator is None:
            return 0
        if authenticator not in self._authenticators:
            self._authenticators.append(authenticator)
        return self._authenticators.index(authenticator) + 1

    def find(
        self,
        registry: Registry[ConnectionDriver],
        who: Who,
        endpoint: Endpoint | None = None,
        name: str = "who",
    ) -> Sequence[ConnectionDriver]:
        """Return the drivers of the named connections that are connected.

        Args:
            registry: The connections of the bus.
            who: The connections, or the subject.
            endpoint: For a subject, its endpoint; None: all endpoints with the bus's first
                authenticator.
            name: The argument's name, for the error.

        Raises:
            UsageError: It is neither a connection, nor several, nor the subject of an identity.
        """
        if endpoint is not None and not isinstance(endpoint, Endpoint):
            raise UsageError(
                f"endpoint is what bus.endpoint(…) returned, not {type(endpoint).__name__}"
            )
        if isinstance(who, str):
            realm = self._default() if endpoint is None else endpoint.realm
            found = registry.of(realm, who, endpoint)
            if not found and not self._has_told_of_ids:
                self._look_for_id(registry, who, name)
            return found
        drivers: list[ConnectionDriver] = []
        for each in _several(who, name):
            if isinstance(each, Connection):
                drivers.append(driver_of(each))
            else:
                named = (registry.named(endpoint, each.id) for endpoint in self._endpoints)
                drivers.extend([driver for driver in named if driver is not None])
        return registry.present(drivers)

    def elsewhere(
        self, who: Who, endpoint: Endpoint | None = None, *, and_here: bool = False
    ) -> Addressed | None:
        """Return what other nodes look for; None: only connections of this node are named.

        Args:
            who: As for :meth:`find`, which has checked it.
            endpoint: The same.
            and_here: Whether this node looks for it, too, when it comes back from the broker.
        """
        if who == ():
            return None
        if isinstance(who, str):
            if endpoint is None:
                return Addressed((), who, self._default())
            return Addressed((), who, endpoint.realm, self._endpoints.index(endpoint))
        ids: list[str] = []
        own: list[str] = []
        for each in _several(who, "who"):
            (own if isinstance(each, Connection) else ids).append(each.id)
        if not and_here:
            own = []
        return Addressed(tuple(ids), own=tuple(own)) if ids or own else None

    def members(
        self, registry: Registry[ConnectionDriver], who: Who, endpoint: Endpoint | None = None
    ) -> frozenset[Member]:
        """Return the members that a publication excludes."""
        if who == ():  # The usual case.
            return _NOBODY
        excluded = self.find(registry, who, endpoint, "exclude")
        return frozenset([member for driver in excluded for member in driver.members])

    def _look_for_id(self, registry: Registry[ConnectionDriver], who: str, name: str) -> None:
        """Warn, once, if the id of a connection was passed as a subject."""
        if any(registry.named(endpoint, who) is not None for endpoint in registry.endpoints()):
            self._has_told_of_ids = True
            logger.warning(
                "%s=%r found nobody: a text is the subject of an identity, and this is the id of a "
                "connection; write %s=bus.connection(id)",
                name,
                escaped(who),
                name,
                extra=about("connection_as_subject"),
            )

    def _default(self) -> int:
        """Return the realm of a bare text: that of the first authenticator."""
        if len(self._authenticators) > 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "subjects of several authenticators: a text without endpoint= means those of the "
                "first endpoint with an authenticator",
                extra=about("several_authenticators"),
            )
        return 1 if self._authenticators else 0


def addressed(who: RemoteWho, name: str) -> Addressed | None:
    """Return what nodes look for, for a sender without connections; None: nothing is named.

    Args:
        who: The connections, or the subject.
        name: The argument's name, for the error.

    Raises:
        UsageError: It is neither; a :class:`.Connection`, for example.
    """
    if isinstance(who, str):
        return Addressed((), who)
    ids = []
    for each in _several(who, name):
        if not isinstance(each, ConnectionId):
            raise UsageError(
                f"{name}: an emitter knows connections by their ids only: "
                "write ConnectionId(connection.id)"
            )
        ids.append(each.id)
    return Addressed(tuple(ids)) if ids else None


def _several(
    who: Connection | ConnectionId | Iterable[object], name: str
) -> list[Connection | ConnectionId]:
    """Return the connections that are named, each once."""
    try:
        wanted: dict[object, None] = dict.fromkeys(
            (who,) if isinstance(who, Connection | ConnectionId) else who
        )
    except TypeError:  # It is not iterable, or an element has no hash.
        raise _not_connections(name, type(who).__name__) from None
    found = []
    for each in wanted:
        if not isinstance(each, Connection | ConnectionId):
            kind = f"{type(who).__name__} with a {type(each).__name__} in it"
            raise _not_connections(name, kind)
        found.append(each)
    return found


def _not_connections(name: str, kind: str) -> UsageError:
    return UsageError(
        f"{name} must be a connection, several, or the subject of an identity, not {kind}"
    )


def subscribers(
    hub: Hub, registry: Registry[ConnectionDriver], channels: Iterable[Channel]
) -> list[Connection]:
    """Return the connections that a publication on any of these channels would be for."""
    members = dict.fromkeys(m for name in channels for m in hub.matching(name))
    return [d.connection for d in registry.present(m.outlet.receiver for m in members)]
