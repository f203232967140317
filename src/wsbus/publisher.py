"""The verbs of a bus that publish."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from anyio import from_thread

from .auth import Authenticator
from .connection import Connection
from .core.channels import parse_channel
from .core.encoding import EncHook, encode_data
from .core.errors import NotStarted, UsageError
from .core.hub import Receipt
from .core.instant import Instant
from .core.messages import Publication
from .core.overflow import Overflow
from .core.plan import Member
from .endpoint import Endpoint
from .life import Life
from .services import Services

__all__ = ["Publisher"]

logger: Final = logging.getLogger("wsbus.bus")


class Publisher:
    """What :class:`.Bus` inherits; not for use by itself.

    All methods belong to the thread of the event loop, but for :meth:`publish_threadsafe`.
    """

    def __init__(self, enc_hook: EncHook | None, clock: Callable[[], Instant]) -> None:
        self._encode: Final = partial(encode_data, enc_hook=enc_hook)
        self._clock: Final = clock
        self._broadcasts: Final[set[str]] = set()
        self._life: Life | None = None
        self._authenticators: Final[list[Authenticator]] = []  # By their realms, from 1 on.
        self._has_warned = False

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Connection | Iterable[Connection] = (),
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of the calls.

        It never waits for a subscriber, and yields to the event loop only once per 64
        publications or 256 KiB, so that a tight loop loses nothing for readers that keep up.

        Args:
            channel: Where; an exact name.
            data: What JSON has a form for; msgspec structs, dataclasses and dates, too.
            event: What happened, a word within the channel.
            exclude: Who shall not get it.
            overflow: What a full queue does with it; None: as its endpoint says.
            key: For ``conflate``: what it replaces; None: the same event of the same channel.

        Returns:
            How many it was for, and how many will get it.

        Raises:
            InvalidChannel: It is no channel, a pattern, say.
            UsageError: The data has no JSON form. Nobody got anything.
            NotStarted: The bus is not running.
        Cancellation: accepted already.
        """
        services = self._running()
        publication = self._publication(channel, data, event, overflow, key)
        receipt = services.hub.publish(publication, _members(exclude))
        flusher = services.flusher
        if flusher.is_overdue:
            await flusher.flushed()
        else:
            flusher.soon()
        return receipt

    def publish_soon(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Connection | Iterable[Connection] = (),
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish from code that cannot await: as :meth:`publish`, in one order with it.

        It never waits; in a tight loop queues may overflow.

        Raises:
            UsageError: Called from another thread, too: see :meth:`publish_threadsafe`.
        """
        services = self._running()
        publication = self._publication(channel, data, event, overflow, key)
        receipt = services.hub.publish(publication, _members(exclude))
        services.flusher.soon()
        return receipt

    def publish_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish from another thread; wait until the event loop has accepted it.

        Args and errors are those of :meth:`publish`.
        """
        life = self._life
        if life is None:
            raise NotStarted
        if threading.get_ident() == life.thread:
            raise UsageError("this is the thread of the event loop: use publish_soon")
        call = partial(self.publish_soon, channel, data, event=event, overflow=overflow, key=key)
        return from_thread.run_sync(call, token=life.token)

    async def broadcast(self, data: object, *, event: str = "message") -> Receipt:
        """Publish to every authenticated connection of the endpoints with a broadcast channel.

        Raises:
            UsageError: No endpoint has one; and as :meth:`publish`.
        """
        if not self._broadcasts:
            raise UsageError("no endpoint has a broadcast channel: bus.endpoint(broadcast=…)")
        receipts = [await self.publish(name, data, event=event) for name in self._broadcasts]
        return Receipt(sum(r.matched for r in receipts), sum(r.accepted for r in receipts))

    async def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: Connection | Iterable[Connection] | str,
        endpoint: Endpoint | None = None,
        event: str = "message",
        overflow: Overflow | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to connections, or to all of one identity, whatever they subscribe to.

        What their grants deny they do not get.

        Args:
            channel: What the event says it is on.
            data: As for :meth:`publish`.
            to: A connection, several, or the subject of an identity; each gets it once.
            endpoint: For a subject: where it authenticated. None: every endpoint that has the
                bus's first authenticator. A subject of another authenticator is somebody else.
            event: What happened.
            overflow: As for :meth:`publish`.
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish`.
        """
        services = self._running()
        publication = self._publication(channel, data, event, overflow, key)
        members = [connection.member for connection in self._find(services, to, endpoint)]
        receipt = services.hub.publish_to(members, publication)
        services.flusher.soon()
        return receipt

    def _publication(
        self, channel: str, data: object, event: str, overflow: Overflow | None, key: str | None
    ) -> Publication:
        name = parse_channel(channel)
        if not isinstance(event, str) or not event.isprintable():  # type: ignore[redundant-expr]
            raise UsageError("an event is a printable text")
        return Publication(name, event, self._encode(data), self._clock().wall, overflow, key)

    def _find(
        self,
        services: Services,
        who: Connection | Iterable[Connection] | str,
        endpoint: Endpoint | None,
    ) -> list[Connection]:
        if isinstance(who, str):
            realm = self._realm() if endpoint is None else endpoint.realm
            return services.registry.of(realm, who, endpoint)
        return services.registry.present((who,) if isinstance(who, Connection) else who)

    def _realm_of(self, authenticator: Authenticator | None) -> int:
        if authenticator is None:
            return 0
        if authenticator not in self._authenticators:
            self._authenticators.append(authenticator)
        return self._authenticators.index(authenticator) + 1

    def _realm(self) -> int:
        """Return whose subjects a bare text means: those of the first authenticator."""
        if len(self._authenticators) > 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "subjects of several authenticators: a text without endpoint= means those of the "
                "first endpoint with an authenticator"
            )
        return 1 if self._authenticators else 0

    def _running(self) -> Services:
        life = self._life
        if life is None or life.services is None:
            raise NotStarted
        if threading.get_ident() != life.thread:
            raise UsageError(
                f"the bus belongs to thread {life.thread}, this is {threading.get_ident()}: "
                "use publish_threadsafe"
            )
        return life.services


def _members(connections: Connection | Iterable[Connection]) -> frozenset[Member]:
    if isinstance(connections, Connection):
        return frozenset((connections.member,))
    return frozenset([connection.member for connection in connections])
