"""How much is written, owed and waited for at a time: four numbers that belong together.

*A join* (64 KiB) is the most that one write, one task's turn and one frame of a batching dialect
hold. Larger joins save no more system calls, and let stale data hide behind the overflow policies:
what was handed to a socket cannot be conflated any more.

*A flush* (64 publications or 256 KiB) is the most that an ``async`` verb lets pile up before it
gives the loop a turn. Without any wait a tight loop would overflow the queues of healthy readers;
with one for each publication nothing would be joined (measured: 160 flushes for 160 messages,
against 11). 256 KiB are four joins, well within a queue of 1 MiB.

*Turns*: a reader inside the process takes one join in each turn of the loop, so it gets as many
turns as there are joins in a flush.

*Seconds* bound what waiting for readers may cost. 0.25 s after each flush keeps a publisher above
1 MiB or 256 publications a second, however slowly clients read; 1 s in all for one reader means
that a reader that is slower for good is left to its queue and its overflow policy.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CATCH_UP_SECONDS",
    "FLUSH_BYTES",
    "FLUSH_COUNT",
    "LOCAL_TURNS",
    "MAX_JOIN_BYTES",
    "PACE_SECONDS",
]

MAX_JOIN_BYTES: Final = 64 * 1024
"""The most that is joined into one write, and into one frame of a batching dialect."""

FLUSH_COUNT: Final = 64
"""Publications after which a publisher waits for one flush."""

FLUSH_BYTES: Final = 4 * MAX_JOIN_BYTES
"""The same, in bytes."""

LOCAL_TURNS: Final = FLUSH_BYTES // MAX_JOIN_BYTES
"""Turns of the loop that readers inside the process get after each flush."""

PACE_SECONDS: Final = 0.25
"""How long a publisher waits for readers after each flush, at most; and how long one of them may
take nothing before publishers stop waiting for it."""

CATCH_UP_SECONDS: Final = 1.0
"""How long publishers wait for one reader in all, counted anew once it owes nothing."""
