"""Fetching tokens from a function of the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import TypeAlias

from anyio import to_thread

from ..core.errors import UsageError

__all__ = ["TokenSource", "fetch"]

TokenSource: TypeAlias = Callable[[], str | Awaitable[str]]


async def fetch(source: TokenSource) -> str:
    """Call it: an async function on the loop, any other in a worker thread, where it may block.

    Cancellation: the worker thread runs on, and its result is ignored.

    Raises:
        UsageError: The function returns something else than a non-empty text.
    """
    if iscoroutinefunction(source):
        token: object = await source()
    else:
        token = await to_thread.run_sync(source, abandon_on_cancel=True)
        if isawaitable(token):
            token = await token
    if not isinstance(token, str) or not token:
        raise UsageError("a token must be a text that is not empty")
    return token
