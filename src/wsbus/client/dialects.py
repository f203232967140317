"""The built-in dialects on the client's side: requests to text, text to replies and events.

The server's side is :mod:`wsbus.protocols`. Structs that are sent end with ``Out``, structs that
are received with ``In``. Decoding is lenient: unknown keys and types are ignored, so that an older
client understands a newer server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import ClassVar, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..core import messages as core
from ..core.channels import MAX_CHANNEL_BYTES, Channel
from ..core.client.actions import Admitted, Heard
from ..core.errors import UsageError
from ..core.events import ChannelLoss, Gap, GapCause, Position
from ..core.messages import Publication, Request
from .outgoing import encode_request

__all__ = ["ClientDialect", "dialect"]

logger: Final = logging.getLogger("wsbus.client")

N = TypeVar("N", int, float)
_Said: TypeAlias = "Heard | Publication | None"
_NULL: Final = Raw(b"null")

# --- server → client -----------------------------------------------------------------------------


class _In(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the messages from the server."""

    id: str | None = None
    timestamp: float = 0.0
    """Milliseconds since the epoch."""

    def heard(self) -> _Said:
        """Return what the message means; None: it is ignored."""
        raise AssertionError(self)


class _EventIn(_In, frozen=True, kw_only=True, tag="event"):
    channel: str
    event: str = "message"
    data: Raw = _NULL

    def heard(self) -> _Said:
        if len(self.channel) > MAX_CHANNEL_BYTES:
            return None
        # A copy: the raw view would keep the whole frame alive while this waits in a buffer.
        data = bytes(self.data)
        return Publication(Channel(self.channel), self.event, data, self.timestamp / 1000)


class _FaultIn(msgspec.Struct, frozen=True):
    code: str = "UNKNOWN"
    message: str = ""


class _ResponseIn(_In, frozen=True, kw_only=True, tag="response"):
    success: bool
    data: Raw = _NULL
    error: _FaultIn = _FaultIn()

    def heard(self) -> _Said:
        if self.success:
            return core.Response(bytes(self.data), self.id)
        return core.Refused(self.error.code, self.error.message, self.id, is_call=True)


class _ErrorIn(_In, frozen=True, kw_only=True, tag="error"):
    error: _FaultIn = _FaultIn()

    def heard(self) -> _Said:
        return core.Refused(self.error.code, self.error.message, self.id)


class _AccountIn(msgspec.Struct, frozen=True):
    subject: str = ""
    expires_at: float | None = None


class _AuthResultIn(_In, frozen=True, kw_only=True, tag="auth_result"):
    success: bool
    data: _AccountIn = _AccountIn()
    error: _FaultIn = _FaultIn()

    def heard(self) -> _Said:
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


class _SubscribedIn(_In, frozen=True, kw_only=True, tag="subscribed"):
    data: _SubscriptionsIn

    def heard(self) -> _Said:
        data = self.data
        rejected = tuple(core.Rejection(r.channel, r.code, r.message) for r in data.rejected)
        return core.Subscribed(data.channels, data.active_subscriptions, rejected, self.id)


class _UnsubscribedIn(_In, frozen=True, kw_only=True, tag="unsubscribed"):
    data: _SubscriptionsIn

    def heard(self) -> _Said:
        data = self.data
        return core.Unsubscribed(data.channels, data.active_subscriptions, self.id, data.reason)


class _PingIn(_In, frozen=True, tag="ping"):
    def heard(self) -> _Said:
        return core.Ping(self.id)


class _PongIn(_In, frozen=True, tag="pong"):
    def heard(self) -> _Said:
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


class _ConnectedIn(_In, frozen=True, kw_only=True, tag="connected"):
    data: _TermsIn

    def heard(self) -> _Said:
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
    previous: int | None = None


class _StoredEventIn(_EventIn, frozen=True, kw_only=True, tag="event"):
    position: _PositionIn | None = None

    def heard(self) -> _Said:
        heard, found = super().heard(), self.position
        if heard is None or found is None:
            return heard
        previous = None if found.previous is None else Position(found.epoch, found.previous)
        position = Position(found.epoch, found.offset)
        return msgspec.structs.replace(heard, position=position, previous=previous)


class _ChannelLossIn(msgspec.Struct, frozen=True):
    channel: str
    lost: int | None = None
    position: Position | None = None


class _LossIn(msgspec.Struct, frozen=True):
    lost: int | None = None
    cause: str | None = None
    channels: tuple[_ChannelLossIn, ...] | None = None


class _GapIn(_In, frozen=True, kw_only=True, tag="gap"):
    data: _LossIn

    def heard(self) -> _Said:
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


class _StatusIn(_In, frozen=True, kw_only=True, tag="status"):
    data: _FactsIn

    def heard(self) -> _Said:
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


class _LabelIn(msgspec.Struct, frozen=True):
    type: str | UnsetType = UNSET


_COMMON: Final[tuple[type[_In], ...]] = (
    _EventIn,
    _ResponseIn,
    _ErrorIn,
    _AuthResultIn,
    _SubscribedIn,
    _UnsubscribedIn,
    _PingIn,
    _PongIn,
)


class ClientDialect:
    """``zigquant-v2``; ``wsbus.v1`` is derived from it."""

    name: str = "zigquant-v2"
    """The WebSocket subprotocol token."""
    greets: bool = False
    """Whether the server speaks first."""
    is_named: bool = False
    """Whether the server must echo the subprotocol."""
    is_rich: bool = False
    """Whether a client can publish, and ask for the status."""
    has_plus: bool = False
    """Whether ``+`` is a wildcard."""
    messages: ClassVar[tuple[type[_In], ...]] = _COMMON

    def __init__(self) -> None:
        self._decoder: Final[msgspec.json.Decoder[_In]] = msgspec.json.Decoder(
            reduce(or_, self.messages)  # a union, made at run time
        )
        self._tags: Final = {str(m.__struct_config__.tag) for m in self.messages}

    def encode(self, request: Request) -> bytes:
        """Return the message for ``request``."""
        return encode_request(request)

    def measure(self, request: Request) -> int:
        """Return the size of the message for ``request``, in bytes."""
        return len(self.encode(request))

    def decode(self, text: str) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored.

        It never raises, whatever the server sent.
        """
        said = self._understand(text)
        return () if said is None else (said,)

    def _understand(self, text: str) -> _Said:
        try:
            return self._decoder.decode(text).heard()
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            self._pass_over(text, error)
            return None

    def _pass_over(self, text: str, error: Exception) -> None:
        try:
            kind = msgspec.json.decode(text, type=_LabelIn).type
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            kind = UNSET
        if kind is UNSET or kind in self._tags:
            # The type of the error only: its text may repeat the message.
            logger.warning("a message was not understood: %s", type(error).__name__)


class NativeDialect(ClientDialect):
    """``wsbus.v1``: a frame holds one message or more, separated by newlines."""

    name = "wsbus.v1"
    greets = True
    is_named = True
    is_rich = True
    has_plus = True
    messages: ClassVar[tuple[type[_In], ...]] = (
        _StoredEventIn,
        *_COMMON[1:],
        _ConnectedIn,
        _GapIn,
        _StatusIn,
    )

    def decode(self, text: str) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored."""
        if "\n" not in text:
            return super().decode(text)
        try:
            found = [message.heard() for message in self._decoder.decode_lines(text)]
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
            # One of them is not understood: decode them one by one.
            found = [self._understand(line) for line in text.split("\n") if line.strip()]
        return [said for said in found if said is not None]


def _positive(limit: N | None) -> N | None:
    """Return a positive limit; any other counts as unknown."""
    return limit if limit is not None and limit > 0 else None


_DIALECTS: Final = {d.name: d for d in (NativeDialect(), ClientDialect())}


def dialect(name: str) -> ClientDialect:
    """Return the dialect of this name.

    Raises:
        UsageError: The client has no such dialect.
    """
    try:
        return _DIALECTS[name]
    except KeyError:
        known = ", ".join(_DIALECTS)
        raise UsageError(f"this client does not speak {name!r}; it speaks {known}") from None
