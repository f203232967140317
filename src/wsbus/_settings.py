"""Checks of settings, made when they are given: a mistake must not wait for the first client."""

from __future__ import annotations

import inspect

from .core.errors import UsageError

__all__ = ["callable_setting", "hook_setting", "instance_setting", "text_setting"]


def callable_setting(setting: str, value: object, *, may_wait: bool = True) -> None:
    """Check that a setting is a function, or an object that can be called.

    Args:
        setting: Its name.
        value: The application's; None is a setting, too.
        may_wait: Whether it may be an ``async def``.

    Raises:
        UsageError: It is not, or it is a class, which was meant to be made first.
    """
    if value is None:
        return
    if isinstance(value, type):
        raise UsageError(f"{setting} is the class {value.__name__}; give an object made of it")
    if not callable(value):
        raise UsageError(f"{setting} is a function, not a {type(value).__name__}")
    if not may_wait and inspect.iscoroutinefunction(inspect.unwrap(value)):
        raise UsageError(f"{setting} is a def, which cannot wait: write no async def")


def instance_setting(setting: str, value: object, kind: type) -> None:
    """Check that a setting is of a class.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{setting} is made with {kind.__name__}(…), not {type(value).__name__}")


def text_setting(setting: str, value: object) -> None:
    """Check that a setting is a text that can be sent.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, str):
        raise UsageError(f"{setting} is a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{setting} holds lone surrogates, which UTF-8 cannot carry") from None


def hook_setting(setting: str, value: object, *arguments: str) -> None:
    """Check that a setting is a function that can be called with so many arguments.

    Args:
        setting: Its name.
        value: The application's.
        *arguments: What it is called with, for the error.

    Raises:
        UsageError: It is not.
    """
    callable_setting(setting, value)
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # Some built-in functions have none.
        return
    try:
        signature.bind(*arguments)
    except TypeError as exc:
        called = ", ".join(arguments)
        raise UsageError(f"{setting} calls its hooks with ({called}): {exc}") from None
