"""``wsbus.v1.msgpack``: the messages of ``wsbus.v1`` as MessagePack, each in a binary frame.

Bytes, moments and whole numbers of 64 bits stay what they are. What a client sends is checked as
:mod:`wsbus.core.packing` says. The reference is ``docs/reference/protocol``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Raw

from ..core import messages as core
from ..core.errors import ErrorCode
from ..core.frame import Frame
from ..core.instant import Instant
from ..core.messages import Excess, Malformed, Request
from ..core.packing import (
    InvalidPacked,
    Packed,
    is_plain,
    open_packed,
    pack_json,
    pack_value,
    packed_decoder,
    text_of,
)
from .common import CommandMessage, milliseconds
from .native import Native, PublishMessage
from .tagged import ClientMessage, Decoder, Label, reason_of

__all__ = ["MessagePack"]

_encode: Final = msgspec.msgpack.Encoder().encode
_NO_PARAMS: Final = Raw(b"\x80")
_text: Final = msgspec.msgpack.Decoder(str).decode
_WORD: Final = b"\xa2id"


class _PackedCommand(CommandMessage, frozen=True, tag="command"):
    params: Raw = _NO_PARAMS

    def request(self) -> core.Request:
        return core.Command(self.action, Packed(self.params), self.id)


class _PackedPublish(PublishMessage, frozen=True, kw_only=True, tag="publish"):
    def request(self) -> core.Request:
        data, key = self.data, self.idempotency_key
        # Plain data are packed when they are asked for: a broker need not carry both forms.
        packed = None if is_plain(data) else pack_value(data)
        is_retry = self.retry and key is not None
        return core.Publish(self.channel, self.event, text_of(data), self.id, key, is_retry, packed)


class _PackedEnds(msgspec.Struct, frozen=True):
    """The fields that a refusal needs, not checked yet."""

    type: Raw = Raw()
    id: Raw = Raw()


_packed_ends: Final = msgspec.msgpack.Decoder(_PackedEnds).decode


class MessagePack(Native):
    """``wsbus.v1`` in MessagePack."""

    name = "wsbus.v1.msgpack"
    binary = True
    packs = True
    joins = False
    messages: ClassVar[tuple[type[ClientMessage], ...]] = (
        *[
            message
            for message in Native.messages
            if message.__struct_config__.tag not in {"command", "publish"}
        ],
        _PackedCommand,
        _PackedPublish,
    )

    def _make_decoder(self, union: Any) -> Decoder:
        return packed_decoder(union)

    # --- client → server -------------------------------------------------------------------------

    def split(self, frame: str | bytes) -> Iterable[str | bytes]:
        """Return the frame: it holds one message."""
        return (frame,)

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        """Decode one frame: one request.

        Cost: two to three times that of JSON, since nothing in the encoding itself rules out what
        is refused.
        """
        return (self.understand(frame),)

    def understand(self, text: str | bytes) -> Request:
        """Decode one message; like :meth:`decode` it never raises."""
        if isinstance(text, str):
            return Malformed(ErrorCode.INVALID_MESSAGE, "messages are binary, not text")
        try:
            open_packed(text)
            return self._decoder.decode(text).request()
        except InvalidPacked as error:
            return self.refused(_label(text), str(error))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self.refused(_label(text), reason_of(error))

    def glance(self, message: str | bytes) -> Excess:
        """Read ``type`` and ``id`` only, and only where there seems to be an ``id``."""
        if isinstance(message, str) or _WORD not in message:
            return Excess()
        return self.excess(_label(message))

    # --- server → client -------------------------------------------------------------------------

    def encode(self, reply: core.ServerMessage, at: Instant) -> Frame | None:
        """Return the frame for ``reply`` at the moment ``at``."""
        now = milliseconds(at.wall)
        message = self.answer(reply, now)
        if isinstance(reply, core.Response):
            data = reply.data
            packed = data if isinstance(data, Packed) else pack_json(data)
            message = self.response(reply, now, Raw(packed))
        elif isinstance(reply, core.Pong):
            message = self.pong(reply, now)
        return None if message is None else Frame(_encode(message), is_text=False)

    def content(self, publication: core.Publication) -> Raw:
        """Return the data of a publication as MessagePack."""
        return Raw(publication.packed or pack_json(publication.data))

    def encode_publication(self, publication: core.Publication) -> Frame:
        """Return an event's frame. Cost: where data are plain, their text is decoded once."""
        return Frame(_encode(self.event(publication)), is_text=False)

    def encode_latest(self, publication: core.Publication) -> Frame:
        """Return an event's frame that says that it is the latest of its channel."""
        return Frame(_encode(self.latest_event(publication)), is_text=False)


def _label(frame: bytes) -> Label:
    """Read ``type`` and ``id`` of a message that is refused, as far as they can be read."""
    try:
        ends = _packed_ends(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return Label()
    return Label(_word(ends.type), _word(ends.id))


def _word(value: Raw) -> str | None:
    try:
        return _text(value)
    except (msgspec.MsgspecError, UnicodeError):
        return None
