"""A client's token: where it comes from, and when the next one is due."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from ..errors import Unauthenticated
from .actions import FetchToken

__all__ = ["Token", "TokenUse"]

_REFRESH_SECONDS: Final = 30.0


class TokenUse(msgspec.Struct, frozen=True, kw_only=True):
    """Where a token comes from, and how it is shown."""

    fixed: str | None = None
    """The token that is always shown."""
    is_fetched: bool = False
    """The application is asked for one before every connection, and before it expires."""
    in_handshake: bool = False
    """It is shown when the connection is asked for, not in a message."""


class Token:
    """The token of one client, over its connections; times are monotonic seconds.

    It is refreshed 30 s before it expires, or after half its life if that is later.
    """

    def __init__(self, use: TokenUse) -> None:
        self.use: Final = use
        self.text: str | None = use.fixed
        """None: no token."""
        self.refresh_at: float = math.inf
        """When a newer one should be fetched."""
        self.sent_ref: str | None = None
        """Of the message that shows it and is not answered yet."""
        self._expires_at = math.inf
        self._generation = 0

    def reset(self) -> None:
        """Forget the expiry and ignore any fetch in flight: the connection is lost."""
        self.sent_ref = None
        self.refresh_at = self._expires_at = math.inf
        self._generation += 1

    def fetch(self) -> FetchToken:
        """Ask for a newer one; an answer to an older question is late from now on."""
        self.refresh_at = math.inf
        self._generation += 1
        return FetchToken(self._generation)

    def is_late(self, generation: int) -> bool:
        """Tell whether an answer is to a question that was asked before the last one."""
        return generation != self._generation

    def admitted(self, lifetime: float | None, now: float) -> None:
        """The server takes it, for so many seconds."""
        self.sent_ref = None
        self.refresh_at = self._expires_at = math.inf
        if lifetime is not None:
            self._expires_at = now + lifetime
            if self.use.is_fetched:
                self.refresh_at = now + max(lifetime / 2, lifetime - _REFRESH_SECONDS)

    def postpone(self, now: float) -> None:
        """It was not refreshed; the old one is in force. Try again after half of what is left.

        Halves of halves come to an end: with a fifth of a second left it is not tried again.
        """
        self.sent_ref = None
        left = self._expires_at - now
        if self.use.is_fetched and math.inf > left > 0.2:
            self.refresh_at = now + left / 2

    def wanted(self) -> Unauthenticated:
        """Return what to say to the application if the server does not know who this is."""
        if self.text is None:
            return Unauthenticated("the server wants a token, and none was given")
        return Unauthenticated("the server did not take the token from the handshake")
