"""Producers of streams without a bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from anyio import CancelScope, sleep

from .._spawn import spawn
from ..core.channels import Channel, parse_channel
from ..core.envelope import Draft, StreamLease, encode_item, publish_item
from ..core.errors import BrokerUnavailable, StreamCancelled, UsageError
from ..core.events import Position
from ..core.families import Families, Stream
from ..core.feeds import Feed
from ..core.history import HistoryRead
from ..core.messages import Publication, Receipt
from ..core.patterns import parse_pattern
from ..server.sender import Sender
from ..server.services import new_id
from ..server.source import Encode, Source, scoped_key
from ..server.stream_writer import StreamWriter
from ..server.streams import LEASE_SECONDS, newest

__all__ = ["SyncStreamWriter", "new_writer"]

T = TypeVar("T")


class _SenderOutlet:
    """The way of a producer without a bus; see :class:`.StreamOutlet`.

    Nothing comes to an emitter, so that it asks every two seconds whether the stream is to be
    cancelled.
    """

    def __init__(
        self,
        find: Callable[[], Sender],
        source: Source,
        encode: Encode,
        families: Families,
        channel: Channel,
    ) -> None:
        self._find: Final = find
        self._source: Final = source
        self._families: Final = families
        self._channel: Final = channel
        self._feed: Final = Feed("=" + channel)
        self._scope: CancelScope | None = None
        self._last: Position | None = None
        self.encode: Final = encode
        """Returns data as JSON."""

    async def open(self, producer: StreamWriter) -> None:
        """Begin to say that the producer is there, and to ask what is wanted of it."""
        self._find()
        self._scope = CancelScope()
        spawn(partial(self._care, producer, self._scope))

    def close(self, producer: StreamWriter) -> None:
        """End that."""
        if self._scope is not None:
            self._scope.cancel()

    async def read(self) -> list[Publication]:
        """Return the newest entries."""
        (page,) = await self._find().read([newest(self._channel)])
        return [*page.publications]

    async def put(self, event: str, data: bytes, key: str) -> Receipt:
        """Publish an entry."""
        publication = self._source.take(self._channel, event, data)
        item = publish_item(publication)
        history = self._families.history_of(self._channel)
        assert history is not None  # It is a stream.
        scoped = scoped_key(key, self._channel, self._families)
        draft = Draft(self._feed, publication, item, history, scoped)
        (stored,) = await self._find().send([draft])
        self._last = self._last or stored.position
        return Receipt(0, 0, stored.position, stored.is_repeated)

    async def _care(self, producer: StreamWriter, scope: CancelScope) -> None:
        with scope:
            while True:
                try:
                    sender = self._find()
                    await sender.send([(self._feed, encode_item(StreamLease(self._channel)))])
                    if self._last is not None:
                        await self._hear(sender, producer, self._last)
                except (BrokerUnavailable, UsageError):
                    pass  # The next append says so.
                await sleep(LEASE_SECONDS)

    async def _hear(self, sender: Sender, producer: StreamWriter, after: Position) -> None:
        """Take what has come after a position."""
        (page,) = await sender.read([HistoryRead(parse_pattern(self._channel), after)])
        for publication in page.publications:
            self._last = publication.position
            producer.hear(publication)


def new_writer(
    find: Callable[[], Sender], source: Source, encode: Encode, families: Families, channel: str
) -> StreamWriter:
    """Return the producer of a stream.

    Args:
        find: Returns what sends, once the emitter is in use.
        source: Makes publications.
        encode: Turns data into JSON.
        families: Those of the emitter.
        channel: The channel.

    Raises:
        InvalidChannel: The channel is invalid.
        UsageError: The emitter has no family of streams for it.
    """
    name = parse_channel(channel)
    stream: Stream | None = families.stream_of(name)
    if stream is None:
        raise UsageError(
            f"the channel {channel!r} is no stream: emitter.family({channel!r}, stream=Stream())"
        )
    outlet = _SenderOutlet(find, source, encode, families, name)
    return StreamWriter(name, stream, outlet, new_id())


class SyncStreamWriter:
    """The producer of a stream for code without an event loop; made by :meth:`.SyncEmitter.stream`.

    Its methods are those of :class:`.StreamWriter`.
    """

    def __init__(
        self, make: Callable[[], StreamWriter], call: Callable[[Callable[[], Awaitable[Any]]], Any]
    ) -> None:
        self._writer: Final = make()
        self._call: Final = call
        self.result: Any = None
        """Goes to readers at the end, beside the value; anything that has a form in JSON."""

    @property
    def text(self) -> str:
        """The text so far; empty if the value is none."""
        return self._writer.text

    @property
    def value(self) -> Any:
        """All deltas so far, joined."""
        return self._writer.value

    @property
    def is_cancelled(self) -> bool:
        """Whether someone has asked to cancel it, as of at most two seconds ago."""
        return self._writer.is_cancelled

    def __enter__(self) -> Self:
        """Open the stream.

        Raises:
            UsageError, BrokerUnavailable: As entering :class:`.StreamWriter`.
        """
        self._call(self._writer.__aenter__)
        return self

    def append(self, delta: object) -> None:
        """Add to the stream; as :meth:`.StreamWriter.append`.

        Raises:
            WsbusError: The same.
        """
        self._call(partial(self._writer.append, delta))

    def fail(self, message: str = "the producer failed") -> None:
        """End the stream as failed; as :meth:`.StreamWriter.fail`."""
        self._call(partial(self._writer.fail, message))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """End the stream."""
        self._writer.result = self.result
        self._call(partial(self._writer.__aexit__, kind, exc, trace))
        return isinstance(exc, StreamCancelled) and self.is_cancelled
