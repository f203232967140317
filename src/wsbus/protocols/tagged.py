"""Decoding of requests that are JSON objects with a ``type``.

A dialect lists one struct for each message that a client may send; each struct returns its
request. Decoding is one pass of msgspec; only refused messages are looked at again.

*Poison.* :class:`msgspec.Raw` checks neither UTF-8 nor the range of numbers. Hence frames are
decoded from ``str`` only, a scan here checks the depth (the interpreter's limit differs by
version), and a struct whose data go into the frames of others decodes the values and does not
keep them as ``Raw``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Final, NamedTuple, Protocol

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
    "Decoder",
    "Label",
    "PingMessage",
    "PongMessage",
    "StatusMessage",
    "TaggedJson",
    "TaggedMessage",
    "reason_of",
]


_QUOTED: Final = re.compile(r""" (['"]).*\1(?= - at `|$)""", re.DOTALL)


class ClientMessage(Protocol):
    """The interface of a message: a ``msgspec.Struct`` with ``tag_field="type"``."""

    __struct_config__: ClassVar[msgspec.structs.StructConfig]

    is_call: ClassVar[bool]
    """Whether a response answers it if it carries an ``id``, also when it is refused."""

    def request(self) -> Request:
        """Return the request.

        Raises:
            msgspec.MsgspecError: The message is refused after all.
        """
        ...


class Decoder(Protocol):
    """Decodes one message."""

    def decode(self, message: Any, /) -> ClientMessage:
        """Return the message, or raise."""
        ...


class TaggedMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of messages that no response answers by an ``id``; keys not named are ignored."""

    is_call: ClassVar[bool] = False


class PingMessage(TaggedMessage, frozen=True, tag="ping"):
    """``{"type":"ping"}``."""

    def request(self) -> Request:
        """Return the request."""
        return Ping()


class PongMessage(TaggedMessage, frozen=True, tag="pong"):
    """``{"type":"pong"}``."""

    def request(self) -> Request:
        """Return the request."""
        return Pong()


class StatusMessage(TaggedMessage, frozen=True, tag="get_status"):
    """``{"type":"get_status"}``."""

    def request(self) -> Request:
        """Return the request."""
        return GetStatus()


class TaggedJson(WireProtocol):
    """A dialect whose clients send JSON objects with a ``type``, one in a frame."""

    messages: ClassVar[tuple[type[ClientMessage], ...]]
    """The messages that a client may send."""

    def __init__(self) -> None:
        self._decoder = self._make_decoder(reduce(or_, self.messages))  # made at run time
        self._is_call: Final = {m.__struct_config__.tag: m.is_call for m in self.messages}

    def _make_decoder(self, union: Any) -> Decoder:
        return msgspec.json.Decoder(union)

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        """Decode one frame: one request.

        Cost: about a microsecond for a message of a hundred bytes, five for one that is refused.
        """
        return (self.understand(frame),)

    def understand(self, text: str | bytes) -> Request:
        """Decode one message; like :meth:`decode` it never raises."""
        if not isinstance(text, str):
            return Malformed(ErrorCode.INVALID_MESSAGE, "messages are text, not binary")
        try:
            if len(text) > _SHORT and (reason := _costly(text)):
                return self.refused(_label(text), reason)
            return self._decoder.decode(text).request()
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self.refused(_label(text), reason_of(error))

    def glance(self, message: str | bytes) -> Excess:
        """Read ``type`` and ``id`` only, and only where there seems to be an ``id``.

        Cost: 0.1 µs without an ``id``; with one, the time to skip the rest.
        """
        if not isinstance(message, str) or '"id"' not in message:
            return _NAMELESS
        return self.excess(_label(message))

    def excess(self, label: Label) -> Excess:
        """Return a message over the rate."""
        return Excess(label.id, label.id is not None and self._is_call.get(label.type, False))

    def refused(self, label: Label, reason: str) -> Malformed:
        """Return a message that is refused, or has a type that is not known."""
        if label.type is not None and label.type not in self._is_call:
            return Malformed(ErrorCode.UNKNOWN_TYPE, "there is no message of this type", label.id)
        is_call = label.id is not None and self._is_call.get(label.type, False)
        return Malformed(ErrorCode.INVALID_MESSAGE, reason, label.id, is_call)


_SHORT: Final = 2 * MAX_DEPTH
"""A text of so many characters cannot be too deep, nor hold too many extreme numbers."""
_NAMELESS: Final = Excess()


class _Ends(msgspec.Struct, frozen=True):
    """The fields that a refusal needs, not checked yet."""

    type: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


class Label(NamedTuple):
    """Type and id of a refused message, as far as they can be read."""

    type: str | None = None
    id: str | None = None


_POISON: Final = (b"\\\\", b"\\ud", b"\\uD", b"-Infinity", b"Infinity", b"NaN")
"""Escapes of surrogates, after escaped backslashes, and JavaScript's and Python's special numbers.
Each is replaced by a digit, which is harmless wherever it stands."""
_ends: Final = msgspec.json.Decoder(_Ends).decode
_text: Final = msgspec.json.Decoder(str).decode


def _label(text: str) -> Label:
    """Read ``type`` and ``id`` of a message that msgspec refuses.

    The rest is skipped, and may hold lone surrogates, NaN and numbers of any size, so that a
    client that waits for a response by ``id`` gets the refusal of such a message, too.

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
            return Label()
        try:
            ends = _ends(tame)
        except (msgspec.MsgspecError, RecursionError):
            return Label()
        if bytes(ends.id) not in raw:  # The replacement changed the id, too.
            return Label()
    return Label(_sendable(ends.type), _sendable(ends.id))


def _sendable(value: msgspec.Raw) -> str | None:
    """Return ``value`` if it is text that UTF-8 can encode, since an ``id`` is sent back."""
    try:
        text = _text(value)
        text.encode()
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return text


def _costly(text: str) -> str | None:
    """Return why a text would take too much time or stack to decode; else None."""
    if too_many_parts(text):
        return "too many arrays and objects that hold next to nothing"
    if too_deep(text, MAX_DEPTH):
        return f"nested deeper than {MAX_DEPTH} levels"
    if has_extremes(text, MAX_EXTREMES):
        return f"more than {MAX_EXTREMES} numbers with exponents of three digits"
    if has_long_numbers(text, MAX_LONG):
        return "too many numbers of a thousand digits"
    return None


def reason_of(error: Exception) -> str:
    """Return what is wrong, in words that repeat nothing of the message."""
    match error:
        case msgspec.ValidationError():
            # msgspec quotes values that are not in an enum or a union: here a type that is given
            # twice. It puts fields and places in backticks.
            return _QUOTED.sub("", str(error))
        case msgspec.MsgspecError():
            return f"not JSON, or text that UTF-8 cannot carry: {error}"
        case UnicodeError():
            return "text that UTF-8 cannot carry"
        case _:
            return "nested too deeply"
