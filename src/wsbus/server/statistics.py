"""Statistics of a bus and of its connections at one moment."""

from __future__ import annotations

import msgspec

from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Status
from ..core.session import Session, State
from ..transport import Handshake

__all__ = ["BusStatistics", "ConnectionInfo"]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One connection at one moment; times are seconds since the epoch."""

    connection_id: str
    subject: str | None
    protocol: str
    path: str
    client: tuple[str, int] | None
    connected_at: float
    last_ping: float | None
    """When the server sent its last ping."""
    last_pong: float
    """When the last frame of any kind came from the client."""
    subscriptions: tuple[str, ...]
    """As the client spelled them, in the order subscribed."""
    assigned: tuple[str, ...]
    """Patterns that the server subscribed (:meth:`.Connection.subscribe`, ``broadcast=``)."""
    message_count: int
    """Publications sent to it."""
    messages_sent: int
    """Publications, replies and pings sent to it."""
    messages_received: int
    is_alive: bool
    """Whether it is open and not closing."""
    queue_messages: int
    queue_bytes: int
    dropped: int
    """Publications lost because its queue was full."""

    @classmethod
    def of(
        cls,
        session: Session,
        member: Member,
        handshake: Handshake,
        now: Instant,
        *,
        connection_id: str,
        protocol: str,
        connected_at: float,
        messages_received: int,
    ) -> ConnectionInfo:
        """Collect the information about a connection."""
        beat, queue = session.heartbeat, member.queue
        offset = now.wall - now.monotonic
        return cls(
            connection_id=connection_id,
            subject=session.identity.subject if session.identity else None,
            protocol=protocol,
            path=handshake.path,
            client=handshake.client,
            connected_at=connected_at,
            last_ping=None if beat.last_ping is None else beat.last_ping + offset,
            last_pong=beat.last_seen + offset,
            subscriptions=tuple(session.subscriptions),
            assigned=tuple([pattern.text for pattern in session.assigned]),
            message_count=member.message_count,
            messages_sent=member.message_count + member.control_count,
            messages_received=messages_received,
            is_alive=session.state is not State.CLOSED,
            queue_messages=len(queue),
            queue_bytes=queue.bytes,
            dropped=queue.lost_ever,
        )

    def status(self, ref: str | None) -> Status:
        """Return the part that its client may see."""
        return Status(
            connection_id=self.connection_id,
            subject=self.subject,
            connected_at=self.connected_at,
            subscriptions=self.subscriptions,
            message_count=self.message_count,
            dropped=self.dropped,
            ref=ref,
        )


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
