"""Driver of one session: the only reader of its transport, and the performer of its actions.

Decisions are the session's (:mod:`wsbus.core.session`), writing is the flusher's. An idle
connection owns the task that reads, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from anyio import CancelScope, Event

from .._application import ask, handshake_context
from .._log import escaped
from ..connection import Connection, ConnectionInfo
from ..core import actions
from ..core.errors import CloseCode, ErrorCode, TransportClosed
from ..core.instant import Instant
from ..core.member import Member
from ..core.messages import Command, Refused, ServerMessage
from ..core.permissions import Identity
from ..endpoint import Admission, Endpoint, Refusal
from ..transport import Transport
from .closing import close, close_failed
from .commands import Running
from .connection import ConnectionDriver, about_driver
from .hooks import HookCalls
from .opening import await_end, greeting, new_member, new_outlet, new_session, take_name
from .outlet import SocketOutlet
from .questions import emit, fetch, put, question
from .reader import Reader
from .services import Services

__all__ = ["Driver"]

logger: Final = logging.getLogger("wsbus.connection")

_RATE_ABUSE: Final = CloseCode.RATE_ABUSE  # To look it up takes as long as to call a function.


class Driver:
    """Runs one connection, from its attach to its end.

    The application never holds it: it holds a :class:`.Connection`.
    """

    __slots__ = (
        "_adopting",
        "_calls",
        "_closed",
        "_commands_running",
        "_gone",
        "_has_arrived",
        "_place",
        "_reader",
        "_services",
        "_transport",
        "close_code",
        "close_reason",
        "connected_at",
        "connection",
        "context",
        "endpoint",
        "handshake",
        "id",
        "member",
        "members",
        "outlet",
        "protocol",
        "session",
    )

    def __init__(
        self, services: Services, endpoint: Endpoint, transport: Transport, admission: Admission
    ) -> None:
        now = services.clock()
        self.id: Final = admission.connection_id or services.new_id()
        self.handshake: Final = admission.handshake
        self.connected_at: Final = now.wall
        self.context: Final = handshake_context()
        self.endpoint: Final = endpoint
        self.close_code: int | None = None
        self.close_reason: str = ""
        self.connection: Final = Connection(self)
        self._services: Final = services
        self._transport: Final = transport
        self._place: Final = admission.place
        self._adopting: Identity | None = None
        self._has_arrived = False  # `on_connect` was called.
        self._calls: HookCalls | None = None  # While there are any.
        self._gone: Event | None = None
        self._commands_running = 0
        self._closed: Event | None = None  # Set once it is closed; None: it is not closing.
        self.session: Final = new_session(services, endpoint, admission, now)
        self.protocol: Final = admission.protocol
        self.outlet: Final[SocketOutlet] = new_outlet(services, endpoint, transport, self)
        self.member: Final = new_member(endpoint, admission, self.outlet)
        self.members: Sequence[Member] = (self.member,)
        self._reader: Final = Reader(services, self)

    @property
    def identity(self) -> Identity | None:
        """The identity; None until the client has authenticated."""
        return self.session.identity or self._adopting

    @property
    def messages_received(self) -> int:
        """Messages that came from the client, refused ones included."""
        return self._reader.messages_received

    @property
    def is_stuck(self) -> bool:
        """Whether its transport has not taken what it was given."""
        return self.member.is_waiting and self.outlet.direct is not None

    def info(self) -> ConnectionInfo:
        """Return what is known of it now."""
        facts = self.id, self.protocol.name, self.connected_at, self.messages_received
        now = self._services.clock()
        return ConnectionInfo.of(self.session, self.members, self.handshake, now, *facts)

    def describe(self) -> str:
        """Return id, subject and path, for a log line."""
        whose = f"of {escaped(self.identity.subject)}" if self.identity else "without a subject"
        return f"the connection {escaped(self.id)} {whose}, on {escaped(self.handshake.path)},"

    # --- life ----------------------------------------------------------------------------------

    async def run(self, *, is_greeted: bool = False) -> None:
        """Read to the end, whatever the peer does; with ``is_greeted``: ``connected`` was sent."""
        try:
            self._reader.begin()
            await self._begin(is_greeted=is_greeted)
            while self.close_code != _RATE_ABUSE:
                # An idle connection holds on to nothing of what it received.
                for _ in self._reader.read(await self._transport.receive(), self.perform):
                    await self._reader.pause()
            if self._closed is not None:
                await self._closed.wait()
        except TransportClosed as exc:
            if self.close_code is None:
                self.close_code, self.close_reason = exc.code, exc.reason
        except Exception:
            logger.exception("a connection failed", extra=about_driver("connection_failed", self))
            self.close_code, self.close_reason = CloseCode.INTERNAL_ERROR, "internal error"
            await close_failed(self._transport, self.endpoint.limits.close_timeout)
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
        self.perform(self.session.handle_deadline(now))

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do; monotonic seconds."""
        return self.session.deadline

    def review(self, now: Instant, stopped: float) -> None:
        """Its endpoint's heartbeat or the wall clock was set, or the process stood still."""
        self.session.heartbeat.policy = self.endpoint.heartbeat
        self.session.heartbeat.forgive(stopped, now.monotonic)
        self.session.reschedule(now)

    def queue_overflowed(self) -> None:
        """Its queue is full, and the policy is to close."""
        for member in self.members:
            member.clear()  # It is not going to get this; the close frame must fit.
        self.connection.disconnect(CloseCode.TOO_SLOW, "reading too slowly")

    async def _begin(self, *, is_greeted: bool) -> None:
        services, identity = self._services, self.identity
        services.registry.add(self)
        services.hub.attach(self.member)
        replaced = None if identity is None else take_name(self, services, identity)
        if isinstance(replaced, Refusal):  # Of two handshakes at once both were admitted.
            self.connection.disconnect(replaced.close_code, replaced.reason)
            return
        if not is_greeted:
            self.send(greeting(self.endpoint, self.id, identity))
        if identity is not None:
            self._adopt(identity)
        if identity is not None or self.endpoint.name_connection is None:
            await self._arrive(replaced)

    async def _arrive(self, replaced: ConnectionDriver | None) -> None:
        """Wait for the end of the connection that had the name, then call the hooks."""
        await await_end(replaced)
        if not self._has_arrived and self._closed is None:
            self._has_arrived = True
            self._note(self._services.hooks.connect, is_first=True)
            if self._calls is not None:
                await self._await_calls(self._calls, ask)

    async def _say_goodbye(self) -> None:
        """Call the hooks of the end, after those that are due."""
        hooks = self._services.hooks
        for pattern in self.session.patterns:
            self._note(hooks.unsubscribe, pattern.text)
        self._note(hooks.disconnect)
        if self._calls is not None:
            await self._calls.drain(ask)

    async def gone(self) -> None:
        """Wait until the connection has ended and its ``on_disconnect`` hooks have returned."""
        if self._services.registry.is_leaving(self):
            self._gone = self._gone or Event()
            await self._gone.wait()

    def _end(self) -> None:
        self.session.close(CloseCode.ABNORMAL, "")
        self._services.rates.detach(self, self.session.patterns)
        self._services.attendances.drop(self, self.session.patterns)
        self._services.registry.remove(self)
        if self._place is not None:
            self._place.release()
        self.outlet.relieve()

    def write_failed(self, *, is_closed: bool) -> None:
        """Nothing can be written any more; see :class:`wsbus.server.outlet.OutletOwner`."""
        if is_closed:  # The reader is about to learn it, too; a reset might cut the close frame.
            self._services.rates.leave_all(self, self.session.patterns)
        else:
            self.abort()

    # --- in --------------------------------------------------------------------------------------

    def perform(  # noqa: C901, PLR0912  # one row per action
        self, todo: Sequence[actions.Action], now: Instant | None = None
    ) -> None:
        """Do what the session wants, in order and with nothing in between."""
        services = self._services
        for action in todo:
            # Most are these, and each pattern below that does not match takes 0.1 µs.
            if type(action) is actions.Send:
                self._reader.answered += self.send(action.reply, now)
                continue
            if type(action) is actions.Invoke:
                self._invoke(action.call, now)
                continue
            match action:
                case actions.Emit():
                    emit(self, services.post, action)
                case actions.Join():
                    services.rates.join(self, action.pattern)
                    services.attendances.join(self, action.pattern)
                    self._note(services.hooks.subscribe, action.pattern.text)
                case actions.Replay():
                    services.rates.replay(self, action.publications, is_latest=action.is_latest)
                case actions.Thin():
                    services.rates.set(self, action.rates, self.session.patterns)
                case actions.Look():
                    services.attendances.look(self, action.channel, action.request)
                case actions.Fetch() | actions.Ask():
                    services.runner.submit(partial(put, self, fetch, services, action))
                case actions.Leave():
                    services.rates.leave(self, action.pattern)
                    services.attendances.leave(self, (action.pattern,))
                    self._note(services.hooks.unsubscribe, action.pattern.text)
                case actions.Adopt():
                    self._adopt(action.identity, is_renewal=action.is_renewal)
                case actions.ReportStatus():
                    self._reader.answered += self.send(self.info().status(action.ref))
                case actions.AskToken() | actions.AskPermission() | actions.Attach():
                    question(self, services, action, now)
                case actions.Close():
                    self._close(action)
        if self._calls is not None:
            self._make_calls()

    def abort(self) -> None:
        """Cut it off now, without a close frame. Idempotent."""
        self.close_code = self.close_code or CloseCode.ABNORMAL
        self.session.pending.clear()  # The reader may wait for one of them.
        self._transport.abort()

    def go_on(self, todo: Sequence[actions.Action], now: Instant) -> None:
        """Perform what follows from an answer, then what waited for it, message by message."""
        self.perform(todo, now)
        while (waited := self.session.resume(now)) is not None:
            self.perform(waited, now)

    def _adopt(self, identity: Identity, *, is_renewal: bool = False) -> None:
        self._services.rates.restrict(self, identity.grants)
        if is_renewal:
            self._services.attendances.review(self, identity.grants)
            return
        self._note(self._services.hooks.authenticated)
        if self.endpoint.broadcast is not None:
            self.connection.subscribe(self.endpoint.broadcast)

    def _note(
        self, hooks: Sequence[Callable[..., object]], *args: object, is_first: bool = False
    ) -> None:
        """Have hooks called once the actions are performed, in the order of what happened."""
        if hooks:
            seconds, log = self.endpoint.limits.command_timeout, self._services.hooks.log
            self._calls = self._calls or HookCalls(self.context, seconds, log)
            self._calls.add(hooks, self.connection, *args, is_first=is_first)

    def _make_calls(self) -> None:
        """Call what need not be awaited; messages wait for the rest, which the runner awaits."""
        calls, reader = self._calls, self._reader
        if calls is None or calls.is_making or not self._has_arrived:
            return
        cancelling = reader.cancelling
        calls.make()
        reader.absorb(cancelling)  # As in `_invoke`.
        if calls.is_over:
            self._calls = None
            return
        calls.holds = self.session.hold() or calls.holds
        if calls.has_begun:
            runner = self._services.runner
            runner.submit(partial(put, self, Driver._await_calls, calls, runner.ask))

    async def _await_calls(self, calls: HookCalls, ask: Callable[..., Awaitable[Any]]) -> None:
        """Wait for the calls, then act on what waited for them."""
        await calls.drain(ask)
        if self._calls is not calls:
            return
        self._calls = None
        if calls.holds:
            self.session.release()
            self.go_on((), self._services.clock())

    async def free(self) -> None:
        """See :meth:`.Asker.free`."""
        while self._calls is not None and self._calls.holds:
            await self._await_calls(self._calls, self._services.runner.ask)

    def _invoke(self, call: Command, now: Instant | None) -> None:
        services, limits, reader = self._services, self.endpoint.limits, self._reader
        cancelling, seconds = reader.cancelling, limits.command_timeout
        outcome = services.commands.invoke(call, self.connection, seconds, self.context)
        # A `def` command runs in the reader's task. If it cancels that, it costs its call only.
        reader.absorb(cancelling)
        if callable(outcome) and self._commands_running >= limits.max_running_commands:
            why = "too many commands are running"
            outcome = Refused(ErrorCode.RATE_LIMITED, why, call.ref, call.ref is not None)
        if not callable(outcome):
            self.send(outcome, now)
        else:
            self._commands_running += 1
            services.runner.submit_each(self._finish_command, (outcome,))

    async def _finish_command(self, command: Running) -> None:
        try:
            self.send(await command(self._services.runner))
        except Exception:
            extra = about_driver("answer_unsent", self)
            logger.exception("the answer to a command cannot be sent", extra=extra)
            self.connection.disconnect(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._commands_running -= 1

    async def enter(self, identity: Identity) -> bool:
        """Take the name that goes with the identity; false if the connection is closed instead."""
        replaced = take_name(self, self._services, identity)
        if isinstance(replaced, Refusal):
            self.connection.disconnect(replaced.close_code, replaced.reason)
            return False
        self._adopting = identity
        await self._arrive(replaced)
        return True

    def send(self, reply: ServerMessage, now: Instant | None = None) -> int:
        """Send it to the client; return how many bytes that takes."""
        if self._closed is not None:  # The close frame is the last.
            return 0
        frame = self.protocol.encode(reply, now or self._services.clock())
        if frame is None:
            self._services.unsaid += 1
            return 0
        self._services.flusher.send(self.member, frame)
        return frame.size

    def _close(self, action: actions.Close) -> None:
        closed = self._closed = Event()
        self.close_code, self.close_reason = action.code, action.reason
        self._services.rates.leave_all(self, self.session.patterns)
        self._services.flusher.flush()
        seconds = self.endpoint.limits.close_timeout
        end = partial(close, self.outlet, self.member, action, seconds, closed)
        self._services.runner.submit(end)
