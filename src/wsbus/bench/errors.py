"""Errors of measurements."""

from __future__ import annotations

__all__ = ["BenchError", "NotInstalled"]


class BenchError(Exception):
    """A measurement cannot be made; the text says why, in a sentence."""


class NotInstalled(BenchError):
    """A server needs a package that is missing; the text says what to install."""
