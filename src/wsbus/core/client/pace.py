"""The rates at which a client may send: the server's token buckets, with a little margin; pure.

A server announces its rates in ``connected`` (``wsbus.v1``). If it does not, the client learns from
refusals with ``RATE_LIMITED``: it halves its rate after each, and raises it a little after each
answer. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

from ..messages import Greeting

__all__ = ["NAMES_PER_MESSAGE", "Pace"]

NAMES_PER_MESSAGE: Final = 8
"""A request costs one message for each so many names begun (protocol reference, "Limits")."""

_UNTOLD_NAMES: Final = 128
_RATE_SHARE: Final = 0.97
_BURST_SHARE: Final = 0.8
"""The network may delay early messages, so that they arrive together with later ones."""
_FIRST_GUESS: Final = 5.0
"""Messages per second, after the first refusal of a server that announced no rate."""
_SLOWEST: Final = 0.2
_SPEED_UP: Final = 0.5
_FASTEST_GUESS: Final = 1000.0
_ROUNDING: Final = 1e-6


class _Rate:
    """One token bucket."""

    __slots__ = ("_burst", "_last", "_most", "_quiet_until", "_rate", "tokens")

    def __init__(self, told: float | None = None, now: float = -math.inf) -> None:
        self._most = math.inf if told is None else told * _RATE_SHARE
        self._rate = self._most
        self._burst = math.inf if told is None else max(1.0, told * _BURST_SHARE)
        self.tokens = self._burst
        self._last = now
        self._quiet_until = -math.inf

    def ready_at(self, now: float) -> float:
        """Return when a token will be there."""
        self._refill(now)
        missing = 1 - _ROUNDING - self.tokens
        return now if missing <= 0 else max(now, self._last) + (1 - self.tokens) / self._rate

    def take(self, now: float, count: int = 1) -> None:
        """Take tokens; a message that cannot wait is sent without, and delays later ones."""
        self._refill(
            now
        )  # Refill first: a refill afterwards, up to the burst, would hide the debt.
        self.tokens = max(-self._burst, self.tokens - count)

    def _refill(self, now: float) -> None:
        if now > self._last:
            if self.tokens < self._burst:
                self.tokens = min(self._burst, self.tokens + (now - self._last) * self._rate)
            self._last = now

    def refused(self, now: float) -> None:
        """Slow down after a refusal; the refusals of one burst count once."""
        if now < self._quiet_until:
            return
        self._rate = _FIRST_GUESS if self._rate == math.inf else max(_SLOWEST, self._rate / 2)
        self._burst = min(self._burst, max(1.0, self._rate))
        self.tokens, self._last = 0.0, now
        self._quiet_until = now + 1 / self._rate

    def answered(self) -> None:
        """Speed up a little after an answer."""
        if self._rate < self._most:
            self._rate = min(self._most, self._rate + _SPEED_UP)
            if self._rate > _FASTEST_GUESS:
                self._rate = self._burst = self.tokens = math.inf


class Pace:
    """The limits of one connection, and their present use."""

    __slots__ = ("_commands", "_messages", "max_bytes", "max_names")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with a new connection, whose server has announced nothing yet."""
        self.max_bytes: int | None = None
        """The largest message that the server reads; None: unknown."""
        self.max_names: int = _UNTOLD_NAMES
        """Names in one request."""
        self._messages = _Rate()
        self._commands = _Rate()

    def learn(self, terms: Greeting, now: float) -> None:
        """Take the limits that the server announced."""
        self.max_bytes = terms.max_message_bytes
        self.max_names = max(1, terms.max_names or _UNTOLD_NAMES)
        self._messages = _Rate(terms.messages_per_second, now)
        self._commands = _Rate(terms.commands_per_second, now)

    def ready_at(self, now: float, *, is_call: bool) -> float:
        """Return when the next message may be sent: ``now``, or later."""
        at = self._messages.ready_at(now)
        return max(at, self._commands.ready_at(now)) if is_call else at

    def names(self) -> int:
        """Return how many names one request may hold now."""
        tokens = self._messages.tokens
        if tokens >= self.max_names:
            return self.max_names
        return min(self.max_names, NAMES_PER_MESSAGE * max(1, int(tokens + _ROUNDING)))

    def take(self, now: float, *, names: int = 1, is_call: bool = False) -> None:
        """Note that a message is sent."""
        self._messages.take(now, -(-names // NAMES_PER_MESSAGE))
        if is_call:
            self._commands.take(now)

    def refused(self, now: float, *, is_call: bool) -> None:
        """Note that the server answered ``RATE_LIMITED``."""
        (self._commands if is_call else self._messages).refused(now)

    def answered(self, *, is_call: bool) -> None:
        """Note that the server acted on a message."""
        (self._commands if is_call else self._messages).answered()
