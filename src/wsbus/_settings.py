"""Checks of settings, made when they are given: a mistake must not wait for the first client."""

from __future__ import annotations

import inspect

from .core.errors import UsageError

__all__ = ["callable_setting", "instance_setting"]


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
