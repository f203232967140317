"""Dialects by subprotocol token."""

from __future__ import annotations

from copy import copy
from string import ascii_letters, digits
from typing import Final

from ..core.errors import UsageError
from .base import WireProtocol

__all__ = ["protocol", "register", "unjoined"]

# RFC 9110, section 5.6.2: what a token, and so a subprotocol, is made of.
_TOKEN: Final = frozenset(ascii_letters + digits + "!#$%&'*+-.^_`|~")

_registered: Final[dict[str, WireProtocol]] = {}
_unjoined: Final[dict[WireProtocol, WireProtocol]] = {}


def register(dialect: WireProtocol) -> None:
    """Make a dialect known by its name; once more changes nothing.

    Raises:
        UsageError: The name is no subprotocol token, or another dialect has it.
    """
    name = dialect.name
    if not name or not _TOKEN.issuperset(name):
        raise UsageError(f"{name!r} is not a subprotocol token")
    if _registered.setdefault(name, dialect) is not dialect:
        raise UsageError(f"another protocol is registered as {name!r}")


def protocol(which: str | WireProtocol) -> WireProtocol:
    """Return the dialect of this name; a dialect stands for itself.

    Raises:
        UsageError: No dialect of this name is registered.
    """
    if not isinstance(which, str):
        return which
    try:
        return _registered[which]
    except KeyError:
        known = ", ".join(sorted(_registered))
        raise UsageError(f"there is no protocol {which!r}; there are {known}") from None


def unjoined(dialect: WireProtocol) -> WireProtocol:
    """Return the same dialect, of the same name, that sends each message in a frame of its own.

    One for all endpoints, so that what they publish is encoded once.
    """
    if not dialect.joins:
        return dialect
    variant = _unjoined.get(dialect)
    if variant is None:
        variant = _unjoined[dialect] = copy(dialect)
        variant.joins = False
    return variant
