"""Commands: functions of the application that clients call, with typed parameters."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from anyio import to_thread

from .._application import CallFailed, Overdue, is_cancelled, reraise
from .._log import BoundedLog, about
from .._settings import flag_setting
from ..core.choices import is_number, shown
from ..core.errors import CommandError, ErrorCode, UsageError
from ..core.messages import Command, Refused, Response, ServerMessage
from ..core.packing import Packed, pack_json
from .parameters import Parameters
from .runner import Runner
from .source import Encode, Pack

__all__ = ["Commands", "RegisteredCommand", "Running", "check_action"]

logger: Final = logging.getLogger("wsbus.commands")

Running: TypeAlias = Callable[[Runner], Awaitable[ServerMessage]]
"""A command to be awaited on a runner; its result is the reply."""

_MAX_HELD_SECONDS: Final = 0.1
"""A ``def`` that holds the event loop for longer is logged."""

_MAX_THREADS: Final = 40
"""Calls of one threaded command at a time, and threads of it that were abandoned."""


class RegisteredCommand:
    """One function under one action; for its parameters see :class:`.Parameters`.

    Args:
        action: The command's name.
        function: ``def``, which runs on the event loop and must not block, or ``async def``.
        caller: The class of connections.
        threaded: Run a ``def`` in a worker thread.
        timeout: Seconds after which it is cancelled; None: the endpoint's limit. A thread cannot
            be cancelled: it is abandoned, and its result discarded.

    Raises:
        UsageError: The function cannot be a command, or ``params`` cannot be passed to it.
    """

    __slots__ = (
        "_abandoned",
        "_held",
        "_is_starved",
        "_threads",
        "action",
        "arguments",
        "function",
        "is_async",
        "is_threaded",
        "parameters",
        "timeout",
    )

    def __init__(
        self,
        action: str,
        function: Callable[..., Any],
        *,
        caller: type,
        threaded: bool = False,
        timeout: float | None = None,
    ) -> None:
        check_action(action)
        what = f"the command {action!r}"
        _check_function(what, function)
        if timeout is not None and not (is_number(timeout) and timeout > 0):
            raise UsageError(
                f"{what}: timeout is a number of seconds above 0, or None, not {shown(timeout)}"
            )
        flag_setting(f"{what}: threaded", threaded)
        is_coroutine = _is_async(function)
        if threaded and is_coroutine:
            raise UsageError(f"{what} is async: it cannot be threaded, too")
        self.action: Final = action
        self.timeout: Final = timeout
        self.is_threaded: Final = threaded
        self.is_async: Final = threaded or is_coroutine
        """Whether calling it returns an awaitable."""
        self.function: Final = function
        self.parameters: Final = Parameters(what, function, caller)
        self.arguments: Final = self.parameters.arguments
        self._held = _MAX_HELD_SECONDS
        self._threads: Final[set[object]] = set()  # Threads that run, including abandoned ones.
        self._abandoned: set[object] = set()
        self._is_starved = False

    def tell_held(self, seconds: float) -> None:
        """Warn, once and whenever the time doubles, that it held the event loop."""
        if seconds > self._held:
            self._held = seconds * 2
            logger.warning(
                "the command %s held the event loop for %.0f ms; nothing else ran meanwhile. A "
                "command that blocks needs threaded=True",
                self.action,
                seconds * 1000,
                extra=about("command_held", command=self.action, seconds=seconds),
            )

    async def in_thread(self, runner: Runner, arguments: dict[str, Any]) -> Any:
        """Call it in a worker thread; commands do not wait for threads of other commands.

        Cancellation: its thread is abandoned.

        Raises:
            CommandError: ``RATE_LIMITED``: too many abandoned threads still run.
        """
        self._abandoned &= self._threads  # The others have ended.
        if len(self._abandoned) >= _MAX_THREADS:
            if not self._is_starved:
                self._is_starved = True
                logger.error(
                    "the command %s is refused: %d of its threads run past their time limit",
                    self.action,
                    len(self._abandoned),
                    extra=about("command_threads", command=self.action, count=len(self._abandoned)),
                )
            raise CommandError(ErrorCode.RATE_LIMITED, "too many calls of it do not end")
        self._is_starved = False
        token = object()
        try:
            async with runner.limiter(self, _MAX_THREADS):
                return await to_thread.run_sync(
                    partial(self._run_in_thread, token, arguments),
                    abandon_on_cancel=True,
                    limiter=runner.limiter(None, math.inf),
                )
        finally:
            if token in self._threads:
                self._abandoned.add(token)

    def _run_in_thread(self, token: object, arguments: dict[str, Any]) -> Any:
        self._threads.add(token)
        try:
            return self.function(**arguments)
        except Exception:
            raise
        except BaseException as exc:
            raise CallFailed(f"it raised {type(exc).__name__}, which is no Exception") from exc
        finally:
            self._threads.discard(token)


def check_action(action: object) -> None:
    """Refuse an invalid name of a command, and a decorator without its parentheses."""
    if not isinstance(action, str):
        name = getattr(action, "__name__", "name")
        raise UsageError(f'a command has a name: write @bus.command("{name}")')
    if not action.isprintable() or not action:
        raise UsageError("the name of a command is a printable text")
    if "*" in action:
        raise UsageError(f"{action!r} is a pattern; each command has a name, such as 'grid.start'")


def _check_function(what: str, function: object) -> None:
    if isinstance(function, type) or not callable(function):
        kind = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
        raise UsageError(f"{what} is {kind}; a command is a function, def or async def")
    for found in (inspect.unwrap(function), getattr(function, "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
            raise UsageError(
                f"{what} is a generator; a command returns its result once. Publish the parts on "
                "a channel, or return a list"
            )


def _is_async(function: Callable[..., Any]) -> bool:
    found = (inspect.unwrap(function), getattr(function, "__call__", None))  # noqa: B004
    return any(inspect.iscoroutinefunction(f) for f in found)


class Commands:
    """The commands of a bus, by action.

    Args:
        encode: Turns results into JSON text, or raises :class:`.UsageError`.
        pack: Makes their packed form.
    """

    def __init__(self, encode: Encode, pack: Pack) -> None:
        self._encode: Final = encode
        self._pack: Final = pack
        self._registered: Final[dict[str, RegisteredCommand]] = {}
        self._log: Final = BoundedLog(logger)

    def add(self, command: RegisteredCommand) -> None:
        """Register a command.

        Raises:
            UsageError: Its action is taken.
        """
        if command.action in self._registered:
            raise UsageError(f"the command {command.action!r} is registered already")
        self._registered[command.action] = command

    def all(self) -> list[RegisteredCommand]:
        """Return the commands, in the order in which they were registered."""
        return [*self._registered.values()]

    def invoke(
        self,
        message: Command,
        caller: object,
        timeout: float,
        context: Context,
        *,
        is_posted: bool = False,
    ) -> ServerMessage | Running:
        """Carry a command out, or return a function to be awaited on a runner.

        It never raises because of the command.

        Args:
            message: The client's request.
            caller: The connection.
            timeout: Seconds, for commands that have no time limit of their own.
            context: The connection's; see ``_application.call``.
            is_posted: It came by HTTP, without a connection.
        """
        try:
            command = self._registered.get(message.action)
            if command is None:
                raise CommandError(ErrorCode.UNKNOWN_ACTION, "there is no command of this name")
            arguments = command.arguments(message.params, caller, context)
            if command.is_async:
                seconds = command.timeout or timeout
                return partial(self._await, command, message, arguments, seconds, context)
            began = monotonic()
            try:
                # Inlined application.call(), which would pack the arguments once more.
                result = context.copy().run(command.function, **arguments)
            except Exception:
                raise
            except BaseException as exc:  # noqa: BLE001  # reraise() sorts it
                reraise(exc, is_meant=is_cancelled())
            finally:
                held = monotonic() - began
                if held > _MAX_HELD_SECONDS:
                    command.tell_held(held)
            return self._response(message, result)
        except Exception as exc:  # noqa: BLE001  # the application's own; told and logged
            return self._failure(message, exc)

    async def _await(  # noqa: PLR0917  # bound by partial
        self,
        command: RegisteredCommand,
        message: Command,
        arguments: dict[str, Any],
        seconds: float,
        context: Context,
        runner: Runner,
    ) -> ServerMessage:
        try:
            if command.is_threaded:
                result = await runner.ask(seconds, context, command.in_thread, runner, arguments)
            else:
                result = await runner.ask(seconds, context, command.function, **arguments)
            return self._response(message, result)
        except Overdue:
            action = command.action
            text = "the command %s was cancelled after %g s (timeout=, command_timeout)"
            self._log.warning(
                text,
                action,
                seconds,
                of=action,
                extra=about("command_overdue", command=action, seconds=seconds),
            )
            return _refused(message, ErrorCode.TIMEOUT, f"cancelled after {seconds:g} s")
        except Exception as exc:  # noqa: BLE001  # the application's own; told and logged
            return self._failure(message, exc)

    def _response(self, message: Command, result: object) -> Response:
        text = self._encode(result)
        if type(message.params) is Packed:
            text = Packed(self._pack(result, text) or pack_json(text))
        return Response(text, message.ref)

    def _failure(self, message: Command, exc: Exception) -> Refused:
        if isinstance(exc, CommandError):
            return _refused(message, exc.code, exc.message)
        # The action is registered, so it is the application's own text, and may be logged.
        self._log.exception(
            "the command %s failed",
            message.action,
            of=message.action,
            extra=about("command_failed", command=message.action),
        )
        return _refused(message, ErrorCode.INTERNAL_ERROR, "the command failed")


def _refused(message: Command, code: str, text: str) -> Refused:
    return Refused(code, text, message.ref, is_call=message.ref is not None)
