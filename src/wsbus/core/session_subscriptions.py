"""The subscriptions of one conversation: the client's and the server's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from .actions import Action, Brought, Join, Leave, Replay, Send, Thin
from .errors import ErrorCode, InvalidChannel
from .limits import NAMES_PER_MESSAGE, Limits
from .messages import (
    GetStatus,
    Publication,
    Rejection,
    Request,
    Since,
    StartPosition,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from .patterns import Pattern
from .permissions import Grants
from .protocol import WireProtocol
from .thinning import fastest

__all__ = [
    "LISTS",
    "NOT_ALLOWED",
    "NOT_GRANTED",
    "NOT_REACHED",
    "POSITION_LOST",
    "Holdings",
    "JudgedRequest",
]

LISTS: Final = (Subscribe, Unsubscribe, GetStatus)
"""Requests that hold many names, or are answered with many; see :meth:`Holdings.cost`."""

NOT_ALLOWED: Final = "the application does not allow this"
NOT_GRANTED: Final = "no grant covers this"
POSITION_LOST: Final = "what was published after this position is not kept any more"
_TAKEN: Final = "the subscription was taken away"
NOT_REACHED: Final = "it cannot be reached now; try again later"
_NOT_ADMIN: Final = "* itself needs admin; a grant for * covers everything else"


_NOTHING: Final = Brought(())


class JudgedRequest(NamedTuple):
    """A subscribe request, and what is made of each of its names that is not held already."""

    request: Subscribe
    verdicts: dict[str, Pattern | Rejection]

    @property
    def permitted(self) -> list[Pattern]:
        """Patterns that may be subscribed; two names may mean one pattern, which is here once."""
        return list(dict.fromkeys(v for v in self.verdicts.values() if isinstance(v, Pattern)))

    def since(self) -> dict[Pattern, Since]:
        """Return the positions where permitted patterns go on; of two names, the later one."""
        verdicts, since = self.verdicts, self.request.since
        return {
            verdict: since[name]
            for name in since
            if isinstance(verdict := verdicts.get(name), Pattern)
        }

    def accept(self, patterns: Sequence[Pattern], brought: Brought) -> None:
        """Reject what cannot be reached, and what must be recovered and is not."""
        reached = [outcome.is_reached for outcome in brought.outcomes]
        self.keep(patterns, reached, ErrorCode.UNAVAILABLE, NOT_REACHED)
        since = self.since()
        lost = {
            pattern
            for pattern, outcome in zip(patterns, brought.outcomes, strict=True)
            if outcome.is_recovered is False and since[pattern].is_strict
        }
        self.refuse(lost, POSITION_LOST, ErrorCode.POSITION_LOST)

    def keep(
        self, patterns: Sequence[Pattern], answers: Sequence[bool], code: str, why: str
    ) -> None:
        """Reject those whose answer is no."""
        if not all(answers):
            no = {pattern for pattern, yes in zip(patterns, answers, strict=True) if not yes}
            self.refuse(no, why, code)

    def refuse(
        self, patterns: Collection[Pattern], why: str, code: str = ErrorCode.FORBIDDEN
    ) -> None:
        """Reject what was permitted so far."""
        for name, verdict in self.verdicts.items():
            if isinstance(verdict, Pattern) and verdict in patterns:
                self.verdicts[name] = Rejection(name, code, why)


class Holdings:
    """Subscriptions of one conversation; a pattern that is held several times is joined once.

    Args:
        limits: How many the client may hold, and name in one request; the server's own
            subscriptions do not count.
    """

    __slots__ = ("_aliased", "_assigned", "_limits", "_rates", "names")

    def __init__(self, limits: Limits) -> None:
        self.names: Final[dict[str, Pattern]] = {}
        """The client's subscriptions, as spelled, in order."""
        self._limits: Final = limits
        self._assigned: dict[Pattern, None] | None = None  # As a rule there are none.
        # How often patterns are held under names that are not their own texts, as a rule never.
        self._aliased: dict[Pattern, int] | None = None
        # By name, while one of the client's names has a rate; as a rule none has.
        self._rates: dict[str, float] | None = None

    def cost(self, command: Request) -> int:
        """Return how many messages it counts for: one for each eight names begun."""
        if isinstance(command, GetStatus):  # The answer lists them.
            names = len(self.names)
        elif isinstance(command, Subscribe | Unsubscribe):
            names = len(command.names)
            if names > self._limits.max_names:  # Refused whole: no name is looked at.
                return 1
        else:
            return 1
        return max(1, -(-names // NAMES_PER_MESSAGE))

    def judge(self, request: Subscribe, protocol: WireProtocol, grants: Grants) -> JudgedRequest:
        """Judge the names of a request, each once, but for those that the client holds already.

        No more of them are patterns than there are places left, in the order of the request; the
        rest are rejected.
        """
        verdicts: dict[str, Pattern | Rejection] = {}
        most = self._limits.max_subscriptions
        free = most - len(self.names)
        for name in request.names:
            if name in self.names or name in verdicts:
                continue
            verdict = _judge(name, protocol, grants)
            if isinstance(verdict, Pattern):
                free -= 1
                if free < 0:
                    why = f"at most {most} subscriptions a connection"
                    verdict = Rejection(name, ErrorCode.TOO_MANY_SUBSCRIPTIONS, why)
            verdicts[name] = verdict
        return JudgedRequest(request, verdicts)

    def subscribe(
        self,
        judged: JudgedRequest,
        grants: Grants,
        patterns: Sequence[Pattern] = (),
        brought: Brought = _NOTHING,
    ) -> list[Action]:
        """Join what is permitted; one answer collects the whole request.

        Args:
            judged: The request.
            grants: The client's: what they deny is not replayed.
            patterns: The patterns that something was brought for.
            brought: What was.
        """
        outcomes = dict(zip(patterns, brought.outcomes, strict=True))
        positions: list[StartPosition] = []
        accepted: list[str] = []
        rejected: list[Rejection] = []
        joins: list[Action] = []
        begun: list[Pattern] = []
        paces = self._rates is not None or bool(judged.request.rates)
        for name in judged.request.names:
            if name not in self.names:
                verdict = judged.verdicts.get(name) or _taken(name)
                if isinstance(verdict, Rejection):
                    rejected.append(verdict)
                    continue
                joins += self._hold(name, verdict)
                begun.append(verdict)
                outcome = outcomes.get(verdict)
                if outcome is not None and outcome.position is not None:
                    at, is_recovered = outcome.position, outcome.is_recovered
                    more = outcome.is_replayed, outcome.until
                    positions.append(StartPosition(name, at, is_recovered, *more))
            accepted.append(name)
        paced = self._repaced(accepted, judged.request.rates) if paces else []
        # The answer before the joins: no event may come before it.
        ref = judged.request.ref
        rejections, places = tuple(rejected), tuple(positions)
        answer = Subscribed(tuple(accepted), len(self.names), rejections, ref, places)
        if not (brought.replay or brought.latest):
            return [*paced, Send(answer), *joins]
        is_new = _Newly(begun, grants)
        replays = [
            Replay(publications, is_latest=is_latest)
            for found, is_latest in ((brought.latest, True), (brought.replay, False))
            if (publications := [*filter(is_new, found)])
        ]
        return [*paced, Send(answer), *replays, *joins]

    def unsubscribe(self, names: Collection[str], ref: str | None = None) -> list[Action]:
        """Leave; idempotent, and answered with the names as they were given."""
        leaves: list[Action] = []
        for name in names:
            if name in self.names:
                leaves += self._release(name)
        # The leaves before the answer: no event may come after it.
        answer = Unsubscribed(tuple(names), len(self.names), ref)
        return [*leaves, *self._left(), Send(answer)]

    def assign(self, pattern: Pattern) -> list[Action]:
        """Subscribe on the server's account; idempotent, and not told to the client."""
        joins: list[Action] = [] if self._holds(pattern) else [Join(pattern)]
        if self._assigned is None:
            self._assigned = {}
        self._assigned[pattern] = None
        return [*self._left(), *joins]

    def unassign(self, pattern: Pattern) -> list[Action]:
        """Take :meth:`assign` back; what the client subscribed itself stays."""
        if not self._assigned or pattern not in self._assigned:
            return []
        del self._assigned[pattern]
        leaves: list[Action] = [] if self._holds(pattern) else [Leave(pattern)]
        return [*leaves, *self._left()]

    def revoke(self, pattern: Pattern, reason: str | None) -> list[Action]:
        """Take a pattern away, on either account; the client learns of what was its own."""
        leaves = self.unassign(pattern)
        names = tuple(name for name, held in self.names.items() if held == pattern)
        for name in names:
            leaves += self._release(name)
        if not names:
            return leaves
        return [*leaves, *self._left(), Send(Unsubscribed(names, len(self.names), reason=reason))]

    def free(self) -> int:
        """Return how many more the client may hold."""
        return self._limits.max_subscriptions - len(self.names)

    @property
    def assigned(self) -> Collection[Pattern]:
        """The server's subscriptions, in order."""
        return self._assigned or ()

    @property
    def patterns(self) -> Collection[Pattern]:
        """All that is joined, each once: the client's in order, then the server's."""
        return dict.fromkeys((*self.names.values(), *self.assigned)).keys()

    def _repaced(self, names: Sequence[str], rates: Mapping[str, float]) -> list[Action]:
        """Set the rates of names as a request has them; what it gives none gets all events."""
        own = self._rates = self._rates or {}
        for name in names:
            own.pop(name, None)
            if name in rates:
                own[name] = rates[name]
        return self._left()

    def _left(self) -> list[Action]:
        """Return the rates that are left after a change, where there are some, or were."""
        if self._rates is None:
            return []
        own = self._rates = {name: self._rates[name] for name in self._rates if name in self.names}
        if not own:
            self._rates = None
            return [Thin({})]
        wanted: dict[Pattern, list[float | None]] = {each: [None] for each in self.assigned}
        for name, pattern in self.names.items():
            wanted.setdefault(pattern, []).append(own.get(name))
        return [Thin({pattern: fastest(asked) for pattern, asked in wanted.items()})]

    def _holds(self, pattern: Pattern) -> bool:
        if self._assigned and pattern in self._assigned:
            return True
        if self.names.get(pattern.text) == pattern:
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


class _Newly:
    """Tells whether a publication is for subscriptions that begin now.

    Whether an older subscription of the client has brought it before, or one on the server's
    account, is not asked: it has not come to the subscribers of this one yet.
    """

    def __init__(self, begun: Collection[Pattern], grants: Grants) -> None:
        self._begun: Final = begun
        self._grants: Final = grants
        self._known: Final[dict[str, bool]] = {}

    def __call__(self, publication: Publication) -> bool:
        channel = publication.channel
        known = self._known.get(channel)
        if known is None:
            known = self._known[channel] = self._grants.may_receive(channel) and any(
                pattern.matches(channel) for pattern in self._begun
            )
        return known


def _taken(name: str) -> Rejection:
    """Return what becomes of a name that the client held when it asked for it again."""
    return Rejection(name, ErrorCode.FORBIDDEN, _TAKEN)


def _judge(name: str, protocol: WireProtocol, grants: Grants) -> Pattern | Rejection:
    try:
        pattern = protocol.pattern(name)
    except InvalidChannel as exc:
        return Rejection(name, ErrorCode.INVALID_CHANNEL, exc.reason)
    if grants.may_subscribe(pattern):
        return pattern
    is_star = pattern.is_everything and not grants.admin
    return Rejection(name, ErrorCode.FORBIDDEN, _NOT_ADMIN if is_star else NOT_GRANTED)
