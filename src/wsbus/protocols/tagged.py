"""JSON objects told apart by their ``type``: how such a dialect reads what clients send.

A dialect lists one struct for each message that a client may send; each struct knows the command
it stands for. Reading is one pass of msgspec's; only what that refuses is looked at again.

*Poison.* :class:`msgspec.Raw` checks neither UTF-8 nor the range of numbers. Hence frames are
decoded from ``str`` only, the depth is judged by a scan of our own (the interpreter's limit
differs by version), and a struct whose data will be spliced into frames of others asks for the
values, not for ``Raw``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import ClassVar, Final, NamedTuple, Protocol

import msgspec

from ..core.errors import ErrorCode
from ..core.limits import MAX_DEPTH, too_deep
from ..core.messages import Command, Excess, GetStatus, Malformed, Ping, Pong
from .base import WireProtocol

__all__ = [
    "ClientMessage",
    "PingMessage",
    "PongMessage",
    "StatusMessage",
    "TaggedJson",
    "TaggedMessage",
]


_QUOTED: Final = re.compile(r""" (['"]).*\1(?= - at `|$)""", re.DOTALL)


class ClientMessage(Protocol):
    """What :class:`TaggedJson` asks of a struct: ``msgspec.Struct`` with ``tag_field="type"``."""

    __struct_config__: ClassVar[msgspec.structs.StructConfig]

    is_call: ClassVar[bool]
    """A response answers it if it carries an ``id``, also when it is refused."""

    def command(self) -> Command:
        """Return what the client wants.

        Raises:
            msgspec.MsgspecError: It cannot be wanted after all.
        """
        ...


class TaggedMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of messages that no response answers by an ``id``; keys not named are ignored."""

    is_call: ClassVar[bool] = False


class PingMessage(TaggedMessage, frozen=True, tag="ping"):
    """``{"type":"ping"}``."""

    def command(self) -> Command:
        """Return what the client wants."""
        return Ping()


class PongMessage(TaggedMessage, frozen=True, tag="pong"):
    """``{"type":"pong"}``."""

    def command(self) -> Command:
        """Return what the client wants."""
        return Pong()


class StatusMessage(TaggedMessage, frozen=True, tag="get_status"):
    """``{"type":"get_status"}``."""

    def command(self) -> Command:
        """Return what the client wants."""
        return GetStatus()


class TaggedJson(WireProtocol):
    """A dialect whose clients send JSON objects told apart by ``type``, one in a frame."""

    messages: ClassVar[tuple[type[ClientMessage], ...]]
    """What a client may send."""

    def __init__(self) -> None:
        self._decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(
            reduce(or_, self.messages)  # a union, made at run time
        )
        self._is_call: Final = {m.__struct_config__.tag: m.is_call for m in self.messages}

    def decode(self, frame: str | bytes) -> Iterable[Command]:
        """Understand one frame: one command.

        Cost: about a microsecond for a message of a hundred bytes, five for one that is refused.
        """
        return (self.understand(frame),)

    def understand(self, text: str | bytes) -> Command:
        """Understand one message; like :meth:`decode` it never raises."""
        if not isinstance(text, str):
            return Malformed(ErrorCode.INVALID_MESSAGE, "messages are text, not binary")
        if too_deep(text, MAX_DEPTH):
            return self._refused(text, f"nested deeper than {MAX_DEPTH} levels")
        try:
            return self._decoder.decode(text).command()
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self._refused(text, _reason(error))

    def glance(self, message: str | bytes) -> Excess:
        """Read ``type`` and ``id`` only, and only where there seems to be an ``id``.

        Cost: 0.1 µs without an ``id``; with one, what it takes to skip the rest.
        """
        if not isinstance(message, str) or '"id"' not in message:
            return _NAMELESS
        try:
            label = _glance(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return _NAMELESS
        return Excess(label.id, label.id is not None and self._is_call.get(label.type, False))

    def _refused(self, text: str, reason: str) -> Malformed:
        label = _label(text)
        if label.type is not None and label.type not in self._is_call:
            return Malformed(ErrorCode.UNKNOWN_TYPE, "there is no message of this type", label.id)
        is_call = label.id is not None and self._is_call.get(label.type, False)
        return Malformed(ErrorCode.INVALID_MESSAGE, reason, label.id, is_call)


class _Glance(msgspec.Struct, frozen=True):
    """What refusing a message takes."""

    type: str | None = None
    id: str | None = None


_NAMELESS: Final = Excess()
_glance: Final = msgspec.json.Decoder(_Glance).decode


class _Label(NamedTuple):
    """What can still be made out on a message that was refused."""

    type: str | None = None
    id: str | None = None


def _label(text: str) -> _Label:
    """Read ``type`` and ``id`` where even text that msgspec refuses has them.

    The standard library takes lone surrogates, NaN and numbers of any size, so that a client that
    waits for a response by ``id`` hears that they are refused.
    """
    try:
        # An int of more than 4,300 digits would be an error (sys.set_int_max_str_digits).
        message = json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return _Label()
    if not isinstance(message, dict):
        return _Label()
    return _Label(_sendable(message.get("type")), _sendable(message.get("id")))


def _sendable(value: object) -> str | None:
    """Return ``value`` if it is text that UTF-8 can carry, since an ``id`` is sent back."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _reason(error: Exception) -> str:
    """Say what is wrong in words that repeat nothing of the message."""
    match error:
        case msgspec.ValidationError():
            # msgspec quotes what was sent where it is none of an enum, or of the types: here that
            # is a type given twice. It names fields and places in backticks.
            return _QUOTED.sub("", str(error))
        case msgspec.MsgspecError():
            return f"not JSON, or text that UTF-8 cannot carry: {error}"
        case UnicodeError():
            return "text that UTF-8 cannot carry"
        case _:
            return "nested too deeply"
