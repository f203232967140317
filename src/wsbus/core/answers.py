"""The contents of a :class:`.MatchCache`: answers by channel, and the source of each."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from .channels import Channel
from .patterns import Pattern

__all__ = ["Answers", "InterestChange", "KeptAnswer", "SharedAnswer"]

M = TypeVar("M", bound=Hashable)
A = TypeVar("A", bound=Collection[Any])

InterestChange: TypeAlias = tuple[Pattern | None, M]
"""A member whose interest in a pattern changed, or, with None, what it gets of all patterns."""

_WILDCARDS: Final = frozenset("*+")


class SharedAnswer(Generic[A]):
    """The members of all channels with one key, as of a version."""

    __slots__ = ("__weakref__", "arranged", "generation", "parts", "version")

    def __init__(self, arranged: A, parts: tuple[object, ...], version: int) -> None:
        self.arranged: A = arranged
        self.parts: tuple[object, ...] = parts
        self.version: int = version
        self.generation: int = 0
        """The generation in which its size was counted last."""


class KeptAnswer(Generic[M, A]):
    """The cached result for one channel. A change makes a new one."""

    __slots__ = ("answer", "arranged", "base", "known", "touched")

    def __init__(self, answer: SharedAnswer[A], arranged: A) -> None:
        self.known: int = 0
        """The version up to which changes were taken up."""
        self.answer: Final = answer
        self.base: Final = answer.arranged
        """The result that ``arranged`` was narrowed from."""
        self.arranged: Final = arranged
        self.touched: Final[list[M]] = []
        """Members whose exact subscriptions changed since."""


class Answers(Generic[M, A]):
    """Answers by channel, as long as they are right."""

    __slots__ = ("entries", "fresh", "is_used")

    def __init__(self) -> None:
        self.fresh: dict[Channel, A] = {}
        self.entries: dict[str, dict[Channel, KeptAnswer[M, A]]] = {}
        """Their sources by the first segment of the channel; others may be among them."""
        self.is_used: bool = True
        """Whether they were right at some time since the cache settled."""

    def add(self, channel: Channel, entry: KeptAnswer[M, A]) -> None:
        """Keep an answer that is right now."""
        self.fresh[channel] = entry.arranged
        self.entries.setdefault(channel.partition(".")[0], {})[channel] = entry

    def concerns(self, pattern: Pattern) -> bool:
        """Tell whether there may be answers that a change concerns."""
        head = pattern.segments[0]
        return bool(self.fresh) and (head in _WILDCARDS or head in self.entries)

    def without(self, pattern: Pattern) -> Answers[M, A]:
        """Return those that a change does not concern."""
        rest: Answers[M, A] = Answers()
        if pattern.segments[0] not in _WILDCARDS:
            rest.fresh, rest.entries = self.fresh.copy(), self.entries.copy()
            rest.drop(pattern)
        return rest

    def drop(self, pattern: Pattern | None) -> None:
        """Drop those that a change may concern; None: all."""
        head = "*" if pattern is None else pattern.segments[0]
        if head in _WILDCARDS:
            self.fresh.clear()
            self.entries.clear()
            return
        for channel in self.entries.pop(head, ()):
            self.fresh.pop(channel, None)

    def forget(self, channel: Channel) -> None:
        """Drop the answer for one channel."""
        self.fresh.pop(channel, None)
        self.entries.get(channel.partition(".")[0], {}).pop(channel, None)

    def keep(self, channels: Collection[Channel]) -> None:
        """Drop those for other channels."""
        kept: list[dict[Channel, Any]] = [self.fresh, *self.entries.values()]
        for each in kept:
            for channel in [channel for channel in each if channel not in channels]:
                del each[channel]
