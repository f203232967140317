"""The messages of a server in the form of the built-in dialects, and what they mean.

Decoding is lenient: unknown keys are ignored, so that an older client understands a newer server.
"""

from __future__ import annotations

from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.channels import MAX_CHANNEL_BYTES, Channel
from ..core.client.actions import Admitted, Heard, LatestPublication
from ..core.events import ChannelLoss, Gap, GapCause, Position
from ..core.messages import Publication
from ..core.presence import Occupant

__all__ = ["COMMON_MESSAGES", "NATIVE_MESSAGES", "MessageIn", "Said"]

N = TypeVar("N", int, float)
Said: TypeAlias = "Heard | Publication | None"
"""The meaning of a message; None: it is ignored."""
_NULL: Final = Raw(b"null")


class MessageIn(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the messages from the server."""

    id: str | None = None
    timestamp: float = 0.0
    """Milliseconds since the epoch."""

    def heard(self) -> Said:
        """Return what the message means; None: it is ignored."""
        raise AssertionError(self)


class _EventIn(MessageIn, frozen=True, kw_only=True, tag="event"):
    channel: str
    event: str = "message"
    data: Raw = _NULL

    def heard(self) -> Said:
        if len(self.channel) > MAX_CHANNEL_BYTES:
            return None
        # A copy: the raw view would keep the whole frame alive while this waits in a buffer.
        data = bytes(self.data)
        return Publication(Channel(self.channel), self.event, data, self.timestamp / 1000)


class _FaultIn(msgspec.Struct, frozen=True):
    code: str = "UNKNOWN"
    message: str = ""


class _ResponseIn(MessageIn, frozen=True, kw_only=True, tag="response"):
    success: bool
    data: Raw = _NULL
    error: _FaultIn = _FaultIn()

    def heard(self) -> Said:
        if self.success:
            return core.Response(bytes(self.data), self.id)
        return core.Refused(self.error.code, self.error.message, self.id, is_call=True)


class _ErrorIn(MessageIn, frozen=True, kw_only=True, tag="error"):
    error: _FaultIn = _FaultIn()

    def heard(self) -> Said:
        return core.Refused(self.error.code, self.error.message, self.id)


class _AccountIn(msgspec.Struct, frozen=True):
    subject: str = ""
    expires_at: float | None = None


class _AuthResultIn(MessageIn, frozen=True, kw_only=True, tag="auth_result"):
    success: bool
    data: _AccountIn = _AccountIn()
    error: _FaultIn = _FaultIn()

    def heard(self) -> Said:
        if not self.success:
            return core.AuthRefused(self.error.message, self.error.code, self.id)
        ends = self.data.expires_at
        # Measured by the server's clock: this machine's may be wrong.
        lifetime = None if ends is None else max(0.0, (ends - self.timestamp) / 1000)
        return Admitted(self.data.subject, lifetime, self.id)


class _RejectedIn(msgspec.Struct, frozen=True):
    channel: str
    code: str = "UNKNOWN"
    message: str = ""


class _SubscriptionsIn(msgspec.Struct, frozen=True):
    channels: tuple[str, ...] = ()
    active_subscriptions: int = 0
    rejected: tuple[_RejectedIn, ...] = ()
    reason: str | None = None


class _SubscribedIn(MessageIn, frozen=True, kw_only=True, tag="subscribed"):
    data: _SubscriptionsIn

    def heard(self) -> Said:
        data = self.data
        rejected = tuple(core.Rejection(r.channel, r.code, r.message) for r in data.rejected)
        return core.Subscribed(data.channels, data.active_subscriptions, rejected, self.id)


class _UnsubscribedIn(MessageIn, frozen=True, kw_only=True, tag="unsubscribed"):
    data: _SubscriptionsIn

    def heard(self) -> Said:
        data = self.data
        return core.Unsubscribed(data.channels, data.active_subscriptions, self.id, data.reason)


class _PingIn(MessageIn, frozen=True, tag="ping"):
    def heard(self) -> Said:
        return core.Ping(self.id)


class _PongIn(MessageIn, frozen=True, tag="pong"):
    def heard(self) -> Said:
        return core.Pong(self.id)


class _TermsIn(msgspec.Struct, frozen=True):
    connection_id: str = ""
    subject: str | None = None
    ping_interval: float | None = None
    timeout: float | None = None
    max_message_bytes: int | None = None
    max_names: int | None = None
    messages_per_second: float | None = None
    commands_per_second: float | None = None


class _ConnectedIn(MessageIn, frozen=True, kw_only=True, tag="connected"):
    data: _TermsIn

    def heard(self) -> Said:
        data = self.data
        return core.Greeting(
            data.connection_id,
            data.subject,
            data.ping_interval,
            data.timeout,
            max_message_bytes=_positive(data.max_message_bytes),
            max_names=_positive(data.max_names),
            messages_per_second=_positive(data.messages_per_second),
            commands_per_second=_positive(data.commands_per_second),
        )


class _PositionIn(msgspec.Struct, frozen=True):
    epoch: str
    offset: int
    tag: str = ""
    previous: int | None = None

    def place(self) -> Position:
        return Position(self.epoch, self.offset, self.tag)

    def place_before(self) -> Position | None:
        return None if self.previous is None else Position(self.epoch, self.previous)


class _StoredEventIn(_EventIn, frozen=True, kw_only=True, tag="event"):
    position: _PositionIn | None = None
    latest: bool = False

    def heard(self) -> Said:
        found = self.position
        if found is None or len(self.channel) > MAX_CHANNEL_BYTES:
            return super().heard()
        kind = LatestPublication if self.latest else Publication
        return kind(
            Channel(self.channel),
            self.event,
            bytes(self.data),
            self.timestamp / 1000,
            position=found.place(),
            previous=found.place_before(),
        )


class _StartIn(msgspec.Struct, frozen=True):
    channel: str
    epoch: str
    offset: int
    tag: str = ""
    recovered: bool | None = None


class _SubscriptionsAtIn(_SubscriptionsIn, frozen=True):
    positions: tuple[_StartIn, ...] = ()


class _SubscribedAtIn(_SubscribedIn, frozen=True, kw_only=True, tag="subscribed"):
    data: _SubscriptionsAtIn

    def heard(self) -> Said:
        heard = super().heard()
        assert isinstance(heard, core.Subscribed)
        positions = tuple(
            core.StartPosition(s.channel, Position(s.epoch, s.offset, s.tag), s.recovered)
            for s in self.data.positions
        )
        return msgspec.structs.replace(heard, positions=positions) if positions else heard


class _PastEventIn(msgspec.Struct, frozen=True):
    position: _PositionIn
    event: str = "message"
    timestamp: float = 0.0
    data: Raw = _NULL


class _PastIn(msgspec.Struct, frozen=True):
    channel: str
    position: _PositionIn
    events: tuple[_PastEventIn, ...] = ()
    more: bool = False


class _HistoryIn(MessageIn, frozen=True, kw_only=True, tag="history"):
    data: _PastIn

    def heard(self) -> Said:
        data = self.data
        if len(data.channel) > MAX_CHANNEL_BYTES:
            return None
        channel = Channel(data.channel)
        publications = tuple(
            Publication(
                channel,
                each.event,
                bytes(each.data),
                each.timestamp / 1000,
                position=each.position.place(),
                previous=each.position.place_before(),
            )
            for each in data.events
        )
        return core.HistoryResult(
            data.channel, publications, data.position.place(), data.more, self.id
        )


class _OccupantIn(msgspec.Struct, frozen=True):
    id: str
    subject: str | None = None


class _ThereIn(msgspec.Struct, frozen=True):
    channel: str
    count: int
    members: tuple[_OccupantIn, ...] = ()
    watching: bool = False


class _PresenceIn(MessageIn, frozen=True, kw_only=True, tag="presence"):
    data: _ThereIn

    def heard(self) -> Said:
        data = self.data
        members = tuple([Occupant(each.id, each.subject) for each in data.members])
        return core.PresenceResult(data.channel, members, data.count, data.watching, self.id)


class _MovesIn(msgspec.Struct, frozen=True):
    channel: str
    count: int
    joined: tuple[_OccupantIn, ...] = ()
    left: tuple[_OccupantIn, ...] = ()
    watching: bool = True


class _PresenceChangedIn(MessageIn, frozen=True, kw_only=True, tag="presence_changed"):
    data: _MovesIn

    def heard(self) -> Said:
        data = self.data
        joined, left = (
            tuple([Occupant(each.id, each.subject) for each in some])
            for some in (data.joined, data.left)
        )
        return core.PresenceChanged(data.channel, joined, left, data.count, data.watching)


class _ChannelLossIn(msgspec.Struct, frozen=True):
    channel: str
    lost: int | None = None
    position: Position | None = None


class _LossIn(msgspec.Struct, frozen=True):
    lost: int | None = None
    cause: str | None = None
    channels: tuple[_ChannelLossIn, ...] | None = None


class _GapIn(MessageIn, frozen=True, kw_only=True, tag="gap"):
    data: _LossIn

    def heard(self) -> Said:
        found = self.data.channels
        channels = found and {each.channel: ChannelLoss(each.lost, each.position) for each in found}
        cause = GapCause.BROKER if self.data.cause == "broker" else GapCause.SERVER
        return Gap(self.data.lost, cause, channels or None)


class _FactsIn(msgspec.Struct, frozen=True, kw_only=True):
    connection_id: str = ""
    subject: str | None = None
    connected_at: float = 0.0
    subscriptions: tuple[str, ...] = ()
    message_count: int = 0
    dropped: int = 0


class _StatusIn(MessageIn, frozen=True, kw_only=True, tag="status"):
    data: _FactsIn

    def heard(self) -> Said:
        data = self.data
        return core.Status(
            connection_id=data.connection_id,
            subject=data.subject,
            connected_at=data.connected_at / 1000,
            subscriptions=data.subscriptions,
            message_count=data.message_count,
            dropped=data.dropped,
            ref=self.id,
        )


def _positive(limit: N | None) -> N | None:
    """Return a positive limit; any other counts as unknown."""
    return limit if limit is not None and limit > 0 else None


COMMON_MESSAGES: Final[tuple[type[MessageIn], ...]] = (
    _EventIn,
    _ResponseIn,
    _ErrorIn,
    _AuthResultIn,
    _SubscribedIn,
    _UnsubscribedIn,
    _PingIn,
    _PongIn,
)
"""Those of both dialects."""

NATIVE_MESSAGES: Final[tuple[type[MessageIn], ...]] = (
    *[each for each in COMMON_MESSAGES if each not in {_EventIn, _SubscribedIn}],
    _StoredEventIn,
    _SubscribedAtIn,
    _ConnectedIn,
    _GapIn,
    _StatusIn,
    _HistoryIn,
    _PresenceIn,
    _PresenceChangedIn,
)
"""Those of ``wsbus.v1``."""
