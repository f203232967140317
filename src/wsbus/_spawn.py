"""Tasks: one that belongs to no task group of its caller, and the one that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["spawn", "task_now"]

_running: Final[set[asyncio.Task[None]]] = set()


def spawn(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task on the running loop, asyncio's or trio's; ``main`` must not raise.

    anyio has no such thing, rightly: tasks should have an owner. A bus must outlive the task that
    started it, because frameworks run set-up and clean-up in different ones.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # installed, or this would not be its loop

        trio.lowlevel.spawn_system_task(main, name="wsbus")
    else:
        task = loop.create_task(main(), name="wsbus")
        _running.add(task)  # The loop itself keeps only a weak reference.
        task.add_done_callback(_running.discard)


def task_now() -> asyncio.Task[object] | None:
    """Return the task that runs, if it is one of asyncio."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # Another loop is running.
        return None
