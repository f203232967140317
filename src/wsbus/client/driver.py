"""The driver of a client session: it connects, reads, writes, keeps time, performs actions."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from inspect import isawaitable
from typing import Any, Final
from weakref import WeakSet

import anyio
from anyio import (
    CancelScope,
    NoEventLoopError,
    create_task_group,
    current_time,
    fail_after,
    move_on_after,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from .._log import about, escaped
from .._spawn import spawn
from .._timing import limit_of
from ..core.client import actions
from ..core.client.requests import OpenRequest
from ..core.client.session import ClientSession
from ..core.errors import ConnectError, TransportClosed, UsageError, WsbusError
from ..core.events import Gap
from ..core.messages import GetStatus, Publication
from .address import DialFailed, bearer, token_subprotocol, with_token
from .changes import Change, Changes, Closed, Connected, Missed, Reconnecting, RefreshFailed
from .events import Events
from .replies import PendingReply, ReplyTaker
from .settings import ClientWire, OnChange, Settings
from .tokens import fetch
from .watches import Watches

__all__ = ["GAVE_UP", "ClientDriver"]

logger: Final = logging.getLogger("wsbus.client")

GAVE_UP: Final = "%s: the client has ended: %s"
"""Logged when a client ends and the application did not close it."""
_TURN: Final = 100
"""Events after which subscribers get a turn: fewer than any sensible buffer holds, or a burst
would overflow the buffers of subscribers that keep up."""
_FAREWELL_SECONDS: Final = 1.0
"""Time for ``on_change`` to handle the last changes."""


class ClientDriver:
    """Runs a client's session in a task of its own; see :meth:`run`."""

    def __init__(self, settings: Settings, session: ClientSession[Events[Any]]) -> None:
        self.settings: Final = settings
        self.session: Final = session
        self.known: Final = anyio.Event()
        """Set once the first attempt has succeeded, or the client has ended."""
        self.over: Final = anyio.Event()
        """Set once the client has ended and nothing runs any more."""
        self.is_running: bool = False
        self._loop: EventLoopToken | None = None
        """The event loop that the client belongs to."""
        self.state: Connected | Reconnecting | Closed | None = None
        self.watches: Final = Watches(self)
        """The watches of this client."""
        self._changes: Final = WeakSet[Changes]()
        self._subscriptions: Final[set[Events[Any]]] = set()
        self._ended: Final = anyio.Event()
        self._heard_out: Final = anyio.Event()
        self._alarm = anyio.Event()
        self._armed = 0.0
        self._tasks: TaskGroup | None = None
        self._wire: ClientWire | None = None
        self._scope: CancelScope | None = None
        self._hung_up: anyio.Event | None = None
        self._now: Final = settings.clock
        self._limit: Final = limit_of(settings.clock)
        self._chance: Final = random.SystemRandom().random

    # --- for the client --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, on the loop that this is called on."""
        self._loop = current_token()
        self.is_running = True
        spawn(self.run)

    def check_caller(self) -> None:
        """Refuse a caller that is not on the loop of this client; see :class:`.EventsOwner`."""
        try:
            is_own = current_token() == self._loop
        except NoEventLoopError:
            is_own = False
        if not is_own:
            raise UsageError(
                "this client belongs to another event loop, or thread: use it on the loop that "
                "it was made on, or use wsbus.client.sync, which any thread may use"
            )

    def perform(self, todo: Sequence[actions.ClientAction]) -> None:
        """Perform the session's actions."""
        for action in todo:
            self._do(action)
        if self.session.deadline < self._armed:
            self._alarm.set()

    def changes(self) -> Changes:
        """Return a new stream of changes."""
        changes = Changes(self.state)
        self._changes.add(changes)
        return changes

    def join(self, subscription: Events[Any]) -> None:
        """Subscribe; see :class:`.EventsOwner`."""
        self.check_caller()
        if isinstance(self.state, Closed):
            subscription.end(self.state.error or UsageError("the client is closed"))
            return
        if subscription.asks:
            start = subscription.since, subscription.max_rate
            todo = self.session.subscribe(subscription.parsed, subscription, self._now(), *start)
        else:
            todo = self.session.listen(subscription.parsed, subscription)
        self._subscriptions.add(subscription)
        self.perform(todo)

    def ask(self, reply: ReplyTaker, request: OpenRequest, *, is_idempotent: bool) -> None:
        """Send a request; ``reply`` gets the outcome."""
        self.perform(self.session.request(reply, request, self._now(), is_idempotent=is_idempotent))

    async def fence(self, seconds: float) -> None:
        """Wait for an answer that comes after all that is on its way; see :class:`.EventsOwner`."""
        self.check_caller()
        if self.settings.dialect.is_rich and not isinstance(self.state, Closed):
            reply = PendingReply()
            self.ask(reply, GetStatus(), is_idempotent=True)
            try:
                with fail_after(seconds):
                    await reply.done.wait()
            finally:
                self.session.forget(reply)

    def leave(self, subscription: Events[Any]) -> None:
        """Unsubscribe; see :class:`.EventsOwner`."""
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self.perform(self.session.unsubscribe(subscription.parsed, subscription, self._now()))

    def missed(self, pattern: str, gap: Gap) -> None:
        """Tell the application; see :class:`.EventsOwner`."""
        self._tell(Missed(pattern, gap))

    def abort(self) -> None:
        """Cut the connection without a close frame; the client then ends soon."""
        if self._scope is not None:
            self._scope.cancel()

    # --- the task --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until the session has ended and its connection is gone; never raises."""
        try:
            async with create_task_group() as tasks:
                self._tasks = tasks
                if self.settings.on_change is not None:
                    tasks.start_soon(self._call_back, self.settings.on_change, self.changes())
                tasks.start_soon(self._keep_time)
                await self._ended.wait()
                if self._hung_up is not None:
                    await self._hung_up.wait()
                if self.settings.on_change is not None:
                    with move_on_after(_FAREWELL_SECONDS):
                        await self._heard_out.wait()
                tasks.cancel_scope.cancel()
        except Exception:
            logger.critical("the client has failed", exc_info=True, extra=about("client_failed"))
            self._tasks = None
            self.perform(
                self.session.close(ConnectError("the client has failed; its log says why"))
            )
        finally:
            self.is_running = False
            self.known.set()
            self.over.set()

    async def _keep_time(self) -> None:
        while True:
            now, deadline = self._now(), self.session.deadline
            if now.monotonic >= deadline:
                self.perform(self.session.handle_deadline(now))
                continue
            self._alarm = anyio.Event()
            self._armed = deadline
            with self._limit(deadline - now.monotonic):
                await self._alarm.wait()

    async def _fetch(self, generation: int) -> None:
        source = self.settings.fetch_token
        assert source is not None
        why = ""
        token: str | None = None
        try:
            with move_on_after(self.settings.connect_timeout):
                token = await fetch(source)
        except Exception as exc:
            # The type only: its text may hold anything. The traceback goes to the log.
            extra = about("client_token_failed")
            logger.warning("the function for the token has failed", exc_info=True, extra=extra)
            why = f"the function for it has failed: {type(exc).__name__}"
        if token is None:
            why = why or f"the function for it took longer than {self.settings.connect_timeout:g} s"
            todo = self.session.handle_no_token(generation, why, self._now(), self._chance())
        else:
            todo = self.session.handle_token(generation, token, self._now())
        self.perform(todo)

    async def _converse(self, token: str | None) -> None:
        """Run one connection from opening to closing, and report its end to the session."""
        hung_up, scope = self._hung_up, self._scope
        assert hung_up is not None
        assert scope is not None
        closed = TransportClosed()
        failure: DialFailed | None = None
        with scope:
            try:
                wire = await self._dial(token)
                closed = await self._talk(wire)
            except DialFailed as exc:
                failure = exc
        self._scope = self._wire = None
        hung_up.set()
        session, now, chance = self.session, self._now(), self._chance()
        if failure is not None and not scope.cancelled_caught:
            self.perform(session.failed(failure.error, failure.advice, now, chance))
        else:
            self.perform(session.lost(closed.code, closed.reason, now, chance))

    async def _dial(self, token: str | None) -> ClientWire:
        settings = self.settings
        uri, headers = settings.uri, settings.headers
        subprotocols = [settings.dialect.name]
        if token is not None:  # The token is sent in the handshake.
            match settings.token_in:
                case "header":
                    headers = {**headers, "Authorization": bearer(token)}
                case "subprotocol":
                    subprotocols.append(token_subprotocol(token))
                case "query" | "message":
                    uri = with_token(uri, settings.token_name, token)
        return await settings.open_wire(
            uri,
            settings.dialect,
            subprotocols=subprotocols,
            headers=headers,
            tls=settings.tls,
            max_bytes=settings.max_message_bytes,
        )

    async def _talk(self, wire: ClientWire) -> TransportClosed:
        closed = TransportClosed()
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(wire.run_writer)
                self._wire = wire
                self.perform(self.session.opened(self._now()))
                closed = await self._read(wire)
                await wire.finish()
                tasks.cancel_scope.cancel()
        finally:
            await wire.abort()
        return closed

    async def _read(self, wire: ClientWire) -> TransportClosed:
        session, decode = self.session, self.settings.dialect.decode
        events = 0
        while True:
            try:
                texts = await wire.receive()
            except TransportClosed as closed:
                return closed
            for text in texts:
                for heard in decode(text):
                    if not isinstance(heard, Publication):
                        self.perform(session.handle(heard, self._now()))
                        continue
                    for subscription in session.receive(heard):
                        subscription.offer(heard)
                    events += 1
                    if events >= _TURN:
                        events = 0
                        await checkpoint()

    async def _call_back(self, on_change: OnChange, changes: Changes) -> None:
        async for change in changes:
            try:
                waits = on_change(change)
                if isawaitable(waits):
                    await waits
            except Exception:
                logger.exception("on_change has failed", extra=about("client_hook_failed"))
        self._heard_out.set()

    # --- actions ---------------------------------------------------------------------------------

    def _do(self, action: actions.ClientAction) -> None:  # noqa: C901, PLR0912  # one row per action
        match action:
            case actions.Say(command):
                if self._wire is not None:
                    self._wire.send(self.settings.dialect.encode(command))
            case actions.Answer(key, outcome):
                key.settle(outcome)
            case actions.Confirm(holder, position):
                holder.confirmed(position)
            case actions.Dismiss(holder, error):
                holder.end(error)
            case actions.Lose(holder, gap):
                holder.lose(gap)
            case actions.FetchToken(generation):
                self._start(self._fetch, generation)
            case actions.Dial(token):
                # Made here, so that the connection can be aborted before its task has begun.
                self._hung_up, self._scope = anyio.Event(), CancelScope()
                self._start(self._converse, token)
            case actions.Cut():
                self.abort()
            case actions.HangUp(code, reason):
                self._hang_up(code, reason)
            case actions.TellConnected(connection_id, subject, is_again):
                self.known.set()
                self._enter(Connected(connection_id, subject, is_again))
                self.watches.connected()
            case actions.TellPresence(change):
                self.watches.changed(change)
            case actions.TellReconnecting(attempt, delay, error):
                self._enter(Reconnecting(attempt, delay, error))
            case actions.TellRefreshFailed(why):
                self._tell(RefreshFailed(why))
            case actions.Stop(error):
                self._stop(error)

    def _start(self, work: Callable[[Any], Coroutine[Any, Any, None]], argument: object) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(work, argument)

    def _hang_up(self, code: int, reason: str) -> None:
        if self._wire is not None and self._scope is not None:
            self._wire.hang_up(code, reason)
            self._scope.deadline = current_time() + self.settings.close_timeout

    def _stop(self, error: WsbusError | None) -> None:
        if self._wire is None:
            self.abort()
        self._enter(Closed(error))
        for subscription in list(self._subscriptions):
            subscription.end(error)
        self.watches.end(error)
        self.known.set()
        self._ended.set()

    def _enter(self, state: Connected | Reconnecting | Closed) -> None:
        self.state = state
        self._log(state)
        self._tell(state)

    def _log(self, state: Connected | Reconnecting | Closed) -> None:
        """Log the changes that matter to an application without ``on_change``."""
        uri = self.settings.uri
        where = f"{uri.host}:{uri.port}{uri.path}"
        match state:
            case Connected(is_again=True):
                extra = about("client_connected", server=where)
                logger.info("connected to %s again", where, extra=extra)
            case Reconnecting(attempt=attempt, delay=delay, error=error):
                extra = about("client_retries", server=where, attempt=attempt, seconds=delay)
                words = "%s: %s; attempt %d in %.1f s"
                logger.info(words, where, _said(error), attempt, delay, extra=extra)
            case Closed(error=error) if error is not None and self.known.is_set():
                extra = about("client_ended", server=where)
                logger.warning(GAVE_UP, where, _said(error), extra=extra)
            case _:
                pass

    def _tell(self, change: Change) -> None:
        logger.debug("%.1000r", change, extra=about("client_change"))
        for changes in list(self._changes):
            changes.put(change)


def _said(error: WsbusError | None) -> str:
    """Return an error for a log line: the server's words may be in it."""
    return escaped(str(error), 300)
