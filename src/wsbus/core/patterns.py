"""Patterns: names that may hold wildcards.

=================  ==============================================================
segment            stands for
=================  ==============================================================
``*``, not last    exactly one segment
``*``, last        one or more segments
``+``, anywhere    exactly one segment (``grid.abc.+`` is the one-level tail)
anything else      itself
=================  ==============================================================

A segment that mixes ``*`` with other characters is refused, and so are the wildcards of MQTT and
NATS (``#``, ``>``, ``**``, ``a/+/b``), which would match nothing. Everything is
decided by comparing segments: no regular expression ever sees a name from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from .channels import check_alone, split_name
from .errors import InvalidChannel

__all__ = ["Pattern", "parse_pattern"]


class Pattern(msgspec.Struct, frozen=True, kw_only=True, gc=False, cache_hash=True):
    """A well-formed pattern; only :func:`parse_pattern` makes one.

    Patterns are equal if spelled the same: ``a.*.c`` and ``a.+.c`` are two patterns.
    """

    text: str
    """The pattern as it was spelled."""
    segments: tuple[str, ...]
    """The text split at its dots."""
    is_exact: bool
    """Whether it has no wildcard, and matches only the channel of its name."""
    has_tail: bool
    """Whether the last segment is ``*``, so that it matches channels with more segments, too."""

    @property
    def is_everything(self) -> bool:
        """Whether it is ``*``, which matches every channel."""
        return self.text == "*"

    def matches(self, channel: str) -> bool:
        """Tell whether the pattern matches a name.

        Args:
            channel: Any text; it is split at its dots and not checked, so that it may be the name
                of a command.

        Cost: O(segments).
        """
        if self.is_exact:
            return channel == self.text
        if self.text == "*":
            return True
        return self._fits(channel.split("."))

    def covers(self, other: Pattern) -> bool:
        """Tell whether every channel that ``other`` matches is matched by this pattern.

        Exact over channels of any number of segments: ``grid.*`` covers ``grid.a.*``, ``a.*``
        covers ``a.+``, and ``a.+`` does not cover ``a.*``.

        Cost: O(segments).
        """
        # Wildcards of the other count as unique names, which only a wildcard matches. Besides,
        # only an open end can cover an open end.
        return (self.has_tail or not other.has_tail) and self._fits(other.segments)

    def _fits(self, names: Sequence[str]) -> bool:
        own = self.segments
        if len(names) != len(own) and not (self.has_tail and len(names) > len(own)):
            return False
        for segment, name in zip(own, names, strict=False):  # the tail matches the rest
            if segment != name and segment not in {"*", "+"}:
                return False
        return True

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def parse_pattern(text: str, *, plus: bool = True) -> Pattern:
    """Check that ``text`` is a pattern.

    Args:
        text: Any text; other objects are refused in the same way.
        plus: Whether ``+`` is a wildcard. If not, a segment ``+`` is refused, since no channel has
            it.

    Raises:
        InvalidChannel: The text breaks the grammar.

    Cost: O(length), about a microsecond; less for one that was parsed lately.
    """
    if not isinstance(text, str):
        raise InvalidChannel("a name must be text", text)
    return _parse(str.__str__(text), plus)


@lru_cache(1024)  # Many connections subscribe to the same pattern: they share one object.
def _parse(text: str, plus: bool) -> Pattern:  # noqa: FBT001  # called once, above
    segments = split_name(text)
    if "+" in segments and not plus:
        raise InvalidChannel("`+` is not a wildcard here; `*` matches one segment", text)
    if "*" in text and any("*" in segment != "*" for segment in segments):
        raise InvalidChannel(
            "a wildcard `*` must be a whole segment: the last one matches one or more segments, as "
            "in `a.*`, and any other one matches exactly one",
            text,
        )
    check_alone([segment for segment in segments if segment != "+"], text)
    return Pattern(
        text=text,
        segments=tuple(segments),
        is_exact="*" not in text and "+" not in segments,
        has_tail=segments[-1] == "*",
    )
