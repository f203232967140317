"""JSON objects told apart by their ``type``: how such a dialect reads what clients send.

A dialect lists one struct for each message that a client may send; each struct knows the command
it stands for. Reading is one pass of msgspec's; only what that refuses is looked at again.

*Poison.* :class:`msgspec.Raw` checks neither UTF-8 nor the range of numbers. Hence frames are
decoded from ``str`` only, the depth is judged by a scan of our own (the interpreter's limit
differs by version), and a struct whose data will be spliced into frames of others asks for the
values, not for ``Raw``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import ClassVar, Final, NamedTuple, Protocol

import msgspec

from ..core.errors import ErrorCode
from ..core.limits import (
    MAX_DEPTH,
    MAX_EXTREMES,
    MAX_LONG,
    has_extremes,
    has_long_numbers,
    too_deep,
    too_many_parts,
)
from ..core.messages import Excess, GetStatus, Malformed, Ping, Pong, Request
from ..core.protocol import WireProtocol

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

    def request(self) -> Request:
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

    def request(self) -> Request:
        """Return what the client wants."""
        return Ping()


class PongMessage(TaggedMessage, frozen=True, tag="pong"):
    """``{"type":"pong"}``."""

    def request(self) -> Request:
        """Return what the client wants."""
        return Pong()


class StatusMessage(TaggedMessage, frozen=True, tag="get_status"):
    """``{"type":"get_status"}``."""

    def request(self) -> Request:
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

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        """Understand one frame: one command.

        Cost: about a microsecond for a message of a hundred bytes, five for one that is refused.
        """
        return (self.understand(frame),)

    def understand(self, text: str | bytes) -> Request:
        """Understand one message; like :meth:`decode` it never raises."""
        if not isinstance(text, str):
            return Malformed(ErrorCode.INVALID_MESSAGE, "messages are text, not binary")
        try:
            if len(text) > _SHORT and (reason := _costly(text)):
                return self._refused(text, reason)
            return self._decoder.decode(text).request()
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self._refused(text, _reason(error))

    def glance(self, message: str | bytes) -> Excess:
        """Read ``type`` and ``id`` only, and only where there seems to be an ``id``.

        Cost: 0.1 µs without an ``id``; with one, what it takes to skip the rest.
        """
        if not isinstance(message, str) or '"id"' not in message:
            return _NAMELESS
        label = _label(message)
        return Excess(label.id, label.id is not None and self._is_call.get(label.type, False))

    def _refused(self, text: str, reason: str) -> Malformed:
        label = _label(text)
        if label.type is not None and label.type not in self._is_call:
            return Malformed(ErrorCode.UNKNOWN_TYPE, "there is no message of this type", label.id)
        is_call = label.id is not None and self._is_call.get(label.type, False)
        return Malformed(ErrorCode.INVALID_MESSAGE, reason, label.id, is_call)


_SHORT: Final = 2 * MAX_DEPTH
"""Characters of text that cannot be too deep, nor hold too many extremes."""
_NAMELESS: Final = Excess()


class _Ends(msgspec.Struct, frozen=True):
    """What refusing a message takes, not judged yet."""

    type: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


class _Label(NamedTuple):
    """What can be made out on a message that is refused."""

    type: str | None = None
    id: str | None = None


_POISON: Final = (b"\\\\", b"\\ud", b"\\uD", b"-Infinity", b"Infinity", b"NaN")
"""Escapes of surrogates, behind escaped backslashes, and what JavaScript and Python call numbers.
A digit may stand for each: wherever that is, it does not matter."""
_ends: Final = msgspec.json.Decoder(_Ends).decode
_text: Final = msgspec.json.Decoder(str).decode


def _label(text: str) -> _Label:
    """Read ``type`` and ``id`` where even text that msgspec refuses has them.

    What stands elsewhere is skipped, and may hold lone surrogates, NaN and numbers of any size, so
    that a client that waits for a response by ``id`` hears that they are refused.

    Cost: a millisecond for 64 KiB.
    """
    raw = text.encode("utf-8", "surrogatepass")
    try:
        ends = _ends(raw)
    except (msgspec.MsgspecError, RecursionError):
        tame = raw
        for poison in _POISON:
            tame = tame.replace(poison, b"0")
        if tame == raw:
            return _Label()
        try:
            ends = _ends(tame)
        except (msgspec.MsgspecError, RecursionError):
            return _Label()
        if bytes(ends.id) not in raw:  # It was changed, too.
            return _Label()
    return _Label(_sendable(ends.type), _sendable(ends.id))


def _sendable(value: msgspec.Raw) -> str | None:
    """Return ``value`` if it is text that UTF-8 can carry, since an ``id`` is sent back."""
    try:
        text = _text(value)
        text.encode()
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return text


def _costly(text: str) -> str | None:
    """Say why it would take too long to read a text, or too much of the stack; or None."""
    if too_many_parts(text):
        return "too many arrays and objects that hold next to nothing"
    if too_deep(text, MAX_DEPTH):
        return f"nested deeper than {MAX_DEPTH} levels"
    if has_extremes(text, MAX_EXTREMES):
        return f"more than {MAX_EXTREMES} numbers with exponents of three digits"
    if has_long_numbers(text, MAX_LONG):
        return "too many numbers of a thousand digits"
    return None


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
