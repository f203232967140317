"""Hooks: functions of the application that are called when connections begin, change and end.

Order and other promises are in ``docs/how-to/hooks.md``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import Any, Final, TypeAlias, TypeVar

from anyio import Event

from .._application import Overdue, call, name_of
from .._log import BoundedLog, about
from .._settings import function_setting
from ..connection import Connection

__all__ = ["Hook", "HookCalls", "HookLists", "Hooks", "PatternHook", "SubscriptionHook"]

logger: Final = logging.getLogger("wsbus.hooks")

Hook: TypeAlias = Callable[[Connection], object]
"""Called with a connection, and awaited if it can be; its exceptions are logged."""

SubscriptionHook: TypeAlias = Callable[[Connection, str], object]
"""Called with a connection and a pattern; otherwise like :data:`Hook`."""

PatternHook: TypeAlias = Callable[[str], object]
"""Called with a pattern, and awaited if it can be; its exceptions are logged."""

_Ask: TypeAlias = Callable[..., Awaitable[Any]]
_H = TypeVar("_H", bound=Hook)
_P = TypeVar("_P", bound=PatternHook)
_S = TypeVar("_S", bound=SubscriptionHook)


@dataclass(slots=True, eq=False)
class HookLists:
    """The hooks of a bus, in the order registered."""

    connect: list[Hook] = field(default_factory=list)
    authenticated: list[Hook] = field(default_factory=list)
    subscribe: list[SubscriptionHook] = field(default_factory=list)
    unsubscribe: list[SubscriptionHook] = field(default_factory=list)
    disconnect: list[Hook] = field(default_factory=list)
    occupied: list[PatternHook] = field(default_factory=list)
    vacated: list[PatternHook] = field(default_factory=list)
    log: BoundedLog = field(default_factory=lambda: BoundedLog(logger))
    """Bounded, since any client can cause its lines by connecting."""


class Hooks:
    """The hooks of a :class:`.Bus`, which inherits them; not for use by itself.

    A hook is a ``def``, which runs on the event loop and must not block, or an ``async def``. The
    calls for one connection come one after another, each in a context of its own. An exception is
    logged, and ends that call only; after ``command_timeout`` a call is cancelled.
    """

    def __init__(self) -> None:
        self._hooks: Final = HookLists()

    def on_connect(self, hook: _H) -> _H:
        """Register a hook that is called with each connection once it is attached.

        No message of the connection is acted on before the hook has returned. A client that sends
        its token in a message has no identity yet: see :meth:`on_authenticated`.

        Raises:
            UsageError: It is no function of one argument.
        """
        function_setting("on_connect", hook, "connection")
        self._hooks.connect.append(hook)
        return hook

    def on_authenticated(self, hook: _H) -> _H:
        """Register a hook that is called with each connection once, when its identity is known.

        It does not matter how the identity became known: by the handshake, by a token in a
        message, or because the endpoint has no authenticator. The call comes after ``on_connect``
        and after ``connected`` or ``auth_result``; no further message of the connection is acted
        on before the hook has returned. A newer token of the same client calls no hook.

        Raises:
            UsageError: It is no function of one argument.
        """
        function_setting("on_authenticated", hook, "connection")
        self._hooks.authenticated.append(hook)
        return hook

    def on_subscribe(self, hook: _S) -> _S:
        """Register a hook that is called with a connection and a pattern once it is subscribed.

        It does not matter whether the client subscribed or the server; a pattern that both have
        subscribed is reported once. The call comes after the client's ``subscribed``; no further
        message of the connection is acted on before the hook has returned. Messages that a ``def``
        sends to the connection come before the first event of the subscription.

        Raises:
            UsageError: It is no function of two arguments.
        """
        function_setting("on_subscribe", hook, "connection, pattern")
        self._hooks.subscribe.append(hook)
        return hook

    def on_unsubscribe(self, hook: _S) -> _S:
        """Register a hook that is called with a connection and a pattern when it is unsubscribed.

        There is one call for each call of ``on_subscribe``, also when the connection ends; those
        come before ``on_disconnect``.

        Raises:
            UsageError: It is no function of two arguments.
        """
        function_setting("on_unsubscribe", hook, "connection, pattern")
        self._hooks.unsubscribe.append(hook)
        return hook

    def on_disconnect(self, hook: _H) -> _H:
        """Register a hook that is called with each connection after it has ended.

        Raises:
            UsageError: It is no function of one argument.
        """
        function_setting("on_disconnect", hook, "connection")
        self._hooks.disconnect.append(hook)
        return hook

    def on_occupied(self, hook: _P) -> _P:
        """Register a hook that is called with a pattern that gets its first subscriber here.

        *Here* is this process: connections, and subscriptions of the application. So a source of
        data can be opened when the first client wants it; :meth:`on_vacated` says when to close
        it. Both are called in the order of what happened, one call at a time, and stop nothing.
        Register them before the bus runs.

        Raises:
            UsageError: It is no function of one argument.
        """
        function_setting("on_occupied", hook, "pattern")
        self._hooks.occupied.append(hook)
        return hook

    def on_vacated(self, hook: _P) -> _P:
        """Register a hook that is called with a pattern a second after its last subscriber left.

        If another one comes within that second, neither hook is called.

        Raises:
            UsageError: It is no function of one argument.
        """
        function_setting("on_vacated", hook, "pattern")
        self._hooks.vacated.append(hook)
        return hook


class HookCalls:
    """The calls of hooks that are due for one connection, made in order and one at a time.

    The object exists only while a call is due or under way, so that idle connections have none.

    Args:
        context: The connection's context; each call gets a copy.
        seconds: Time limit of each call.
        log: The log for calls that fail.
    """

    __slots__ = (
        "_begun",
        "_context",
        "_due",
        "_idle",
        "_is_awaiting",
        "_log",
        "_seconds",
        "holds",
        "is_making",
    )

    def __init__(self, context: Context, seconds: float, log: BoundedLog) -> None:
        self._context: Final = context
        self._log: Final = log
        self._seconds: Final = seconds
        self._due: Final[deque[tuple[Callable[..., object], tuple[object, ...]]]] = deque()
        self._begun: tuple[Callable[..., object], Awaitable[object]] | None = None
        self._is_awaiting = False
        self._idle: Event | None = None
        self.is_making: bool = False
        """Whether a hook is running now, further down this stack."""
        self.holds: bool = False
        """Whether the session waits for the calls; see :meth:`.Session.hold`."""

    @property
    def is_over(self) -> bool:
        """Whether all calls have returned."""
        return not (self._due or self._begun or self._is_awaiting or self.is_making)

    @property
    def has_begun(self) -> bool:
        """Whether a call has begun and no task awaits it yet."""
        return self._begun is not None

    def add(
        self, hooks: Sequence[Callable[..., object]], *args: object, is_first: bool = False
    ) -> None:
        """Add a call of each hook, after the calls that are due, or before them."""
        calls = [(hook, args) for hook in hooks]
        if is_first:
            self._due.extendleft(reversed(calls))
        else:
            self._due.extend(calls)

    def make(self) -> None:
        """Make the calls that are due, up to one that must be awaited; see :meth:`drain`.

        Within a hook this does nothing: effects of the hook are reported when it has returned.
        """
        while self._due and not (self._begun or self._is_awaiting or self.is_making):
            hook, args = self._due.popleft()
            self.is_making = True
            try:
                result = call(self._context, hook, *args)
            except Exception:  # noqa: BLE001  # the application's own; logged
                name = name_of(hook)
                self._log.exception(
                    "the connection hook %s failed",
                    name,
                    of=name,
                    extra=about("hook_failed", function=name),
                )
            else:
                if isawaitable(result):
                    self._begun = hook, result
            finally:
                self.is_making = False

    async def drain(self, ask: _Ask) -> None:
        """Return when all calls have returned; make them, unless another task does.

        Args:
            ask: ``_application.ask``, or :meth:`.Runner.ask` in a call of the runner.
        """
        while not self.is_over:
            if self._is_awaiting:
                if self._idle is None:
                    self._idle = Event()
                await self._idle.wait()
                continue
            self.make()
            if self._begun is not None:
                await self._await(ask, *self._begun)

    async def _await(
        self, ask: _Ask, hook: Callable[..., object], begun: Awaitable[object]
    ) -> None:
        self._begun, self._is_awaiting = None, True
        try:
            await ask(self._seconds, self._context, partial(_same, begun))
        except Overdue:
            name = name_of(hook)
            text = "the connection hook %s was cancelled after %g s (command_timeout)"
            self._log.warning(
                text,
                name,
                self._seconds,
                of=name,
                extra=about("hook_overdue", function=name, seconds=self._seconds),
            )
        except Exception:  # noqa: BLE001  # the application's own; logged
            name = name_of(hook)
            self._log.exception(
                "the connection hook %s failed",
                name,
                of=name,
                extra=about("hook_failed", function=name),
            )
        finally:
            self._is_awaiting = False
            if self._idle is not None:
                self._idle.set()
                self._idle = None


def _same(begun: Awaitable[object]) -> Awaitable[object]:
    return begun
