"""Reconnecting, pure: the advice of close codes, and the delays."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec

from ..choices import is_number, shown
from ..errors import (
    CloseCode,
    ConnectError,
    ConnectionLost,
    UsageError,
    WsbusError,
    may_reconnect,
)
from ..returning import return_in

__all__ = ["Advice", "Attempts", "Retry", "advice_for", "meaning_of"]


class Advice(Enum):
    """The reaction to a connection that ended, or could not be opened."""

    NOW = auto()
    """Connect again after the first, short delay."""
    LATER = auto()
    """Give the server more time: it failed."""
    MUCH_LATER = auto()
    """Wait long: the client sent too much."""
    NEW_TOKEN = auto()
    """Like NOW, with a new token."""
    WRONG = auto()
    """Address or options look wrong: stop, unless there was a connection before."""
    STOP = auto()
    """Do not reconnect."""


# Not 1001 and 1012: a server that closes with these has others beside it, or is back soon, and
# chance spreads its clients.
_ADVICE: Final = {
    CloseCode.INTERNAL_ERROR: Advice.LATER,
    CloseCode.TOKEN_EXPIRED: Advice.NEW_TOKEN,
    CloseCode.RATE_ABUSE: Advice.MUCH_LATER,
}
_LATER_STEPS: Final = 2
_KEEPALIVE: Final = "keepalive ping timeout"


def meaning_of(code: int, reason: str) -> int:
    """Return the code that was meant: servers built on websockets send 1011 in place of 4408."""
    if code == CloseCode.INTERNAL_ERROR and reason == _KEEPALIVE:
        return CloseCode.HEARTBEAT_TIMEOUT
    return code


def advice_for(code: int) -> Advice:
    """Return the advice of a close code; see the table in the protocol reference."""
    if not may_reconnect(code):
        return Advice.STOP
    return _ADVICE.get(code, Advice.NOW)  # type: ignore[call-overload,no-any-return]


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How a client comes again: exponential backoff with full jitter.

    Before attempt ``n`` it waits for a time between 0 and ``base * 2 ** (n - 1)`` seconds, chosen
    by chance and at most ``cap``, so that the clients of a server that restarts do not all come
    at once. After a connection that lasted as long as ``base`` it counts from the beginning. A
    server that tells its clients when to come again decides instead, up to an hour.

    Raises:
        UsageError: A duration or a number is not positive.
    """

    base: float = 1.0
    """Seconds; bounds the delay before the first attempt."""
    cap: float = 30.0
    """Seconds; bounds every delay."""
    attempts: int | None = None
    """Attempts without success after which the client stops; None: it never does, 0: it does not
    connect again."""
    first: bool = False
    """Whether the very first connection is tried again, too. If not, a wrong address fails at
    once."""

    def __post_init__(self) -> None:
        """Check that durations and the number of attempts are positive and finite."""
        for name, seconds in (("base", self.base), ("cap", self.cap)):
            if not (is_number(seconds) and seconds > 0):
                raise UsageError(
                    f"the {name} of a retry must be a number of seconds above 0, "
                    f"not {shown(seconds)}"
                )
        attempts = self.attempts
        if attempts is not None and not (is_number(attempts) and attempts >= 0):
            raise UsageError(
                f"the attempts of a retry are a number, 0 or more, or None, not {shown(attempts)}"
            )

    def delay(self, attempt: int, advice: Advice, chance: float) -> float:
        """Return the seconds before an attempt, the first of which is 1.

        Args:
            attempt: Its number since the last success.
            advice: The advice of the last connection's end.
            chance: A random number from 0 up to 1, evenly spread.
        """
        if advice is Advice.MUCH_LATER:
            return self.cap * (1 + chance) / 2
        steps = attempt - 1 + (_LATER_STEPS if advice is Advice.LATER else 0)
        # Beyond 2 ** 60 every cap is reached; floats would overflow later.
        return min(self.cap, self.base * 2.0 ** min(steps, 60)) * chance


class Attempts:
    """Counts the attempts of one client, up to the last."""

    __slots__ = ("_entered_at", "failures", "is_known", "is_settled", "retry")

    def __init__(self, retry: Retry) -> None:
        self.retry: Final = retry
        self.failures: int = 0
        """Connections and attempts that have ended since the last success."""
        self.is_known: bool = False
        """Whether there was a connection at all."""
        self.is_settled: bool = False
        """Whether the server has confirmed everything over the connection that there is."""
        self._entered_at = 0.0

    def entered(self, now: float, *, is_settled: bool) -> bool:
        """There is a connection; tell whether there was one before."""
        was_known, self.is_known = self.is_known, True
        self.is_settled, self._entered_at = is_settled, now
        return was_known

    def left(self, now: float) -> None:
        """The connection has ended; one that ended at once was no success."""
        if self.is_settled and now - self._entered_at >= self.retry.base:
            self.failures = 0
        self.is_settled = False

    def failed(self, error: WsbusError, advice: Advice, chance: float) -> float | WsbusError:
        """Note that one ended; return the seconds before the next, or why there is none."""
        most = self.retry.attempts
        if advice is Advice.WRONG and not self.is_known:
            return error
        if advice is Advice.STOP or not (self.is_known or self.retry.first) or most == 0:
            return error
        if most is not None and self.failures >= most:
            count = "1 attempt" if self.failures == 1 else f"{self.failures} attempts"
            return ConnectError(f"gave up after {count} to connect again; the last one: {error}")
        self.failures += 1
        delay = self.retry.delay(self.failures, advice, chance)
        advised = return_in(error.reason) if isinstance(error, ConnectionLost) else None
        if advised is None:
            return delay
        # Servers that all send their clients on must not be asked over and over.
        return advised if self.failures == 1 else max(advised, delay)
