"""The methods of a bus about channels: their policies, what they keep, and presence."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..core.channels import Channel, parse_channel
from ..core.choices import shown
from ..core.errors import PositionLost, UsageError
from ..core.events import Event, EventPage, Position
from ..core.families import Family, History, Presence
from ..core.history import HistoryPage, HistoryRead
from ..core.messages import Publication
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.presence import Occupant
from .runnable import Runnable
from .services import Services

__all__ = ["Channels"]

_MAX_EVENTS: Final = 1000
"""The most events of one page."""


class Channels(Runnable):
    """The methods of a :class:`.Bus` about channels; not for use by itself."""

    def family(
        self,
        pattern: str,
        *,
        overflow: Overflow | str | None = None,
        key: str | None = None,
        history: History | None = None,
        presence: Presence | None = None,
    ) -> Family:
        """Give the channels that match a pattern a policy of their own: ``family("prices.*", …)``.

        A channel belongs to the most specific family that matches it: an exact name comes before
        every wildcard, ``prices.BTC.*`` before ``prices.*``, ``prices.+`` before ``prices.*``. See
        :mod:`wsbus.core.families` for the rule. Declare families before the bus runs, the same ones
        in each process of a service.

        Args:
            pattern: The channels, in the form of a subscription.
            overflow: What a full queue does with their publications, as :class:`.Overflow` or its
                text; None: as the receiving endpoint or subscription says.
            key: For ``conflate``, the field of the data by whose value newer publications replace
                older ones; what a client publishes, too. None, and data without that field: only
                channel and event count. ``publish(…, key=…)`` goes before it.
            history: How long each channel keeps what is published, for subscribers that come back
                or come late; None: it keeps nothing.
            presence: Whether a channel says which connections are subscribed to exactly it.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: The bus is running; another family has a pattern that matches the same
                channels; ``overflow`` is no policy; ``key`` is no text, or cannot take effect; or
                ``history`` or ``presence`` is none.
        """
        return self._host.declare(
            pattern, overflow=overflow, key=key, history=history, presence=presence
        )

    async def position(self, channel: str) -> Position:
        """Return the position where a channel stands: what is published later comes after it.

        Ask for it *before* you read the state that belongs to it; then ``bus.subscribe(…, since=)``
        or a client that subscribes since there gets every change that the state may lack.

        Args:
            channel: A channel with history.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: It has no history.
            NotStarted: The bus is not running.
            BrokerUnavailable: The broker cannot be reached.
        """
        services = self._host.services
        name = _checked(services, channel)
        read = HistoryRead(parse_pattern(name), limit=1, is_from_end=True)
        return (await services.read(read)).head

    async def history(
        self,
        channel: str,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
    ) -> EventPage[Any]:
        """Return what a channel keeps: its newest publications, or those beside a position.

        Args:
            channel: A channel with history.
            limit: The most events, 1 to 1000.
            before: Only what was published before it, the newest first to be included: the page
                before another one.
            after: Only what was published after it, the oldest first to be included.

        Returns:
            The events, ascending.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: It has no history, or an argument is wrong.
            PositionLost: A part of what was published after ``after`` is not kept any more.
            NotStarted: The bus is not running.
            BrokerUnavailable: The broker cannot be reached.
        """
        services = self._host.services
        name = _checked(services, channel)
        if type(limit) is not int or not 1 <= limit <= _MAX_EVENTS:
            raise UsageError(f"limit is 1 to {_MAX_EVENTS} events, not {shown(limit)}")
        after = _position("after", after)
        before = _position("before", before)
        read = HistoryRead(
            parse_pattern(name), after, before, limit=limit, is_from_end=after is None
        )
        page = await services.read(read)
        if after is not None and not page.is_complete:
            raise PositionLost(
                f"what was published on {name!r} after this position is not kept any more: leave "
                "after= out to get what is kept"
            )
        return _events(page)

    def presence(self, channel: str) -> list[Occupant]:
        """Return the connections that are subscribed to exactly this channel, on every node.

        Cost: O(connections on it); nothing is asked of the broker.

        Args:
            channel: A channel of a family with ``presence=Presence()``.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: Its family does not show presence.
            NotStarted: The bus is not running.
        """
        services = self._host.services
        name = parse_channel(channel)
        if not services.attendances.shows(name):
            raise UsageError(
                f"the channel {str(name)!r} does not say which connections are there: "
                f"bus.family({str(name)!r}, presence=Presence())"
            )
        return services.attendances.present(name)


def _position(name: str, given: Position | None) -> Position | None:
    """Return a position that a caller gave.

    Raises:
        UsageError: It is something else.
    """
    if given is not None and not isinstance(given, Position):
        raise UsageError(
            f"{name} is a Position, of an event or of bus.position(), not {shown(given)}"
        )
    return given


def _checked(services: Services, channel: str) -> Channel:
    name = parse_channel(channel)
    if not services.post.keeps(name):
        raise UsageError(
            f"the channel {str(name)!r} keeps nothing: bus.family({str(name)!r}, history=History())"
        )
    return name


def _events(page: HistoryPage) -> EventPage[Any]:
    return EventPage((*map(_event, page.publications),), page.head, page.has_more)


def _event(publication: Publication) -> Event[Any]:
    data = msgspec.json.decode(publication.data)
    return Event(
        publication.channel,
        publication.event,
        data,
        publication.timestamp,
        position=publication.position,
    )
