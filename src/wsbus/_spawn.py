"""Tasks: starting one outside of the caller's task groups, and finding the current one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["is_asyncio", "spawn", "task_now"]

_running: Final[set[asyncio.Task[None]]] = set()


def spawn(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task on the running loop, asyncio's or trio's; ``main`` must not raise.

    anyio has no such function, because tasks should have an owner. But a bus must outlive the task
    that started it: frameworks run set-up and clean-up in different tasks.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # installed, or its loop would not run

        trio.lowlevel.spawn_system_task(main, name="wsbus")
    else:
        task = loop.create_task(main(), name="wsbus")
        _running.add(task)  # The loop itself keeps only a weak reference.
        task.add_done_callback(_running.discard)


def is_asyncio() -> bool:
    """Whether the running loop is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def task_now() -> asyncio.Task[object] | None:
    """Return the current task if it is asyncio's, else None."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # Another loop is running.
        return None
