"""Publications as a subscriber gets them, and the gaps between them.

The same classes serve subscribers inside the process (:meth:`.Bus.subscribe`) and the Python
client (:meth:`.Client.subscribe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Generic, TypeVar

import msgspec

__all__ = [
    "MAX_GAP_CHANNELS",
    "ChannelLoss",
    "Event",
    "EventPage",
    "Gap",
    "GapCause",
    "Position",
]

T = TypeVar("T")

MAX_GAP_CHANNELS: Final = 16
"""The most channels that a gap names; a gap that concerns more names none."""


class Position(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The position of a publication in its channel."""

    epoch: str
    """Identifies one numbering. Offsets of two epochs cannot be compared."""
    offset: int
    """Its number. Later publications have greater ones; those of a channel skip numbers."""
    tag: str = ""
    """Tells numbers apart that a store used twice, because it lost the end of what it had kept;
    empty where that cannot happen."""


class GapCause(StrEnum):
    """The reason for which publications are missing; of several, the first one here counts."""

    RECONNECT = "reconnect"
    """The client was not connected for a while."""
    BROKER = "broker"
    """The link between servers was lost: publications of other nodes are missing."""
    SERVER = "server"
    """The server's queue was full: the client, or the network, was too slow."""
    BUFFER = "buffer"
    """The subscription's own buffer was full: the task that iterates was too slow."""


class ChannelLoss(msgspec.Struct, frozen=True, gc=False):
    """The publications missing on one channel."""

    lost: int | None
    """How many publications; None: unknown."""
    position: Position | None = None
    """Position of the newest missing publication; None: unknown, or the channel has none."""


class Gap(msgspec.Struct, frozen=True):
    """Publications are missing: read the state anew if it must be right."""

    lost: int | None
    """How many; None: unknown."""
    cause: GapCause = GapCause.SERVER
    channels: Mapping[str, ChannelLoss] | None = None
    """The losses by channel; None: the channels are unknown, or more than 16."""

    def joined(self, later: Gap) -> Gap:
        """Return one gap for both; its cause is the one that :class:`.GapCause` has first."""
        unknown = self.lost is None or later.lost is None
        lost = None if unknown else (self.lost or 0) + (later.lost or 0)
        cause = next(cause for cause in GapCause if cause in (self.cause, later.cause))
        return Gap(lost, cause, _joined(self.channels, later.channels))


def _joined(
    first: Mapping[str, ChannelLoss] | None, later: Mapping[str, ChannelLoss] | None
) -> Mapping[str, ChannelLoss] | None:
    if first is None or later is None or len(first.keys() | later.keys()) > MAX_GAP_CHANNELS:
        return None
    channels = dict(first)
    for channel, loss in later.items():
        if channel in channels:
            before = channels[channel]
            unknown = before.lost is None or loss.lost is None
            lost = None if unknown else (before.lost or 0) + (loss.lost or 0)
            loss = ChannelLoss(lost, loss.position or before.position)  # noqa: PLW2901
        channels[channel] = loss
    return channels


class Event(msgspec.Struct, Generic[T], frozen=True):
    """One publication."""

    channel: str
    """The exact channel, never a pattern."""
    event: str
    """A word that says what happened, such as ``update``."""
    data: T
    """Decoded from JSON: never the publisher's own object."""
    timestamp: float
    """When the bus accepted it, in seconds since the epoch."""
    gap: Gap | None = None
    """The gap right before it; None: no known gap."""
    position: Position | None = None
    """The position in its channel; None: the channel has no history."""
    is_latest: bool = False
    """Whether it was published before the subscription began, and came because it was the latest
    one on its channel."""
    trace_parent: str | None = None
    """The context of the span that published it, as the header ``traceparent`` of W3C Trace
    Context; see :func:`wsbus.opentelemetry.links_to`. None: it was not traced, or came through a
    client."""


class EventPage(msgspec.Struct, Generic[T], frozen=True):
    """A part of what a channel keeps; see :meth:`.Bus.history`."""

    events: tuple[Event[T], ...]
    """In the order in which they were published."""
    head: Position
    """The position at the time of the answer: what is published later comes after it."""
    more: bool = False
    """Whether more is kept on the side where the limit cut the page off."""
