"""What one conversation is subscribed to, on the client's account and on the server's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from .actions import Action, Join, Leave, Send
from .errors import ErrorCode
from .messages import Rejection, Subscribed, Unsubscribed
from .patterns import Pattern

__all__ = ["Holdings"]


class Holdings:
    """Subscriptions of one conversation; a pattern that is held several times is joined once.

    Args:
        most: Subscriptions the client may hold at once; the server's own do not count.
    """

    __slots__ = ("_aliased", "_assigned", "_most", "names")

    def __init__(self, most: int) -> None:
        self.names: Final[dict[str, Pattern]] = {}
        """What the client subscribed, as it spelled it, in order."""
        self._most: Final = most
        self._assigned: frozenset[Pattern] = frozenset()  # Empty ones share one object.
        # How often patterns are held under names that are not their own texts, as a rule never.
        self._aliased: dict[Pattern, int] | None = None

    def subscribe(
        self, names: Collection[str], verdicts: Mapping[str, Pattern | Rejection], ref: str | None
    ) -> list[Action]:
        """Join what is permitted and fits; one answer collects the whole request."""
        accepted: list[str] = []
        rejected: list[Rejection] = []
        joins: list[Action] = []
        for name in names:
            verdict = verdicts[name]
            if name in self.names:
                accepted.append(name)
            elif isinstance(verdict, Rejection):
                rejected.append(verdict)
            elif len(self.names) >= self._most:
                why = f"at most {self._most} subscriptions a connection"
                rejected.append(Rejection(name, ErrorCode.TOO_MANY_SUBSCRIPTIONS, why))
            else:
                joins += self._hold(name, verdict)
                accepted.append(name)
        # The answer before the joins: no event may come before it.
        answer = Subscribed(tuple(accepted), len(self.names), tuple(rejected), ref)
        return [Send(answer), *joins]

    def unsubscribe(self, names: Collection[str], ref: str | None = None) -> list[Action]:
        """Leave; idempotent, and answered with the names as they were given."""
        leaves: list[Action] = []
        for name in names:
            if name in self.names:
                leaves += self._release(name)
        # The leaves before the answer: no event may come after it.
        return [*leaves, Send(Unsubscribed(tuple(names), len(self.names), ref))]

    def assign(self, pattern: Pattern) -> list[Action]:
        """Subscribe on the server's account; idempotent, and not told to the client."""
        joins: list[Action] = [] if self._holds(pattern) else [Join(pattern)]
        self._assigned |= {pattern}
        return joins

    def unassign(self, pattern: Pattern) -> list[Action]:
        """Take :meth:`assign` back; what the client subscribed itself stays."""
        if pattern not in self._assigned:
            return []
        self._assigned -= {pattern}
        return [] if self._holds(pattern) else [Leave(pattern)]

    @property
    def patterns(self) -> Collection[Pattern]:
        """All that is joined, each once."""
        return self._assigned.union(self.names.values())

    def _holds(self, pattern: Pattern) -> bool:
        if pattern in self._assigned or self.names.get(pattern.text) == pattern:
            return True
        return self._aliased is not None and pattern in self._aliased

    def _hold(self, name: str, pattern: Pattern) -> list[Action]:
        joins: list[Action] = [] if self._holds(pattern) else [Join(pattern)]
        self.names[name] = pattern
        if name != pattern.text:
            if self._aliased is None:
                self._aliased = {}
            self._aliased[pattern] = self._aliased.get(pattern, 0) + 1
        return joins

    def _release(self, name: str) -> list[Action]:
        pattern = self.names.pop(name)
        if name != pattern.text:
            assert self._aliased is not None
            left = self._aliased.pop(pattern) - 1
            if left:
                self._aliased[pattern] = left
        return [] if self._holds(pattern) else [Leave(pattern)]
