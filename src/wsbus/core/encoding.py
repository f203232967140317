"""Encoding data of the application as JSON text that is safe in every frame."""

from __future__ import annotations

import math
import re
import sys
from collections import UserString, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
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

__all__ = ["EncHook", "encode_data", "hook_of", "not_finite", "simplified"]

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
    UserString,
)
_AS_LIST: Final = (Sequence, AbstractSet, ValuesView, deque)
_TEXTS: Final = (str, bytes, bytearray, memoryview)
_MAX_NAME: Final = 32
"""The longest key that an error shows: short identifiers belong to a format, and are not data."""
_CURE: Final = "convert it first, or say how with Bus(enc_hook=…)"
_FAILED: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


class _NoForm(TypeError):
    """JSON has no form for an object; the text names its type, and the solution."""


def encode_data(data: object, enc_hook: EncHook | None = None) -> bytes:
    """Return ``data`` as compact JSON, UTF-8, at most 64 levels deep.

    Besides what msgspec encodes, it takes pydantic models, numpy numbers and arrays, paths, IP
    addresses, mappings and sequences of any class, and subclasses of the built-in types.
    ``enc_hook`` is asked before these.

    Cost: one encoding; a second look at the data only if the text holds a ``null``.

    Raises:
        UsageError: It holds something JSON has no form for: an object of unknown type, a number
            that is not finite, a lone surrogate. The text names place and type, and no data.
    """
    try:
        text = _encode(data) if enc_hook is None else _encode_with(data, enc_hook)
        # Only a msgspec.Raw, which is copied unchanged, can hold line ends or invalid UTF-8. A
        # search in a str takes a fifth of the time that it takes in bytes (3.11). To an event
        # stream a carriage return alone is a line end, too.
        line = text.decode()
        if "\n" in line or "\r" in line:
            text = msgspec.json.format(text, indent=-1)
        # msgspec writes numbers that are not finite as null, like JavaScript.
        if "null" in line and (place := not_finite(_to_builtins(data, enc_hook))) is not None:
            raise UsageError(
                f"the data cannot be sent as JSON: data{place} is a number that is not finite "
                "(NaN or infinity), which JSON does not have; send None instead"
            )
    except _FAILED as exc:
        place = _place(data, enc_hook)
        raise UsageError(f"the data cannot be sent as JSON: {place}: {_reason(exc)}") from exc
    if len(line) > 2 * MAX_DEPTH and too_deep(line, MAX_DEPTH):
        raise UsageError(f"the data is nested deeper than {MAX_DEPTH} levels")
    return text


def _encode_with(data: object, enc_hook: EncHook) -> bytes:
    return msgspec.json.encode(data, enc_hook=hook_of(enc_hook))


def hook_of(enc_hook: EncHook) -> EncHook:
    """Return a hook that asks another one first."""

    def hook(value: object) -> object:
        try:
            return enc_hook(value)
        # By msgspec's rule a hook raises so for types that it does not know.
        except (NotImplementedError, TypeError):
            return simplified(value, hook)

    return hook


# --- what msgspec does not know -------------------------------------------------------------------


def simplified(value: Any, hook: EncHook | None = None) -> object:
    """Turn what is common, and unknown to msgspec, into what it knows.

    The libraries are not imported: their objects say themselves how to become plain ones.

    Args:
        value: Whatever msgspec does not encode.
        hook: What is asked for an object inside it that its library cannot simplify.
    """
    if isinstance(value, type):
        raise _no_form(f"the class {_name(value)}")
    if value is None or isinstance(value, bool | tuple | frozenset):  # As values msgspec does.
        raise _no_form(f"a key of type {_name(type(value))}")
    if _is_model(value):
        return _dumped(value, hook or simplified)
    if _is_of_numpy(value):
        return _from_numpy(value)
    if isinstance(value, _AS_TEXT) or hasattr(type(value), "unicode_string"):  # pydantic's URLs.
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    plain = _without_subclass(value)
    if plain is not None:
        return plain
    if isinstance(value, _AS_LIST):
        return list(value)
    if isinstance(value, Iterator):
        raise _no_form(_name(type(value)), "it can be read once only; send list(…) of it")
    raise _no_form(_name(type(value)))


def _no_form(what: str, cure: str = _CURE) -> _NoForm:
    return _NoForm(f"{what} has no form in JSON; {cure}")


def _name(kind: type) -> str:
    name = kind.__qualname__.rpartition("<locals>.")[2]
    return name if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{name}"


def _is_model(value: Any) -> bool:
    return hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump")


def _dumped(model: Any, hook: EncHook) -> object:
    try:
        return model.model_dump(mode="json", fallback=hook)
    except _NoForm:
        raise
    except TypeError:  # A pydantic before 2.10, or a method of the application's own.
        return model.model_dump(mode="json")


def _without_subclass(value: Any) -> object:
    """Return the value of a subclass of a simple type as that type; None: it is of none."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(value)
    # No clock is read here, so the module of the clock is not imported either.
    base: Any = next((kind for kind in type(value).__mro__ if kind.__module__ == "datetime"), None)
    if base is not None and base.__name__ == "timedelta":
        return base(value.days, value.seconds, value.microseconds)
    is_moment = base is not None and hasattr(base, "isoformat")
    if is_moment and value == value:  # noqa: PLR0124  # Not so for pandas.NaT.
        return value.isoformat()
    return None


def _is_of_numpy(value: object) -> bool:
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def _from_numpy(value: Any) -> object:
    kind, unit = value.dtype.kind, value.dtype.str
    if kind == "f":
        return value.astype("f8").tolist()  # Python has no longer ones.
    if kind in "mM":
        if (value != value).any():  # noqa: PLR0124  # True for those only
            raise _no_form(f"{_numpy_name(value)} that is no time (NaT)", "send None instead")
        # Of a finer resolution than Python's, a date becomes a number without a meaning.
        if kind == "M":
            return value.astype(str).tolist()
        if _HAS_TIMEDELTA.search(unit):
            return value.tolist()
        if unit.endswith("[ns]"):
            return _durations(value.astype("i8").tolist())
    elif kind in "biuSUTOV":
        return value.tolist()
    raise _no_form(_numpy_name(value))


_HAS_TIMEDELTA: Final = re.compile(r"\[\d*(W|D|h|m|s|ms|us)\]$")
"""The units of numpy in which a duration is one of Python's, too."""


def _numpy_name(value: Any) -> str:
    name = _name(type(value))
    return f"{name} of {value.dtype}" if hasattr(type(value), "__len__") else name


def _durations(ns: Any) -> object:
    """Return nanoseconds, or nested lists of them, as ISO 8601 has durations."""
    if isinstance(ns, list):
        return [_durations(each) for each in ns]
    seconds, rest = divmod(abs(ns), 10**9)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{'-' if ns < 0 else ''}PT{seconds}{fraction}S"


_encode: Final = msgspec.json.Encoder(enc_hook=simplified).encode


# --- what is wrong, and where ---------------------------------------------------------------------


def _reason(exc: Exception) -> str:
    """Return what is wrong; msgspec's text is repeated only if it contains no data."""
    text = str(exc)
    if isinstance(exc, _NoForm):
        return text
    if isinstance(exc, RecursionError):
        return "it is nested too deeply, or holds itself"
    if isinstance(exc, UnicodeError):
        return "a text holds a lone surrogate, or a msgspec.Raw is not UTF-8"
    if text.startswith(("Only dicts with", "Encoding objects of type")):
        return f"{text}; {_CURE}"
    return f"{type(exc).__name__}; {_CURE}"


def _place(data: object, enc_hook: EncHook | None) -> str:
    """Return the place of the first value that cannot be encoded: ``data.orders[0].side``."""
    place = "data"
    for _ in range(MAX_DEPTH):
        for step, value in _children(data):
            try:
                _encode(value) if enc_hook is None else _encode_with(value, enc_hook)
            except _FAILED:
                data, place = value, place + step
                break
        else:
            break
    return place


def _children(data: Any) -> Iterator[tuple[str, object]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield _step(key), value
    elif isinstance(data, Sequence | deque) and not isinstance(data, _TEXTS):
        for i, value in enumerate(data):
            yield f"[{i}]", value
    elif not isinstance(data, type):
        for name in _field_names(data):
            yield f".{name}", getattr(data, name, None)


def _step(key: object) -> str:
    """Return one key as part of a place."""
    if isinstance(key, str) and key.isidentifier() and len(key) <= _MAX_NAME:
        return f".{key}"
    return "[...]"


def _field_names(data: Any) -> Iterable[str]:
    if isinstance(data, msgspec.Struct):
        return data.__struct_fields__
    if is_dataclass(data):
        return [each.name for each in fields(data)]
    if _is_model(data):
        return list(type(data).model_fields)
    return [each.name for each in getattr(type(data), "__attrs_attrs__", ())]


def _to_builtins(data: object, enc_hook: EncHook | None) -> object:
    known = simplified if enc_hook is None else hook_of(enc_hook)

    def hook(value: object) -> object:
        return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else known(value)

    return msgspec.to_builtins(data, enc_hook=hook)


def not_finite(data: Any) -> str | None:
    """Return the place of a number that is not finite; None: there is none."""
    if isinstance(data, float):
        return None if math.isfinite(data) else ""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if (place := not_finite(value)) is not None:
                return _step(key) + place
    elif isinstance(data, list | tuple | set | frozenset):
        for i, value in enumerate(data):
            if (place := not_finite(value)) is not None:
                return f"[{i}]{place}"
    return None
