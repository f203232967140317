"""Statistics of a bus at one moment."""

from __future__ import annotations

import msgspec

from .relay import LinkStatistics

__all__ = ["BusStatistics"]


class BusStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A bus at one moment; the sums are since it was started.

    ``matched == sent + owed + queued + dropped + refused + discarded`` for publications to
    connections that are still there, each counted once per connection.
    """

    is_running: bool
    connections: int
    connections_ever: int
    blocked: int
    """Connections to which nothing can be written just now: the transport is not writable, or a
    task waits in its ``send``."""
    patterns: int
    """Distinct patterns, over all connections."""
    messages_received: int
    malformed: int
    """Received messages that their dialect did not understand, whether or not it can say so."""
    messages_sent: int
    """Publications, replies and pings."""
    publications: int
    matched: int
    """Deliveries: publications times the receivers of each."""
    sent: int
    dropped: int
    """Evicted from full queues, conflated ones included."""
    conflated: int
    """Dropped publications that a newer one with the same key replaced."""
    regained: int
    """Sent publications that full queues had dropped, and that were read from a history."""
    refused: int
    """Not taken by full queues."""
    discarded: int
    """Left in the queues of connections that ended."""
    queued: int
    queued_bytes: int
    unsaid: int
    """Replies for which a dialect has no message."""
    failures: int
    """Connections lost to a failed write, or to one that took too long."""
    flushes: int
    broker: LinkStatistics | None = None
    """The link to the broker; None: the bus has none."""
