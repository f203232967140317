"""Findings of ``wsbus doctor``: a line for each thing."""

from __future__ import annotations

from typing import Final

import click

from .escaping import printable

__all__ = ["CLOCK_SECONDS", "PATIENCE", "SLOW_SECONDS", "Findings"]

SLOW_SECONDS: Final = 0.02
"""A round trip to a broker that is slower costs more than it should within one data centre."""
CLOCK_SECONDS: Final = 1.0
"""A clock that differs by more spoils the expiry of tokens, and timestamps."""
PATIENCE: Final = 5.0
"""Seconds to wait for an answer."""

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


class Findings:
    """Prints each finding as a line, and remembers whether one was bad."""

    def __init__(self) -> None:
        self.has_failed: bool = False
        """Whether a verdict was ``fail``."""

    def tell(self, verdict: str, what: str, text: str, cure: str = "") -> None:
        """Print a finding.

        Args:
            verdict: ``ok``, ``warn`` or ``fail``.
            what: The thing that was looked at.
            text: What was found.
            cure: What to do about it.
        """
        self.has_failed = self.has_failed or verdict == "fail"
        line = f"{what.removesuffix(':')}: {text}" + (f"; {cure}" if cure else "")
        click.echo(click.style(f"{verdict:<5}", fg=_COLOURS[verdict]) + printable(line))
