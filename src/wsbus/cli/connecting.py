"""Connecting for a command, with messages on stderr. Needs the extra ``client``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from ..client import (
    Change,
    Client,
    Connected,
    ConnectionLost,
    Reconnecting,
    RefreshFailed,
    Retry,
    connect,
)
from ..client.driver import GAVE_UP
from .exits import Failed, say
from .options import Target

__all__ = ["ONCE", "enter", "tell"]

ONCE: Final = Retry(attempts=0)
_CLOSE_SECONDS: Final = 2.0


class _Progress(logging.Handler):
    """Prints the library's log on stderr, without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg is not GAVE_UP:  # The command itself ends with that sentence.
            say(record.getMessage())


_log: Final = logging.getLogger("wsbus")
_progress: Final = _Progress(logging.WARNING)


async def enter(
    stack: AsyncExitStack,
    target: Target,
    *,
    retry: Retry = ONCE,
    on_change: Callable[[Change], None] | None = None,
) -> Client:
    """Connect; ``stack`` closes the client.

    Raises:
        UsageError: The address or the protocol is invalid.
        RemoteError: It failed; the error says why.
        Failed: The server closed the connection at once.
    """
    _log.addHandler(_progress)
    stack.callback(_log.removeHandler, _progress)
    connecting = connect(
        target.url,
        token=target.token,
        protocol=target.protocol,
        way=target.way,
        retry=retry,
        close_timeout=_CLOSE_SECONDS,
        on_change=on_change,
    )
    try:
        return await stack.enter_async_context(connecting)
    except ConnectionLost as exc:
        raise Failed(str(exc)) from exc  # The command has sent no request yet.


def tell(change: Change) -> None:
    """Report a change of the connection on stderr."""
    match change:
        case Connected(is_again=True):
            say("connected again; what was published meanwhile without history is missing")
        case Connected(subject=None | ""):
            say("connected")
        case Connected(subject=subject):
            say(f"connected as {subject}")
        case Reconnecting(attempt=attempt, delay=delay, error=error):
            say(f"{error}; attempt {attempt} in {delay:.1f} s")
        case RefreshFailed(why=why):
            say(f"the token could not be renewed: {why}")
