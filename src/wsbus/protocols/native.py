"""``wsbus.v1``: wsbus's own protocol.

The common messages (:mod:`.dialogue`), and beyond them ``connected``, ``publish``, ``get_status``
with ``status``, and ``gap``. Several messages may share a frame, separated by newlines, both
ways; ``+`` is a wildcard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from ..core import messages as core
from ..core.patterns import Pattern, parse_pattern
from .dialogue import COMMON_MESSAGES, Dialogue, FromClient, FromServer, milliseconds
from .tagged import ClientMessage

__all__ = ["Native"]


class _Publish(FromClient, frozen=True, kw_only=True, tag="publish"):
    is_call = True

    channel: str
    event: str = "message"
    data: Any

    def command(self) -> core.Command:
        # Encoded anew: what is spliced into frames of others must hold no newline, no number out
        # of range and no lone surrogate, whatever the client wrote.
        return core.Publish(self.channel, self.event, msgspec.json.encode(self.data), self.id)


class _GetStatus(FromClient, frozen=True, tag="get_status"):
    def command(self) -> core.Command:
        return core.GetStatus(self.id)


class _Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    connection_id: str
    subject: str | None = None
    ping_interval: float | None = None
    timeout: float | None = None


class _Connected(FromServer, frozen=True, tag="connected"):
    timestamp: int
    data: _Terms


class _Loss(msgspec.Struct, frozen=True):
    lost: int


class _Gap(FromServer, frozen=True, tag="gap"):
    timestamp: int
    data: _Loss


class _Facts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    connection_id: str
    subject: str | None = None
    connected_at: int
    subscriptions: tuple[str, ...]
    message_count: int
    dropped: int


class _Status(FromServer, frozen=True, kw_only=True, tag="status"):
    id: str | None = None
    timestamp: int
    data: _Facts


class Native(Dialogue):
    """The dialect that has a word for everything the bus can say."""

    name = "wsbus.v1"
    joins = True
    messages: ClassVar[tuple[type[ClientMessage], ...]] = (*COMMON_MESSAGES, _Publish, _GetStatus)

    def decode(self, frame: str | bytes) -> Iterable[core.Command]:
        """Understand one frame: a command for each line that is not blank, at least one.

        Lines are decoded as the caller asks for them, so that it can pause in between.
        """
        if isinstance(frame, str) and "\n" in frame:
            return self._lines(frame)
        return (self.understand(frame),)

    def _lines(self, frame: str) -> Iterator[core.Command]:
        # Cut one by one: a frame of 64 KiB may hold tens of thousands of lines.
        found, start = False, 0
        while start <= len(frame):
            end = frame.find("\n", start)
            end = len(frame) if end < 0 else end
            line = frame[start:end]
            if line.strip(" \t\r"):
                found = True
                yield self.understand(line)
            start = end + 1
        if not found:  # it must count for something, or it would escape every limit
            yield self.understand("")

    def pattern(self, name: str) -> Pattern:
        """Return the pattern of this name; ``+`` is a wildcard."""
        return parse_pattern(name)

    def answer(self, reply: core.Reply, at: int) -> FromServer | None:
        """Return the message for ``reply``; ``at`` in milliseconds."""
        match reply:
            case core.Connected():
                return _Connected(at, _terms(reply))
            case core.Gap():
                return _Gap(at, _Loss(reply.lost))
            case core.Status():
                return _Status(id=reply.ref, timestamp=at, data=_facts(reply))
            case _:
                return super().answer(reply, at)


def _terms(reply: core.Connected) -> _Terms:
    return _Terms(
        connection_id=reply.connection_id,
        subject=reply.subject,
        ping_interval=_plain(reply.ping_interval),
        timeout=_plain(reply.timeout),
    )


def _facts(status: core.Status) -> _Facts:
    return _Facts(
        connection_id=status.connection_id,
        subject=status.subject,
        connected_at=milliseconds(status.connected_at),
        subscriptions=status.subscriptions,
        message_count=status.message_count,
        dropped=status.dropped,
    )


def _plain(seconds: float | None) -> float | None:
    """Write whole seconds without a fraction: ``30``, not ``30.0``."""
    return int(seconds) if seconds is not None and float(seconds).is_integer() else seconds
