"""Finding the beginnings of WebSocket frames in a stream, for libraries that hide them."""

from __future__ import annotations

from typing import Final

__all__ = ["Frames"]

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_CONTROL: Final = 0x08
_WHOLE: Final = (0x81, 0x82)
"""First bytes of a text and a binary message in one frame."""


class Frames:
    """Counts frames that keep a server busy without content: control frames, small fragments.

    Args:
        small: Size in bytes below which a fragment is small.
    """

    __slots__ = ("_head", "_skip", "_small")

    def __init__(self, small: int) -> None:
        self._small: Final = small
        self._head = b""  # The beginning of a frame whose length is not known yet.
        self._skip = 0  # Bytes of the current frame that are yet to come.

    def is_message(self, data: bytes) -> bool:
        """Tell whether the data are exactly one short message, as they nearly always are."""
        size = len(data)
        return (
            5 < size < 132
            and data[1] == size + 122  # masked, and as long as it says
            and data[0] in _WHOLE
            and not (self._skip or self._head)
        )

    def count(self, data: bytes) -> int:
        """Return how many such frames begin in the next data received."""
        if self._head:
            data, self._head = self._head + data, b""
        at, end, found = self._skip, len(data), 0
        while at + 1 < end:
            first, length = data[at], data[at + 1]
            size = 6 if length & _MASKED else 2
            length &= 0x7F
            if length > 125:
                extra = 2 if length == 126 else 8
                if at + 2 + extra > end:
                    break
                length = int.from_bytes(data[at + 2 : at + 2 + extra])
                size += extra
            is_whole = first & _FINAL and first & 0x0F
            if first & _CONTROL or (length < self._small and not is_whole):
                found += 1
            at += size + length
        if at < end:
            self._head = data[at:]
        self._skip = max(at - end, 0)
        return found
