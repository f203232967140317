"""The forms in which transports take frames: as they are, as RFC 6455 bytes, or compressed.

Members of one dialect and one form make a group, for which the bytes of a turn are made once. So
permessage-deflate (RFC 7692) costs one compression a group and turn, however many members it has.
That is possible because no message refers to another one: what one member is owed may differ from
what the next one is, and with the dictionary of earlier messages each would need a compressor of
its own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from .errors import UsageError
from .frame import Frame, head_of

__all__ = ["BYTES", "FRAMES", "WINDOW_BITS", "Compression", "Deflate", "Form", "deflate_of"]

WINDOW_BITS: Final = 15
"""The window of the compressor (RFC 7692, section 7.1.2.1): 32 KiB, all that the format has."""
_MEMORY_LEVEL: Final = 8
_TAIL: Final = b"\x00\x00\xff\xff"
"""The end of each flush, which senders leave out (RFC 7692, section 7.2.1)."""
_COMPRESSED: Final = 0x40
"""RSV1 of the first frame of a compressed message (RFC 7692, section 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How messages to the clients of an endpoint are compressed, with permessage-deflate.

    Raises:
        UsageError: A setting is of the wrong type, or out of range.
    """

    level: int = 3
    """1 is the fastest, 9 the smallest. JSON gains little above 3 (measured: 2 % fewer bytes for
    twice the time at 6)."""
    minimum: int = 200
    """Bytes below which a write is not worth it. What one turn owes to the same clients is
    compressed together, as far as their dialect joins messages."""

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, least, most in (("level", 1, 9), ("minimum", 0, 1 << 20)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise UsageError(
                    f"Compression({name}=…) must be a whole number from {least} to {most}, "
                    f"not {value!r}"
                )


class Form:
    """A form in which transports take frames; RFC 6455 bytes, unless it is a subclass."""

    __slots__ = ()

    writes_bytes: bool = True
    """Whether the transport takes bytes without waiting; False: a task hands frames to it."""
    keeps: bool = False
    """Whether a frame's bytes are dear, and kept with it. What goes to one member alone is then
    not joined, since others may be owed the same frames beside others."""

    def wire(self, frame: Frame) -> bytes:
        """Return the frame as a server writes it."""
        return frame.wire


class _Frames(Form):
    __slots__ = ()

    writes_bytes = False


BYTES: Final = Form()
"""RFC 6455 bytes."""
FRAMES: Final = _Frames()
"""Frames, which the server library encodes."""


class Deflate(Form):
    """RFC 6455 bytes, compressed where that is worth it; one object for an endpoint.

    Args:
        settings: How it compresses.
    """

    __slots__ = ("_compressor", "_minimum", "settings")

    keeps = True

    def __init__(self, settings: Compression) -> None:
        self.settings: Final = settings
        self._minimum: Final = settings.minimum
        # One for all messages: a new one for each would take four times as long to make as to use.
        # A full flush forgets what came before.
        self._compressor: Final = zlib.compressobj(
            settings.level, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL
        )

    def wire(self, frame: Frame) -> bytes:
        """Return the frame as a server writes it, compressed once; as it is, if that is shorter."""
        if frame.size < self._minimum:
            return frame.wire
        kept = frame.kept
        if kept is not None and kept[0] is self:
            return kept[1]
        body = self._compressor.compress(frame.payload)
        body += self._compressor.flush(zlib.Z_FULL_FLUSH)
        body = body.removesuffix(_TAIL)
        if len(body) < frame.size:
            wire = head_of(len(body), is_text=frame.is_text, flags=_COMPRESSED) + body
        else:
            wire = frame.wire
        frame.kept = (self, wire)
        return wire


def deflate_of(setting: Compression | bool) -> Deflate | None:  # noqa: FBT001  # a setting's value
    """Return what compresses for an endpoint; None: nothing does.

    Raises:
        UsageError: The setting is of another type.
    """
    if setting is False:
        return None
    if setting is True:
        return Deflate(Compression())
    if not isinstance(setting, Compression):
        raise UsageError(f"compression must be True, False or a Compression, not {setting!r}")
    return Deflate(setting)
