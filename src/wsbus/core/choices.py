"""Settings that are one of a few words."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import TypeVar

from .errors import UsageError

__all__ = ["choice", "member_of"]

E = TypeVar("E", bound=StrEnum)


def member_of(enum: type[E], value: object, name: str) -> E:
    """Return the member of an enum that ``value`` is, or spells.

    Args:
        enum: The words.
        value: A member, or its text.
        name: What the setting is called, for the error.

    Raises:
        UsageError: It is none of them.
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
    shown = repr(value) if isinstance(value, str) else type(value).__name__
    raise UsageError(f"{name} must be one of {listed}, not {shown[:80]}")
