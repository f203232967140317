"""Dialects by subprotocol token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from string import ascii_letters, digits
from typing import Final

from ..core.choices import shown
from ..core.errors import UsageError
from ..core.protocol import WireProtocol

__all__ = ["protocol", "protocols_of", "register", "single", "spoken"]

# RFC 9110, section 5.6.2: the characters of a token, and so of a subprotocol.
_TOKEN: Final = frozenset(ascii_letters + digits + "!#$%&'*+-.^_`|~")

_registered: Final[dict[str, WireProtocol]] = {}
_variants: Final[dict[tuple[WireProtocol, str], WireProtocol]] = {}
_SINGLE: Final = ".single"


def register(dialect: WireProtocol) -> None:
    """Register a dialect under its name; a second time changes nothing.

    Raises:
        UsageError: The name is not a subprotocol token, or another dialect has it.
    """
    name = _checked(dialect).name
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
        return _checked(which)
    try:
        return _registered[which]
    except KeyError:
        known = ", ".join(sorted(_registered))
        raise UsageError(f"there is no protocol {which!r}; there are {known}") from None


def protocols_of(which: Sequence[str | WireProtocol]) -> tuple[WireProtocol, ...]:
    """Return the dialects of an endpoint.

    Raises:
        UsageError: There is none, one of them is not a dialect, or a name is not registered.
    """
    given: object = which
    if isinstance(given, str) or not isinstance(given, Iterable) or not given:
        raise UsageError("an endpoint speaks at least one protocol: protocols=['wsbus.v1']")
    found = {(speaks := protocol(each)).name: speaks for each in which}
    if len(found) < len(which):
        names = ", ".join(repr(name) for name in found)
        raise UsageError(f"an endpoint has two protocols of one name, among {names}")
    return tuple(found.values())


def _checked(dialect: WireProtocol) -> WireProtocol:
    if isinstance(dialect, type):
        raise UsageError(f"a protocol is an object: write {dialect.__name__}(), with parentheses")
    if not isinstance(getattr(dialect, "name", None), str) or not hasattr(dialect, "decode"):
        raise UsageError(
            "a protocol is the name of one, or an object of a class that derives from "
            f"WireProtocol, not {shown(dialect)}"
        )
    return dialect


def single(dialect: WireProtocol) -> WireProtocol:
    """Return the dialect of ``NAME.single``: the same, with each message in a frame of its own."""
    return _without_joins(dialect, f"{dialect.name}{_SINGLE}")


def spoken(dialects: Sequence[WireProtocol], *, joins: bool) -> tuple[WireProtocol, ...]:
    """Return the dialects that an endpoint speaks, given those in its settings.

    A client chooses by the subprotocol that it offers whether messages share frames: for each
    dialect that joins messages there is a :func:`single` one, too, after all others.

    Args:
        dialects: The dialects in the settings.
        joins: Whether messages may share a frame; if not, a dialect keeps its name.
    """
    names = {dialect.name for dialect in dialects}
    more = [single(dialect) for dialect in dialects if dialect.joins]
    given = dialects if joins else [_without_joins(each, each.name) for each in dialects]
    return (*given, *(dialect for dialect in more if dialect.name not in names))


def _without_joins(dialect: WireProtocol, name: str) -> WireProtocol:
    """Return a variant, the same for all endpoints, so that a publication is encoded once."""
    if not dialect.joins:
        return dialect
    variant = _variants.get((dialect, name))
    if variant is None:
        variant = _variants[dialect, name] = copy(dialect)
        variant.name, variant.joins = name, False
    return variant
