"""Heartbeats: pings, and the end of silent connections.

Any frame that was read is a sign of life, not only a pong: a client that has just sent a request
is there. Connections have no timers: a sweep compares each :class:`Heartbeat`'s deadline with the
clock, and calls :meth:`Heartbeat.judge` when it has passed.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Final

import msgspec

from .choices import is_number, shown
from .errors import UsageError

__all__ = ["Beat", "Heartbeat", "HeartbeatPolicy"]


class HeartbeatPolicy(msgspec.Struct, frozen=True):
    """The side that sends pings, their interval, and the longest silence.

    If both are set, ``timeout`` must be above ``interval``, or a client that only answers pings
    would be closed before it gets one.

    Raises:
        UsageError: A duration is not a positive, finite number, or ``timeout`` is not above
            ``interval``.
    """

    interval: float | None = 30.0
    """Seconds between the server's pings; None: it sends none."""
    timeout: float | None = 60.0
    """Seconds of silence after which the server closes with ``HEARTBEAT_TIMEOUT``; None: never. The
    server library's own pings then detect dead peers."""
    spreads: bool = True
    """The first ping to a connection comes up to half an interval early, by chance, so that
    connections that opened together do not get all their pings together."""

    def __post_init__(self) -> None:
        """Check the durations; refuse a timeout that would close every connection."""
        for name, seconds in (("interval", self.interval), ("timeout", self.timeout)):
            if seconds is None:
                continue
            if not (is_number(seconds) and seconds > 0):
                raise UsageError(
                    f"the heartbeat's {name} must be a number of seconds above 0, or None, "
                    f"not {shown(seconds)}"
                )
        if self.interval is not None and self.timeout is not None and self.timeout <= self.interval:
            raise UsageError(
                f"the heartbeat's timeout ({self.timeout:g} s) must be above its interval "
                f"({self.interval:g} s), or clients are closed before they can answer a ping; "
                "twice the interval is usual"
            )

    @classmethod
    def client_drives(cls) -> HeartbeatPolicy:
        """Return the policy of a server that answers pings, sends none and closes nobody."""
        return cls(interval=None, timeout=None)


class Beat(Enum):
    """The action that is due."""

    NOTHING = auto()
    PING = auto()
    """Send a ping; it counts as sent."""
    DEAD = auto()
    """Nothing came for the timeout: close with ``HEARTBEAT_TIMEOUT``."""


_PLAUSIBLE_SPREAD: Final = (0.5, 1.0)
_ONE_WAY_SECONDS: Final = 30.0


class Heartbeat:
    """The heartbeat of one connection; times are monotonic seconds.

    Args:
        policy: The policy; it may be replaced at any time.
        now: When the connection opened.
        spread: The first ping is due after this share of the interval, above 0.5 and up to 1.
            Chosen by chance, it keeps connections that opened together from being pinged together.

    Raises:
        UsageError: ``spread`` is out of its range.
    """

    __slots__ = ("_share", "_since", "is_one_way", "last_ping", "last_seen", "policy")

    def __init__(self, policy: HeartbeatPolicy, now: float, spread: float = 1.0) -> None:
        low, high = _PLAUSIBLE_SPREAD
        if not low < spread <= high:
            raise UsageError("the spread of a heartbeat must be above 0.5 and at most 1")
        self.policy: HeartbeatPolicy = policy
        self.last_seen: float = now
        """When the last frame was read, or the connection opened."""
        self.last_ping: float | None = None
        """When the server sent its last ping."""
        self.is_one_way: bool = False
        """Whether the client only listens: it is pinged, at least every 30 seconds, so that the
        end of its connection shows, and its silence means nothing."""
        self._since = now
        self._share = spread

    def seen(self, now: float) -> None:
        """Note that a frame was read. Cost: one store; the deadline is recomputed when it fires."""
        self.last_seen = now

    def deadline(self) -> float:
        """Return when to call :meth:`judge` next; infinity if nothing will be due.

        It moves later with every frame, so that an earlier value is never too late.
        """
        return min(self._ping_due(), self._silence_ends())

    def judge(self, now: float) -> Beat:
        """Return what is due; silence wins over a ping. A ping that it returns counts as sent."""
        if now >= self._silence_ends():
            return Beat.DEAD
        if now >= self._ping_due():
            self.last_ping = self._since = now
            self._share = 1.0
            return Beat.PING
        return Beat.NOTHING

    def forgive(self, seconds: float, now: float = math.inf) -> None:
        """Ignore the last ``seconds``, in which the server itself did not run.

        A process that was stopped, or a machine that was suspended, has read nothing meanwhile:
        that silence is ours, and peers get their full timeout again.

        Args:
            seconds: The time in which the server did not run.
            now: The present; a peer never counts as seen after it.

        Raises:
            UsageError: ``seconds`` is negative.
        """
        if not seconds >= 0:
            raise UsageError("time that is forgiven cannot be negative")
        self.last_seen = max(self.last_seen, min(self.last_seen + seconds, now))
        self._since = max(self._since, min(self._since + seconds, now))

    def _ping_due(self) -> float:
        interval = self.policy.interval
        if interval is None and self.is_one_way:
            interval = _ONE_WAY_SECONDS
        return math.inf if interval is None else self._since + interval * self._share

    def _silence_ends(self) -> float:
        timeout = self.policy.timeout
        return math.inf if timeout is None or self.is_one_way else self.last_seen + timeout
