"""What clients may have carried out: functions of the application, with typed parameters."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Final, TypeAlias, get_origin, get_type_hints, is_typeddict

import msgspec
from anyio import to_thread

from .core.errors import CommandError, ErrorCode, UsageError
from .core.messages import Call, Refused, Reply, Response
from .runner import Overdue, Runner

__all__ = ["Commands", "RegisteredCommand", "Running"]

logger: Final = logging.getLogger("wsbus.commands")

Running: TypeAlias = Callable[[Runner], Awaitable[Reply]]
"""A command to be awaited on a runner; what comes is the reply."""


class RegisteredCommand:
    """One function under one action.

    Its parameters say what a client sends in ``params``. A sole parameter whose type is an object
    (a :class:`msgspec.Struct`, dataclass, ``TypedDict`` or ``dict``) takes all of it; any other
    parameters each take the key of their name. A parameter annotated with the class of
    connections is given the caller.

    Args:
        action: The name clients use.
        function: ``def``, which runs on the event loop and must not block, or ``async def``.
        caller: The class of connections.
        threaded: Run a ``def`` in a worker thread.
        timeout: Seconds after which it is cancelled; None: the endpoint's limit. A thread cannot
            be: it is abandoned, and its result thrown away.

    Raises:
        UsageError: ``params`` cannot be spread over such a function.
    """

    __slots__ = ("_caller", "_decoder", "_whole", "action", "function", "is_async", "timeout")

    def __init__(
        self,
        action: str,
        function: Callable[..., Any],
        *,
        caller: type,
        threaded: bool = False,
        timeout: float | None = None,
    ) -> None:
        is_coroutine = inspect.iscoroutinefunction(function)
        if threaded and is_coroutine:
            raise UsageError(f"the command {action!r} is async: it cannot be threaded, too")
        self.action: Final = action
        self.timeout: Final = timeout
        self.is_async: Final = threaded or is_coroutine
        """Whether calling it gives something to await."""
        self.function: Final = partial(_in_thread, function) if threaded else function
        types = _parameter_types(action, function)
        callers = [name for name, hint in types.items() if hint is caller]
        self._caller: Final = callers[0] if callers else None
        types = {name: hint for name, hint in types.items() if name != self._caller}
        sole = next(iter(types)) if len(types) == 1 else None
        self._whole: Final = sole if sole is not None and _is_object(types[sole]) else None
        shape = types[sole] if sole is not None and self._whole else _shape(action, function, types)
        self._decoder: Final = msgspec.json.Decoder(shape)

    def arguments(self, params: bytes, caller: object) -> dict[str, Any]:
        """Return the keyword arguments for one call.

        Args:
            params: JSON text.
            caller: The connection that the command came from.

        Raises:
            CommandError: ``VALIDATION_ERROR``, with the place.
        """
        try:
            decoded = self._decoder.decode(params)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise CommandError(ErrorCode.VALIDATION_ERROR, _placed(str(exc))) from None
        if self._whole is not None:
            arguments = {self._whole: decoded}
        else:
            arguments = {name: getattr(decoded, name) for name in decoded.__struct_fields__}
        if self._caller is not None:
            arguments[self._caller] = caller
        return arguments


async def _in_thread(function: Callable[..., Any], **arguments: Any) -> Any:
    return await to_thread.run_sync(partial(function, **arguments), abandon_on_cancel=True)


def _parameter_types(action: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise UsageError(f"the command {action!r}: {exc}; types must be global names") from exc
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise UsageError(f"the command {action!r} has parameters that have no name to go by")
    return {p.name: hints.get(p.name, Any) for p in parameters}


def _is_object(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return (
        is_typeddict(kind)
        or is_dataclass(kind)
        or (isinstance(kind, type) and issubclass(kind, msgspec.Struct | Mapping))
    )


def _shape(
    action: str, function: Callable[..., Any], types: dict[str, Any]
) -> type[msgspec.Struct]:
    parameters = inspect.signature(function).parameters
    fields = [
        (name, hint)
        if parameters[name].default is inspect.Parameter.empty
        else (name, hint, parameters[name].default)
        for name, hint in types.items()
    ]
    try:
        return msgspec.defstruct("params", fields, kw_only=True)
    except TypeError as exc:
        raise UsageError(f"the command {action!r}: {exc}") from exc


def _placed(message: str) -> str:
    """Put the place that msgspec names, ``$.x``, where the client sees it: ``$.params.x``."""
    text, found, place = message.rpartition("`$")
    return f"{text}`$.params{place}" if found else f"{message} - at `$.params`"


class Commands:
    """The commands of a bus, by action.

    Args:
        encode: Turns results into JSON text; raises :class:`.UsageError` for what it cannot.
    """

    def __init__(self, encode: Callable[[object], bytes]) -> None:
        self._encode: Final = encode
        self._registered: Final[dict[str, RegisteredCommand]] = {}

    def add(self, command: RegisteredCommand) -> None:
        """Register it.

        Raises:
            UsageError: Its action is taken.
        """
        if command.action in self._registered:
            raise UsageError(f"the command {command.action!r} is registered already")
        self._registered[command.action] = command

    def invoke(self, call: Call, caller: object, timeout: float) -> Reply | Running:
        """Carry a command out, or return what is to be awaited for it; never raises.

        Args:
            call: The client's message.
            caller: The connection.
            timeout: Seconds, for commands that have no time limit of their own.
        """
        try:
            command = self._registered.get(call.action)
            if command is None:
                raise CommandError(ErrorCode.UNKNOWN_ACTION, "there is no command of this name")
            arguments = command.arguments(call.params, caller)
            if command.is_async:
                return partial(self._await, command, call, arguments, command.timeout or timeout)
            return Response(self._encode(command.function(**arguments)), call.ref)
        except Exception as exc:  # noqa: BLE001  # the application's own; told and logged
            return _failure(call, exc)

    async def _await(
        self,
        command: RegisteredCommand,
        call: Call,
        arguments: dict[str, Any],
        seconds: float,
        runner: Runner,
    ) -> Reply:
        try:
            result = await runner.within(seconds, command.function(**arguments))
            return Response(self._encode(result), call.ref)
        except Overdue:
            logger.warning("the command %s was cancelled after %g s", command.action, seconds)
            return _refused(call, ErrorCode.TIMEOUT, f"cancelled after {seconds:g} s")
        except Exception as exc:  # noqa: BLE001  # the application's own; told and logged
            return _failure(call, exc)


def _failure(call: Call, exc: Exception) -> Refused:
    if isinstance(exc, CommandError):
        return _refused(call, exc.code, exc.message)
    # The action is registered, so it is the application's own word and may stand in the log.
    logger.error("the command %s failed", call.action, exc_info=exc)
    return _refused(call, ErrorCode.INTERNAL_ERROR, "the command failed")


def _refused(call: Call, code: str, message: str) -> Refused:
    return Refused(code, message, call.ref, is_call=call.ref is not None)
