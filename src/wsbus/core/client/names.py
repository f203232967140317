"""One name that a client subscribes to, and how much of them fits into a request."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from ..events import Gap, Position
from ..messages import Since
from ..patterns import Pattern
from ..thinning import fastest

__all__ = ["ClientName", "size_of", "take_names"]

H = TypeVar("H", bound=Hashable)

_SINCE_BYTES: Final = 48
"""Bytes of a position in a request, but for its texts."""
_RATE_BYTES: Final = 24
"""Bytes of a rate in a request."""
_FRAME_BYTES: Final = 72
"""Bytes of a request with ``since``, but for its names."""


class ClientName(Generic[H]):
    """One name, as spelled, and its holders."""

    __slots__ = (
        "asked",
        "gaps",
        "holders",
        "is_held",
        "mark",
        "missed",
        "pattern",
        "ref",
        "start",
        "starter",
    )

    def __init__(self, pattern: Pattern) -> None:
        self.pattern: Final = pattern
        self.holders: Final[dict[H, float | None]] = {}
        """Each with the events a second that it wants at most; None: all."""
        self.asked: float | None = None
        """The rate in the last request for it."""
        self.missed: Final[set[H]] = set()
        """Holders that were confirmed before the last connection ended."""
        self.is_held: bool = False
        """Whether the server has confirmed it, and not taken it back."""
        self.ref: str | None = None
        """The ref of the request that subscribes to it."""
        self.gaps: list[Gap] | None = None
        """Those that came after it was asked for and before it was confirmed; None: none has."""
        self.mark: Position | None = None
        """The position up to which its holders have everything; None: unknown, or no history."""
        self.start: Position | None = None
        """The position that the application begins at; None: now, or it has begun."""
        self.starter: H | None = None
        """The holder that wants it to begin there."""

    def since(self, max_bytes: int) -> Since | None:
        """Return where a request for it goes on; None: it has no mark, or none that fits."""
        if self.start is not None:
            return Since(self.start, is_strict=True)
        if self.mark is None or self.size + _FRAME_BYTES > 2 * max_bytes:
            return None
        return Since(self.mark)

    @property
    def rate(self) -> float | None:
        """The rate that serves all holders; None: all events."""
        return fastest(self.holders.values())

    @property
    def goes_on(self) -> bool:
        """Whether it has a position to go on from."""
        return self.start is not None or self.mark is not None

    @property
    def size(self) -> int:
        """The bytes that it takes in a request: its text, and where it goes on."""
        size, position = size_of(self.pattern.text), self.start or self.mark
        rated = 0 if self.rate is None else size + _RATE_BYTES
        if position is None:
            return size + rated
        return 2 * size + rated + size_of(position.epoch) + size_of(position.tag) + _SINCE_BYTES

    def takes(self, position: Position) -> bool:
        """Tell whether an event is new for the holders; if it is, it moves the mark."""
        mark = self.mark
        if mark is None:
            return True
        if mark.epoch == position.epoch and position.offset <= mark.offset:
            return False
        self.mark = position
        return True


def size_of(text: str) -> int:
    """Return the bytes that a text takes in a request."""
    return len(text.encode()) + 3  # quotes and a comma


def take_names(
    texts: dict[str, None], max_names: int, max_bytes: int, size_of: Callable[[str], int]
) -> tuple[str, ...]:
    """Remove and return the first names, at least one, within the bounds."""
    names: list[str] = []
    size = 0
    for text in texts:
        size += size_of(text)
        if names and (size > max_bytes or len(names) >= max_names):
            break
        names.append(text)
    for text in names:
        del texts[text]
    return tuple(names)
