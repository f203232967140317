"""Data of the application as JSON text that is safe to splice into every frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from .errors import UsageError
from .limits import MAX_DEPTH, too_deep

__all__ = ["EncHook", "encode_data"]

EncHook: TypeAlias = Callable[[Any], Any]
"""Turns an object that msgspec cannot encode into one that it can."""

_encode: Final = msgspec.json.Encoder().encode


def encode_data(data: object, enc_hook: EncHook | None = None) -> bytes:
    """Return ``data`` as compact JSON, UTF-8, at most 64 levels deep.

    Cost: one encoding; a second look at the data only if the text holds a ``null``.

    Raises:
        UsageError: It holds something JSON has no form for: an object of unknown type, a number
            that is not finite, a lone surrogate.
    """
    try:
        text = _encode(data) if enc_hook is None else msgspec.json.encode(data, enc_hook=enc_hook)
        # Only a msgspec.Raw, which is taken as it is, can hold newlines or what is not UTF-8. To
        # look for something in a str takes a fifth of the time that it takes in bytes (3.11).
        line = text.decode()
        if "\n" in line:
            text = msgspec.json.format(text, indent=-1)
        # msgspec writes numbers that are not finite as null, like JavaScript.
        if "null" in line and not _is_finite(_to_builtins(data, enc_hook)):
            raise UsageError("the data holds a number that is not finite; JSON has none")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        # The cause is chained for the log; its type says enough here, where data must not show.
        raise UsageError(f"the data cannot be sent as JSON: {type(exc).__name__}") from exc
    if too_deep(line, MAX_DEPTH):
        raise UsageError(f"the data is nested deeper than {MAX_DEPTH} levels")
    return text


def _to_builtins(data: object, enc_hook: EncHook | None) -> object:
    def hook(value: object) -> object:
        if isinstance(value, msgspec.Raw):
            return msgspec.json.decode(value)
        assert enc_hook is not None  # Or encoding would have failed.
        return enc_hook(value)

    return msgspec.to_builtins(data, enc_hook=hook)


def _is_finite(data: Any) -> bool:
    if isinstance(data, float):
        return math.isfinite(data)
    if isinstance(data, Mapping):
        return all(_is_finite(value) for value in data.values())
    if isinstance(data, list | tuple | set | frozenset):
        return all(_is_finite(value) for value in data)
    return True
