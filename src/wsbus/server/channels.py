"""The methods of a bus about channels: their policies, what they keep, and presence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from ..core.channels import Channel, parse_channel
from ..core.choices import member_of, shown
from ..core.errors import PositionLost, UsageError
from ..core.events import Event, EventPage, Position
from ..core.families import Family, History, Presence, Stream
from ..core.history import HistoryPage, HistoryRead
from ..core.messages import Publication
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.presence import Occupant
from .runnable import Runnable
from .services import Services, new_id
from .stream_writer import StreamWriter
from .streaming import BusOutlet, StreamReader
from .subscription import Subscription

__all__ = ["Channels", "events_of", "plain"]

T = TypeVar("T")

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
        stream: Stream | None = None,
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
            stream: Whether each channel is a finite stream, for :meth:`stream`.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: The bus is running; another family has a pattern that matches the same
                channels; ``overflow`` is no policy; ``key`` is no text, or cannot take effect; or
                ``history``, ``presence`` or ``stream`` is none, or does not go with the others.
        """
        return self._host.declare(
            pattern,
            overflow=overflow,
            key=key,
            history=history,
            presence=presence,
            stream=stream,
        )

    def subscribe(
        self,
        pattern: str,
        *,
        max_messages: int = 1000,
        max_bytes: int = 1 << 20,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        since: Position | None = None,
        max_rate: float | None = None,
    ) -> Subscription[Any]:
        """Subscribe inside the process: ``async with bus.subscribe("grid.*") as events:``.

        Args:
            pattern: A pattern as in ``wsbus.v1``, with ``+``.
            max_messages: Largest number of publications that wait for the consumer.
            max_bytes: Their largest size, in bytes of JSON.
            overflow: The policy for further ones.
            since: On channels with history, go on after this position. None: begin with what is
                published from now on, and with the latest publications where the family says so.
            max_rate: Events of one key a second at most, 0.01 to 1,000: the newest wins, and the
                last one always comes. The key is the channel, and in it the ``key`` of the
                publication or of the family. None: all events.

        Raises:
            InvalidChannel: The pattern is invalid.
            UsageError: ``overflow`` is not a policy, ``since`` is no position, or ``max_rate`` is
                no rate.
        """
        return Subscription(
            lambda: self._host.services,
            parse_pattern(pattern),
            max_messages=max_messages,
            max_bytes=max_bytes,
            overflow=member_of(Overflow, overflow, "overflow"),
            since=since,
            decode=plain,
            max_rate=max_rate,
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
        return (await services.read([read]))[0].head

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
        return events_of(await self._page(channel, limit, before, after), plain)

    async def _page(
        self, channel: str, limit: int, before: Position | None, after: Position | None
    ) -> HistoryPage:
        services = self._host.services
        name = _checked(services, channel)
        if type(limit) is not int or not 1 <= limit <= _MAX_EVENTS:
            raise UsageError(f"limit is 1 to {_MAX_EVENTS} events, not {shown(limit)}")
        after = _position("after", after)
        before = _position("before", before)
        read = HistoryRead(
            parse_pattern(name), after, before, limit=limit, is_from_end=after is None
        )
        (page,) = await services.read([read])
        if after is not None and not page.is_complete:
            raise PositionLost(
                f"what was published on {name!r} after this position is not kept any more: leave "
                "after= out to get what is kept"
            )
        return page

    def stream(self, channel: str) -> StreamWriter:
        """Return the producer of a stream: ``async with bus.stream("answers.42") as s:``.

        Args:
            channel: A channel of a family with ``stream=Stream()``, which has had no stream yet.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: Its family is not one of streams.
        """
        name = parse_channel(channel)
        stream = self._stream_of(name)
        return StreamWriter(name, stream, BusOutlet(self._host, name), new_id())

    def read_stream(self, channel: str) -> StreamReader:
        """Return a reader of a stream: ``async for part in bus.read_stream("answers.42")``.

        Args:
            channel: A channel of a family with ``stream=Stream()``; its stream may be yet to come.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: Its family is not one of streams.
        """
        name = parse_channel(channel)
        return StreamReader(self._host, name, self._stream_of(name).compact)

    async def cancel_stream(self, channel: str) -> bool:
        """Ask the producer of a stream, wherever it is, to cancel it.

        Args:
            channel: A channel of a family with ``stream=Stream()``.

        Returns:
            Whether there is a stream. One that has ended stays as it is.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: Its family is not one of streams.
            NotStarted: The bus is not running.
            BrokerUnavailable: The broker cannot be reached.
        """
        name = parse_channel(channel)
        self._stream_of(name)
        streams = self._host.services.streams
        assert streams is not None  # There is such a family.
        return await streams.ask_to_cancel(name)

    def _stream_of(self, name: Channel) -> Stream:
        stream = self._host.families.stream_of(name)
        if stream is None:
            raise UsageError(
                f"the channel {str(name)!r} is no stream: "
                f"bus.family({str(name)!r}, stream=Stream())"
            )
        return stream

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


def events_of(page: HistoryPage, decode: Callable[[Publication], T]) -> EventPage[T]:
    """Return a page of what a store keeps as applications get it."""
    events = [
        Event(
            each.channel,
            each.event,
            decode(each),
            each.timestamp,
            position=each.position,
            trace_parent=each.trace_parent,
        )
        for each in page.publications
    ]
    return EventPage((*events,), page.head, page.has_more)


def plain(publication: Publication) -> Any:
    """Decode the data of a publication that may hold anything."""
    return msgspec.json.decode(publication.data)
