"""Data of the application's, as the types it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from ..core.errors import UnexpectedData, UsageError

__all__ = ["decode", "decoder_of"]

T = TypeVar("T")
# msgspec quotes what was sent where it is none of an enum; it names fields and places in backticks.
_QUOTED: Final = re.compile(r""" (['"]).*\1(?= - at `|$)""", re.DOTALL)


def decoder_of(payload: type[T]) -> Callable[[bytes], T]:
    """Return what decodes JSON to a type.

    Raises:
        UsageError: msgspec knows no such type.
    """
    try:
        return msgspec.json.Decoder(payload).decode
    except (TypeError, NameError) as exc:
        raise UsageError(f"data cannot be decoded as {payload!r}: {exc}") from None


def decode(data: bytes, to: Callable[[bytes], T], what: str) -> T:
    """Decode; the error says where something does not fit, and repeats nothing of it.

    Raises:
        UnexpectedData: It does not fit.
    """
    try:
        return to(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        why = _QUOTED.sub("", str(exc))
        raise UnexpectedData(f"{what} is not as expected: {why}") from None
