"""Streams inside a process that runs a bus: the way of their producers, and their readers."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from anyio import move_on_after

from ..core.channels import Channel
from ..core.errors import BrokerUnavailable
from ..core.families import Compact
from ..core.messages import Publication, Receipt
from ..core.overflow import Overflow
from ..core.patterns import parse_pattern
from ..core.streams import StreamDuty, StreamFold, StreamPart
from .host import BusHost
from .interest import REACH_SECONDS
from .services import Services
from .stream_writer import StreamWriter
from .streams import SILENCE_SECONDS, newest
from .subscription import Subscription

__all__ = ["BusOutlet", "StreamReader"]

_MAX_MESSAGES: Final = 1000
_MAX_BYTES: Final = 8 << 20


class BusOutlet:
    """The way of a producer of this process; see :class:`.StreamOutlet`.

    Args:
        host: That of the bus.
        channel: The channel.
    """

    def __init__(self, host: BusHost, channel: Channel) -> None:
        self._host: Final = host
        self._channel: Final = channel
        self._pattern: Final = parse_pattern(channel)
        self._services: Services | None = None
        self._is_asked = False

    async def open(self, producer: StreamWriter) -> None:
        """Have the channel brought here, and tell the other nodes that the producer is there."""
        services = self._services = self._host.services
        assert services.streams is not None  # There is a family of streams.
        services.streams.open(self._channel, producer)
        interest = services.interest
        if interest is not None:
            self._is_asked = True
            interest.hold((self._pattern,))
            (is_here,) = await interest.outcomes((self._pattern,), REACH_SECONDS)
            if not is_here:
                self.close(producer)
                raise BrokerUnavailable("the broker cannot be reached: the stream is not opened")

    def close(self, producer: StreamWriter) -> None:
        """End that."""
        services = self._services
        if services is None or services.streams is None:
            return
        services.streams.close(self._channel, producer)
        if self._is_asked and services.interest is not None:
            self._is_asked = False
            services.interest.release((self._pattern,))

    async def read(self) -> list[Publication]:
        """Return the newest entries."""
        (page,) = await self._host.services.read([newest(self._channel)])
        return [*page.publications]

    def encode(self, data: object) -> bytes:
        """Return data as JSON."""
        return self._host.encode(data)

    async def put(self, event: str, data: bytes, key: str) -> Receipt:
        """Publish an entry; a store in this process takes it at once, and needs no key for that."""
        services = self._host.services
        post = services.post
        scoped = None
        if services.archive is None or key == "open":
            scoped = post.scoped(key, self._channel)
        sent = post.publish(post.take(self._channel, event, data), idempotency_key=scoped)
        return await post.settled(sent)


class StreamReader:
    """The parts of a stream, as an async iterator; made by :meth:`.Bus.read_stream`.

    It begins with everything so far, and ends with the stream: iterating raises
    :class:`.StreamFailed` or :class:`.StreamCancelled` if that did not end well. A reader that is
    slow gets less parts, and larger ones. One task may iterate.
    """

    def __init__(self, host: BusHost, channel: Channel, compact: Compact | None) -> None:
        self._host: Final = host
        self._channel: Final = channel
        self._fold: Final = StreamFold(compact)
        self._text = ""
        self._events: Subscription[Publication] | None = None

    @property
    def text(self) -> str:
        """The text so far; empty if the value is none."""
        return self._fold.text

    @property
    def value(self) -> object:
        """All deltas so far, joined."""
        return self._fold.value

    @property
    def result(self) -> object:
        """The producer's result, once the stream has ended."""
        return self._fold.result

    def close(self) -> None:
        """End it. Idempotent."""
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def __del__(self) -> None:
        """End it: an iteration may be left without a word."""
        self.close()

    async def __aenter__(self) -> Self:
        """Use it in a block, which closes it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __aiter__(self) -> Self:
        """Iterate."""
        return self

    async def __anext__(self) -> StreamPart:
        """Wait for the next part.

        Raises:
            StreamFailed: The stream failed.
            StreamCancelled: It was cancelled.
            BrokerUnavailable: The broker cannot be reached.
        """
        fold = self._fold
        while True:
            duty = StreamDuty.IGNORE
            if not fold.is_over:
                duty = await self._take()
            text = fold.text
            is_new = duty in {StreamDuty.JOIN, StreamDuty.REPLACE} and not text
            if len(text) > len(self._text) or (is_new and fold.value):
                part = fold.part_after(self._text)
                self._text = text
                return part
            if fold.is_over:
                self.close()
                fold.check()
                raise StopAsyncIteration

    async def _take(self) -> StreamDuty:
        events = self._events
        if events is None:
            events = self._events = Subscription(
                lambda: self._host.services,
                parse_pattern(self._channel),
                max_messages=_MAX_MESSAGES,
                max_bytes=_MAX_BYTES,
                overflow=Overflow.DROP_OLDEST,
                decode=lambda publication: publication,
            )
            await events.__aenter__()
        owed = None
        with move_on_after(SILENCE_SECONDS):
            owed = await events.next_owed()
        if owed is None or owed.publication is None:
            if events.has_gap:  # The end may be missing.
                self.close()
            return StreamDuty.IGNORE
        duty = self._fold.take(owed.publication)
        if duty is StreamDuty.ASK:
            self.close()
        return duty
