"""Calls into the application, each in a context of its own; a failure costs that call only.

Commands, ``authorize``, authenticators, hooks and ``name_connection`` are called through
:func:`call` or :func:`ask`, or :meth:`.Runner.ask` where a runner awaits them. Each call gets a
copy of its connection's :class:`contextvars.Context`, so that no call sees the variables that
another one has set, least of all one of another client.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextvars import Context, copy_context
from inspect import isawaitable
from opcode import opmap
from operator import call as call_it
from types import CoroutineType
from typing import Any, Final, Generic, NoReturn, ParamSpec, TypeVar

from anyio import current_effective_deadline, get_cancelled_exc_class, move_on_after

__all__ = [
    "CallFailed",
    "Overdue",
    "Rest",
    "ask",
    "begin",
    "call",
    "called",
    "comes_of_signal",
    "hand_to_process",
    "handshake_context",
    "is_cancelled",
    "name_of",
    "reraise",
]

T = TypeVar("T")
P = ParamSpec("P")

_MISSING: Final = object()
_EMPTY: Final = Context()
_kept: Final[list[Callable[[], Context | None]]] = [lambda: _EMPTY, lambda: _EMPTY]
"""Contexts to share: that of the last handshake, while a connection holds it; and an empty one."""
_RAISE: Final = opmap["RAISE_VARARGS"]


class CallFailed(Exception):
    """The application raised something other than an ``Exception``, or cancelled itself."""


class Overdue(Exception):
    """A time limit has passed."""


def handshake_context() -> Context:
    """Return the current context, for a connection to keep.

    Connections share a context in which nothing is set, or the same values as in the handshake
    before: there are many connections.
    """
    now = copy_context()
    for kept in _kept:
        shared = kept()
        if (
            shared is not None
            and len(shared) == len(now)
            and all(shared.get(var, _MISSING) is value for var, value in now.items())
        ):
            return shared
    _kept[0] = weakref.ref(now)
    return now


def call(context: Context, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the application; for functions that never wait.

    Args:
        context: The connection's; the call gets a copy.
        function: The application's.
        *args: What to call it with.
        **kwargs: The same, by name.

    Raises:
        Exception: Any that it raises; :class:`CallFailed` for anything else that it raises.
    """
    try:
        return context.copy().run(function, *args, **kwargs)
    except Exception:
        raise
    except BaseException as exc:  # noqa: BLE001  # reraise() sorts it
        reraise(exc, is_meant=is_cancelled())


async def ask(
    seconds: float, context: Context, function: Callable[..., Any], /, *args: object
) -> Any:
    """Call the application, and await the result if it can be awaited.

    Use it outside of the runner; the runner's :meth:`.Runner.ask` knows when the bus ends.

    Args:
        seconds: Time limit; it cannot stop a call that blocks the loop.
        context: The connection's; the call gets a copy.
        function: The application's.
        *args: What to call it with.

    Raises:
        Overdue: It took longer, and was cancelled.
        Exception: Any that it raises; :class:`CallFailed` for anything else that it raises.
    """
    try:
        with move_on_after(seconds):
            return await called(context.copy(), function, *args)
    except Exception:
        raise
    except BaseException as exc:  # noqa: BLE001  # reraise() sorts it
        reraise(exc, is_meant=is_cancelled())
    raise Overdue


async def called(own: Context, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function inside the context ``own``, and await its result if it can be awaited."""
    result = own.run(function, *args, **kwargs)
    if type(result) is not CoroutineType:
        if not isawaitable(result):
            return result
        result = awaiting(result)
    begun = begin(result, own.run)
    return await begun if isinstance(begun, Rest) else begun


async def awaiting(awaitable: Awaitable[T]) -> T:
    """Return a coroutine that awaits: not every awaitable has the methods of a coroutine."""
    return await awaitable


# --- what a call may raise ------------------------------------------------------------------------


def reraise(exc: BaseException, *, is_meant: bool) -> NoReturn:
    """Re-raise what ends the process or the caller's task; raise :class:`CallFailed` otherwise.

    Call it where ``exc``, which is not an ``Exception``, was caught.

    Args:
        exc: Raised by the application.
        is_meant: Whether the caller's task is being cancelled, so that a cancellation is genuine.
            A future that was cancelled raises the same in the task that awaits it.
    """
    cancelled = get_cancelled_exc_class()
    if comes_of_signal(exc) or (is_meant and any(isinstance(e, cancelled) for e in _leaves(exc))):
        raise exc
    if isinstance(exc, cancelled):
        raise CallFailed("it was cancelled by the application itself") from exc
    raise CallFailed(f"it raised {type(exc).__name__}, which is no Exception") from exc


def comes_of_signal(exc: BaseException) -> bool:
    """Tell whether a signal handler raised it: then it ends the process.

    ``KeyboardInterrupt`` and ``SystemExit`` that application code raises do not end the process.
    The traceback shows the difference: it contains a function that is registered with
    :mod:`signal`. Python's own handler of ``SIGINT`` leaves no trace there; but then the last
    instruction is not one that raises.
    """
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs signal handlers in the main thread only.
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    is_untraced = signal.default_int_handler in handlers
    codes = {code for handler in handlers if (code := _code_of(handler)) is not None}
    for leaf in _leaves(exc):
        trace = leaf.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code in codes:
                return True
            if trace.tb_next is None and is_untraced and isinstance(leaf, KeyboardInterrupt):
                return code.co_code[trace.tb_lasti] != _RAISE
            trace = trace.tb_next
    return False


def hand_to_process() -> None:
    """Hand a ``KeyboardInterrupt`` that ended a task of the bus to the process.

    asyncio lets it through. trio delivers it to the main task if the signal handler is called in
    code that trio protects from it, as in a system task.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        signal.raise_signal(signal.SIGINT)


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            yield from _leaves(part)
    else:
        yield exc


def _code_of(function: object) -> object:
    function = getattr(function, "func", function)  # asyncio.run registers a partial.
    return getattr(getattr(function, "__func__", function), "__code__", None)


def is_cancelled() -> bool:
    """Tell whether the current task is being cancelled."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # Another loop is running.
        return current_effective_deadline() == -float("inf")
    return task is not None and task.cancelling() > 0


def name_of(function: object) -> str:
    """Return a name for a function of the application, for a log line."""
    function = getattr(function, "func", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"


# --- step by step ---------------------------------------------------------------------------------


class Rest(Generic[T]):
    """The rest of an awaitable that has begun and now waits.

    It may be awaited once, in the task that began it; the task may do other things before. What
    the awaitable waits for is passed on unchanged.
    """

    __slots__ = ("_run", "_steps", "_waits_for")

    def __init__(self, steps: Any, waits_for: object, run: Callable[..., Any]) -> None:
        self._steps: Final = steps
        self._waits_for: Final = waits_for
        self._run: Final = run

    def __await__(self) -> Generator[Any, Any, T]:
        """Run the rest."""
        run, waits_for = self._run, self._waits_for
        send, throw = self._steps.send, self._steps.throw
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as exc:  # noqa: BLE001  # thrown into the awaitable
                    waits_for = run(throw, exc)
                else:
                    waits_for = run(send, value)
            except StopIteration as end:
                result: T = end.value
                return result


def begin(awaitable: Awaitable[T], run: Callable[..., Any] = call_it) -> T | Rest[T]:
    """Run an awaitable until it first waits; call it in the task that will await the rest.

    Args:
        awaitable: Usually a coroutine.
        run: Runs each step, as ``run(function, argument)``. With the method of a context, the
            steps and the tasks that they start run in that context.

    Returns:
        Its result, or its rest.
    """
    steps: Any = awaitable
    if type(awaitable) is not CoroutineType:
        steps = awaitable.__await__()
        if not hasattr(
            steps, "send"
        ):  # As with `yield from`, it need not be a generator; granian's is not.
            steps = _generator(steps)
    try:
        waits_for = run(steps.send, None)
    except StopIteration as end:
        result: T = end.value
        return result
    return Rest(steps, waits_for, run)


def _generator(steps: Iterator[Any]) -> Generator[Any, Any, Any]:
    return (yield from steps)
