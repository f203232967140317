"""Checks of settings at the moment they are given, so that mistakes show before clients come."""

from __future__ import annotations

import inspect
from typing import Any

from .core.choices import shown
from .core.errors import UsageError

__all__ = [
    "callable_setting",
    "flag_setting",
    "function_setting",
    "instance_setting",
    "text_setting",
]


def callable_setting(
    setting: str, value: object, takes: str | None = None, *, may_wait: bool = True
) -> None:
    """Check that a setting is None, or a function; see :func:`function_setting`."""
    if value is not None:
        function_setting(setting, value, takes, may_wait=may_wait)


def function_setting(
    setting: str, value: object, takes: str | None = None, *, may_wait: bool = True
) -> None:
    """Check that a setting is a function, or an object that can be called.

    Args:
        setting: Its name.
        value: The application's function.
        takes: The arguments that it is called with, such as ``token, handshake``; None: they are
            not checked.
        may_wait: Whether it may be an ``async def``.

    Raises:
        UsageError: It is not a function, or it is a class, a generator, or a function that does
            not take these arguments.
    """
    if isinstance(value, type):
        raise UsageError(f"{setting} is the class {value.__name__}; give an object made of it")
    if not callable(value):
        raise UsageError(f"{setting} is a function, not {_kind_of(value)}")
    code: Any = inspect.unwrap(value)
    code = code if inspect.isroutine(code) else getattr(code, "__call__", code)  # noqa: B004
    if not may_wait and inspect.iscoroutinefunction(code):
        raise UsageError(f"{setting} is a def, which cannot wait: write no async def")
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise UsageError(f"{setting} is a generator (it has a yield); a def or async def is called")
    if takes is not None:
        _check_arguments(setting, value, takes)


def _check_arguments(setting: str, function: Any, takes: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions written in C have no signature.
        return
    try:
        signature.bind(*takes.split(", "))
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise UsageError(
            f"{setting} is called as {name}({takes}), and {name}{signature} does not take that"
        ) from None


def _kind_of(value: object) -> str:
    if inspect.iscoroutine(value):
        return "a coroutine: give the function without calling it"
    return "None" if value is None else f"a {type(value).__name__}"


def flag_setting(setting: str, value: object) -> None:
    """Check that a setting is True or False: a text such as ``"no"`` would count as True.

    Raises:
        UsageError: It is neither.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{setting} is True or False, not {shown(value)}")


def instance_setting(setting: str, value: object, kind: type) -> None:
    """Check that a setting is of a class.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{setting} is made with {kind.__name__}(…), not {shown(value)}")


def text_setting(setting: str, value: object) -> None:
    """Check that a setting is a text that UTF-8 can encode.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, str):
        raise UsageError(f"{setting} is a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{setting} holds lone surrogates, which UTF-8 cannot carry") from None
