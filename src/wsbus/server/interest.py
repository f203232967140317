"""The patterns this process wants from elsewhere; it hears of first and last interest.

A pattern is wanted while a member of the hub has it, while a request for it is pending, and for
:data:`LINGER_SECONDS` after that, so that a client which unsubscribes and subscribes again shows
nothing to the provider. The hub reports the first and the last member of each pattern, whichever
way it goes: a leave, a close, a refresh that takes grants away, a detach.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

from anyio import Event, move_on_after

from .._log import about
from .._timing import pause_of
from ..core.instant import Instant
from ..core.patterns import Pattern
from .runner import Runner

__all__ = ["LINGER_SECONDS", "REACH_SECONDS", "Interest", "InterestProvider"]

logger: Final = logging.getLogger("wsbus.interest")

REACH_SECONDS: Final = 5.0
"""How long a subscription waits for its pattern to be brought."""

LINGER_SECONDS: Final = 1.0
"""How long a pattern stays wanted after its last member has left."""

Unreached: TypeAlias = Collection[Pattern] | None
"""Patterns that cannot be brought now; None: there are none."""


class InterestProvider(Protocol):
    """Brings publications from elsewhere; the calls come in the order of what happened."""

    def gained(self, patterns: Sequence[Pattern]) -> Awaitable[Unreached] | None:
        """Begin to bring what matches these patterns; never waits.

        Returns:
            None: it is brought from now on. Else what to await until it is; what that raises means
            that none of these patterns can be brought.
        """
        ...

    def lost(self, patterns: Sequence[Pattern]) -> None:
        """Bring no more what matches only these patterns; never waits."""
        ...


class _Coming:
    """Patterns that a provider was asked for together, and has not brought yet."""

    def __init__(self) -> None:
        self.settled: Final = Event()


class Interest:
    """Patterns that are wanted, and a provider that follows them.

    Law: the provider has what has members, what is asked for, and what lingers; nothing else.

    Args:
        provider: Brings what is wanted.
        runner: Awaits the provider.
        clock: Tells the time.
    """

    def __init__(
        self, provider: InterestProvider, runner: Runner, clock: Callable[[], Instant]
    ) -> None:
        self._provider: Final = provider
        self._runner: Final = runner
        self._clock: Final = clock
        self._pause: Final = pause_of(clock)
        self._joined: Final[dict[Pattern, None]] = {}
        self._asked: Final[Counter[Pattern]] = Counter()
        # What the provider was asked for; None: it is brought.
        self._known: Final[dict[Pattern, _Coming | None]] = {}
        self._lingering: Final[dict[Pattern, float]] = {}  # Until when; the earliest first.
        self._retry_at = math.inf  # When what was missed is asked for again.
        self._changed = Event()

    # --- what the hub reports --------------------------------------------------------------------

    def gained(self, pattern: Pattern) -> None:
        """Note the first member of a pattern."""
        self._joined[pattern] = None
        self._want((pattern,))

    def lost(self, pattern: Pattern) -> None:
        """Note that the last member of a pattern is gone."""
        self._joined.pop(pattern, None)
        self._let_go(pattern)

    # --- requests --------------------------------------------------------------------------------

    def brings(self, patterns: Sequence[Pattern]) -> bool:
        """Tell whether patterns are brought already."""
        return all(map(self._is_here, patterns))

    def ask(self, patterns: Sequence[Pattern]) -> bool:
        """Have patterns brought for a request; tell whether they are already.

        If not, they stay wanted until :meth:`release`.
        """
        self._want(patterns)
        if self.brings(patterns):
            for pattern in patterns:
                self._let_go(pattern)  # It lingers until the request joins it.
            return True
        self._asked.update(patterns)
        return False

    def hold(self, patterns: Sequence[Pattern]) -> None:
        """Have patterns brought until :meth:`release`, whether they are already or not."""
        self._want(patterns)
        self._asked.update(patterns)

    async def outcomes(self, patterns: Sequence[Pattern], seconds: float) -> list[bool]:
        """Wait until patterns are brought, or cannot be; return for each whether it is.

        Args:
            patterns: What was asked for; see :meth:`ask`.
            seconds: What is not brought then counts as a failure.
        """
        with move_on_after(seconds):
            for coming in [self._known.get(pattern) for pattern in patterns]:
                if coming is not None:
                    await coming.settled.wait()
        return [*map(self._is_here, patterns)]

    def release(self, patterns: Sequence[Pattern]) -> None:
        """Give back what was asked for: what has no member lingers, or was never brought."""
        self._asked.subtract(patterns)
        for pattern in patterns:
            if not self._asked[pattern]:
                del self._asked[pattern]
                self._let_go(pattern)

    # --- the provider ----------------------------------------------------------------------------

    @property
    def known(self) -> Collection[Pattern]:
        """The patterns that the provider brings, or was asked for."""
        return self._known.keys()

    async def run(self) -> None:
        """Tell the provider of what has lingered long enough, and ask again for what it missed."""
        while True:
            self._changed = Event()
            until = self.sweep()
            if until == math.inf:
                await self._changed.wait()
            else:
                await self._pause(max(until - self._clock().monotonic, 0.0))

    def sweep(self) -> float:
        """Do what is due; return when there is something to do again, in monotonic seconds."""
        now = self._clock().monotonic
        due = [pattern for pattern, until in self._lingering.items() if until <= now]
        for pattern in due:
            del self._lingering[pattern]
            del self._known[pattern]
        if due:
            self._provider.lost(due)
        if self._retry_at <= now:
            self._retry_at = math.inf
            self._want([p for p in (*self._joined, *self._asked) if p not in self._known])
        return min(next(iter(self._lingering.values()), math.inf), self._retry_at)

    def _is_here(self, pattern: Pattern) -> bool:
        return pattern in self._known and self._known[pattern] is None

    def _want(self, patterns: Sequence[Pattern]) -> None:
        new: dict[Pattern, None] = {}
        for pattern in patterns:
            self._lingering.pop(pattern, None)
            if pattern not in self._known:
                new[pattern] = None
        if not new:
            return
        coming = _Coming()
        self._known.update(dict.fromkeys(new, coming))
        try:
            awaitable = self._provider.gained([*new])
        except Exception:
            logger.exception(
                "interest cannot be brought; it is asked for again", extra=about("interest_failed")
            )
            self._settle([*new], coming, new)
            return
        if awaitable is None:
            self._settle([*new], coming, None)
        else:
            self._runner.submit(partial(self._await, [*new], coming, awaitable))

    async def _await(
        self, patterns: Sequence[Pattern], coming: _Coming, awaitable: Awaitable[Unreached]
    ) -> None:
        missed: Unreached = patterns
        try:
            missed = await awaitable
        except Exception:
            logger.exception(
                "interest cannot be brought; it is asked for again", extra=about("interest_failed")
            )
        finally:
            self._settle(patterns, coming, missed)

    def _settle(self, patterns: Sequence[Pattern], coming: _Coming, missed: Unreached) -> None:
        for pattern in patterns:
            if self._known.get(pattern) is not coming:
                continue  # It was lost meanwhile.
            if missed is not None and pattern in missed:
                del self._known[pattern]
                self._lingering.pop(pattern, None)
                self._retry_at = self._clock().monotonic + LINGER_SECONDS
            else:
                self._known[pattern] = None
        coming.settled.set()
        self._changed.set()

    def _let_go(self, pattern: Pattern) -> None:
        if pattern in self._joined or pattern in self._asked or pattern not in self._known:
            return
        self._lingering.pop(pattern, None)
        self._lingering[pattern] = self._clock().monotonic + LINGER_SECONDS
        self._changed.set()
