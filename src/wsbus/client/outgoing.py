"""What clients say: requests to JSON, in the form of the built-in dialects."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.messages import Request

__all__ = ["encode_request"]

_encode: Final = msgspec.json.Encoder().encode


class _Out(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """What messages to the server have in common."""


class _Auth(_Out, frozen=True, tag="auth"):
    token: str
    id: str | None = None


class _Subscribe(_Out, frozen=True, tag="subscribe"):
    channels: tuple[str, ...]
    id: str | None = None


class _Unsubscribe(_Out, frozen=True, tag="unsubscribe"):
    channels: tuple[str, ...]
    id: str | None = None


class _Command(_Out, frozen=True, tag="command"):
    action: str
    params: Raw
    id: str | None = None


class _Publish(_Out, frozen=True, tag="publish"):
    channel: str
    event: str
    data: Raw
    id: str | None = None


class _GetStatus(_Out, frozen=True, tag="get_status"):
    id: str | None = None


class _PingOut(_Out, frozen=True, tag="ping"):
    id: str | None = None


class _PongOut(_Out, frozen=True, tag="pong"):
    id: str | None = None


def encode_request(request: Request) -> bytes:
    """Say ``request``, in a message of its own."""
    return _encode(_message(request))


def _message(command: Request) -> _Out:
    match command:
        case core.Command():
            return _Command(command.action, Raw(command.params), command.ref)
        case core.Publish():
            return _Publish(command.channel, command.event, Raw(command.data), command.ref)
        case core.Pong():
            return _PongOut(command.ref)
        case core.Ping():
            return _PingOut(command.ref)
        case core.Subscribe():
            return _Subscribe(command.names, command.ref)
        case core.Unsubscribe():
            return _Unsubscribe(command.names, command.ref)
        case core.Auth():
            return _Auth(command.token, command.ref)
        case core.GetStatus():
            return _GetStatus(command.ref)
        case _:
            raise AssertionError(command)
