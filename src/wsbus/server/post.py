"""The way of every publication: accept, then deliver.

Whatever is published comes through here: the verbs of the bus, a client's ``publish``, a broadcast,
an event to one identity. :class:`.Source` says what it is (node, number, time), and
:meth:`Post.deliver` is the only caller of :meth:`.Hub.publish` and :meth:`.Hub.publish_to`, so that
whatever concerns each publication has one place.

Pacing stands here, too. A publisher must let the event loop turn once much is owed, and then
wait for readers that drain what they owe; otherwise a tight loop fills the queues of readers that
keep up. An ``async`` verb waits at once (:meth:`Post.settled`). A connection whose client publishes
cannot wait while it acts on a message, and waits before the next one (:meth:`Post.emit`,
:attr:`Post.is_pressed`, :meth:`Post.relieved`). What cannot wait at all is flushed at once when
much is owed (:attr:`Post.soon`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from ..core.channels import Channel
from ..core.envelope import Addressed, Draft, publish_item
from ..core.families import History
from ..core.feeds import ALL_NODES, Feed
from ..core.hub import Hub
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Publication, Receipt
from ..core.tracing import Tracing
from .archive import Archive
from .flusher import Flusher
from .outgoing import Handover, Outgoing
from .source import Encode, Pack, new_source, scoped_key

__all__ = ["Post", "Sent"]


class Sent(msgspec.Struct, frozen=True):
    """A publication that this node has accepted."""

    receipt: Receipt
    """Its result here. If a broker is to keep it, nobody has got it yet, and the receipt counts the
    members that match now."""
    handover: Handover | None = None
    """Whether the broker has taken it; None: no other node wants it."""
    draft: int | None = None
    """The place of its outcome among :attr:`.Handover.stored`; None: the broker does not keep
    it."""

    async def taken(self) -> Receipt:
        """Return the receipt once the broker, if there is one, has taken it.

        Raises:
            BrokerUnavailable: It has not, or that will never be known.
            UsageError: It is larger than the broker takes.
        """
        if self.handover is None:
            return self.receipt
        await self.handover.wait()
        return self.result

    def checked(self) -> Receipt:
        """Return the receipt, unless it is known that the broker has not taken it.

        Raises:
            BrokerUnavailable: There is no link, or too much waits for it.
            UsageError: It is larger than the broker takes.
        """
        return self.receipt if self.handover is None else self.handover.checked(self.receipt)

    @property
    def result(self) -> Receipt:
        """The receipt with the position, once the broker has taken it."""
        receipt, handover, draft = self.receipt, self.handover, self.draft
        if handover is None or draft is None:
            return receipt
        stored = handover.stored[draft]
        if stored.is_repeated:
            return Receipt(0, 0, stored.position, repeated=True)
        return Receipt(receipt.local_matched, receipt.local_accepted, stored.position)


_NO_MEMBERS: Final[frozenset[Member]] = frozenset()


class Post:
    """Accepts publications on this node and delivers them to its members.

    Args:
        hub: Finds the members and owes them.
        flusher: Writes what is owed.
        clock: Reads both clocks.
        encode: Turns data into JSON.
        node: Identifies this run of the bus.
        archive: Keeps what is published on channels with history; None: nothing here does.
        pack: Makes the packed form of data; None: no endpoint speaks a dialect that has one.
        tracing: Begins spans; None: nothing is traced.
    """

    def __init__(
        self,
        hub: Hub,
        flusher: Flusher,
        clock: Callable[[], Instant],
        encode: Encode,
        node: str,
        *,
        archive: Archive | None = None,
        pack: Pack | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.node: Final = node
        self._history_of: Final = hub.families.history_of
        self._archive: Final = archive
        self._hub: Final = hub
        self._flusher: Final = flusher
        self.source: Final = new_source(node, encode, clock, hub.families, pack, tracing=tracing)
        self.take: Final = self.source.take
        """Say what a publication is whose data are JSON already; see :meth:`.Source.take`."""
        self.accept: Final = self.source.accept
        """Check what the application publishes, in any thread; see :meth:`.Source.accept`."""
        self.accept_on: Final = self.source.accept_on
        """The same on a checked channel; see :meth:`.Source.accept_on`."""
        self.note: Callable[[Publication], None] | None = None
        """Called with each publication that is kept, once it is delivered; None: nobody cares."""
        self.outgoing: Outgoing | None = None
        """Takes what goes to other nodes; None: there are none."""
        self.soon: Final = flusher.soon
        """Flush at the end of this turn; at once if much is owed already."""
        self.pace: Final = flusher.pace
        """The same for a publisher that can wait; see :meth:`.Flusher.pace`."""
        self.is_pressed: bool = False
        """Whether the connection whose client published last is to await :meth:`relieved`."""

    @property
    def checks(self) -> bool:
        """Whether some channels say what their publications hold."""
        return self._hub.families.check_content

    def check(self, channel: Channel, event: str, data: bytes) -> None:
        """Refuse what a client publishes, if its channel holds something else.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
            Exception: A validator of the application failed.
        """
        self._hub.families.check(channel, event, data)

    def keeps(self, channel: Channel) -> bool:
        """Tell whether a channel has history."""
        return self._history_of(channel) is not None

    def is_stream(self, channel: Channel) -> bool:
        """Tell whether a channel is a stream."""
        return self._hub.families.stream_of(channel) is not None

    def scoped(self, idempotency_key: str, channel: Channel, owner: str = "") -> str:
        """Return the key under which a store remembers a publication.

        Args:
            idempotency_key: The publisher's.
            channel: Where it publishes.
            owner: The subject whose client publishes; others may use the same key.

        Raises:
            UsageError: It is no text, or the channel has no history.
        """
        return scoped_key(idempotency_key, channel, self._hub.families, owner)

    def publish(
        self,
        publication: Publication,
        excluded: frozenset[Member] = _NO_MEMBERS,
        absent: Addressed | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Keep a publication, if its channel has history, and have it delivered on every node.

        Follow it with :meth:`settled`, :attr:`pace` or :attr:`soon`.

        Args:
            publication: What was accepted here.
            excluded: Members that do not get it.
            absent: Connections that do not get it on other nodes; where a broker keeps it, on this
                one, too.
            idempotency_key: A text that a repetition of this publication has, too. A channel
                without history takes no notice of it.
        """
        history = self._history_of(publication.channel)
        if history is None:
            return Sent(self.deliver(publication, excluded), self.hand_over(publication, absent))
        archive = self._archive
        if archive is None:
            return self._draft(publication, history, excluded, absent, idempotency_key)
        if idempotency_key is not None:
            position = archive.repeated(idempotency_key)
            if position is not None:
                return Sent(Receipt(0, 0, position, repeated=True))
        now = self.source.moment.monotonic
        kept = archive.keep(publication, history, now, idempotency_key)
        return Sent(self.deliver_kept(kept, excluded))

    def _draft(
        self,
        publication: Publication,
        history: History,
        excluded: frozenset[Member],
        absent: Addressed | None,
        idempotency_key: str | None,
    ) -> Sent:
        """Have the broker keep a publication, and bring it to every node, this one included."""
        outgoing, channel = self.outgoing, publication.channel
        assert outgoing is not None  # A bus whose families have history keeps it, or has a broker.
        item = publish_item(publication, absent)
        feed = Feed("=" + channel)
        handover, place = outgoing.draft(Draft(feed, publication, item, history, idempotency_key))
        matching = self._hub.matching(channel)
        matched = len(matching) - len(matching.among(excluded)) if excluded else len(matching)
        return Sent(Receipt(matched, matched), handover, place)

    def deliver(
        self,
        publication: Publication,
        excluded: frozenset[Member] = _NO_MEMBERS,
        members: Collection[Member] | None = None,
    ) -> Receipt:
        """Owe a publication to the members of this node, once; never waits.

        Follow it with :meth:`settled`, :attr:`pace` or :attr:`soon`.

        Args:
            publication: What was accepted, here or on another node.
            excluded: Members that do not get it.
            members: Those that get it, whatever they subscribe to; None: those with a pattern that
                matches.
        """
        if members is None:
            return self._hub.publish(publication, excluded)
        return self._hub.publish_to(members, publication, excluded)

    def deliver_kept(
        self, publication: Publication, excluded: frozenset[Member] = _NO_MEMBERS
    ) -> Receipt:
        """Deliver a publication that has a position."""
        receipt = self.deliver(publication, excluded)
        if self.note is not None:
            self.note(publication)
        return receipt

    def hand_over(
        self,
        publication: Publication,
        excluded: Addressed | None = None,
        to: Addressed | None = None,
    ) -> Handover | None:
        """Have the broker take a publication to other nodes; never waits.

        Args:
            publication: What was accepted here.
            excluded: Connections of other nodes that do not get it.
            to: Connections that get it, whatever they subscribe to; None: those with a pattern that
                matches.

        Returns:
            A handover, which learns if the broker takes it; None where no other node wants it.
        """
        outgoing = self.outgoing
        if outgoing is None:
            return None
        feed = ALL_NODES if to is not None else Feed("=" + publication.channel)
        if not outgoing.is_wanted(feed):
            return None
        return outgoing.put(feed, publish_item(publication, excluded, to))

    def emit(
        self,
        channel: Channel,
        event: str,
        data: bytes,
        idempotency_key: str | None = None,
        packed: bytes | None = None,
    ) -> Sent:
        """Accept and deliver what a client publishes; its protocol has checked the data.

        It flushes at once when much is owed, and the connection of the client waits for the readers
        before the next message.
        """
        publication = self.source.take_of_client(channel, event, data, packed)
        sent = self.publish(publication, idempotency_key=idempotency_key)
        self.is_pressed = self._flusher.is_overdue
        self.soon()
        return sent

    def settle(self, is_alone: bool) -> None:  # noqa: FBT001  # called once, by position
        """Have what another node published written.

        Args:
            is_alone: Nothing came right before it: it is written at once, which saves a turn of the
                loop. Otherwise it waits for the end of this turn, and for what else comes.
        """
        self._flusher.settle(is_alone=is_alone)

    async def settled(self, sent: Sent) -> Receipt:
        """Wait as long as a publisher must: for readers, and for the broker.

        Raises:
            BrokerUnavailable, UsageError: As :meth:`Sent.taken`.
        """
        if (relief := self.pace()) is not None:
            await relief
        return sent.receipt if sent.handover is None else await sent.taken()

    async def relieved(self) -> None:
        """Wait until readers that have fallen behind have caught up; bounded."""
        self.is_pressed = False
        await self._flusher.drained()
