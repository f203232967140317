"""Server side of one conversation, pure: a request and an instant go in, actions come out.

A request that takes time is *pending*: it goes out with a number, the answer comes back with it as
an input, and a late one is ignored. A pending request stops only those that must keep their order
with it (:mod:`wsbus.core.pending`). A client's first token, and hooks that run, stop all but pings.

The states are a table of their own (:mod:`wsbus.core.session_states`), what is subscribed is kept
in :mod:`wsbus.core.session_subscriptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from .actions import (
    Action,
    Adopt,
    AskPermission,
    AskToken,
    Attach,
    Brought,
    Close,
    ReportStatus,
    Send,
    refuse,
)
from .errors import CloseCode, ErrorCode
from .heartbeat import Heartbeat
from .instant import Instant
from .limits import ExcessRun, Limits, bucket
from .messages import (
    Auth,
    AuthAccepted,
    AuthRefused,
    CancelStream,
    Command,
    Excess,
    GetPresence,
    GetStatus,
    Malformed,
    Ping,
    Pong,
    Publish,
    ReadHistory,
    Request,
    Subscribe,
    Unsubscribe,
)
from .patterns import Pattern
from .pending import PendingRequests
from .permissions import Identity
from .protocol import WireProtocol
from .session_calls import (
    Asked,
    asked_about,
    judge_command,
    judge_publish,
    judge_question,
    judge_twice,
)
from .session_states import TABLE, SessionDuty, SessionInput, State
from .session_subscriptions import LISTS, NOT_ALLOWED, NOT_GRANTED, Holdings, JudgedRequest
from .session_time import due, next_deadline

__all__ = ["Session", "SettledAnswer", "State"]


_OPEN, _CLOSED = State.OPEN, State.CLOSED  # Slow to look up in enum classes (3.11).
_BEATS: Final = (Ping, Pong)
SettledAnswer: TypeAlias = Identity | str | Sequence[bool] | Brought
"""The identity that a token proves, or why it was refused; a yes or no for each name, in order; or
what was brought."""

_TOO_FAST: Final = "too many messages"


class Session:
    """One conversation, from the first frame to the last.

    Args:
        protocol: Says what the names in a client's messages mean.
        limits: Bounds of this conversation.
        heartbeat: Which side pings, and what silence means.
        identity: The handshake's; None: the client must authenticate.
        now: The moment of the handshake.
        takes_tokens: Whether the endpoint can judge tokens at all.
        asks: Whether what the grants allow is put to the application as a question, too.
        attaches: Whether something must be brought for a pattern that is subscribed; None: never.
    """

    __slots__ = (
        "_asks",
        "_attaches",
        "_auth_deadline",
        "_commands",
        "_excess",
        "_holdings",
        "_limits",
        "_protocol",
        "_takes_tokens",
        "deadline",
        "heartbeat",
        "identity",
        "pending",
        "rate",
        "state",
    )

    def __init__(
        self,
        *,
        protocol: WireProtocol,
        limits: Limits,
        heartbeat: Heartbeat,
        identity: Identity | None,
        now: Instant,
        takes_tokens: bool = False,
        asks: bool = False,
        attaches: Callable[[Pattern], bool] | None = None,
    ) -> None:
        self.state: State = State.AWAITING
        self.identity = identity
        if identity is not None:
            self._take(SessionInput.ADMIT)
        self.heartbeat: Final = heartbeat
        self.deadline: float = 0.0
        """When :meth:`handle_deadline` has something to do, in monotonic seconds."""
        self.rate: Final = bucket(limits.messages_per_second)
        """The rate of messages. What comes while it has no token need not be decoded: hand in what
        :meth:`.WireProtocol.glance` makes of it. None: any number."""
        self._protocol: Final = protocol
        self._limits: Final = limits
        self._takes_tokens: Final = takes_tokens
        self._asks: Final = asks
        self._attaches: Final = attaches
        rate = None if heartbeat.is_one_way else limits.commands_per_second  # It sends none.
        self._commands: Final = bucket(rate)
        self._excess: ExcessRun | None = None
        self._holdings: Final = Holdings(limits)
        self.pending: Final = PendingRequests(limits, protocol.channel, self._holdings.free)
        """The requests that are not settled. While it is full, hand in nothing: it refuses none."""
        self._auth_deadline = now.monotonic + limits.auth_timeout
        self.reschedule(now)

    # --- requests ----------------------------------------------------------------------------

    def handle(self, command: Request, now: Instant) -> list[Action]:
        """Act on one message from the client; the driver has told the heartbeat of its frame.

        The rate of messages is judged before everything else.
        """
        if self.state is _CLOSED:
            return []
        if self.rate is not None:
            cost = self._holdings.cost(command) if type(command) in LISTS else 1
            if not self.rate.take(now.monotonic, cost):
                return self._limited(command, _TOO_FAST, now)
        if self.state is _OPEN:  # It acts on whatever comes; the table says so, too.
            waits = not self.pending.is_idle and self.pending.must_wait(command)
        else:
            heard = SessionInput.AUTH if isinstance(command, Auth) else SessionInput.REQUEST
            duty = self._take(SessionInput.PING if isinstance(command, _BEATS) else heard)
            if duty is SessionDuty.REFUSE:
                return [refuse(command, ErrorCode.UNAUTHENTICATED, "authenticate first")]
            waits = duty is SessionDuty.WAIT
        if waits:
            self.pending.wait(command)
            return []
        return self._act(command, now)

    def _act(self, command: Request, now: Instant) -> list[Action]:  # noqa: C901  # one table
        match command:
            case Command():
                return self._handle_call(command, now)
            case Ping():
                return [Send(Pong(command.ref))]
            case Publish():
                grants = self._trusted.grants
                return self._ask_first(judge_publish(command, self._protocol, grants))
            case Pong():
                return []
            case Subscribe() | Unsubscribe() if len(command.names) > self._limits.max_names:
                why = f"more than {self._limits.max_names} names in one request"
                return [refuse(command, ErrorCode.INVALID_MESSAGE, why)]
            case Subscribe():
                return self._handle_subscribe(command)
            case Unsubscribe():
                return self._holdings.unsubscribe(command.names, command.ref)
            case Auth():
                return self._handle_auth(command)
            case ReadHistory() | GetPresence() | CancelStream():
                grants = self._trusted.grants
                return self._ask_first(judge_question(command, self._protocol, grants))
            case GetStatus():
                return [ReportStatus(command.ref)]
            case Malformed():
                return [refuse(command, command.code, command.message)]
            case Excess():
                return self._limited(command, _TOO_FAST, now)

    def _limited(self, command: Request, why: str, now: Instant) -> list[Action]:
        if self._excess is None:
            self._excess = ExcessRun(self._limits.rate_abuse_seconds)
        refused = refuse(command, ErrorCode.RATE_LIMITED, why)
        if self._excess.exceeded(now.monotonic):
            return [refused, *self.close(CloseCode.RATE_ABUSE, "rate limits exceeded")]
        return [refused]

    def _handle_call(self, call: Command, now: Instant) -> list[Action]:
        if self._commands is not None and not self._commands.take(now.monotonic):
            return self._limited(call, "too many commands", now)
        return self._ask_first(judge_command(call, self._trusted.grants))

    def _ask_first(self, action: Asked | Send) -> list[Action]:
        """Ask the application about what the grants allow, where it wants to be asked."""
        if not self._asks or isinstance(action, Send):
            return [action]

        def answered(allowed: Sequence[bool], now: Instant) -> list[Action]:
            return [judge_twice(action, self._trusted.grants, is_allowed=all(allowed))]

        request, kind, name = asked_about(action)
        number = self.pending.begin(request, answered)
        return [AskPermission(number, self._trusted, kind, (name,))]

    # --- subscriptions -----------------------------------------------------------------------

    def _handle_subscribe(self, command: Subscribe) -> list[Action]:
        judged = self._holdings.judge(command, self._protocol, self._trusted.grants)
        asked = judged.permitted if self._asks else ()
        if not asked:
            return self._attach(judged)

        def answered(allowed: Sequence[bool], now: Instant) -> list[Action]:
            judged.keep(asked, allowed, ErrorCode.FORBIDDEN, NOT_ALLOWED)
            return self._attach(judged)

        patterns = tuple([pattern.text for pattern in asked])
        number = self.pending.begin(command, answered, judged)
        return [AskPermission(number, self._trusted, "subscribe", patterns)]

    def _attach(self, judged: JudgedRequest) -> list[Action]:
        """Have what is permitted brought here, where it is not anyway, and answer then."""
        attaches = self._attaches
        if attaches is None or not any(map(attaches, patterns := judged.permitted)):
            return self._holdings.subscribe(judged, self._trusted.grants)

        def answered(brought: Brought, now: Instant) -> list[Action]:
            judged.accept(patterns, brought)
            return self._holdings.subscribe(judged, self._trusted.grants, patterns, brought)

        number = self.pending.begin(judged.request, answered, judged)
        return [Attach(number, tuple(patterns), judged.since())]

    def assign(self, pattern: Pattern) -> list[Action]:
        """Subscribe on the server's account: not told to the client, not counted against it."""
        return self._holdings.assign(pattern) if self._changes() else []

    def unassign(self, pattern: Pattern) -> list[Action]:
        """Take :meth:`assign` back; what the client subscribed itself stays."""
        return self._holdings.unassign(pattern) if self._changes() else []

    def revoke(self, pattern: Pattern, reason: str | None) -> list[Action]:
        """Take a subscription away, also one that is pending."""
        if not self._changes():
            return []
        for judged in self.pending.judged():
            judged.refuse({pattern}, reason or NOT_ALLOWED)
        return self._holdings.revoke(pattern, reason)

    def _changes(self) -> bool:
        return self._take(SessionInput.CHANGE) is SessionDuty.ACT

    @property
    def assigned(self) -> Collection[Pattern]:
        """The server's subscriptions, in order."""
        return self._holdings.assigned

    @property
    def subscriptions(self) -> Mapping[str, Pattern]:
        """The client's subscriptions, as spelled, in order."""
        return self._holdings.names

    @property
    def patterns(self) -> Collection[Pattern]:
        """All that is joined: on the client's account, then on the server's, each in order."""
        return self._holdings.patterns

    # --- what takes time ---------------------------------------------------------------------

    def _handle_auth(self, auth: Auth) -> list[Action]:
        if not self._takes_tokens:
            return [Send(AuthRefused("this endpoint takes no tokens", ref=auth.ref))]

        def answered(verdict: Identity | str, now: Instant) -> list[Action]:
            return self._authenticated(verdict, auth.ref, now)

        self._take(SessionInput.JUDGE)
        return [AskToken(self.pending.begin(auth, answered), auth.token)]

    def handle_answer(self, number: int, answer: SettledAnswer, now: Instant) -> list[Action]:
        """Take an answer to :class:`.AskToken`, :class:`.AskPermission` or :class:`.Attach`.

        What follows from :class:`.Brought`, that is the reply, the replay and the joins, is one
        step: perform it before anything else is published.
        """
        if not self.pending.awaits(number):
            return []
        if self._take(SessionInput.ANSWER) is SessionDuty.WAIT:
            self.pending.keep(number, answer)
            return []
        return self.pending.settle(number).answered(answer, now)

    def resume(self, now: Instant) -> list[Action] | None:
        """Act on the next answer or request that waited and may act now; None: there is none.

        Call it after each answer until it returns None, each time once the actions are performed:
        a command that they invoke must find what it sees here to be done.
        """
        if self.state is not _OPEN:
            return None
        if (kept := self.pending.take_answer()) is not None:
            return self.handle_answer(*kept, now)
        request = self.pending.take_request()
        return None if request is None else self._act(request, now)

    def hold(self) -> bool:
        """Have all that the client says from now on wait, but for pings, until :meth:`release`.

        Returns:
            Whether it was not held, and is now.
        """
        return self._take(SessionInput.HOLD) is SessionDuty.ACT

    def release(self) -> None:
        """End a :meth:`hold`; what waited is for :meth:`resume`."""
        self._take(SessionInput.RELEASE)

    def _authenticated(
        self, verdict: Identity | str, ref: str | None, now: Instant
    ) -> list[Action]:
        old = self.identity
        if isinstance(verdict, Identity) and old is not None and verdict.subject != old.subject:
            # A socket belongs to one subject: what was said on it must not change hands.
            verdict = "the token is for another subject"
        if not isinstance(verdict, Identity):
            refused = Send(AuthRefused(verdict, ref=ref))
            if old is not None:  # A failed refresh leaves the old token in force.
                return [refused]
            return [refused, *self.close(CloseCode.TOKEN_REFUSED, "token refused")]
        if old is None:
            self._take(SessionInput.ADMIT)
        self.identity = verdict
        self.reschedule(now)
        actions: list[Action] = [
            Adopt(verdict, is_renewal=old is not None),
            Send(AuthAccepted(verdict.subject, verdict.expires_at, ref)),
        ]
        may = verdict.grants.may_subscribe
        for judged in self.pending.judged():
            judged.refuse({p for p in judged.permitted if not may(p)}, NOT_GRANTED)
        lost = [name for name, pattern in self.subscriptions.items() if not may(pattern)]
        return actions + self._holdings.unsubscribe(lost) if lost else actions

    # --- time --------------------------------------------------------------------------------

    def reschedule(self, now: Instant) -> None:
        """Work :attr:`deadline` out anew; to be called also when the wall clock was set."""
        self.deadline = next_deadline(self.heartbeat, self.identity, self._auth_deadline, now)

    def handle_deadline(self, now: Instant) -> list[Action]:
        """Do what time demands: ping, or end what is expired, silent or never authenticated."""
        if self.state is _CLOSED:
            return []
        if self.pending.is_full:  # Nothing is read from the client, so that it is not silent.
            self.heartbeat.seen(now.monotonic)
        action = due(self.heartbeat, self.identity, self._auth_deadline, now)
        if isinstance(action, Close):
            return self.close(action.code, action.reason)
        self.reschedule(now)
        return [] if action is None else [action]

    def close(self, code: int, reason: str) -> list[Action]:
        """End the conversation; nothing is acted on afterwards."""
        if self._take(SessionInput.END) is SessionDuty.IGNORE:
            return []
        self.pending.clear()
        return [Close(code, reason)]

    def _take(self, heard: SessionInput) -> SessionDuty:
        duty, self.state = TABLE[self.state, heard]
        return duty

    @property
    def _trusted(self) -> Identity:
        assert self.identity is not None  # OPEN and HELD imply it; see TABLE.
        return self.identity
