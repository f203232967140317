"""A client's token: its source, and the time of its refresh."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from ..errors import Unauthenticated
from .actions import FetchToken

__all__ = ["Token", "TokenUse"]

_REFRESH_SECONDS: Final = 30.0


class TokenUse(msgspec.Struct, frozen=True, kw_only=True):
    """The source of a token, and the way it is sent."""

    fixed: str | None = None
    """The token, if it never changes."""
    is_fetched: bool = False
    """Whether the application is asked for one before every connection, and before it expires."""
    in_handshake: bool = False
    """Whether it is sent in the handshake, not in a message."""


class Token:
    """The token of one client, over its connections; times are monotonic seconds.

    It is refreshed 30 s before it expires, or after half its life if that is later.
    """

    def __init__(self, use: TokenUse) -> None:
        self.use: Final = use
        self.text: str | None = use.fixed
        """The present token; None: no token."""
        self.refresh_at: float = math.inf
        """When to fetch a newer one."""
        self.sent_ref: str | None = None
        """The ref of the unanswered message that sent it."""
        self._expires_at = math.inf
        self._generation = 0

    def reset(self) -> None:
        """Forget the expiry and ignore any fetch in flight: the connection is lost."""
        self.sent_ref = None
        self.refresh_at = self._expires_at = math.inf
        self._generation += 1

    def fetch(self) -> FetchToken:
        """Ask for a newer one; from now on answers to older questions are late."""
        self.refresh_at = math.inf
        self._generation += 1
        return FetchToken(self._generation)

    def is_late(self, generation: int) -> bool:
        """Tell whether an answer is to a question that was asked before the last one."""
        return generation != self._generation

    def admitted(self, lifetime: float | None, now: float) -> None:
        """Note that the server has accepted it, for ``lifetime`` seconds."""
        self.sent_ref = None
        self.refresh_at = self._expires_at = math.inf
        if lifetime is not None:
            self._expires_at = now + lifetime
            if self.use.is_fetched:
                self.refresh_at = now + max(lifetime / 2, lifetime - _REFRESH_SECONDS)

    def postpone(self, now: float) -> None:
        """Note that the refresh failed; try again after half of the remaining time.

        With less than a fifth of a second left it is not tried again.
        """
        self.sent_ref = None
        left = self._expires_at - now
        if self.use.is_fetched and math.inf > left > 0.2:
            self.refresh_at = now + left / 2

    def wanted(self) -> Unauthenticated:
        """Return the error for an application that the server has not accepted."""
        if self.text is None:
            return Unauthenticated("the server wants a token, and none was given")
        return Unauthenticated("the server did not take the token from the handshake")
