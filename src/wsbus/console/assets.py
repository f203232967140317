"""The console's page: its files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..web.pages import AssetResponse, PageFiles, redirect

__all__ = ["answer", "redirect"]


def answer(name: str, endpoint: str | None = None) -> AssetResponse:
    """Return the file of this name; see :meth:`.PageFiles.answer`."""
    return _files().answer(name, endpoint)


@cache
def _files() -> PageFiles:
    return PageFiles(Path(__file__).with_name("page"))
