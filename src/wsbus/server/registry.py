"""The connections of a running bus, by endpoint, name and subject.

A connection is *held* from its attach until it has ended, whether or not it keeps its name. A
*name* has one holder at its endpoint, and only a connection of the same subject takes it over. A
*subject* belongs to its authenticator (:attr:`.Endpoint.realm`): the ``ada`` of one authenticator
is not the ``ada`` of another.

The module is pure, except for the event that :meth:`Registry.all_gone` waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from anyio import Event

from ..core.errors import CloseCode
from ..endpoint import Endpoint, Refusal

__all__ = ["Held", "Registry"]


class Held(Protocol):
    """The attributes of a connection that the registry needs."""

    @property
    def id(self) -> str:
        """Its name, or the id that the bus made."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Its endpoint."""
        ...


C = TypeVar("C", bound=Held)

TAKEN: Final = Refusal(409, "client_id taken", CloseCode.REPLACED)
"""Another connection holds the name, and keeps it."""
TOO_MANY: Final = Refusal(429, "too many connections of this identity", CloseCode.RATE_ABUSE)
"""The identity has ``max_connections_per_identity`` connections."""


class Registry(Generic[C]):
    """Connections by endpoint, name and subject.

    Law, after every step: :meth:`count` of an endpoint is the number of its connections in
    :meth:`connected`; a name's holder and a subject's connections are among them.
    """

    def __init__(self) -> None:
        # Dicts instead of sets: in order, oldest first.
        self._held: Final[
            dict[C, str | None]
        ] = {}  # Each with the subject that it was adopted with.
        self._leaving: Final[set[C]] = set()  # Removed, but not freed yet.
        self._names: Final[dict[tuple[Endpoint, str], C]] = {}
        self._subjects: Final[dict[tuple[int, str], dict[C, None]]] = {}
        self._counts: Final[Counter[Endpoint]] = Counter()
        self._removed: Event | None = None
        self.ever: int = 0
        """Number of connections added, including those that have ended."""
        self.observers: Final[list[Callable[[C], None]]] = []
        """Called with each connection that has ended; none may raise."""

    # --- queries -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many connections are held."""
        return len(self._held)

    def __contains__(self, connection: object) -> bool:
        """Whether the connection has not ended yet."""
        return connection in self._held

    def connected(self, endpoint: Endpoint | None = None) -> list[C]:
        """Return the connections, of one endpoint or all, oldest first."""
        return [c for c in self._held if endpoint is None or c.endpoint is endpoint]

    def count(self, endpoint: Endpoint) -> int:
        """Return how many connections an endpoint has."""
        return self._counts[endpoint]

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints that have connections."""
        return list(self._counts)

    def named(self, endpoint: Endpoint, name: str) -> C | None:
        """Return the connection that holds a name, unless it has ended."""
        holder = self._names.get((endpoint, name))
        return holder if holder in self._held else None

    def is_leaving(self, connection: C) -> bool:
        """Whether the connection is held, or has ended and has not been freed."""
        return connection in self._held or connection in self._leaving

    def of(self, realm: int, subject: str, endpoint: Endpoint | None = None) -> list[C]:
        """Return the connections of a subject, of one endpoint or all, oldest first."""
        found = self._subjects.get((realm, subject), ())
        return [c for c in found if endpoint is None or c.endpoint is endpoint]

    def present(self, connections: Iterable[object]) -> list[C]:
        """Return the connections that have not ended, each once, in order."""
        return [c for c in dict.fromkeys(connections) if c in self._held]

    async def all_gone(self, endpoint: Endpoint | None = None) -> None:
        """Wait until all connections, of one endpoint or all, and their hooks have ended."""
        while self._counts[endpoint] if endpoint else (self._held or self._leaving):
            if self._removed is None:
                self._removed = Event()
            await self._removed.wait()

    # --- changes -----------------------------------------------------------------------------

    def add(self, connection: C) -> None:
        """Hold a connection; an id that the bus made is its name at once."""
        self._held[connection] = None
        self._counts[connection.endpoint] += 1
        self.ever += 1
        if connection.endpoint.name_connection is None:
            self._names[connection.endpoint, connection.id] = connection

    def refusal(self, endpoint: Endpoint, name: str | None, subject: str) -> Refusal | None:
        """Return why :meth:`adopt` would refuse a connection, or None.

        Args:
            endpoint: Its endpoint.
            name: Its name; None: the bus makes an id.
            subject: Its subject.
        """
        holder = None if name is None else self._names.get((endpoint, name))
        if holder in self._held and (
            endpoint.on_duplicate == "reject" or self._held[holder] != subject
        ):
            return TAKEN
        most = endpoint.limits.max_connections_per_identity
        if most is None:
            return None
        others = [c for c in self.of(endpoint.realm, subject, endpoint) if c is not holder]
        return TOO_MANY if len(others) >= most else None

    def adopt(self, connection: C, subject: str) -> C | Refusal | None:
        """Note a connection's subject, and give it its name; once, when it has authenticated.

        Returns:
            The connection that held the name before, and is not freed yet; or why this one is
            refused; or None.
        """
        endpoint = connection.endpoint
        name = None if endpoint.name_connection is None else connection.id
        refusal = self.refusal(endpoint, name, subject)
        if refusal is not None:
            return refusal
        self._held[connection] = subject
        self._subjects.setdefault((endpoint.realm, subject), {})[connection] = None
        if name is None:
            return None
        replaced = self._names.get((endpoint, name))
        self._names[endpoint, name] = connection
        return replaced

    def remove(self, connection: C) -> None:
        """Stop holding a connection, because it has ended. Idempotent.

        Its name is free from now on. If another connection takes the name before :meth:`free`,
        :meth:`adopt` returns this one.
        """
        if connection not in self._held:
            return
        endpoint = connection.endpoint
        subject = self._held.pop(connection)
        self._leaving.add(connection)
        if subject is not None:
            group = self._subjects[endpoint.realm, subject]
            del group[connection]
            if not group:
                del self._subjects[endpoint.realm, subject]
        self._counts[endpoint] -= 1
        if not self._counts[endpoint]:
            del self._counts[endpoint]
        self._report()
        for observe in self.observers:
            observe(connection)

    def free(self, connection: C) -> None:
        """Forget a connection that has ended, once its hooks have returned. Idempotent."""
        self._leaving.discard(connection)
        key = (connection.endpoint, connection.id)
        if self._names.get(key) is connection:
            del self._names[key]
        self._report()

    def _report(self) -> None:
        if self._removed is not None:
            self._removed.set()
            self._removed = None
