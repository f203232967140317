"""Overflow policies of full queues, and the results of an offer."""

from __future__ import annotations

from enum import Enum, StrEnum, auto

__all__ = ["Offer", "Overflow"]


class Overflow(StrEnum):
    """The fate of a publication when the queue of a connection is full."""

    DROP_OLDEST = "drop_oldest"
    """The oldest publications in the queue go until this one fits."""
    DROP_NEWEST = "drop_newest"
    """This one is not queued."""
    CONFLATE = "conflate"
    """This one replaces, full or not, the queued one that was published with the same key and also
    with ``conflate``, and stands at the end; the replaced one is not counted as lost. If it
    still does not fit, the oldest go."""
    CLOSE = "close"
    """The connection is closed as too slow, so that it never misses one unknowingly."""


class Offer(Enum):
    """The result of offering a publication."""

    ACCEPTED = auto()
    """It is queued; older ones may have gone for it."""
    REFUSED = auto()
    """It is lost: the queue was full, or it is larger than the whole queue may be."""
    OVERFLOW = auto()
    """It is lost, and the caller owes the connection a close with ``TOO_SLOW``."""
