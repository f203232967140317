"""Streams as a node cares for them: producers that are here, and those that are gone.

While a stream is open, the node of its producer says so every :data:`LEASE_SECONDS` to the nodes
that have readers. A node that has heard nothing of a stream for :data:`SILENCE_SECONDS`, neither an
entry nor that, asks the store. If the stream is open there, it publishes that it failed, under a
key by which the store keeps only one of several.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Final, Protocol

from anyio import Event, sleep

from .._log import about, escaped
from ..core.channels import Channel, parse_channel
from ..core.envelope import StreamLease, encode_item
from ..core.errors import BrokerUnavailable, UsageError
from ..core.feeds import Feed
from ..core.history import HistoryPage, HistoryRead
from ..core.hub import Hub
from ..core.messages import Publication
from ..core.patterns import Pattern, parse_pattern
from ..core.streams import STREAM_NEWEST, StreamEvent, compacted, is_open, producer_of
from .post import Post

__all__ = ["LEASE_SECONDS", "SILENCE_SECONDS", "Producer", "StreamCare", "newest"]

logger: Final = logging.getLogger("wsbus.streams")

LEASE_SECONDS: Final = 2.0
"""Seconds between two signs of life of a producer."""
SILENCE_SECONDS: Final = 6.0
"""Seconds of silence after which a producer counts as gone."""
_LOOK_SECONDS: Final = 1.0
_MOST: Final = 20
"""Streams that are asked for at once."""

_SIGNS: Final = (StreamEvent.APPEND.value, StreamEvent.WHOLE.value)
_ENDS: Final = (StreamEvent.END.value, StreamEvent.FAIL.value, StreamEvent.CANCEL.value)
_GONE: Final = {"message": "the producer is gone"}
_CANCELLING: Final = {"message": None}


class Producer(Protocol):
    """A producer on this node."""

    def hear(self, publication: Publication) -> None:
        """Take an entry of its stream, its own ones included."""
        ...


def newest(channel: str) -> HistoryRead:
    """Return the question for what a stream holds."""
    return HistoryRead(
        parse_pattern(channel), limit=STREAM_NEWEST, newest=STREAM_NEWEST, is_from_end=True
    )


class StreamCare:
    """Cares for the streams of a bus.

    Args:
        hub: Knows which channels have readers here.
        post: Publishes.
        read: Asks the store.
        is_linked: Whether leases of other nodes can come.
    """

    def __init__(
        self,
        hub: Hub,
        post: Post,
        read: Callable[[Sequence[HistoryRead]], Awaitable[Sequence[HistoryPage]]],
        is_linked: Callable[[], bool],
    ) -> None:
        self._hub: Final = hub
        self._post: Final = post
        self._read: Final = read
        self._is_linked: Final = is_linked
        self._producers: Final[dict[str, Producer]] = {}
        self._heard: Final[dict[str, float]] = {}
        """The times when the producers of streams that have readers here were heard last."""
        self._wake = Event()

    async def run(self) -> None:
        """Say which producers are here, and find those that are gone, until cancelled."""
        lease_at = 0.0
        while True:
            self._wake = Event()
            if not (self._producers or self._heard):
                await self._wake.wait()
            if monotonic() >= lease_at:
                lease_at = monotonic() + LEASE_SECONDS
                self._say_leases()
            try:
                await self._look()
            except BrokerUnavailable:
                self._trust(self._heard)
            except Exception:
                logger.exception("streams cannot be looked after", extra=about("streams_failed"))
            await sleep(_LOOK_SECONDS)

    # --- producers of this node ------------------------------------------------------------------

    def open(self, channel: Channel, producer: Producer) -> None:
        """Note that a stream has its producer here.

        Raises:
            UsageError: It has one already.
        """
        if channel in self._producers:
            raise UsageError(f"another producer has the stream {str(channel)!r} open")
        self._producers[channel] = producer
        self._wake.set()

    def close(self, channel: Channel, producer: Producer) -> None:
        """Note that a producer has left. Idempotent."""
        if self._producers.get(channel) is producer:
            del self._producers[channel]

    def _say_leases(self) -> None:
        outgoing = self._post.outgoing
        for channel in self._producers if outgoing is not None else ():
            feed = Feed("=" + channel)
            if outgoing is not None and outgoing.is_wanted(feed):
                outgoing.put(feed, encode_item(StreamLease(channel)))

    # --- readers of this node --------------------------------------------------------------------

    def expect(self, patterns: Iterable[Pattern]) -> None:
        """Note that readers of these patterns are about to come."""
        for pattern in patterns:
            if pattern.is_exact and self._hub.families.stream_of(pattern.text) is not None:
                self._heard.setdefault(pattern.text, monotonic())
                self._wake.set()

    def note(self, publication: Publication) -> None:
        """Note what was delivered on a channel with history."""
        channel, event = publication.channel, publication.event
        if self._hub.families.stream_of(channel) is None:
            return
        producer = self._producers.get(channel)
        if producer is not None:
            producer.hear(publication)
        if event in _ENDS:
            self._heard.pop(channel, None)
        elif event in _SIGNS and (channel in self._heard or self._hub.matching(channel)):
            self._heard[channel] = monotonic()
            self._wake.set()

    def hear(self, lease: StreamLease) -> None:
        """Take the sign of life of a producer."""
        if lease.channel in self._heard:
            self._heard[lease.channel] = monotonic()

    def _trust(self, channels: Iterable[str]) -> None:
        now = monotonic()
        self._heard.update(dict.fromkeys([*channels], now))

    async def _look(self) -> None:
        """Find streams whose producers are gone."""
        if not self._is_linked():
            self._trust(self._heard)
            return
        before = monotonic() - SILENCE_SECONDS
        silent: list[str] = []
        for channel in [name for name, at in self._heard.items() if at <= before]:
            if channel in self._producers:
                self._trust((channel,))
            elif not self._hub.matching(parse_channel(channel)):
                del self._heard[channel]
            elif len(silent) < _MOST:
                silent.append(channel)
        if not silent:
            return
        pages = await self._read([*map(newest, silent)])
        for channel, page in zip(silent, pages, strict=True):
            if self._heard.get(channel, before + 1) > before:
                continue  # It was heard meanwhile.
            stream, entries = self._hub.families.stream_of(channel), page.publications
            whole = compacted(entries, None if stream is None else stream.compact)
            if whole is None or not is_open(whole):
                del self._heard[channel]
                continue
            self._trust((channel,))
            logger.warning(
                "the producer of the stream %s is gone",
                escaped(channel),
                extra=about("stream_abandoned", channel=escaped(channel)),
            )
            await self._say(channel, StreamEvent.FAIL, _GONE, f"gone {producer_of(entries)}")

    # --- requests --------------------------------------------------------------------------------

    async def ask_to_cancel(self, channel: Channel) -> bool:
        """Ask the producer of a stream, wherever it is, to cancel it.

        Returns:
            Whether there is a stream; one that has ended stays as it is.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        (page,) = await self._read([newest(channel)])
        stream, entries = self._hub.families.stream_of(channel), page.publications
        whole = compacted(entries, None if stream is None else stream.compact)
        if whole is not None and is_open(whole):
            key = f"cancelling {producer_of(entries)}"
            await self._say(channel, StreamEvent.CANCELLING, _CANCELLING, key)
        return whole is not None

    async def _say(self, channel: str, event: StreamEvent, data: object, key: str) -> None:
        post = self._post
        publication = post.accept(channel, event.value, data, None)
        scoped = post.scoped(key, publication.channel)
        sent = post.publish(publication, idempotency_key=scoped)
        post.soon()
        await sent.taken()
