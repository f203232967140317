"""The producer's side of a stream, pure: its value, and when it is published as a whole."""

from __future__ import annotations

from typing import Any, Final

from .errors import UsageError
from .families import Compact
from .streams import WHOLE_BYTES, WHOLE_ENTRIES, StreamFold

__all__ = ["StreamScript"]


class StreamScript:
    """The value that a producer has appended, and when to publish all of it again.

    Args:
        compact: Joins values that are no texts.
        max_bytes: The largest value, in bytes of JSON.
    """

    def __init__(self, compact: Compact | None, max_bytes: int) -> None:
        self._fold: Final = StreamFold(compact)
        self._is_text: Final = compact is None
        self._max_bytes: Final = max_bytes
        self._size = 0
        self._entries = self._bytes = self._said = 0

    @property
    def value(self) -> Any:
        """All deltas, joined."""
        return self._fold.value

    @property
    def text(self) -> str:
        """The value, if it is a text; else empty."""
        return self._fold.text

    def append(self, data: bytes) -> bool:
        """Take a delta as JSON; return whether to publish the whole value after it.

        Raises:
            UsageError: It cannot be joined, or the value becomes too large.
        """
        if self._is_text and self._size + len(data) > self._max_bytes:
            raise UsageError(
                f"the stream would have more than {self._max_bytes} bytes; a family may allow "
                "more: Stream(max_bytes=…)"
            )
        try:
            self._fold.join(data)
        except TypeError as exc:
            raise UsageError(str(exc)) from exc
        self._size += len(data)
        self._entries += 1
        self._bytes += len(data)
        return self._entries >= WHOLE_ENTRIES or self._bytes >= max(WHOLE_BYTES, self._said)

    def whole(self) -> bytes:
        """Return the data of a ``whole`` for now.

        Raises:
            UsageError: The value has become too large.
        """
        data = self._fold.whole()
        if len(data) > 2 * self._max_bytes:
            raise UsageError(f"the stream has {len(data)} bytes: Stream(max_bytes=…) may be more")
        self._entries = self._bytes = 0
        self._said = len(data)
        return data
