"""Requests that came by HTTP, each by itself: they have an identity, and no connection."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from typing import Final, cast

from anyio import Event, move_on_after
from msgspec.structs import replace

from .._application import handshake_context
from .._log import about
from ..connection import Connection, ConnectionInfo
from ..core import actions
from ..core.errors import CommandError, ErrorCode
from ..core.heartbeat import Heartbeat, HeartbeatPolicy
from ..core.instant import Instant
from ..core.limits import Limits, TokenBucket, bucket
from ..core.messages import (
    Command,
    GetPresence,
    Malformed,
    Ping,
    Publish,
    ReadHistory,
    Refused,
    Request,
    ServerMessage,
)
from ..core.permissions import Identity
from ..core.session import Session
from ..endpoint import Endpoint
from ..protocols import Native, protocol
from ..transport import Handshake
from .questions import Asker, emit, fetch
from .services import Services

__all__ = ["Posted"]

_MAX_CLIENTS: Final = 10_000
"""Clients whose rates are kept; of more, those that came last."""
_LATE_SECONDS: Final = 5.0
"""How long an answer may take beyond the time limit of a command."""
_NO_CONNECTION: Final = "this came by HTTP, without a connection: call it over a WebSocket"
_NOT_HERE: Final = "a POST takes publish, command, history, presence without watch, and ping"
_UNSAID: Final = Refused(ErrorCode.UNAVAILABLE, "the server did not answer in time")
_QUIET: Final = HeartbeatPolicy(interval=None, timeout=None)
_KINDS: Final = (Publish, Command, ReadHistory, GetPresence, Ping, Malformed)


class _Rates:
    """The rates of one client."""

    __slots__ = ("commands", "messages", "running")

    def __init__(self, limits: Limits) -> None:
        self.messages: Final[TokenBucket | None] = bucket(limits.messages_per_second)
        self.commands: Final[TokenBucket | None] = bucket(limits.commands_per_second)
        self.running = 0


class Posted:
    """Answers requests, and keeps the rates of their clients."""

    def __init__(self) -> None:
        self._clients: Final[OrderedDict[tuple[Endpoint, str], _Rates]] = OrderedDict()

    async def answer(
        self,
        services: Services,
        endpoint: Endpoint,
        handshake: Handshake,
        identity: Identity,
        text: str,
    ) -> tuple[str | None, bytes]:
        """Answer one request of ``wsbus.v1``.

        Returns:
            The code of the error, if it is one, and the message.
        """
        dialect = protocol("wsbus.v1")
        assert isinstance(dialect, Native)
        now, rates = services.clock(), self._rates(endpoint, handshake, identity)
        services.messages_received += 1
        request: Request
        refused: actions.Send | None
        if rates.messages is not None and not rates.messages.take(now.monotonic):
            request = dialect.glance(text)
            refused = actions.refuse(request, ErrorCode.RATE_LIMITED, "too many messages")
        else:
            request = dialect.understand(text)
            refused = _refusal(request, identity, rates, endpoint.limits, now)
        if refused is not None:
            reply = refused.reply
        else:
            rates.running += 1
            try:
                reply = await _PostedCall(services, endpoint, handshake, identity).run(request, now)
            finally:
                rates.running -= 1
        frame = dialect.encode(reply, services.clock())
        assert frame is not None  # Each of these replies has a message.
        return reply.code if isinstance(reply, Refused) else None, frame.payload

    def _rates(self, endpoint: Endpoint, handshake: Handshake, identity: Identity) -> _Rates:
        whose = identity.subject
        if endpoint.authenticator is None:  # All have the same subject.
            whose = endpoint.address_of(handshake) or ""
        rates = self._clients.get((endpoint, whose))
        if rates is None:
            rates = self._clients[endpoint, whose] = _Rates(endpoint.limits)
            if len(self._clients) > _MAX_CLIENTS:
                self._clients.popitem(last=False)
        self._clients.move_to_end((endpoint, whose))
        return rates


def _refusal(
    request: Request, identity: Identity, rates: _Rates, limits: Limits, now: Instant
) -> actions.Send | None:
    if not isinstance(request, _KINDS) or (isinstance(request, GetPresence) and request.watch):
        return actions.refuse(request, ErrorCode.INVALID_MESSAGE, _NOT_HERE)
    if isinstance(request, Malformed):
        return actions.refuse(request, request.code, request.message)
    if identity.expires_at is not None and identity.expires_at <= now.wall:
        return actions.refuse(request, ErrorCode.UNAUTHENTICATED, "the token has expired")
    if isinstance(request, Command):
        if rates.commands is not None and not rates.commands.take(now.monotonic):
            return actions.refuse(request, ErrorCode.RATE_LIMITED, "too many commands")
        if rates.running >= limits.max_running_commands:
            why = "too many commands are running"
            return actions.refuse(request, ErrorCode.RATE_LIMITED, why)
    return None


class _PostedCall:
    """Stands where a driver does, for one request."""

    close_code: int | None = None
    close_reason = ""
    messages_received = 1

    def __init__(
        self, services: Services, endpoint: Endpoint, handshake: Handshake, identity: Identity
    ) -> None:
        now = services.clock()
        self.id: Final = services.new_id()
        self.endpoint: Final = endpoint
        self.handshake: Final = handshake
        self.identity: Final = identity
        self.context: Final[Context] = handshake_context()
        self.connected_at: Final = now.wall
        self.protocol: Final = protocol("wsbus.v1")
        self.connection: Final = Connection(self)
        self.session: Final = Session(
            protocol=self.protocol,
            limits=replace(endpoint.limits, messages_per_second=None, commands_per_second=None),
            heartbeat=Heartbeat(_QUIET, now.monotonic),
            identity=identity,
            now=now,
            asks=services.authorize is not None,
        )
        self._services: Final = services
        self._reply: ServerMessage | None = None
        self._replied: Final = Event()

    async def run(self, request: Request, now: Instant) -> ServerMessage:
        """Act on a request, and return the reply."""
        ref = getattr(request, "ref", None)
        if ref is None:  # Each request is answered here.
            request = replace(request, ref="")
        todo = self.session.handle(request, now)
        self._services.runner.submit(partial(self._act, todo))
        with move_on_after(self.endpoint.limits.command_timeout + _LATE_SECONDS):
            await self._replied.wait()
        reply = self._reply or _UNSAID
        if ref is None and hasattr(reply, "ref"):
            reply = replace(reply, ref=None)
        return reply

    async def _act(self, todo: Sequence[actions.Action]) -> None:
        try:
            for action in todo:
                await self._perform(action)
        except Exception:
            self._services.log.exception(
                "a request over HTTP failed", of="posted", extra=about("request_failed")
            )
            self.send(Refused(ErrorCode.INTERNAL_ERROR, "internal error"))
        except BaseException:
            self._replied.set()  # The bus ends.
            raise

    async def _perform(self, action: actions.Action) -> None:
        services, driver = self._services, cast("Asker", self)
        seconds = self.endpoint.limits.command_timeout
        match action:
            case actions.Send():
                self.send(action.reply)
            case actions.Emit():
                emit(driver, services.post, action)
            case actions.Fetch():
                await fetch(driver, services, action)
            case actions.Look():
                services.attendances.look(driver, action.channel, action.request)
            case actions.Invoke():
                caller, call = self.connection, action.call
                outcome = services.commands.invoke(
                    call, caller, seconds, self.context, is_posted=True
                )
                self.send(await outcome(services.runner) if callable(outcome) else outcome)
            case actions.AskPermission():
                allowed = await services.judge(action, seconds, self.context)
                now = services.clock()
                for each in self.session.handle_answer(action.request, allowed, now):
                    await self._perform(each)
            case _:  # What belongs to a connection does not come of these requests.
                raise AssertionError(action)

    def send(self, reply: ServerMessage, now: Instant | None = None) -> int:
        """Take the reply."""
        self._reply = self._reply or reply
        self._replied.set()
        return 0

    def perform(self, todo: Sequence[actions.Action], now: Instant | None = None) -> None:
        """Refuse what the application wants of a connection."""
        if todo:
            raise CommandError(ErrorCode.INVALID_MESSAGE, _NO_CONNECTION)

    def abort(self) -> None:
        """Refuse it, too."""
        raise CommandError(ErrorCode.INVALID_MESSAGE, _NO_CONNECTION)

    def info(self) -> ConnectionInfo:
        """Refuse it, too."""
        raise CommandError(ErrorCode.INVALID_MESSAGE, _NO_CONNECTION)
