"""Tells PyInstaller what a frozen application needs of wsbus: found by its entry point."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """Return the folder that holds ``hook-wsbus.py``."""
    return [str(Path(__file__).parent)]
