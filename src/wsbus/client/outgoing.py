"""Requests of clients, in the form of the built-in dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.events import Position
from ..core.messages import Request

__all__ = ["encode_request", "pack_request"]

_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode


class _Out(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """Base of the messages to the server."""


class _AuthOut(_Out, frozen=True, tag="auth"):
    token: str
    id: str | None = None


class _PositionOut(_Out, frozen=True, tag=False):
    epoch: str
    offset: int
    tag: str = ""
    strict: bool = False


class _SubscribeOut(_Out, frozen=True, tag="subscribe"):
    channels: tuple[str, ...]
    id: str | None = None
    since: dict[str, _PositionOut] = {}
    max_rate: Mapping[str, float] = {}


class _UnsubscribeOut(_Out, frozen=True, tag="unsubscribe"):
    channels: tuple[str, ...]
    id: str | None = None


class _CommandOut(_Out, frozen=True, tag="command"):
    action: str
    params: Raw
    id: str | None = None


class _PublishOut(_Out, frozen=True, tag="publish"):
    channel: str
    event: str
    data: Raw
    id: str | None = None
    idempotency_key: str | None = None
    retry: bool = False


class _ReadHistoryOut(_Out, frozen=True, tag="history"):
    channel: str
    limit: int
    before: _PositionOut | None = None
    after: _PositionOut | None = None
    id: str | None = None


class _GetPresenceOut(_Out, frozen=True, tag="presence"):
    channel: str
    id: str | None = None
    watch: bool | None = None


class _CancelOut(_Out, frozen=True, tag="cancel"):
    channel: str
    id: str | None = None


class _GetStatusOut(_Out, frozen=True, tag="get_status"):
    id: str | None = None


class _PingOut(_Out, frozen=True, tag="ping"):
    id: str | None = None


class _PongOut(_Out, frozen=True, tag="pong"):
    id: str | None = None


def encode_request(request: Request) -> bytes:
    """Return the message for ``request``, as JSON."""
    return _encode(_message(request))


def pack_request(request: Request) -> bytes:
    """Return the message for ``request``, as MessagePack; so are its data."""
    return _pack(_message(request))


def _message(request: Request) -> _Out:  # noqa: C901  # one table
    match request:
        case core.Command():
            return _CommandOut(request.action, Raw(request.params), request.ref)
        case core.Publish():
            data, key = Raw(request.data), request.idempotency_key
            ref, is_retry = request.ref, request.is_retry
            return _PublishOut(request.channel, request.event, data, ref, key, is_retry)
        case core.ReadHistory():
            return _ReadHistoryOut(
                request.channel,
                request.limit,
                _position(request.before),
                _position(request.after),
                request.ref,
            )
        case core.GetPresence():
            return _GetPresenceOut(request.channel, request.ref, request.watch)
        case core.CancelStream():
            return _CancelOut(request.channel, request.ref)
        case core.Pong():
            return _PongOut(request.ref)
        case core.Ping():
            return _PingOut(request.ref)
        case core.Subscribe():
            since = _since(request.since)
            return _SubscribeOut(request.names, request.ref, since, request.rates)
        case core.Unsubscribe():
            return _UnsubscribeOut(request.names, request.ref)
        case core.Auth():
            return _AuthOut(request.token, request.ref)
        case core.GetStatus():
            return _GetStatusOut(request.ref)
        case _:
            raise AssertionError(request)


def _since(since: Mapping[str, core.Since]) -> dict[str, _PositionOut]:
    return {name: _start(each.position, is_strict=each.is_strict) for name, each in since.items()}


def _start(position: Position, *, is_strict: bool = False) -> _PositionOut:
    return _PositionOut(position.epoch, position.offset, position.tag, is_strict)


def _position(position: Position | None) -> _PositionOut | None:
    return None if position is None else _start(position)
