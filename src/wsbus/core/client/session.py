"""The client's side of a conversation, across connections; pure, the counterpart of a session.

Messages, calls, ends of connections, time and chance (0 to 1) go in; actions come out, in order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Hashable
from functools import partial
from typing import Final, Generic, TypeVar

from .. import messages
from ..errors import (
    CloseCode,
    CommandError,
    ConnectError,
    ConnectionLost,
    ErrorCode,
    Unauthenticated,
    UsageError,
    WsbusError,
)
from ..events import Position
from ..heartbeat import Beat
from ..instant import Instant
from ..patterns import Pattern
from . import actions
from .actions import ClientAction, Heard
from .liveness import Liveness
from .outbox import Outbox
from .pace import Pace
from .requests import Measure, OpenRequest, Requests
from .retry import Advice, Attempts, Retry, advice_for, meaning_of
from .states import TABLE, ClientDuty, ClientInput, ClientState
from .subscriptions import ClientHoldings
from .token import Token, TokenUse

__all__ = ["ClientSession", "ClientState"]

H = TypeVar("H", bound=Hashable)

_IN_FLIGHT: Final = "no answer came, so it may have been carried out or not"
_EXPIRED: Final = "the token has expired; give a function that returns a new one"
_CLOSED: Final = "the client was closed before the answer came"


class ClientSession(Generic[H]):
    """One client, from the first attempt to the last close.

    Args:
        token: The source of the token.
        retry: When to reconnect.
        liveness: The client's own pings.
        greets: Whether the server speaks first, as in ``wsbus.v1``. If not, it answers a ping.
        connect_timeout: Seconds to open a connection, and again for the greeting.
        measure: Returns the size of a request, for servers that announce a limit.
    """

    def __init__(
        self,
        *,
        token: TokenUse,
        retry: Retry,
        liveness: Liveness,
        greets: bool = True,
        connect_timeout: float = 10.0,
        measure: Measure | None = None,
    ) -> None:
        self.state: ClientState = ClientState.WAITING
        self.deadline: float = -math.inf
        """When to call :meth:`handle_deadline`, in monotonic seconds; first at once."""
        self._token: Final = Token(token)
        self._attempts: Final = Attempts(retry)
        self._liveness: Final = liveness
        self._greets: Final = greets
        self._connect_timeout: Final = connect_timeout
        self._holdings: Final = ClientHoldings[H]()
        self.receive: Final = self._holdings.receive
        """Returns the holders for an event; an attribute, to save a call for each event."""
        self._requests: Final = Requests(measure)
        self.forget: Final = self._requests.forget
        """Forgets a request; returns whether it was certainly never sent. Idempotent."""
        self._pace: Final = Pace()
        self._outbox: Final = Outbox(self._holdings, self._requests, self._pace)
        self._at = -math.inf  # When the last input came.
        self._refs = 0
        self._ping_ref: str | None = None
        self._connection_id: str | None = None
        self._subject: str | None = None
        self._verdict: str = ""

    # --- what the application wants --------------------------------------------------------------

    @property
    def subscriptions(self) -> Collection[str]:
        """The names that the server has confirmed, as they were spelled."""
        return self._holdings.held

    def subscribe(
        self,
        pattern: Pattern,
        holder: H,
        now: Instant,
        since: Position | None = None,
        rate: float | None = None,
    ) -> list[ClientAction]:
        """Subscribe; the holder is confirmed, or dismissed, later."""
        return [*self._holdings.add(pattern, holder, since, rate), *self._flush(now)]

    def listen(self, pattern: Pattern, holder: H) -> list[ClientAction]:
        """Receive events that match without subscribing at the server."""
        return self._holdings.add_unasked(pattern, holder)

    def renew(self, pattern: Pattern, holder: H, now: Instant) -> list[ClientAction]:
        """Unsubscribe from a holder's name and subscribe again, from now on."""
        self._holdings.renew(pattern, holder)
        return self._flush(now)

    def unsubscribe(self, pattern: Pattern, holder: H, now: Instant) -> list[ClientAction]:
        """Unsubscribe; the holder gets no more events. Idempotent."""
        self._holdings.remove(pattern, holder)
        return self._flush(now)

    def request(
        self, key: Hashable, request: OpenRequest, now: Instant, *, is_idempotent: bool = False
    ) -> list[ClientAction]:
        """Make a request, to be sent when connection and rates allow it."""
        refused = self._requests.add(key, request, self._pace, is_idempotent=is_idempotent)
        return refused or self._flush(now)

    # --- connections -----------------------------------------------------------------------------

    def opened(self, now: Instant) -> list[ClientAction]:
        """Start to use a connection that was opened."""
        if not self._takes(ClientInput.OPENED):
            return []
        self.deadline = now.monotonic + self._connect_timeout
        if self._token.text is not None and not self._token.use.in_handshake:
            return [self._authenticate(self._token.text)]
        return [] if self._greets else [actions.Say(messages.Ping(self._ref()))]

    def failed(
        self, error: WsbusError, advice: Advice, now: Instant, chance: float
    ) -> list[ClientAction]:
        """Note that no connection could be opened."""
        return self._retreat(error, advice, now, chance) if self._takes(ClientInput.FAILED) else []

    def lost(self, code: int, reason: str, now: Instant, chance: float) -> list[ClientAction]:
        """Note that the connection, or the attempt, has ended, on either side."""
        verdict, self._verdict = self._verdict or reason, ""
        if not self._takes(ClientInput.LOST):
            return []
        if self.state is ClientState.DIALLING:
            return self._retreat(ConnectError(verdict), Advice.NOW, now, chance)
        is_too_big = (code := meaning_of(code, reason)) == CloseCode.MESSAGE_TOO_BIG
        self._attempts.left(now.monotonic)
        new_error = partial(ConnectionLost, code, verdict, _IN_FLIGHT)
        in_flight = self._outbox.cut(new_error, is_too_big=is_too_big)
        is_refused, why = code == CloseCode.TOKEN_REFUSED, verdict or "the token was refused"
        error = Unauthenticated(why) if is_refused else ConnectionLost(code, verdict)
        shows = self.state is ClientState.GREETING and self._token.sent_ref is not None
        advice = Advice.STOP if is_too_big and shows else advice_for(code)
        return in_flight + self._retreat(error, advice, now, chance)

    def handle_token(self, generation: int, token: str, now: Instant) -> list[ClientAction]:
        """Take the answer to :class:`.FetchToken`; a late one is ignored."""
        if self._token.is_late(generation):
            return []
        self._token.text = token
        if self.state is ClientState.FETCHING:
            return [self._dial(now)]
        return [self._authenticate(token)] if self.state is ClientState.OPEN else []

    def handle_no_token(
        self, generation: int, why: str, now: Instant, chance: float
    ) -> list[ClientAction]:
        """Note that the application has no token; a late answer is ignored."""
        if self._token.is_late(generation):
            return []
        if self.state is ClientState.OPEN:
            return self._not_refreshed(why, now)
        return self._retreat(ConnectError(f"no token: {why}"), Advice.NOW, now, chance)

    def handle(self, heard: Heard, now: Instant) -> list[ClientAction]:  # noqa: C901, PLR0912
        """Act on one message of the server; for events see :attr:`receive`."""
        self._at = now.monotonic
        match heard:
            case _ if not self._takes(ClientInput.HEARD):
                return []
            case messages.Ping(ref):
                self._pace.take(now.monotonic)
                self._reschedule()
                return [actions.Say(messages.Pong(ref))]
            case messages.Pong(ref):
                return self._handle_pong(ref, now)
            case _ if isinstance(heard, actions.RequestAnswer):
                answers = self._requests.answer(heard.ref, heard, self._pace, self._at) or []
                return answers + self._flush(now)
            case messages.Refused():
                return self._handle_refused(heard, now)
            case messages.Greeting():
                return self._handle_connected(heard, now)
            case actions.Admitted():
                return self._handle_admitted(heard, now)
            case messages.AuthRefused():
                return self._handle_auth_refused(heard, now)
            case messages.Subscribed(ref=str()):
                self._pace.answered(is_call=False)
                if self._holdings.is_cut_short(heard):
                    return self._cut("the server cannot serve the subscriptions again yet")
                return self._holdings.answered(heard) + self._flush(now)
            case messages.Unsubscribed(ref=None):
                return self._holdings.taken(heard.names, heard.reason)
            case messages.Subscribed() | messages.Unsubscribed():
                self._holdings.left(heard.ref)
                return []
            case messages.Gap():
                return self._holdings.lose(heard)
            case messages.PresenceChanged():
                return [actions.TellPresence(heard)]

    def _handle_connected(self, heard: messages.Greeting, now: Instant) -> list[ClientAction]:
        self._connection_id, self._subject = heard.connection_id, heard.subject
        refused = self._outbox.learn(heard, now.monotonic)
        if self.state is not ClientState.GREETING or self._token.sent_ref is not None:
            return refused
        if heard.subject is None:
            return refused + self.close(self._token.wanted())
        return refused + self._enter(heard.subject, now)

    def _handle_pong(self, ref: str | None, now: Instant) -> list[ClientAction]:
        if self.state is ClientState.GREETING and self._token.sent_ref is None and not self._greets:
            return self._enter(None, now)
        if ref is None or ref == self._ping_ref:
            self._liveness.pong()
            self._reschedule()
        return []

    def _handle_refused(self, heard: messages.Refused, now: Instant) -> list[ClientAction]:
        if self.state is ClientState.GREETING:
            if heard.code == ErrorCode.UNAUTHENTICATED:
                return self.close(self._token.wanted())
            return self._cut(f"the server does not let this client in: {heard.code}")
        if heard.ref is None:
            return []
        if heard.ref == self._token.sent_ref:
            refused = messages.AuthRefused(heard.message, ref=heard.ref)
            return self._handle_auth_refused(refused, now)
        error = CommandError(heard.code, heard.message)
        answers = self._requests.answer(heard.ref, error, self._pace, self._at)
        if answers is not None:
            return answers + self._flush(now)
        if self._outbox.asks_again(heard.ref, heard.code, self._at):
            return self._flush(now)
        self._holdings.left(heard.ref)
        if not self._holdings.is_renewal(heard.ref):
            return self._holdings.refuse(heard.ref, error) + self._flush(now)
        # It held these before: a server that is overloaded now may accept them later.
        return self._cut(f"the server did not take the subscriptions again: {heard.code}")

    def _handle_admitted(self, heard: actions.Admitted, now: Instant) -> list[ClientAction]:
        if self._token.sent_ref is None or heard.ref not in {None, self._token.sent_ref}:
            return []
        self._token.admitted(heard.lifetime, now.monotonic)
        self._reschedule()
        return self._enter(heard.subject, now) if self.state is ClientState.GREETING else []

    def _handle_auth_refused(self, heard: messages.AuthRefused, now: Instant) -> list[ClientAction]:
        if self._token.sent_ref is None or heard.ref not in {None, self._token.sent_ref}:
            return []
        if self.state is ClientState.GREETING and self._subject is None:
            return self.close(Unauthenticated(heard.message))
        # The server accepts clients without a token, or had the token in the handshake.
        told = self._not_refreshed(heard.message, now)
        return told if self.state is ClientState.OPEN else self._enter(self._subject, now, *told)

    def _enter(self, subject: str | None, now: Instant, *more: ClientAction) -> list[ClientAction]:
        is_again = self._attempts.entered(now.monotonic, is_settled=not self._holdings.names)
        self._takes(ClientInput.ENTER)
        self._liveness.start(now.monotonic)
        self._reschedule()
        return [
            actions.TellConnected(self._connection_id, subject, is_again),
            *more,
            *self._holdings.connected(),
            *self._flush(now),
        ]

    def _flush(self, now: Instant) -> list[ClientAction]:
        """Send waiting requests within the server's rates; the deadline is that of the rest."""
        self._at = now.monotonic
        if self.state is not ClientState.OPEN or self._verdict:
            return []
        todo = self._outbox.flush(self._ref, self._at)
        self._attempts.is_settled = self._attempts.is_settled or self._holdings.is_settled
        self._reschedule()
        return todo

    # --- time ------------------------------------------------------------------------------------

    def handle_deadline(self, now: Instant) -> list[ClientAction]:
        """Act at the deadline: connect, ping, refresh the token, or give the connection up."""
        if now.monotonic < self.deadline or not self._takes(ClientInput.DUE):
            return []
        self._at = now.monotonic
        match self.state:
            case ClientState.WAITING:
                return self._begin(now)
            case ClientState.OPEN:
                return self._tend(now)
            case ClientState.DIALLING:
                return self._cut(f"no answer from the server within {self._connect_timeout:g} s")
        return self._cut("the server took the connection and then said nothing")

    def _tend(self, now: Instant) -> list[ClientAction]:
        todo: list[ClientAction] = []
        match self._liveness.judge(now.monotonic):
            case Beat.PING:
                self._ping_ref = self._ref()
                self._pace.take(now.monotonic)
                todo.append(actions.Say(messages.Ping(self._ping_ref)))
            case Beat.DEAD:
                return self._cut(f"no answer to a ping for {self._liveness.timeout:g} s")
        if now.monotonic >= self._token.refresh_at:
            todo.append(self._token.fetch())
        return todo + self._flush(now)

    def _cut(self, why: str) -> list[ClientAction]:
        """Give the connection up, and keep the reason until the driver reports the loss."""
        self._verdict = why
        self._liveness.stop()
        self.deadline = math.inf
        return [actions.Cut()]

    def _reschedule(self) -> None:
        if self.state is ClientState.OPEN:
            due = min(self._liveness.deadline(), self._token.refresh_at)
            self.deadline = min(due, self._outbox.ready_at(self._at))

    def _not_refreshed(self, why: str, now: Instant) -> list[ClientAction]:
        self._token.postpone(now.monotonic)
        self._reschedule()
        return [actions.TellRefreshFailed(why)]

    def _begin(self, now: Instant) -> list[ClientAction]:
        self._connection_id = self._subject = self._ping_ref = None
        if not self._token.use.is_fetched:
            return [self._dial(now)]
        self._takes(ClientInput.FETCH)
        self.deadline = math.inf
        return [self._token.fetch()]

    def _dial(self, now: Instant) -> actions.Dial:
        self._takes(ClientInput.DIAL)
        self.deadline = now.monotonic + self._connect_timeout
        return actions.Dial(self._token.text if self._token.use.in_handshake else None)

    def _retreat(
        self, error: WsbusError, advice: Advice, now: Instant, chance: float
    ) -> list[ClientAction]:
        """Handle a failed connection or attempt: stop, or wait for the next one."""
        if advice is Advice.NEW_TOKEN and not self._token.use.is_fetched:
            return self.close(Unauthenticated(_EXPIRED))
        if isinstance(verdict := self._attempts.failed(error, advice, chance), WsbusError):
            return self.close(verdict)
        self._takes(ClientInput.RETREAT)
        self._leave()
        self.deadline = now.monotonic + verdict
        return [actions.TellReconnecting(self._attempts.failures, verdict, error)]

    def close(self, error: WsbusError | None = None) -> list[ClientAction]:
        """End the session, for a reason of the client's own, or of the server's."""
        if not self._takes(ClientInput.END):
            return []
        self._leave()
        answers = self._requests.fail(partial(copy.copy, error or UsageError(_CLOSED)))
        return [*answers, actions.HangUp(CloseCode.NORMAL, ""), actions.Stop(error)]

    def _leave(self) -> None:
        self.deadline = math.inf
        self._token.reset()
        self._liveness.stop()
        self._pace.reset()
        self._holdings.disconnected()

    def _takes(self, heard: ClientInput) -> bool:
        """Move on by the table; tell whether the input is acted on."""
        duty, self.state = TABLE[self.state, heard]
        return duty is ClientDuty.ACT

    def _ref(self) -> str:
        self._refs += 1
        return str(self._refs)

    def _authenticate(self, token: str) -> actions.Say:
        self._pace.take(self._at)
        self._token.sent_ref = self._ref()
        return actions.Say(messages.Auth(token, self._token.sent_ref))
