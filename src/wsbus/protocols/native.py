"""``wsbus.v1``: wsbus's own protocol.

It has the common messages (:mod:`.common`), and ``connected``, ``publish``, ``get_status`` with
``status``, and ``gap``. Several messages may share a frame, separated by newlines, in both
directions. ``+`` is a wildcard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Annotated, Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.events import MAX_GAP_CHANNELS, Gap, GapCause
from ..core.frame import Frame
from ..core.patterns import Pattern, parse_pattern
from ..core.thinning import MAX_RATE, MIN_RATE
from .common import (
    COMMON_MESSAGES,
    Dialogue,
    FromClient,
    FromServer,
    Rejected,
    milliseconds,
)
from .native_past import (
    CancelMessage,
    GivenPosition,
    PresenceMessage,
    ReadHistoryMessage,
    Text,
    WirePosition,
    history_answer,
    presence_answer,
    presence_notice,
    wire_position,
)
from .tagged import ClientMessage

__all__ = ["Native", "PublishMessage"]

# White space is JSON's. The search for the first character skips blank lines.
_LINE: Final = re.compile(r"[^\n\r\t ][^\n]*")
_text: Final = re.Match[str].group

_MaxRate: TypeAlias = Annotated[float, msgspec.Meta(ge=MIN_RATE, le=MAX_RATE)]


class PublishMessage(FromClient, frozen=True, kw_only=True, tag="publish"):
    """``{"type":"publish"}``."""

    is_call = True

    channel: str
    event: str = "message"
    data: Any
    idempotency_key: Text | None = None
    retry: bool = False

    def request(self) -> core.Request:
        """Return the request."""
        # Encoded anew: data that go into the frames of others must hold no newline, no number out
        # of range and no lone surrogate, whatever the client wrote.
        data, key = msgspec.json.encode(self.data), self.idempotency_key
        is_retry = self.retry and key is not None
        return core.Publish(self.channel, self.event, data, self.id, key, is_retry)


class _Start(GivenPosition, frozen=True):
    strict: bool = False

    def since(self) -> core.Since:
        return core.Since(self.position(), self.strict)


class _SubscribeSince(FromClient, frozen=True, tag="subscribe"):
    channels: tuple[str, ...]
    since: dict[str, _Start] = msgspec.field(default_factory=dict)
    max_rate: dict[str, _MaxRate] = msgspec.field(default_factory=dict)

    def request(self) -> core.Request:
        since = {name: start.since() for name, start in self.since.items()}
        return core.Subscribe(self.channels, self.id, since, self.max_rate)


class _GetStatus(FromClient, frozen=True, tag="get_status"):
    def request(self) -> core.Request:
        return core.GetStatus(self.id)


class _Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    connection_id: str
    subject: str | None = None
    ping_interval: float | None = None
    timeout: float | None = None
    max_message_bytes: int | None = None
    max_names: int | None = None
    messages_per_second: float | None = None
    commands_per_second: float | None = None


class _Connected(FromServer, frozen=True, tag="connected"):
    timestamp: int
    data: _Terms


class _StoredEvent(FromServer, frozen=True, tag="event"):
    channel: str
    event: str
    timestamp: int
    position: WirePosition
    data: Raw
    latest: bool = False


class _ChannelLoss(msgspec.Struct, frozen=True, omit_defaults=True):
    channel: str
    lost: int | None = None
    position: WirePosition | None = None


class _Loss(msgspec.Struct, frozen=True, omit_defaults=True):
    lost: int | None
    cause: GapCause | None = None
    channels: tuple[_ChannelLoss, ...] | None = None


class _Gap(FromServer, frozen=True, tag="gap"):
    timestamp: int
    data: _Loss


class _StartPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    channel: str
    epoch: str
    offset: int
    tag: str = ""
    recovered: bool | None = None


class _Held(msgspec.Struct, frozen=True, omit_defaults=True):
    channels: tuple[str, ...]
    active_subscriptions: int
    rejected: tuple[Rejected, ...] = ()
    positions: tuple[_StartPosition, ...] = ()


class _SubscribedAt(FromServer, frozen=True, kw_only=True, tag="subscribed"):
    id: str | None = None
    timestamp: int
    data: _Held


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


class _Withdrawal(msgspec.Struct, frozen=True, omit_defaults=True):
    channels: tuple[str, ...]
    active_subscriptions: int
    reason: str | None = None


class _Withdrawn(FromServer, frozen=True, kw_only=True, tag="unsubscribed"):
    id: str | None = None
    timestamp: int
    data: _Withdrawal


class Native(Dialogue):
    """The dialect with a message for everything that a bus can send."""

    name = "wsbus.v1"
    joins = True
    advises = True
    messages: ClassVar[tuple[type[ClientMessage], ...]] = (
        *[message for message in COMMON_MESSAGES if message.__struct_config__.tag != "subscribe"],
        _SubscribeSince,
        PublishMessage,
        ReadHistoryMessage,
        PresenceMessage,
        CancelMessage,
        _GetStatus,
    )

    def split(self, frame: str | bytes) -> Iterable[str | bytes]:
        """Cut a frame at newlines, one by one; blank lines are skipped.

        A frame of blank lines counts as one message, or it would escape every limit.
        """
        if not isinstance(frame, str) or "\n" not in frame:
            return (frame,)
        lines = _LINE.finditer(frame)
        first = next(lines, None)
        return ("",) if first is None else map(_text, chain((first,), lines))

    def decode(self, frame: str | bytes) -> Iterable[core.Request]:
        """Decode one frame: a request for each message in it.

        Each message is decoded when the caller asks for it.
        """
        if isinstance(frame, str) and "\n" in frame:
            return map(self.understand, self.split(frame))
        return (self.understand(frame),)

    def pattern(self, name: str) -> Pattern:
        """Return the pattern of this name; ``+`` is a wildcard."""
        return parse_pattern(name)

    def stored_event(self, publication: core.Publication, at: int, data: Raw) -> FromServer:
        """Return the message for a publication that has a position, with the position."""
        return _stored(publication, at, data)

    def encode_latest(self, publication: core.Publication) -> Frame:
        """Return an event's frame that says that it is the latest of its channel."""
        return Frame(msgspec.json.encode(self.latest_event(publication)))

    def latest_event(self, publication: core.Publication) -> FromServer:
        """Return the message for the latest publication of a channel."""
        at = milliseconds(publication.timestamp)
        return _stored(publication, at, self.content(publication), is_latest=True)

    def answer(self, reply: core.ServerMessage, at: int) -> FromServer | None:
        """Return the message for ``reply``; ``at`` in milliseconds."""
        match reply:
            case core.Greeting():
                return _Connected(at, _terms(reply))
            case Gap():
                return _Gap(at, _loss(reply))
            case core.Subscribed(positions=(_, *_)):
                rejected = tuple([Rejected(r.name, r.code, r.message) for r in reply.rejected])
                positions = tuple([_start_position(each) for each in reply.positions])
                held = _Held(reply.names, reply.active, rejected, positions)
                return _SubscribedAt(id=reply.ref, timestamp=at, data=held)
            case core.HistoryResult():
                return history_answer(reply, at, self.content)
            case core.PresenceResult():
                return presence_answer(reply, at)
            case core.PresenceChanged():
                return presence_notice(reply, at)
            case core.Unsubscribed(reason=str()):
                data = _Withdrawal(reply.names, reply.active, reply.reason)
                return _Withdrawn(id=reply.ref, timestamp=at, data=data)
            case core.Status():
                return _Status(id=reply.ref, timestamp=at, data=_facts(reply))
            case _:
                return super().answer(reply, at)


def _terms(reply: core.Greeting) -> _Terms:
    return _Terms(
        connection_id=reply.connection_id,
        subject=reply.subject,
        ping_interval=_plain(reply.ping_interval),
        timeout=_plain(reply.timeout),
        max_message_bytes=reply.max_message_bytes,
        max_names=reply.max_names,
        messages_per_second=_plain(reply.messages_per_second),
        commands_per_second=_plain(reply.commands_per_second),
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


def _stored(
    publication: core.Publication, at: int, data: Raw, *, is_latest: bool = False
) -> _StoredEvent:
    position = publication.position
    assert position is not None
    where = wire_position(position, publication.previous)
    return _StoredEvent(publication.channel, publication.event, at, where, data, is_latest)


def _start_position(start: core.StartPosition) -> _StartPosition:
    position = start.position
    return _StartPosition(
        start.name, position.epoch, position.offset, position.tag, start.is_recovered
    )


def _loss(gap: Gap) -> _Loss:
    cause = gap.cause if gap.cause is GapCause.BROKER else None
    if gap.channels is None or len(gap.channels) > MAX_GAP_CHANNELS:
        return _Loss(gap.lost, cause)
    channels = [
        _ChannelLoss(
            name, loss.lost, None if loss.position is None else wire_position(loss.position)
        )
        for name, loss in gap.channels.items()
    ]
    return _Loss(gap.lost, cause, tuple(channels))


def _plain(number: float | None) -> float | None:
    """Write whole numbers without a fraction: ``30``, not ``30.0``."""
    return int(number) if number is not None and float(number).is_integer() else number
