"""Hooks about patterns that get their first subscriber in this process, or lose their last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Final

from .._application import Overdue, name_of
from .._log import about
from ..core.patterns import Pattern
from .hooks import HookLists
from .interest import InterestProvider, Unreached
from .runner import Runner

__all__ = ["HOOK_SECONDS", "Occupancy"]

HOOK_SECONDS: Final = 25.0
"""Time limit of one call."""


class Occupancy:
    """Calls the hooks, in the order of what happened, and passes on what it hears.

    Args:
        hooks: Those of the bus.
        runner: Awaits the hooks.
        context: Each call gets a copy.
        provider: Brings what is wanted from elsewhere; None: there is nothing elsewhere.
    """

    def __init__(
        self,
        hooks: HookLists,
        runner: Runner,
        context: Context,
        provider: InterestProvider | None = None,
    ) -> None:
        self._hooks: Final = hooks
        self._runner: Final = runner
        self._context: Final = context
        self._provider: Final = provider
        self._due: Final[list[tuple[Callable[[str], object], str]]] = []
        self._is_calling = False

    def gained(self, patterns: Sequence[Pattern]) -> Awaitable[Unreached] | None:
        """Take patterns that are wanted from now on; see :meth:`.InterestProvider.gained`."""
        self._call(self._hooks.occupied, patterns)
        return None if self._provider is None else self._provider.gained(patterns)

    def lost(self, patterns: Sequence[Pattern]) -> None:
        """Take patterns that are not wanted any more."""
        self._call(self._hooks.vacated, patterns)
        if self._provider is not None:
            self._provider.lost(patterns)

    def _call(self, hooks: Sequence[Callable[[str], object]], patterns: Sequence[Pattern]) -> None:
        self._due.extend((hook, pattern.text) for pattern in patterns for hook in hooks)
        if self._due and not self._is_calling:
            self._is_calling = True
            self._runner.submit(self._make_calls)

    async def _make_calls(self) -> None:
        try:
            while self._due:
                await self._make(*self._due.pop(0))
        finally:
            self._is_calling = False

    async def _make(self, hook: Callable[[str], object], pattern: str) -> None:
        log, name = self._hooks.log, name_of(hook)
        try:
            await self._runner.ask(HOOK_SECONDS, self._context, partial(hook, pattern))
        except Overdue:
            log.warning(
                "the hook %s was cancelled after %g s",
                name,
                HOOK_SECONDS,
                of=name,
                extra=about("hook_overdue", function=name, seconds=HOOK_SECONDS),
            )
        except Exception:
            log.exception(
                "the hook %s failed", name, of=name, extra=about("hook_failed", function=name)
            )
