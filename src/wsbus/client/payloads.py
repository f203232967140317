"""Decoding data as the types that the application asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar, cast

import msgspec

from .._pydantic import Checked, mentions_pydantic
from ..core.errors import CommandError, UnexpectedData, UsageError
from ..core.packing import InvalidPacked, text_of, unpack

__all__ = ["decode", "decoder_of", "unpacker_of"]

T = TypeVar("T")
# msgspec quotes values that are not in an enum; it puts fields and places in backticks.
_QUOTED: Final = re.compile(r""" (['"]).*\1(?= - at `|$)""", re.DOTALL)

_NULL: Final = b"null"
"""Stands for data that a message does not have; as MessagePack it is none."""
_NIL: Final = b"\xc0"
_ANY_QUOTED: Final = re.compile(r"'[^']*'")


def decoder_of(payload: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes JSON as a type.

    Raises:
        UsageError: Neither msgspec nor pydantic can decode it.
    """
    if mentions_pydantic(payload):
        return Checked(f"the type {payload!r}", payload, "$")
    try:
        return msgspec.json.Decoder(payload).decode
    except (TypeError, NameError) as exc:
        raise UsageError(f"data cannot be decoded as {payload!r}: {exc}") from None


def _raw(packed: bytes) -> msgspec.Raw:
    return msgspec.Raw(text_of(unpack(_NIL if packed == _NULL else packed)))


def unpacker_of(payload: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes MessagePack as a type; pydantic and ``Raw`` get it as JSON.

    Raises:
        UsageError: Neither msgspec nor pydantic can decode it.
    """
    if mentions_pydantic(payload):
        check = decoder_of(payload)
        return lambda data: check(text_of(unpack(data)))
    if payload is msgspec.Raw:  # JSON in every dialect.
        return cast("Callable[[bytes], T]", _raw)
    try:
        unpack_as = msgspec.msgpack.Decoder(payload).decode
    except (TypeError, NameError) as exc:
        raise UsageError(f"data cannot be decoded as {payload!r}: {exc}") from None
    return lambda data: unpack_as(_NIL if data == _NULL else data)


def decode(data: bytes, to: Callable[[bytes], T], what: str) -> T:
    """Decode; an error says what is wrong and where, and repeats nothing of the data.

    Raises:
        UnexpectedData: The data do not have the type.
    """
    try:
        return to(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, InvalidPacked) as exc:
        why = _QUOTED.sub("", str(exc))
        raise UnexpectedData(f"{what} is not as expected: {why}") from None
    except CommandError as exc:  # From pydantic, which may quote the data anywhere.
        why = _ANY_QUOTED.sub("…", exc.message)
        raise UnexpectedData(f"{what} is not as expected: {why}") from None
