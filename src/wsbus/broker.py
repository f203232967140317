"""The interface of brokers, which carry messages between the nodes of a service.

A broker knows nothing of subscribers, and nothing of JSON. It publishes what a node's turn holds,
and brings what the node follows. It hides nothing: a link is dialled once, and ends at the first
failure. The bus dials again, follows again, and reports what was missed
(:mod:`wsbus.server.relay`). So a client library's own retries and reconnects must be off.

:mod:`wsbus.brokers` has brokers for one process, for Redis and Valkey, and for NATS.
``wsbus.testing.check_broker`` tests one of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from .core.envelope import Turn
from .core.events import Position
from .core.feeds import Feed
from .core.history import HistoryPage, HistoryRead, Stored

__all__ = [
    "CALL_SECONDS",
    "DIAL_SECONDS",
    "BoundedLink",
    "Broker",
    "BrokerReport",
    "HistoryLink",
    "InspectedBroker",
    "Link",
    "Receive",
]

DIAL_SECONDS: Final = 3.0
"""A link that is not there after that is given up."""

CALL_SECONDS: Final = 3.0
"""A link on which a call takes longer is given up."""

Receive: TypeAlias = Callable[[bytes], None]
"""Takes each message that a broker brings; it never waits, and never raises."""


class Link(Protocol):
    """A link to a broker, for one node; it is used by one task at a time for each method.

    Every method raises :class:`.BrokerUnavailable` if the link has failed.
    """

    async def publish(self, turn: Turn) -> None:
        """Publish what a turn holds; return once the broker has taken all of it.

        What one turn publishes on one feed arrives in order, after what earlier turns published.
        """
        ...

    async def follow(self, feeds: Collection[Feed]) -> None:
        """Bring what is published on these feeds; return once the broker knows.

        Everything that is published after the return is brought, until :meth:`unfollow`.
        """
        ...

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        """Bring these feeds no more; return once the broker knows."""
        ...

    @property
    def has_others(self) -> bool:
        """Whether there may be other nodes; true where that is not known."""
        ...

    def is_wanted(self, feed: Feed) -> bool:
        """Tell whether another node may want this feed; true where that is not known.

        The node does not publish what no other node wants. It must be quick, and never waits.
        """
        ...


@runtime_checkable
class BoundedLink(Protocol):
    """A link whose broker bounds its messages; without this, they are not bounded."""

    @property
    def max_bytes(self) -> int:
        """The largest message that the broker takes, in bytes.

        The link splits what a turn holds (:meth:`.Turn.messages`). A publication that alone is
        larger is refused.
        """
        ...


@runtime_checkable
class HistoryLink(Protocol):
    """A link whose broker keeps history, for families that have it.

    Its store numbers everything in one sequence; see :mod:`wsbus.core.history`, whose
    :class:`~wsbus.core.history.MemoryHistory` is the model of each of them. What is kept is
    published as :class:`~wsbus.core.envelope.Kept` items, in the order of their offsets, to every
    link that follows their feeds, the link that stored them among them.
    """

    async def store(self, turn: Turn) -> Sequence[Stored]:
        """Number and keep the drafts of a turn, publish them, and publish its other items.

        All of it in one step that other nodes see whole, or not at all.

        Returns:
            The outcome of each draft, in order.
        """
        ...

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        """Answer questions; the answers stand in the order of the questions.

        An answer holds everything that was kept, and brought to any link, before the call.
        """
        ...

    async def head(self) -> Position:
        """Return the position of the store: what is kept later comes after it.

        It also checks that the store still knows what this link has seen. If it does not (it was
        emptied, or a copy that lacks the end of it has taken over) the store gets a new epoch, so
        that no offset of the old one is used again under the same name.
        """
        ...


@runtime_checkable
class Broker(Protocol):
    """A way to a broker. It may be shared by several buses, one after another or at once."""

    @property
    def address(self) -> str:
        """The address, for logs and operators; without a password."""
        ...

    def connect(self, receive: Receive) -> AbstractAsyncContextManager[Link]:
        """Dial a link, once; it ends with the context.

        It is there within :data:`DIAL_SECONDS`, or the context raises. When the link fails, the
        body of ``async with`` is cancelled, and the context raises.

        Args:
            receive: Called with each message of the feeds that the link follows, in order.

        Raises:
            BrokerUnavailable: The broker cannot be reached, refuses, or the link has failed.
        """
        ...


class BrokerReport(msgspec.Struct, frozen=True, kw_only=True):
    """A broker's server, and the rights that its user lacks there; for ``wsbus doctor``."""

    server: str
    """The name and version of the server, such as ``Redis 7.0.15``."""
    missing: Sequence[str] = ()
    """Rights that a bus needs and its user lacks, as the server spells them."""
    missing_for_history: Sequence[str] = ()
    """Rights that it lacks and that only families with history need."""


@runtime_checkable
class InspectedBroker(Protocol):
    """A broker that says which server it is, and what its user may not do there."""

    async def inspect(self) -> BrokerReport:
        """Dial the server, and say what it is; nothing is published or changed.

        Raises:
            BrokerUnavailable: The server cannot be reached, or refuses the login.
        """
        ...
