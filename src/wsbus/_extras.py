"""The error for a missing extra."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(module: str, extra: str, cause: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says what to install.

    Args:
        module: The module that was imported.
        extra: The extra that it needs.
        cause: The import that failed. If that is a part of wsbus, ``cause`` itself is returned.
    """
    name = cause.name or ""
    if name.split(".")[0] == "wsbus":
        return cause
    return ModuleNotFoundError(
        f"{module} needs {name}, which is not installed: pip install 'wsbus[{extra}]'", name=name
    )
