"""Losses of a queue: the number of publications, and their channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self

from .channels import Channel
from .events import MAX_GAP_CHANNELS, ChannelLoss, Gap, GapCause, Position

__all__ = ["Loss", "LossMarker", "PlacedLoss", "Queueable", "Span"]


class Queueable(Protocol):
    """Anything that can be queued."""

    @property
    def size(self) -> int:
        """Bytes it counts for; it must not change."""
        ...

    @property
    def channel(self) -> Channel | None:
        """The channel that a loss names; None: there is none, or it is unknown."""
        ...


class Span(NamedTuple):
    """The positions of the first and the last publication of a channel that are missing."""

    first: Position
    last: Position


class Loss(NamedTuple):
    """Publications that are missing."""

    lost: int
    """How many, at least 1."""
    channels: Mapping[Channel, int] | None
    """How many on each channel, in the order of the first loss on each; None: on more than
    :data:`.MAX_GAP_CHANNELS`, or on channels that are not known."""

    def gap(self, cause: GapCause) -> Gap:
        """Return what a subscriber learns of it."""
        if self.channels is None:
            return Gap(self.lost, cause)
        channels = {
            str(channel): ChannelLoss(lost, self.newest(channel))
            for channel, lost in self.channels.items()
        }
        return Gap(self.lost, cause, channels)

    def newest(self, channel: Channel) -> Position | None:
        """Return the position of the newest one that is missing on a channel; None: unknown."""
        return None


class PlacedLoss(Loss):
    """A loss on channels with history, as far as their positions tell where it stood.

    Args:
        loss: The numbers.
        spans: The first and the last position on each channel with history.
        is_in_order: Whether all that was lost stood right here, with nothing between it.
    """

    spans: Mapping[Channel, Span]
    is_in_order: bool

    def __new__(cls, loss: Loss, spans: Mapping[Channel, Span], *, is_in_order: bool) -> Self:
        """Make one; it equals the loss."""
        self = super().__new__(cls, *loss)
        self.spans, self.is_in_order = spans, is_in_order
        return self

    @property
    def is_kept(self) -> bool:
        """Whether a store may have all of it, to be put in the place of the loss."""
        return (
            self.is_in_order
            and self.channels is not None
            and self.spans.keys() == self.channels.keys()
            and all(span.first.epoch == span.last.epoch for span in self.spans.values())
        )

    def newest(self, channel: Channel) -> Position | None:
        """See :meth:`Loss.newest`."""
        span = self.spans.get(channel)
        return None if span is None else span.last


class LossMarker:
    """Stands in a queue for publications that it lost.

    Cost: a further loss is O(1), and so is the memory that all of them take.

    Args:
        at: The place of the first loss, as a sequence number.
    """

    __slots__ = ("_is_in_order", "_last_at", "_on", "_spans", "at", "count")

    def __init__(self, at: int) -> None:
        self.at: int = at
        """The earliest place that it counts for: items from there on come after it."""
        self.count: int = 0
        self._on: dict[Channel, int] | None = {}
        self._spans: dict[Channel, Span] = {}
        self._last_at = at
        self._is_in_order = True

    def add(
        self,
        channel: Channel | None,
        at: int,
        position: Position | None = None,
        *,
        was_first: bool = False,
    ) -> None:
        """Count one more loss.

        Args:
            channel: Where it was published.
            at: Its place.
            position: Its position; None: it is not kept.
            was_first: Whether all that the queue holds comes after it.
        """
        self.count += 1
        self._is_in_order = self._is_in_order and was_first and position is not None
        self._last_at = max(self._last_at, at)
        if channel is not None and position is not None and self._on is not None:
            span = self._spans.get(channel)
            self._spans[channel] = Span(position if span is None else span.first, position)
        self.at = min(self.at, at)
        on = self._on
        if on is None:
            return
        if channel is None or (channel not in on and len(on) >= MAX_GAP_CHANNELS):
            self._on = None
        else:
            on[channel] = on.get(channel, 0) + 1

    def loss(self, next_control: int) -> Loss:
        """Return what it stands for; ``next_control``: the place of the first control item."""
        loss = Loss(self.count, self._on)
        if not self._spans:
            return loss
        is_in_order = self._is_in_order and next_control > self._last_at
        return PlacedLoss(loss, self._spans, is_in_order=is_in_order)
