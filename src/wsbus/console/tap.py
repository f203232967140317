"""Counts of publications by channel, and tails of them, only while a console shows them.

Publications are counted by channel where they enter the hub. Nothing is done per delivery, and
nothing at all while no console shows channels: the hub then has no tap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from ..core.channels import Channel
from ..core.hub import Hub
from ..core.messages import Publication
from ..core.patterns import Pattern
from ..core.permissions import Grants
from .samples import CUT

__all__ = ["MAX_CHANNELS", "ChannelTap", "Recorded", "Seen", "Tail"]

MAX_CHANNELS: Final = 10_000
"""Channels that are counted separately, whose names have at most 255 bytes; publications on others
are counted together."""
MAX_EVENT: Final = 64
"""Characters kept of a channel's last event."""
KEPT: Final = 25
"""Events of a tail that wait for the next batch; older ones are counted, and not shown."""
MAX_TEXT: Final = 4096
"""Bytes kept of the JSON of such an event. A tail keeps at most ``KEPT`` times as much, and as
many names and events' names."""
_SMOOTHING_SECONDS: Final = 10.0


class Seen:
    """One channel since the tap was opened."""

    __slots__ = (
        "at",
        "channel",
        "count",
        "event",
        "rate",
        "size",
        "subscribers",
        "tails",
        "told",
        "weighed",
    )

    def __init__(self, channel: Channel) -> None:
        self.channel: Final = channel
        self.count: int = 0
        """Publications."""
        self.size: int = 0
        """Bytes of JSON published."""
        self.rate: float = 0.0
        """Publications a second, over the last few."""
        self.weighed: float = 0.0
        """The same, counting the time before the tap was opened as silence."""
        self.told: int = 0
        """The count when the rate was last computed."""
        self.subscribers: int = 0
        """Number of receivers of the last publication."""
        self.event: str = ""
        self.at: float = 0.0
        """Time of the last publication, in seconds since the epoch."""
        self.tails: tuple[Tail, ...] | None = None
        """Tails that match the channel; None: not computed yet."""


class Recorded(NamedTuple):
    """A publication in a tail: copies, so that nothing larger stays in memory."""

    channel: str
    event: str
    data: bytes
    """The beginning of the JSON."""
    size: int
    """Bytes of the whole JSON."""
    at: float


class Tail:
    """The newest publications that match a pattern, for one console.

    Args:
        pattern: The pattern of channels.
        text: Text that the channel, the event or the JSON must contain; case is ignored in ASCII.
        grants: Grants of the operator, whose denies remove channels.
    """

    __slots__ = ("_grants", "_needle", "kept", "matched", "pattern", "text")

    def __init__(self, pattern: Pattern, text: str, grants: Grants) -> None:
        self.pattern: Final = pattern
        self.text: Final = text
        self.matched: int = 0
        """Publications that matched, shown or not."""
        self.kept: Final[deque[Recorded]] = deque(maxlen=KEPT)
        self._needle: Final = text.encode("utf-8", "surrogatepass").lower()
        self._grants: Final = grants

    def wants(self, channel: Channel) -> bool:
        """Whether the tail matches a channel."""
        return self.pattern.matches(channel) and self._grants.may_receive(channel)

    def offer(self, publication: Publication) -> None:
        """Keep a publication that contains the text; the oldest makes way."""
        if self._needle and not _contains(publication, self._needle):
            return
        self.matched += 1
        self.kept.append(
            Recorded(
                publication.channel,
                publication.event[:CUT],
                publication.data[:MAX_TEXT],
                len(publication.data),
                publication.timestamp,
            )
        )

    def take(self) -> list[Recorded]:
        """Return the publications kept, and forget them."""
        taken = list(self.kept)
        self.kept.clear()
        return taken


def _contains(publication: Publication, needle: bytes) -> bool:
    return (
        needle in publication.data.lower()
        or needle in publication.channel.encode().lower()
        or needle in publication.event.encode(errors="replace").lower()
    )


class ChannelTap:
    """Counts the publications of a hub by channel, while it is open."""

    def __init__(self) -> None:
        self.channels: dict[Channel, Seen] = {}
        self.others: int = 0
        """Publications on channels beyond :data:`MAX_CHANNELS`."""
        self._tails: tuple[Tail, ...] = ()
        self._hub: Hub | None = None
        self._rated_at = self._opened_at = self._weights = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._hub is not None

    def open(self, hub: Hub, now: float) -> None:
        """Start to listen at this monotonic second; earlier counts are forgotten."""
        self.channels, self.others = {}, 0
        self._rated_at = self._opened_at = now
        self._weights = 0.0
        self._hub = hub
        hub.taps.append(self.hear)

    def close(self) -> None:
        """Stop listening; idempotent."""
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.taps.remove(self.hear)

    def listened(self, now: float) -> float:
        """Return for how many seconds it has listened."""
        return now - self._opened_at if self.is_open else 0.0

    def tail(self, tails: Iterable[Tail]) -> None:
        """Replace the tails."""
        self._tails = tuple(tails)
        for seen in self.channels.values():
            seen.tails = None

    def hear(self, publication: Publication, subscribers: int) -> None:
        """Count a publication. Cost: one look-up, and one offer for each tail that wants it."""
        seen = self.channels.get(publication.channel)
        if seen is None:
            if len(self.channels) >= MAX_CHANNELS:
                self.others += 1
                for tail in self._wanted(publication.channel):
                    tail.offer(publication)
                return
            seen = self.channels[publication.channel] = Seen(publication.channel)
        seen.count += 1
        seen.size += len(publication.data)
        seen.subscribers = subscribers
        seen.event, seen.at = publication.event[:MAX_EVENT], publication.timestamp
        if seen.tails is None:
            seen.tails = self._wanted(publication.channel)
        for tail in seen.tails:
            tail.offer(publication)

    def _wanted(self, channel: Channel) -> tuple[Tail, ...]:
        return tuple(tail for tail in self._tails if tail.wants(channel))

    def rate(self, now: float) -> None:
        """Compute the rates up to this monotonic second."""
        elapsed, self._rated_at = now - self._rated_at, now
        if elapsed <= 0:
            return
        weight = 1 - math.exp(-elapsed / _SMOOTHING_SECONDS)
        self._weights += (1 - self._weights) * weight
        for seen in self.channels.values():
            seen.weighed += ((seen.count - seen.told) / elapsed - seen.weighed) * weight
            # The time before the tap was opened is unknown, and must not count as silence.
            seen.rate = seen.weighed / self._weights
            seen.told = seen.count
