"""Families of channels: a pattern of channels that share one policy.

A channel belongs to the most specific family whose pattern matches it. Two patterns that match the
same channel are compared segment by segment from the left. At the first difference a literal
segment is more specific than a wildcard, and a wildcard for one segment is more specific than a
last ``*``. So an exact name comes before every wildcard, ``a.b.*`` before ``a.*.c``, ``a.+`` before
``a.*``, and ``*`` last. Patterns without a difference mean the same (``a.*.c`` and ``a.+.c``), and
only one of them can be declared: each channel has at most one family.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import Final

import msgspec

from .choices import member_of, shown
from .errors import UsageError
from .overflow import Overflow
from .patterns import Pattern, parse_pattern

__all__ = ["Families", "Family"]

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CACHE_SIZE: Final = 4096
"""Channels whose family is kept at hand."""


class Family(msgspec.Struct, frozen=True):
    """Channels that match a pattern, and their policy; made by :meth:`.Bus.family`."""

    pattern: Pattern
    overflow: Overflow | None = None
    """The overflow policy of its publications; None: that of the receiving endpoint or
    subscription."""
    key: str | None = None
    """The field of the data by which ``conflate`` tells publications apart; None: only channel and
    event do."""

    def key_in(self, data: bytes) -> bytes | None:
        """Return the value of the field :attr:`key` as JSON text; None: the data has none.

        Cost: reads all of the data, so that it is for publications that are queued.
        """
        try:
            value = _fields(data).get(self.key or "")
        except (msgspec.MsgspecError, RecursionError):  # It is no object.
            return None
        return None if value is None else bytes(value)

    @property
    def rank(self) -> tuple[int, ...]:
        """How specific the pattern is: of two that match a channel, the greater rank wins."""
        segments = self.pattern.segments
        ranks = [1 if segment in {"*", "+"} else 2 for segment in segments]
        if self.pattern.has_tail:
            ranks[-1] = 0
        return tuple(ranks)


class Families:
    """The families that a bus knows."""

    def __init__(self) -> None:
        self._declared: Final[dict[tuple[str, ...], Family]] = {}
        """By what the pattern means: both wildcards for one segment are the same."""
        self._exact: Final[dict[str, Family]] = {}
        self._wild: list[Family] = []
        """Those with wildcards, the most specific first."""
        self._search: Final = lru_cache(_CACHE_SIZE)(self._first_match)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._declared)

    def declare(
        self, pattern: str, *, overflow: Overflow | str | None = None, key: str | None = None
    ) -> Family:
        """Add a family.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: Another family's pattern matches the same channels, or ``overflow`` is no
                policy, or ``key`` is no text, or cannot take effect under this policy.
        """
        policy = None if overflow is None else member_of(Overflow, overflow, "overflow")
        if key is not None:
            if not isinstance(key, str) or not key:  # type: ignore[redundant-expr]
                raise UsageError(f"key is the name of a field of the data, not {shown(key)}")
            if policy is not None and policy is not Overflow.CONFLATE:
                raise UsageError('key is for overflow="conflate": leave one of them out')
        family = Family(parse_pattern(pattern), policy, key)
        meaning = _meaning(family.pattern)
        other = self._declared.get(meaning)
        if other is not None:
            raise UsageError(
                f"the families {other.pattern.text!r} and {pattern!r} match the same channels, and "
                "neither is more specific: declare one of them"
            )
        self._declared[meaning] = family
        if family.pattern.is_exact:
            self._exact[family.pattern.text] = family
        else:
            self._wild = sorted([*self._wild, family], key=attrgetter("rank"), reverse=True)
        self._search.cache_clear()
        return family

    def find(self, channel: str) -> Family | None:
        """Return the family of a channel; None: it has none.

        Cost: a look-up for a channel that was asked for lately, else one comparison for each family
        with wildcards.
        """
        if not self._declared:
            return None
        return self._search(channel)

    def _first_match(self, channel: str) -> Family | None:
        exact = self._exact.get(channel)
        if exact is not None:
            return exact
        return next((family for family in self._wild if family.pattern.matches(channel)), None)


def _meaning(pattern: Pattern) -> tuple[str, ...]:
    *most, last = pattern.segments
    return (*["+" if segment == "*" else segment for segment in most], last)
