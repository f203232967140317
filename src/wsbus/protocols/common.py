"""The messages that ``wsbus.v1`` and ``zigquant-v2`` share.

Every message is an object with ``type``, an ``id`` if it answers a request that had one,
``timestamp`` in milliseconds since the epoch, and the fields of its type. Keys are sent in the
order in which the fields stand here. The reference is ``docs/reference/protocol``.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..core import messages as core
from ..core.frame import Frame
from ..core.instant import Instant
from .tagged import ClientMessage, TaggedJson

__all__ = [
    "COMMON_MESSAGES",
    "CommandMessage",
    "Dialogue",
    "FromClient",
    "FromServer",
    "Rejected",
    "milliseconds",
]

_encode: Final = msgspec.json.Encoder().encode


def milliseconds(seconds: float) -> int:
    """Return seconds since the epoch as the milliseconds of a message."""
    return int(seconds * 1000 + 0.5)  # round() takes three times as long.


# --- client → server --------------------------------------------------------------------------


class FromClient(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the messages of clients; unknown keys are ignored."""

    is_call: ClassVar[bool] = False

    id: str | None = None


class _Auth(FromClient, frozen=True, tag="auth"):
    token: str

    def request(self) -> core.Request:
        return core.Auth(self.token, self.id)


class _Subscribe(FromClient, frozen=True, tag="subscribe"):
    channels: tuple[str, ...]

    def request(self) -> core.Request:
        return core.Subscribe(self.channels, self.id)


class _Unsubscribe(FromClient, frozen=True, tag="unsubscribe"):
    channels: tuple[str, ...]

    def request(self) -> core.Request:
        return core.Unsubscribe(self.channels, self.id)


class CommandMessage(FromClient, frozen=True, tag="command"):
    """``{"type":"command"}``."""

    is_call = True

    action: str
    params: Raw = Raw(b"{}")

    def request(self) -> core.Request:
        """Return the request."""
        # A copy: the raw view would keep the whole frame alive.
        return core.Command(self.action, bytes(self.params), self.id)


class _Ping(FromClient, frozen=True, tag="ping"):
    def request(self) -> core.Request:
        return core.Ping(self.id)


class _Pong(FromClient, frozen=True, tag="pong"):
    def request(self) -> core.Request:
        return core.Pong(self.id)


COMMON_MESSAGES: Final[tuple[type[ClientMessage], ...]] = (
    _Auth,
    _Subscribe,
    _Unsubscribe,
    CommandMessage,
    _Ping,
    _Pong,
)
"""The messages that a client may send in either dialect."""


# --- server → client --------------------------------------------------------------------------


class FromServer(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """Base of the messages of the server; fields without a value are left out."""


class _Event(FromServer, frozen=True, tag="event"):
    channel: str
    event: str
    timestamp: int
    data: Raw


class _WithId(FromServer, frozen=True, kw_only=True):
    """A message that carries the ``id`` of the request that it answers."""

    id: str | None = None
    timestamp: int


class _Fault(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Response(_WithId, frozen=True, kw_only=True, tag="response"):
    success: bool
    data: Raw | UnsetType = UNSET
    error: _Fault | UnsetType = UNSET


class _Error(_WithId, frozen=True, kw_only=True, tag="error"):
    error: _Fault


class _Account(msgspec.Struct, frozen=True, omit_defaults=True):
    subject: str
    expires_at: int | None = None


class _AuthResult(FromServer, frozen=True, kw_only=True, tag="auth_result"):
    id: str | None = None
    success: bool
    timestamp: int
    data: _Account | UnsetType = UNSET
    error: _Fault | UnsetType = UNSET


class Rejected(msgspec.Struct, frozen=True):
    """A pattern that was not subscribed."""

    channel: str
    code: str
    message: str


class _Subscriptions(msgspec.Struct, frozen=True, omit_defaults=True):
    channels: tuple[str, ...]
    active_subscriptions: int
    rejected: tuple[Rejected, ...] = ()


class _Subscribed(_WithId, frozen=True, kw_only=True, tag="subscribed"):
    data: _Subscriptions


class _Unsubscribed(_WithId, frozen=True, kw_only=True, tag="unsubscribed"):
    data: _Subscriptions


class _ServerPing(_WithId, frozen=True, tag="ping"):
    pass


class _ServerPong(_WithId, frozen=True, tag="pong"):
    pass


class Dialogue(TaggedJson):
    """The dialect with the common messages only; subclasses add more."""

    messages: ClassVar[tuple[type[ClientMessage], ...]] = COMMON_MESSAGES

    def encode(self, reply: core.ServerMessage, at: Instant) -> Frame | None:
        """Return the frame for ``reply`` at the moment ``at``; None if the dialect has none."""
        now = milliseconds(at.wall)
        if type(reply) is core.Response:  # The replies whose cost matters most.
            data = Raw(reply.data)
            return Frame(_encode(_Response(id=reply.ref, timestamp=now, success=True, data=data)))
        if type(reply) is core.Pong:
            return Frame(_encode(_ServerPong(id=reply.ref, timestamp=now)))
        message = self.answer(reply, now)
        return None if message is None else Frame(_encode(message))

    def content(self, publication: core.Publication) -> Raw:
        """Return the data of a publication in the form of the dialect."""
        return Raw(publication.data)

    def event(self, publication: core.Publication) -> FromServer:
        """Return the message for a publication."""
        at, data = milliseconds(publication.timestamp), self.content(publication)
        if publication.position is not None:
            return self.stored_event(publication, at, data)
        return _Event(publication.channel, publication.event, at, data)

    def pong(self, reply: core.Pong, at: int) -> FromServer:
        """Return the message for a pong."""
        return _ServerPong(id=reply.ref, timestamp=at)

    def response(self, reply: core.Response, at: int, data: Raw) -> FromServer:
        """Return the message for the result of a command."""
        return _Response(id=reply.ref, timestamp=at, success=True, data=data)

    def encode_publication(self, publication: core.Publication) -> Frame:
        """Return an event's frame. Cost: under a microsecond, and a copy of the data."""
        data = Raw(publication.data)
        at = milliseconds(publication.timestamp)
        if publication.position is not None:
            return Frame(_encode(self.stored_event(publication, at, data)))
        return Frame(_encode(_Event(publication.channel, publication.event, at, data)))

    def stored_event(self, publication: core.Publication, at: int, data: Raw) -> FromServer:
        """Return the message for a publication that has a position; here it says nothing of it."""
        return _Event(publication.channel, publication.event, at, data)

    def answer(self, reply: core.ServerMessage, at: int) -> FromServer | None:
        """Return the message for ``reply``, or None; ``at`` in milliseconds."""
        match reply:
            case core.Refused():
                fault = _Fault(reply.code, reply.message)
                if reply.is_call and reply.ref is not None:
                    return _Response(id=reply.ref, timestamp=at, success=False, error=fault)
                return _Error(id=reply.ref, timestamp=at, error=fault)
            case core.Ping():
                return _ServerPing(id=reply.ref, timestamp=at)
            case core.Subscribed():
                rejected = tuple(Rejected(r.name, r.code, r.message) for r in reply.rejected)
                data = _Subscriptions(reply.names, reply.active, rejected)
                return _Subscribed(id=reply.ref, timestamp=at, data=data)
            case core.Unsubscribed():
                data = _Subscriptions(reply.names, reply.active)
                return _Unsubscribed(id=reply.ref, timestamp=at, data=data)
            case core.AuthAccepted():
                until = None if reply.expires_at is None else milliseconds(reply.expires_at)
                account = _Account(reply.subject, until)
                return _AuthResult(id=reply.ref, success=True, timestamp=at, data=account)
            case core.AuthRefused():
                fault = _Fault(reply.code, reply.message)
                return _AuthResult(id=reply.ref, success=False, timestamp=at, error=fault)
            case _:
                return None
