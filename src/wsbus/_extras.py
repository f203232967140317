"""What to install, where an extra is missing."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(module: str, extra: str, cause: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says what to install.

    Args:
        module: What was imported.
        extra: The extra that it needs.
        cause: The import that failed. If it is a part of wsbus, it is returned as it is.
    """
    name = cause.name or ""
    if name.split(".")[0] == "wsbus":
        return cause
    return ModuleNotFoundError(
        f"{module} needs {name}, which is not installed: pip install 'wsbus[{extra}]'", name=name
    )
