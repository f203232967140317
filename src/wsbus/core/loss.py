"""Losses of a queue: the number of publications, and their channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .channels import Channel
from .events import MAX_GAP_CHANNELS, ChannelLoss, Gap, GapCause

__all__ = ["Loss", "LossMarker"]


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
        channels = {str(channel): ChannelLoss(lost) for channel, lost in self.channels.items()}
        return Gap(self.lost, cause, channels)


class LossMarker:
    """Stands in a queue for publications that it lost.

    Cost: a further loss is O(1), and so is the memory that all of them take.

    Args:
        at: The place of the first loss, as a sequence number.
    """

    __slots__ = ("_on", "at", "count")

    def __init__(self, at: int) -> None:
        self.at: int = at
        """The earliest place that it counts for: items from there on come after it."""
        self.count: int = 0
        self._on: dict[Channel, int] | None = {}

    def add(self, channel: Channel | None, at: int) -> None:
        """Count one more loss, at its place."""
        self.count += 1
        self.at = min(self.at, at)
        on = self._on
        if on is None:
            return
        if channel is None or (channel not in on and len(on) >= MAX_GAP_CHANNELS):
            self._on = None
        else:
            on[channel] = on.get(channel, 0) + 1

    def loss(self) -> Loss:
        """Return what it stands for."""
        return Loss(self.count, self._on)
