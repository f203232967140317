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

    __slots__ = ("_assigned", "_held", "_most", "names")

    def __init__(self, most: int) -> None:
        self.names: Final[dict[str, Pattern]] = {}
        """What the client subscribed, as it spelled it, in order."""
        self._most: Final = most
        self._assigned: frozenset[Pattern] = frozenset()  # Empty ones share one object.
        self._held: Final[dict[Pattern, int]] = {}

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
                self.names[name] = verdict
                accepted.append(name)
                joins += self._hold(verdict)
        # The answer before the joins: no event may come before it.
        answer = Subscribed(tuple(accepted), len(self.names), tuple(rejected), ref)
        return [Send(answer), *joins]

    def unsubscribe(self, names: Collection[str], ref: str | None = None) -> list[Action]:
        """Leave; idempotent, and answered with the names as they were given."""
        leaves: list[Action] = []
        for name in names:
            pattern = self.names.pop(name, None)
            if pattern is not None:
                leaves += self._release(pattern)
        # The leaves before the answer: no event may come after it.
        return [*leaves, Send(Unsubscribed(tuple(names), len(self.names), ref))]

    def assign(self, pattern: Pattern) -> list[Action]:
        """Subscribe on the server's account; idempotent, and not told to the client."""
        if pattern in self._assigned:
            return []
        self._assigned |= {pattern}
        return self._hold(pattern)

    def unassign(self, pattern: Pattern) -> list[Action]:
        """Take :meth:`assign` back; what the client subscribed itself stays."""
        if pattern not in self._assigned:
            return []
        self._assigned -= {pattern}
        return self._release(pattern)

    @property
    def patterns(self) -> Collection[Pattern]:
        """All that is joined, each once."""
        return self._held.keys()

    def _hold(self, pattern: Pattern) -> list[Action]:
        held = self._held.get(pattern, 0)
        self._held[pattern] = held + 1
        return [] if held else [Join(pattern)]

    def _release(self, pattern: Pattern) -> list[Action]:
        held = self._held.pop(pattern) - 1
        if held:
            self._held[pattern] = held
        return [] if held else [Leave(pattern)]
