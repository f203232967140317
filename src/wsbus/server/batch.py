"""Several publications and orders, checked as they are made, for the broker to take at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._settings import text_setting
from ..core.envelope import Addressed, Dismissed, Draft, Item, Revoked, encode_item, publish_item
from ..core.errors import CloseCode, check_sendable
from ..core.families import Families
from ..core.feeds import ALL_NODES, Feed
from ..core.patterns import parse_pattern
from .recipients import RemoteWho, addressed
from .source import BROADCAST, Source, scoped_key

__all__ = ["EmitterBatch"]


class EmitterBatch:
    """Collects what an emitter publishes; made by ``emitter.batch()``.

    Its verbs are those of :class:`.Bus`. They check their arguments and encode the data at once,
    and never wait. What is published on one channel arrives in the order of the calls.
    """

    def __init__(self, source: Source, families: Families) -> None:
        self._source: Final = source
        self._families: Final = families
        self._items: Final[list[tuple[Feed, bytes] | Draft]] = []

    def __len__(self) -> int:
        """Return the number of its publications and orders."""
        return len(self._items)

    @property
    def items(self) -> Sequence[tuple[Feed, bytes] | Draft]:
        """The feed of each item, and the item, in order; drafts where a family keeps history."""
        return self._items

    def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Publish to everyone whose patterns match.

        It is kept if a family of the emitter says so. The families of the service are not known
        here: what is published without its family comes to subscribers live, and is not kept.

        Args:
            channel: The exact name.
            data: Anything that has a form in JSON, including structs, dataclasses and dates.
            event: The event: a word that says what happened.
            exclude: Receivers to leave out: a :class:`.ConnectionId`, several, or the subject of an
                identity.
            key: For ``conflate``, the key; None: channel and event.
            idempotency_key: On a channel with history, a text that a repetition of this publication
                has, too: of those within two minutes only the first is published.

        Raises:
            InvalidChannel: The channel is invalid; a pattern, for example.
            UsageError: The data has no JSON form, or an argument has the wrong type, or there is an
                ``idempotency_key`` and no history.
        """
        publication = self._source.accept(channel, event, data, key)
        item = publish_item(publication, addressed(exclude, "exclude"))
        name, feed = publication.channel, Feed("=" + publication.channel)
        scoped = None
        if idempotency_key is not None:
            scoped = scoped_key(idempotency_key, name, self._families)
        history = self._families.history_of(name)
        if history is None:
            self._items.append((feed, item))
        else:
            self._items.append(Draft(feed, publication, item, history, scoped))

    def broadcast(
        self,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
    ) -> None:
        """Publish to every authenticated connection of the endpoints with a broadcast channel.

        Args are those of :meth:`publish`. It has no order with what :meth:`publish` publishes.

        Raises:
            UsageError: As :meth:`publish`.
        """
        publication = self._source.accept_on(BROADCAST, event, data, key)
        item = publish_item(publication, addressed(exclude, "exclude"))
        self._items.append((ALL_NODES, item))

    def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: RemoteWho,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
    ) -> None:
        """Publish to connections, or to all of one identity, whatever they subscribe to.

        Their denies apply.

        Args:
            channel: The channel of the event.
            data: As for :meth:`publish`.
            to: A :class:`.ConnectionId`, several, or the subject of an identity.
            event: As for :meth:`publish`.
            exclude: As for :meth:`publish`.
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError: As :meth:`publish`.
        """
        publication = self._source.accept(channel, event, data, key)
        excluded, wanted = addressed(exclude, "exclude"), addressed(to, "to")
        if wanted is not None:
            self._items.append((ALL_NODES, publish_item(publication, excluded, wanted)))

    def disconnect(
        self,
        who: RemoteWho,
        *,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the server",
    ) -> None:
        """End connections, or all of one identity.

        Args:
            who: A :class:`.ConnectionId`, several, or the subject of an identity.
            code: After 4000-4499 clients reconnect, after 4500-4999 they do not.
            reason: At most 123 bytes of UTF-8; cut if longer.

        Raises:
            UsageError: The code may not be sent, or an argument has the wrong type.
        """
        check_sendable(code)
        text_setting("reason", reason)
        to = addressed(who, "who")
        if to is not None:
            self._order(Dismissed(to, int(code), reason))

    def revoke(self, who: RemoteWho, pattern: str, *, reason: str | None = None) -> None:
        """Take a subscription from connections, or from one identity; as :meth:`.Bus.revoke`.

        Args:
            who: As for :meth:`disconnect`.
            pattern: As it was subscribed.
            reason: A text for people; None: no reason.

        Raises:
            InvalidChannel: The pattern is invalid.
            UsageError: An argument has the wrong type.
        """
        text = parse_pattern(pattern).text
        if reason is not None:
            text_setting("reason", reason)
        to: Addressed | None = addressed(who, "who")
        if to is not None:
            self._order(Revoked(to, text, reason))

    def _order(self, order: Item) -> None:
        self._items.append((ALL_NODES, encode_item(order)))
