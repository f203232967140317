"""Commands of a bus with tracing, each in a span of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Final

from ..core.messages import Command, Refused, ServerMessage
from ..core.tracing import TracedWork, Tracing
from .commands import Commands, Running
from .runner import Runner
from .source import Encode, Pack

__all__ = ["TracedCommands", "new_commands"]

_CANCELLED: Final = "cancelled"


class TracedCommands(Commands):
    """Has a span for each command that is called, and for each that is refused here.

    Args:
        encode: As :class:`.Commands`.
        pack: The same.
        tracing: Begins spans.
    """

    def __init__(self, encode: Encode, pack: Pack, tracing: Tracing) -> None:
        super().__init__(encode, pack)
        self._tracing: Final = tracing

    def invoke(
        self,
        message: Command,
        caller: object,
        timeout: float,
        context: Context,
        *,
        is_posted: bool = False,
    ) -> ServerMessage | Running:
        """Carry a command out in its span; see :meth:`.Commands.invoke`."""
        own, command = context.copy(), self._registered.get(message.action)
        action = None if command is None else command.action

        def begin() -> TracedWork:
            return own.run(self._tracing.command, action, is_posted=is_posted)

        if command is None or not command.is_async:
            work = begin()
            outcome = super().invoke(message, caller, timeout, own)
        else:
            outcome = super().invoke(message, caller, timeout, own)
            if callable(outcome):  # It may never be awaited: its connection may run too many.
                return partial(_awaited, begin, outcome)
            work = begin()
        assert not callable(outcome)  # It is no async command.
        work.end(_error(outcome))
        return outcome


async def _awaited(
    begin: Callable[[], TracedWork], running: Running, runner: Runner
) -> ServerMessage:
    work = begin()
    error: str | None = _CANCELLED
    try:
        reply = await running(runner)
        error = _error(reply)
    finally:
        work.end(error)
    return reply


def _error(reply: ServerMessage) -> str | None:
    return reply.code if isinstance(reply, Refused) else None


def new_commands(encode: Encode, pack: Pack, tracing: Tracing | None) -> Commands:
    """Return the commands of a bus, with tracing if there is one; see :class:`TracedCommands`."""
    return Commands(encode, pack) if tracing is None else TracedCommands(encode, pack, tracing)
