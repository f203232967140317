"""The bearer tokens of routes for other programs: several may be valid at once."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from typing import Final

from ..core.errors import UsageError

__all__ = ["Bearers", "values_of"]

_MIN_TOKEN: Final = 16


class Bearers:
    """The tokens that are valid at a route.

    Args:
        token: The token, or several, while one replaces another.

    Raises:
        UsageError: There is none, or one is too short, or has other characters than ASCII's.
    """

    def __init__(self, token: str | Collection[str]) -> None:
        self._tokens: Final = _tokens_of(token)

    def accept(self, headers: Sequence[tuple[str, str]]) -> bool:
        """Whether a request has a valid token, given its headers with names in lower case."""
        values = values_of(headers, "authorization")
        if len(values) != 1:
            return False
        scheme, _, token = values[0].strip().partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        # Each is compared, so that the time says nothing of which one was near.
        matches = [hmac.compare_digest(given, each) for each in self._tokens]
        return scheme.lower() == "bearer" and any(matches)


def values_of(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    """Return the values of a header."""
    return [value for each, value in headers if each == name]


def _tokens_of(given: object) -> list[bytes]:
    is_several = isinstance(given, Collection) and not isinstance(given, str | bytes)
    tokens = [*given] if is_several else [given]  # type: ignore[misc]  # it is a collection
    if not tokens or tokens == [None]:
        raise UsageError("the route needs a token: token=os.environ[…]")
    found = []
    for each in tokens:
        # The text is not repeated: it may be a secret.
        if not isinstance(each, str) or len(each) < _MIN_TOKEN:
            raise UsageError(
                f"a token has {_MIN_TOKEN} characters or more; secrets.token_urlsafe() makes one"
            )
        if not each.isascii() or not each.isprintable() or " " in each:
            raise UsageError("a token has printable characters of ASCII without spaces")
        found.append(each.encode())
    return found
