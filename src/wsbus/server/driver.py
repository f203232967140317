"""Driver of one session: the only reader of its transport, and the performer of its actions.

Decisions are the session's (:mod:`wsbus.core.session`), writing is the flusher's. An idle
connection owns the task that reads, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from anyio import CancelScope, Event, move_on_after

from .._application import ask
from .._spawn import task_now
from ..core import actions
from ..core.errors import CloseCode, ErrorCode, TransportClosed
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Command, Connected, Refused, Response, ServerMessage
from ..core.permissions import Identity
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Transport
from .closing import close
from .commands import Running
from .connection import Connection
from .hooks import HookCalls
from .outlet import SocketOutlet
from .reader import Reader
from .services import Services

__all__ = ["Driver"]

logger: Final = logging.getLogger("wsbus.connection")

_REPLACED_SECONDS: Final = 1.0
"""How long a connection whose name was taken over may take to close; then it is aborted."""

_RATE_ABUSE: Final = CloseCode.RATE_ABUSE  # To look it up takes as long as to call a function.
_Question = TypeVar("_Question", actions.AskToken, actions.AskPermission, HookCalls)


class Driver(Connection):
    """Runs one connection, from its attach to its end."""

    __slots__ = (
        "_calls",
        "_closed",
        "_commands_running",
        "_gone",
        "_has_arrived",
        "_held",
        "_is_closing",
        "_place",
        "_task",
    )

    def __init__(
        self, services: Services, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> None:
        super().__init__(services, endpoint, transport, admission)
        self._place: Final = admission.place
        self._has_arrived = False  # `on_connect` was called.
        self._calls: HookCalls | None = None  # While there are any.
        self._held: int | None = None  # The session waits for them; see `Session.hold`.
        self._gone: Event | None = None
        self._commands_running = 0
        self._is_closing = False
        self._closed: Event | None = None
        self._task: asyncio.Task[object] | None = None  # The reader's, on asyncio.
        seconds, log = endpoint.limits.write_deadline, services.flusher.log
        self._outlet = SocketOutlet(transport, self, seconds, log)
        self._member = Member(
            admission.protocol,
            endpoint.empty_queue,
            self._outlet,
            overflow=endpoint.overflow,
            writes_bytes=self._outlet.direct is not None,
            shares_queue=True,
        )
        self._reader = Reader(services, self._session, self._protocol, self._member, self._outlet)

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read to the end; never raises because of the peer. Cancellation: aborts."""
        try:
            self._task = task_now()
            await self._begin()
            while self.close_code != _RATE_ABUSE:
                # An idle connection holds on to nothing of what it received.
                for _ in self._reader.read(await self._transport.receive(), self._perform):
                    await self._reader.pause()
            if self._closed is not None:
                await self._closed.wait()
        except TransportClosed as exc:
            if self.close_code is None:
                self._note_end(exc.code, exc.reason)
        except Exception:
            logger.exception("a connection failed")
            self._note_end(CloseCode.INTERNAL_ERROR, "internal error")
            with move_on_after(self._endpoint.limits.close_timeout):
                await self._transport.close(CloseCode.INTERNAL_ERROR, "internal error")
            self._transport.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            self._end()
            # After the clean-up, which waits for nothing; bounded, whatever the hooks do.
            with CancelScope(shield=True):
                if self._has_arrived:
                    await self._say_goodbye()
            self._services.registry.free(self)
            if self._gone is not None:
                self._gone.set()

    def tick(self, now: Instant) -> None:
        """Do what time demands; called by the bus's sweeper when :attr:`deadline` has come."""
        self._perform(self._session.handle_deadline(now))

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do; monotonic seconds."""
        return self._session.deadline

    def review(self, now: Instant, stopped: float) -> None:
        """Its endpoint's heartbeat or the wall clock was set, or the process stood still."""
        self._session.heartbeat.policy = self._endpoint.heartbeat
        self._session.heartbeat.forgive(stopped, now.monotonic)
        self._session.reschedule(now)

    def queue_overflowed(self) -> None:
        """Its queue is full, and the policy is to close."""
        self._member.clear()  # It is not going to get this; the close frame must fit.
        self.disconnect(CloseCode.TOO_SLOW, "reading too slowly")

    async def _begin(self) -> None:
        services, identity = self._services, self.identity
        services.registry.add(self)
        services.hub.attach(self._member)
        replaced = None if identity is None else self._take_name(identity)
        if isinstance(replaced, Refusal):  # Of two handshakes at once both were admitted.
            self.disconnect(replaced.close_code, replaced.reason)
            return
        self._greet(identity)
        if identity is not None:
            self._adopt(identity)
        if identity is not None or self._endpoint.name_connection is None:
            await self._arrive(replaced)

    def _greet(self, identity: Identity | None) -> None:
        """Say the first thing."""
        policy, limits = self._endpoint.heartbeat, self._endpoint.limits
        subject = identity.subject if identity else None
        rates = limits.messages_per_second, limits.commands_per_second
        bounds = limits.max_message_bytes, limits.max_names, *rates
        self._send(Connected(self.id, subject, policy.interval, policy.timeout, *bounds))

    def _take_name(self, identity: Identity) -> Driver | Refusal | None:
        """Take the name from the connection that has it; see :meth:`.Registry.adopt`."""
        taken = self._services.registry.adopt(self, identity.subject)
        if isinstance(taken, Driver):
            taken.disconnect(CloseCode.REPLACED, "client_id replaced")
        return taken

    async def _arrive(self, replaced: Driver | None) -> None:
        """Wait for the end of the connection that had the name, then call the hooks."""
        if replaced is not None:
            with move_on_after(_REPLACED_SECONDS) as scope:
                await replaced.gone()
            if scope.cancelled_caught:
                replaced.abort()  # Its peer may be long gone.
                await replaced.gone()  # Bounded by the time limits of hooks.
        if not self._has_arrived and not self._is_closing:
            self._has_arrived = True
            self._note(self._services.hooks.connect, is_first=True)
            if self._calls is not None:
                await self._await_calls(self._calls, ask)

    async def _say_goodbye(self) -> None:
        """Call the hooks of the end, after those that are due."""
        hooks = self._services.hooks
        for pattern in self._session.patterns:
            self._note(hooks.unsubscribe, pattern.text)
        self._note(hooks.disconnect)
        if self._calls is not None:
            await self._calls.drain(ask)

    async def gone(self) -> None:
        """Wait until the connection has ended and its ``on_disconnect`` hooks have returned."""
        if self._services.registry.is_leaving(self):
            if self._gone is None:
                self._gone = Event()
            await self._gone.wait()

    def _end(self) -> None:
        self._session.close(CloseCode.ABNORMAL, "")
        self._services.hub.detach(self._member, self._session.patterns)
        self._services.registry.remove(self)
        if self._place is not None:
            self._place.release()
        self._outlet.relieve()

    def write_failed(self, *, is_closed: bool) -> None:
        """Nothing can be written any more; see :class:`wsbus.server.outlet.Owner`."""
        if is_closed:  # The reader is about to learn it, too; a reset might cut the close frame.
            self._services.hub.leave_all(self._member, self._session.patterns)
        else:
            self.abort()

    # --- in --------------------------------------------------------------------------------------

    def _perform(  # noqa: C901  # one row per action
        self, todo: Sequence[actions.Action], now: Instant | None = None
    ) -> None:
        services, member = self._services, self._member
        for action in todo:
            # Most are these, and each pattern below that does not match takes 0.1 µs.
            if type(action) is actions.Send:
                self._reader.answered += self._send(action.reply, now)
                continue
            if type(action) is actions.Invoke:
                self._invoke(action.call, now)
                continue
            match action:
                case actions.Emit():
                    self._emit(action)
                case actions.Join():
                    services.hub.join(member, action.pattern)
                    self._note(services.hooks.subscribe, action.pattern.text)
                case actions.Leave():
                    services.hub.leave(member, action.pattern)
                    self._note(services.hooks.unsubscribe, action.pattern.text)
                case actions.Adopt():
                    self._adopt(action.identity, is_renewal=action.is_renewal)
                case actions.ReportStatus():
                    self._reader.answered += self._send(self.info().status(action.ref))
                case actions.AskToken():
                    services.runner.submit(partial(self._ask, self._judge_token, action))
                case actions.AskPermission():
                    services.runner.submit(partial(self._ask, self._judge_permission, action))
                case actions.Close():
                    self._close(action)
        if self._calls is not None:
            self._make_calls()

    def _go_on(self, todo: Sequence[actions.Action], now: Instant) -> None:
        """Perform what follows from an answer, then what waited for it, message by message."""
        self._perform(todo, now)
        while (waited := self._session.resume(now)) is not None:
            self._perform(waited, now)

    def _adopt(self, identity: Identity, *, is_renewal: bool = False) -> None:
        self._services.hub.restrict(self._member, identity.grants)
        if is_renewal:
            return
        self._note(self._services.hooks.authenticated)
        if self._endpoint.broadcast is not None:
            self.subscribe(self._endpoint.broadcast)

    # --- hooks -------------------------------------------------------------------------------

    def _note(
        self, hooks: Sequence[Callable[..., object]], *args: object, is_first: bool = False
    ) -> None:
        """Have hooks called once the actions are performed, in the order of what happened."""
        if hooks:
            if self._calls is None:
                seconds, log = self._endpoint.limits.command_timeout, self._services.hooks.log
                self._calls = HookCalls(self.context, seconds, log)
            self._calls.add(hooks, self, *args, is_first=is_first)

    def _make_calls(self) -> None:
        """Call what need not be awaited; messages wait for the rest, which the runner awaits."""
        calls, task = self._calls, self._task
        if calls is None or calls.is_making or not self._has_arrived:
            return
        cancelling = 0 if task is None else task.cancelling()
        calls.make()
        if task is not None and task.cancelling() > cancelling:
            self._reader.absorb(task)  # As in `_invoke`.
        if calls.is_over:
            self._calls = None
            return
        if self._held is None:
            self._held = self._session.hold()
        if calls.has_begun:
            runner = self._services.runner
            wait = partial(self._await_calls, ask=runner.ask)
            runner.submit(partial(self._ask, wait, calls))

    async def _await_calls(self, calls: HookCalls, ask: Callable[..., Awaitable[Any]]) -> None:
        """Wait for the calls, then act on what waited for them."""
        await calls.drain(ask)
        if self._calls is not calls:
            return
        generation, self._calls, self._held = self._held, None, None
        if generation is not None:
            now = self._services.clock()
            self._go_on(self._session.release(generation, now), now)

    def _emit(self, action: actions.Emit) -> None:
        receipt = self._services.emit(action.channel, action.publish)
        if action.publish.ref is not None:
            self._send(Response(msgspec.json.encode(receipt._asdict()), action.publish.ref))

    # --- what takes time ---------------------------------------------------------------------

    def _invoke(self, call: Command, now: Instant | None) -> None:
        services, limits, task = self._services, self._endpoint.limits, self._task
        cancelling = 0 if task is None else task.cancelling()
        outcome = services.commands.invoke(call, self, limits.command_timeout, self.context)
        if task is not None and task.cancelling() > cancelling:
            # A `def` command ran in the reader's task, and cancelled it. That costs its call only.
            self._reader.absorb(task)
        if callable(outcome) and self._commands_running >= limits.max_running_commands:
            why = "too many commands are running"
            outcome = Refused(ErrorCode.RATE_LIMITED, why, call.ref, call.ref is not None)
        if not callable(outcome):
            self._send(outcome, now)
        else:
            self._commands_running += 1
            services.runner.submit_each(self._finish_command, (outcome,))

    async def _finish_command(self, command: Running) -> None:
        try:
            self._send(await command(self._services.runner))
        except Exception:
            logger.exception("the answer to a command cannot be sent")
            self.disconnect(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._commands_running -= 1

    async def _ask(self, judge: Callable[[_Question], Awaitable[None]], ask: _Question) -> None:
        """Put a question to the application; a failure ends the connection, or it would hang."""
        try:
            await judge(ask)
        except Exception:
            logger.exception("an answer of the application cannot be used")
            self.disconnect(CloseCode.INTERNAL_ERROR, "internal error")

    async def _judge_token(self, ask: actions.AskToken) -> None:
        verdict = await self._endpoint.judge(
            ask.token, self.handshake, self.context, self._services.runner.ask
        )
        if isinstance(verdict, Refusal):
            answer: Identity | str = verdict.reason
            if verdict.close_code is not CloseCode.TOKEN_REFUSED and self.identity is None:
                self.disconnect(verdict.close_code, verdict.reason)  # Not the client's fault.
        else:
            answer = verdict if isinstance(verdict, Identity) else "the token was refused"
            if isinstance(answer, Identity) and not (self.identity or await self._enter(answer)):
                return
        now = self._services.clock()
        self._go_on(self._session.handle_token(ask.generation, answer, now), now)

    async def _enter(self, identity: Identity) -> bool:
        """Take the name that goes with the identity; false if the connection is closed instead."""
        replaced = self._take_name(identity)
        if isinstance(replaced, Refusal):
            self.disconnect(replaced.close_code, replaced.reason)
            return False
        self._adopting = identity
        await self._arrive(replaced)
        return True

    async def _judge_permission(self, ask: actions.AskPermission) -> None:
        allowed = await self._services.judge(
            ask, self._endpoint.limits.command_timeout, self.context
        )
        now = self._services.clock()
        self._go_on(self._session.handle_permission(ask.generation, allowed, now), now)

    # --- out -----------------------------------------------------------------------------------

    def _send(self, reply: ServerMessage, now: Instant | None = None) -> int:
        """Say it; return how many bytes that takes."""
        if self._is_closing:  # The close frame is the last.
            return 0
        frame = self._protocol.encode(reply, now or self._services.clock())
        if frame is None:
            self._services.unsaid += 1
            return 0
        self._services.flusher.send(self._member, frame)
        return frame.size

    def _close(self, action: actions.Close) -> None:
        self._is_closing = True
        self._note_end(action.code, action.reason)
        self._closed = Event()
        self._services.hub.leave_all(self._member, self._session.patterns)
        self._services.flusher.flush()
        seconds = self._endpoint.limits.close_timeout
        end = partial(close, self._outlet, self._member, action, seconds, self._closed)
        self._services.runner.submit(end)
