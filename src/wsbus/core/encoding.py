"""Data of the application as JSON text that is safe to splice into every frame."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import Any, Final, TypeAlias

import msgspec

from .errors import UsageError
from .limits import MAX_DEPTH, too_deep

__all__ = ["EncHook", "encode_data"]

EncHook: TypeAlias = Callable[[Any], Any]
"""Turns an object that msgspec cannot encode into one that it can, or raises."""

_AS_TEXT: Final = (
    PurePath,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
_HINT: Final = "convert it first, or give the bus an enc_hook for it: Bus(enc_hook=…)"


class _NoForm(TypeError):
    """JSON has no form for an object; the text names its type, and the way out."""


def encode_data(data: object, enc_hook: EncHook | None = None) -> bytes:
    """Return ``data`` as compact JSON, UTF-8, at most 64 levels deep.

    Besides what msgspec encodes, it takes pydantic models, numpy numbers and arrays, paths, IP
    addresses and deques. ``enc_hook`` is asked before these.

    Cost: one encoding; a second look at the data only if the text holds a ``null``.

    Raises:
        UsageError: It holds something JSON has no form for: an object of unknown type, a number
            that is not finite, a lone surrogate. The text names types and no data.
    """
    try:
        text = _encode(data) if enc_hook is None else _encode_with(data, enc_hook)
        # Only a msgspec.Raw, which is taken as it is, can hold newlines or what is not UTF-8. To
        # look for something in a str takes a fifth of the time that it takes in bytes (3.11).
        line = text.decode()
        if "\n" in line:
            text = msgspec.json.format(text, indent=-1)
        # msgspec writes numbers that are not finite as null, like JavaScript.
        if "null" in line and not _is_finite(_to_builtins(data, enc_hook)):
            raise UsageError("the data holds a number that is not finite; JSON has none")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        place = _place(data, enc_hook)
        raise UsageError(f"the data cannot be sent as JSON: {_reason(exc)} - at {place}") from exc
    if len(line) > 2 * MAX_DEPTH and too_deep(line, MAX_DEPTH):
        raise UsageError(f"the data is nested deeper than {MAX_DEPTH} levels")
    return text


def _encode_with(data: object, enc_hook: EncHook) -> bytes:
    return msgspec.json.encode(data, enc_hook=_hook_of(enc_hook))


def _hook_of(enc_hook: EncHook) -> EncHook:
    def hook(value: object) -> object:
        try:
            return enc_hook(value)
        except (NotImplementedError, TypeError):  # It does not know the type, either.
            return _simplified(value)

    return hook


def _simplified(value: Any) -> object:
    """Turn what is common, and unknown to msgspec, into what it knows.

    The libraries are not imported: their objects say themselves how to become plain ones.
    """
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, _AS_TEXT):
        return str(value)
    module = type(value).__module__.partition(".")[0]
    if callable(getattr(value, "model_dump", None)) and hasattr(value, "model_fields_set"):
        return value.model_dump(mode="json")
    if module == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if type(plain) is not type(value):
            # Dates of a resolution that Python has not become a number without a meaning.
            return plain if value.dtype.kind not in "mM" else value.astype(str).tolist()
    if value is None or isinstance(value, tuple | frozenset):  # As values they are no problem.
        raise _NoForm(f"keys of type {type(value).__qualname__} are not supported; {_HINT}")
    raise _NoForm(f"objects of type {type(value).__qualname__} are not supported; {_HINT}")


_encode: Final = msgspec.json.Encoder(enc_hook=_simplified).encode


def _reason(exc: Exception) -> str:
    """Say what is wrong; of msgspec's texts only those are repeated that name no data."""
    text = str(exc)
    if isinstance(exc, _NoForm):
        return text
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or holds itself"
    if isinstance(exc, UnicodeError):
        return "a text holds a lone surrogate, or a msgspec.Raw is not UTF-8"
    if text.startswith(("Only dicts with", "Encoding objects of type")):
        return f"{text}; {_HINT}"
    return f"{type(exc).__name__}; {_HINT}"


def _place(data: object, enc_hook: EncHook | None) -> str:
    """Return where the first value stands that cannot be encoded, as msgspec writes it: ``$.a[0]``.

    Keys are shown if they are short identifiers, as they are part of a format then.
    """
    place = "$"
    for _ in range(MAX_DEPTH):
        for step, value in _children(data):
            try:
                _encode(value) if enc_hook is None else _encode_with(value, enc_hook)
            except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
                data, place = value, place + step
                break
        else:
            break
    return place


def _children(data: object) -> Iterator[tuple[str, object]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            is_name = isinstance(key, str) and key.isidentifier() and len(key) <= _MAX_NAME
            yield (f".{key}" if is_name else "[...]"), value
    elif isinstance(data, list | tuple | deque):
        for i, value in enumerate(data):
            yield f"[{i}]", value
    elif isinstance(data, msgspec.Struct):
        for name in data.__struct_fields__:
            yield f".{name}", getattr(data, name)
    elif is_dataclass(data):
        for each in fields(data):
            yield f".{each.name}", getattr(data, each.name, None)


_MAX_NAME: Final = 32


def _to_builtins(data: object, enc_hook: EncHook | None) -> object:
    known = _simplified if enc_hook is None else _hook_of(enc_hook)

    def hook(value: object) -> object:
        return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else known(value)

    return msgspec.to_builtins(data, enc_hook=hook)


def _is_finite(data: Any) -> bool:
    if isinstance(data, float):
        return math.isfinite(data)
    if isinstance(data, Mapping):
        return all(_is_finite(value) for value in data.values())
    if isinstance(data, list | tuple | set | frozenset):
        return all(_is_finite(value) for value in data)
    return True
