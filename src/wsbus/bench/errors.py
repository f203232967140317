"""What can go wrong while measuring."""

from __future__ import annotations

__all__ = ["BenchError"]


class BenchError(Exception):
    """A measurement that could not be made; the text says why, in a sentence."""
