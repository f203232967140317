"""The advice of a server that closes connections: when each client comes again.

The advice is the end of the reason in the close frame: ``the server is shutting down; retry=12.5``.
A client that does not know it comes again as after any other close.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_RETURN_SECONDS", "Spread", "return_in", "with_return"]

MAX_RETURN_SECONDS: Final = 3600.0
"""The longest time that a client waits because of advice, whatever a server says."""

_ADVICE: Final = re.compile(r"\bretry=([0-9]+(?:\.[0-9]+)?)\Z")


def with_return(reason: str, seconds: float) -> str:
    """Return the reason of a close frame, with the seconds after which the client comes again."""
    return f"{reason}; retry={seconds:.3f}"


def return_in(reason: str) -> float | None:
    """Return the seconds that a reason advises to wait, bounded; None if it advises nothing."""
    found = _ADVICE.search(reason)
    return None if found is None else min(float(found[1]), MAX_RETURN_SECONDS)


class Spread:
    """Spreads the return of clients evenly over a window of time.

    The clients are numbered as they ask. Number ``k`` of ``count`` comes ``(k + 1/2) / count`` of
    the window after its beginning, whenever it asks; further ones begin again at the first.

    Args:
        window: Seconds.
        count: How many clients there are.
        begun: When the window begins, in monotonic seconds.
    """

    def __init__(self, window: float, count: int, begun: float) -> None:
        self._window: Final = window
        self._count: Final = max(count, 1)
        self._begun: Final = begun
        self._told = 0

    def advise(self, now: float) -> float:
        """Return after how many seconds the next client comes again, from ``now`` on."""
        due = self._window * (self._told % self._count + 0.5) / self._count
        self._told += 1
        return max(0.0, self._begun + due - now)
