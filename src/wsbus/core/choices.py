"""Checks of settings that are one of a few words, or numbers."""

from __future__ import annotations

import math
from collections.abc import Collection
from enum import StrEnum
from typing import Final, TypeVar

from .errors import UsageError

__all__ = ["choice", "is_number", "member_of", "shown"]

E = TypeVar("E", bound=StrEnum)


def member_of(enum: type[E], value: object, name: str) -> E:
    """Return the member of an enum for ``value``.

    Args:
        enum: The enum.
        value: A member, or its text.
        name: The setting's name, for the error.

    Raises:
        UsageError: ``value`` is neither.
    """
    if isinstance(value, enum):
        return value
    return enum(choice([member.value for member in enum], value, name))


def choice(words: Collection[str], value: object, name: str) -> str:
    """Return ``value`` if it is one of the words.

    Raises:
        UsageError: It is not.
    """
    if isinstance(value, str) and value in words:
        return value
    listed = ", ".join(f"`{word}`" for word in words)
    raise UsageError(f"{name} must be one of {listed}, not {shown(value)}")


def is_number(value: object) -> bool:
    """Tell whether a setting is a finite number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: object) -> str:
    """Return a wrong setting for an error: a short text; for an object, its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is not None and not isinstance(value, str | int | float):
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN: Final = 80
"""Characters of a setting that an error repeats."""
