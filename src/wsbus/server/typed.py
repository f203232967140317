"""Typed channels: a template of names, the types of what is published there, and their policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, overload

from ..core.channels import Channel
from ..core.choices import member_of, shown
from ..core.errors import CommandError, UsageError
from ..core.events import EventPage, Position
from ..core.families import Family, History, Presence
from ..core.messages import Publication, Receipt
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.presence import Occupant
from ..core.templates import Template
from .channels import events_of
from .contents import Contents
from .host import BusHost
from .publisher import Publisher
from .recipients import Who
from .subscription import Subscription

__all__ = ["Declarations", "TypedChannel"]

T = TypeVar("T")

_RESERVED: Final = frozenset(
    (
        *("data", "event", "exclude", "key", "idempotency_key", "since", "limit", "before"),
        *("after", "max_rate", "max_messages", "max_bytes", "overflow", "channel", "self"),
    )
)
"""Arguments of the methods below; a parameter of a template cannot have their names."""


class TypedChannel(Generic[T]):
    """Channels of one template, whose publications have declared types; see :meth:`.Bus.channel`.

    The values of the parameters are given by name: ``publish(status, id="abc")``. A value is one
    segment of a channel: a text or a whole number. Text from outside goes through
    :func:`.escape_segment`.
    """

    def __init__(
        self, bus: Publisher, template: Template, contents: Contents, family: Family
    ) -> None:
        self.template: Final[str] = template.text
        """The names of the channels, such as ``grid.{id}.status``."""
        self.parameters: Final[tuple[str, ...]] = template.names
        """The names of the parameters, in order."""
        self.events: Final[Mapping[str, Any]] = contents.types
        """The type of the data of each event."""
        self.family: Final[Family] = family
        """The policy of the channels."""
        self._bus: Final = bus
        self._template: Final = template
        self._contents: Final = contents
        self._event: Final = next(iter(contents.types)) if len(contents.types) == 1 else None

    def name(self, **parameters: object) -> Channel:
        """Return the channel with these values: ``grid.abc.status``.

        Raises:
            UsageError: A parameter is missing or unknown, or its value is no single segment.
            InvalidChannel: The whole is too long.
        """
        return self._template.channel(parameters)

    def pattern(self, **parameters: object) -> str:
        """Return the pattern of the channels with these values; of one that is left out, or is
        ``*``, with all.

        Raises:
            UsageError, InvalidChannel: As :meth:`name`.
        """  # noqa: D205  # one sentence
        return self._template.selection(parameters)

    def values(self, channel: str) -> dict[str, str]:
        """Return the values of the parameters in the name of a channel.

        Raises:
            InvalidChannel: It is no channel of the template.
        """
        return self._template.values(channel)

    async def publish(
        self,
        data: T,
        *,
        event: str | None = None,
        exclude: Who = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        **parameters: object,
    ) -> Receipt:
        """Publish on one of the channels: ``await status.publish(…)``; see :meth:`.Bus.publish`.

        Args:
            data: What is checked against the type of the event.
            event: One of the declared events; it can be left out where there is only one.
            exclude: As for :meth:`.Bus.publish`.
            key: The same.
            idempotency_key: The same.
            **parameters: The values in the name of the channel.

        Raises:
            UsageError: A parameter is missing, unknown or no single segment; or the data is not of
                the type; and as :meth:`.Bus.publish`.
            InvalidChannel, NotStarted, BrokerUnavailable: As :meth:`.Bus.publish`.
        """
        # As the verb of the bus, with a channel that is known to be well formed.
        services = self._bus._host.services  # noqa: SLF001  # a verb of the bus, too
        post, channel = services.post, self._template.channel(parameters)
        publication = post.accept_on(channel, self._which(event), data, key)
        sent = self._bus._deliver(services, publication, exclude, idempotency_key)  # noqa: SLF001
        return await post.settled(sent)

    def publish_soon(
        self,
        data: T,
        *,
        event: str | None = None,
        exclude: Who = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        **parameters: object,
    ) -> Receipt:
        """Publish from code that cannot await; see :meth:`.Bus.publish_soon`.

        Args and errors are those of :meth:`publish` and :meth:`.Bus.publish_soon`.
        """
        return self._bus.publish_soon(
            self._template.channel(parameters),
            data,
            event=self._which(event),
            exclude=exclude,
            key=key,
            idempotency_key=idempotency_key,
        )

    def subscribe(
        self,
        *,
        max_messages: int = 1000,
        max_bytes: int = 1 << 20,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        since: Position | None = None,
        max_rate: float | None = None,
        **parameters: object,
    ) -> Subscription[T]:
        """Subscribe inside the process: ``async for event in status.subscribe(id="*")``.

        The data of the events are objects of the declared types. Of other processes that declare
        the channels differently, events that do not fit are left out, and logged as errors.

        Args:
            max_messages: As for :meth:`.Bus.subscribe`.
            max_bytes: The same.
            overflow: The same.
            since: The same.
            max_rate: The same.
            **parameters: The values; one that is left out, or is ``*``: all.

        Raises:
            UsageError: A parameter is unknown or no single segment; and as :meth:`.Bus.subscribe`.
        """
        host = self._bus._host  # noqa: SLF001  # a verb of the bus, too
        return Subscription(
            lambda: host.services,
            parse_pattern(self._template.selection(parameters)),
            max_messages=max_messages,
            max_bytes=max_bytes,
            overflow=member_of(Overflow, overflow, "overflow"),
            since=since,
            max_rate=max_rate,
            decode=self._decode,
        )

    async def history(
        self,
        *,
        limit: int = 50,
        before: Position | None = None,
        after: Position | None = None,
        **parameters: object,
    ) -> EventPage[T]:
        """Return what one of the channels keeps; see :meth:`.Bus.history`.

        Raises:
            UsageError: As :meth:`publish` and :meth:`.Bus.history`; or what is kept is not of the
                declared type.
        """
        name = self._template.channel(parameters)
        page = await self._bus._page(name, limit, before, after)  # noqa: SLF001  # as above
        try:
            return events_of(page, self._decode)
        except CommandError as exc:
            raise UsageError(
                f"{str(name)!r} keeps what it does not hold now: {exc.message}"
            ) from exc

    async def position(self, **parameters: object) -> Position:
        """Return the position where one of the channels stands; see :meth:`.Bus.position`."""
        return await self._bus.position(self._template.channel(parameters))

    def presence(self, **parameters: object) -> list[Occupant]:
        """Return the connections on one of the channels; see :meth:`.Bus.presence`."""
        return self._bus.presence(self._template.channel(parameters))

    def __repr__(self) -> str:
        return f"<TypedChannel {self.template}: {', '.join(self.events)}>"

    def _which(self, event: str | None) -> str:
        if event is not None:
            return event
        if self._event is None:
            choices = ", ".join(self.events)
            raise UsageError(f"{self.template!r} has several events, so write event=: {choices}")
        return self._event

    def _decode(self, publication: Publication) -> T:
        data: T = self._contents.decode(publication.event, publication.data)
        return data


class Declarations(Publisher):
    """The method of a :class:`.Bus` that declares typed channels; not for use by itself."""

    def __init__(self, host: BusHost) -> None:
        super().__init__(host)
        self._typed: Final[list[TypedChannel[Any]]] = []

    @property
    def channels(self) -> tuple[TypedChannel[Any], ...]:
        """The typed channels, in the order in which they were declared."""
        return tuple(self._typed)

    @overload
    def channel(
        self,
        template: str,
        kind: type[T],
        *,
        events: Sequence[str] = ...,
        overflow: Overflow | str | None = ...,
        key: str | None = ...,
        history: History | None = ...,
        presence: Presence | None = ...,
    ) -> TypedChannel[T]: ...

    @overload
    def channel(
        self,
        template: str,
        kind: Any = ...,
        *,
        events: Sequence[str] | Mapping[str, Any] = ...,
        overflow: Overflow | str | None = ...,
        key: str | None = ...,
        history: History | None = ...,
        presence: Presence | None = ...,
    ) -> TypedChannel[Any]: ...

    def channel(
        self,
        template: str,
        kind: Any = None,
        *,
        events: Sequence[str] | Mapping[str, Any] = ("message",),
        overflow: Overflow | str | None = None,
        key: str | None = None,
        history: History | None = None,
        presence: Presence | None = None,
    ) -> TypedChannel[Any]:
        """Declare channels whose publications have types: a family with checked data.

        ::

            status = bus.channel("grid.{id}.status", Status, events=["update"])
            await status.publish(Status(0.4), id="abc")
            async for event in status.subscribe(id="*"): ...

        Everything that is published on these channels is checked, what clients publish, too: it is
        refused with the place of the fault, and so are other events. Declare channels before the
        bus runs, the same ones in each process of a service.

        Args:
            template: The names; a parameter in braces is one segment.
            kind: The type of the data: a msgspec struct, dataclass, ``TypedDict``, a model of
                pydantic, or what these are made of.
            events: The events that have data of this type; or, without ``kind``, the type for each.
            overflow: As for :meth:`.Bus.family`, and so are the others.
            key: The same.
            history: The same.
            presence: The same.

        Raises:
            InvalidChannel: The template breaks the grammar of channels.
            UsageError: A parameter has no name, or one of an argument of the methods; data cannot
                be decoded into a type; the bus is running; and as :meth:`.Bus.family`.
        """
        found = Template(template)
        for name in found.names:
            if name in _RESERVED:
                raise UsageError(
                    f"{template!r}: {name} is an argument of publish and subscribe already; name "
                    "the parameter differently"
                )
        contents = Contents(repr(template), _types(template, kind, events))
        family = self._host.declare(
            found.pattern.text,
            overflow=overflow,
            key=key,
            history=history,
            presence=presence,
            content=contents,
        )
        typed: TypedChannel[Any] = TypedChannel(self, found, contents, family)
        self._typed.append(typed)
        return typed


def _types(
    template: str, kind: Any, events: Sequence[str] | Mapping[str, Any]
) -> Mapping[str, Any]:
    if isinstance(events, Mapping):
        if kind is not None:
            raise UsageError(f"{template!r}: give the types in events=, or one for all, not both")
        return events
    if isinstance(events, str) or not isinstance(events, Sequence):
        raise UsageError(f"{template!r}: events is a list of names, not {shown(events)}")
    if kind is None:
        raise UsageError(f"{template!r} has no type: bus.channel({template!r}, Status)")
    return dict.fromkeys(events, kind)
