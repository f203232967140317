"""Waits until nothing moves any more."""

from __future__ import annotations

from typing import Final

from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

__all__ = ["settle"]

_TURNS: Final = 10
"""Turns of the loop in which most things come to rest; a look at all tasks costs more on asyncio,
where it waits 0.1 s if one of them is about to run."""


async def settle() -> None:
    """Wait until every other task waits for something: a message, a timer, a thread."""
    for _ in range(_TURNS):
        await checkpoint()
    await wait_all_tasks_blocked()
