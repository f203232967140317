"""Families of channels: a pattern of channels that share one policy.

A channel belongs to the most specific family whose pattern matches it. Two patterns that match the
same channel are compared segment by segment from the left. At the first difference a literal
segment is more specific than a wildcard, and a wildcard for one segment is more specific than a
last ``*``. So an exact name comes before every wildcard, ``a.b.*`` before ``a.*.c``, ``a.+`` before
``a.*``, and ``*`` last. Patterns without a difference mean the same (``a.*.c`` and ``a.+.c``), and
only one of them can be declared: each channel has at most one family.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from .choices import is_number, member_of, shown
from .errors import UsageError
from .overflow import Overflow
from .patterns import Pattern, parse_pattern

__all__ = ["Compact", "Families", "Family", "History", "PayloadCheck", "Presence", "Stream"]

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CACHE_SIZE: Final = 4096
"""Channels whose family is kept at hand."""
_WILDCARDS: Final = frozenset("*+")
_MAX_SIZE: Final = 100_000
_MAX_TTL: Final = 366 * 86_400.0
_MAX_STREAM: Final = 2 << 20
_STREAM_SIZE: Final = 1024
_STREAM_TTL: Final = 300.0

Compact: TypeAlias = Callable[[Any, Any], Any]
"""``(value so far, delta) → value``; the value before the first delta is None. Both are JSON as it
is decoded. It must always return the same for the same, and change neither."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How long the channels of a family keep what was published; see :meth:`.Bus.family`.

    Raises:
        UsageError: A number is out of its range.
    """

    size: int = 100
    """Publications that a channel keeps at most, 1 to 100,000."""
    ttl: float = 3600.0
    """Seconds for which a publication is kept, above 0 and at most 366 days."""
    latest: bool | None = None
    """Whether a new subscriber gets the latest publication of each channel at once; in a family
    with a ``key``, the latest of each value of that. None: if ``size`` is 1."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if type(self.size) is not int or not 1 <= self.size <= _MAX_SIZE:
            raise UsageError(f"size is 1 to {_MAX_SIZE} publications, not {shown(self.size)}")
        if not is_number(self.ttl) or not 0 < self.ttl <= _MAX_TTL:
            raise UsageError(f"ttl is above 0 s and at most 366 days, not {shown(self.ttl)}")
        if self.latest is not None and type(self.latest) is not bool:
            raise UsageError(f"latest is True, False or None, not {shown(self.latest)}")

    @property
    def gives_latest(self) -> bool:
        """Whether a new subscriber gets the latest publication."""
        return self.size == 1 if self.latest is None else self.latest


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the channels of a family say which connections are there; see :meth:`.Bus.family`.

    Raises:
        UsageError: A number is out of its range.
    """

    max_members: int = 1000
    """Connections of a channel that are named, 1 to 100,000. While there are more, watchers get
    their number only."""

    def __post_init__(self) -> None:
        """Check the number."""
        if type(self.max_members) is not int or not 1 <= self.max_members <= _MAX_SIZE:
            raise UsageError(f"max_members is 1 to {_MAX_SIZE}, not {shown(self.max_members)}")


class PayloadCheck(Protocol):
    """The types of what is published on the channels of a family."""

    def check(self, event: str, data: bytes) -> None:
        """Refuse JSON that is not of the type of its event.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
            Exception: A validator of the application failed.
        """
        ...


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the channels of a family are finite streams; see :meth:`.Bus.family`.

    They keep what is published, so that ``history`` is left out.

    Raises:
        UsageError: A number is out of its range, or ``compact`` is not a function.
    """

    ttl: float = 3600.0
    """Seconds for which a stream can be read after its last entry, 300 to 366 days."""
    max_bytes: int = 256 << 10
    """The largest value, in bytes of JSON, 1 to 2 MiB. The broker must take messages twice as
    large; NATS takes 1 MiB."""
    compact: Compact | None = None
    """Joins deltas that are no texts; None: they are texts."""

    def __post_init__(self) -> None:
        """Check the settings."""
        if not is_number(self.ttl) or not _STREAM_TTL <= self.ttl <= _MAX_TTL:
            raise UsageError(
                f"ttl of a stream is {_STREAM_TTL:g} s to 366 days, not {shown(self.ttl)}"
            )
        if type(self.max_bytes) is not int or not 1 <= self.max_bytes <= _MAX_STREAM:
            raise UsageError(f"max_bytes is 1 to {_MAX_STREAM} bytes, not {shown(self.max_bytes)}")
        if self.compact is not None and not callable(self.compact):
            raise UsageError(
                f"compact is a function (value, delta) → value, not {shown(self.compact)}"
            )

    @property
    def history(self) -> History:
        """How long its channels keep what is published."""
        return History(size=_STREAM_SIZE, ttl=self.ttl, latest=True)


class Family(msgspec.Struct, frozen=True):
    """Channels that match a pattern, and their policy; made by :meth:`.Bus.family`."""

    pattern: Pattern
    overflow: Overflow | None = None
    """The overflow policy of its publications; None: that of the receiving endpoint or
    subscription."""
    key: str | None = None
    """The field of the data by which ``conflate`` tells publications apart; None: only channel and
    event do."""
    history: History | None = None
    """How long its channels keep what is published; None: they keep nothing."""
    presence: Presence | None = None
    """Whether its channels say which connections are there; None: they do not."""
    content: PayloadCheck | None = None
    """The types of its publications; None: any JSON."""
    stream: Stream | None = None
    """Whether its channels are finite streams; None: they are not."""

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
        self.keep_history: bool = False
        """Whether one of them keeps history."""
        self.show_presence: bool = False
        """Whether one of them shows presence."""
        self.check_content: bool = False
        """Whether one of them says what its publications hold."""
        self.has_streams: bool = False
        """Whether one of them is of streams."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._declared)

    def declare(
        self,
        pattern: str,
        *,
        overflow: Overflow | str | None = None,
        key: str | None = None,
        history: History | None = None,
        presence: Presence | None = None,
        content: PayloadCheck | None = None,
        stream: Stream | None = None,
    ) -> Family:
        """Add a family.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: Another family's pattern matches the same channels, or ``overflow`` is no
                policy, or ``key`` is no text, or cannot take effect under this policy, or
                ``history``, ``presence`` or ``stream`` is none, or does not go with the others.
        """
        policy = _policy(overflow, key)
        if history is not None and not isinstance(history, History):
            raise UsageError(f"history is History(size=…, ttl=…), not {shown(history)}")
        if presence is not None and not isinstance(presence, Presence):
            raise UsageError(f"presence is Presence(), not {shown(presence)}")
        if stream is not None:
            history = _history_of(stream, policy, key, history)
            policy = policy or Overflow.DROP_OLDEST
        family = Family(parse_pattern(pattern), policy, key, history, presence, content, stream)
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
        self.keep_history = self.keep_history or history is not None
        self.show_presence = self.show_presence or presence is not None
        self.check_content = self.check_content or content is not None
        self.has_streams = self.has_streams or stream is not None
        return family

    def find(self, channel: str) -> Family | None:
        """Return the family of a channel; None: it has none.

        Cost: a look-up for a channel that was asked for lately, else one comparison for each family
        with wildcards.
        """
        if not self._declared:
            return None
        return self._search(channel)

    def history_of(self, channel: str) -> History | None:
        """Return how long a channel keeps what is published; None: it keeps nothing."""
        if not self.keep_history:
            return None
        family = self._search(channel)
        return None if family is None else family.history

    def check(self, channel: str, event: str, data: bytes) -> None:
        """Refuse data that the family of a channel does not allow.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
            Exception: A validator of the application failed.
        """
        family = self._search(channel)
        if family is not None and family.content is not None:
            family.content.check(event, data)

    def stream_of(self, channel: str) -> Stream | None:
        """Return how a channel is a stream; None: it is none."""
        if not self.has_streams:
            return None
        family = self._search(channel)
        return None if family is None else family.stream

    def over(self, pattern: Pattern) -> list[Family]:
        """Return the families of the channels that a pattern matches, the most specific first."""
        if pattern.is_exact:
            family = self.find(pattern.text)
            return [] if family is None else [family]
        families = []
        for family in sorted(self._declared.values(), key=attrgetter("rank"), reverse=True):
            if _overlaps(family.pattern, pattern):
                families.append(family)
                if family.pattern.covers(pattern):
                    break
        return families

    def keeps_any(self, pattern: Pattern) -> bool:
        """Tell whether some channel that a pattern matches may keep history."""
        return self.keep_history and any(family.history for family in self.over(pattern))

    def keeps_all(self, pattern: Pattern) -> bool:
        """Tell whether every channel that a pattern matches keeps history."""
        families = self.over(pattern)
        return (
            bool(families)
            and all(family.history for family in families)
            and families[-1].pattern.covers(pattern)
        )

    def _first_match(self, channel: str) -> Family | None:
        exact = self._exact.get(channel)
        if exact is not None:
            return exact
        return next((family for family in self._wild if family.pattern.matches(channel)), None)


def _overlaps(one: Pattern, other: Pattern) -> bool:
    """Tell whether some channel matches both."""
    for mine, theirs in zip(one.segments, other.segments, strict=False):
        if mine not in _WILDCARDS and theirs not in _WILDCARDS and mine != theirs:
            return False
    mine_count, their_count = len(one.segments), len(other.segments)
    return (
        mine_count == their_count
        or (one.has_tail and mine_count < their_count)
        or (other.has_tail and their_count < mine_count)
    )


def _meaning(pattern: Pattern) -> tuple[str, ...]:
    *most, last = pattern.segments
    return (*["+" if segment == "*" else segment for segment in most], last)


def _policy(overflow: Overflow | str | None, key: str | None) -> Overflow | None:
    """Return the overflow policy of a family that is declared."""
    policy = None if overflow is None else member_of(Overflow, overflow, "overflow")
    if key is not None:
        if not isinstance(key, str) or not key:  # type: ignore[redundant-expr]
            raise UsageError(f"key is the name of a field of the data, not {shown(key)}")
        if policy is not None and policy is not Overflow.CONFLATE:
            raise UsageError('key is for overflow="conflate": leave one of them out')
    return policy


def _history_of(
    stream: Stream, policy: Overflow | None, key: str | None, history: History | None
) -> History:
    """Return what a family of streams keeps."""
    if not isinstance(stream, Stream):
        raise UsageError(f"stream is Stream(), not {shown(stream)}")
    if history is not None:
        raise UsageError("stream= keeps what it needs: leave history= out")
    if key is not None or policy is Overflow.CONFLATE:
        raise UsageError("the entries of a stream build on each other: none may replace another")
    return stream.history
