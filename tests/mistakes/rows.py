"""A mistake of somebody new to wsbus, and the words that must explain it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from wsbus import UsageError

__all__ = ["Row", "check", "table"]


@dataclass(frozen=True)
class Row:
    """One mistake."""

    what: str
    """What somebody does; the id of the test."""
    do: Callable[..., Any]
    words: tuple[str, ...]
    """All of them must stand in the explanation: the thing's name, the cause, the cure."""
    error: type[Exception] = UsageError


def table(rows: Iterable[Row]) -> pytest.MarkDecorator:
    """Parametrize a test by rows, whose ids are what is done."""
    found = list(rows)
    assert len({row.what for row in found}) == len(found)
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in found])


def check(row: Row, explanation: str) -> None:
    """Fail unless the explanation has all the words."""
    missing = [word for word in row.words if word not in explanation]
    assert not missing, f"{missing} missing in: {explanation}"
