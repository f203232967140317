"""Server side of one conversation, pure: a command and an instant go in, actions come out.

What takes time is a *question*: it goes out with a generation number, the answer comes back as an
input, and a late one is ignored. While a question is out, pings are answered at once and all else
waits in order, so that a client's messages act in the order it sent them.

The states are a table of their own (:mod:`wsbus.core.session_states`), what is subscribed is kept
in :mod:`wsbus.core.session_subscriptions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from .actions import (
    Action,
    Adopt,
    AskPermission,
    AskToken,
    Close,
    Emit,
    Invoke,
    ReportStatus,
    Send,
    refuse,
)
from .errors import CloseCode, ErrorCode, InvalidChannel
from .heartbeat import Beat, Heartbeat
from .instant import Instant
from .limits import ExcessRun, Limits, TokenBucket
from .messages import (
    Auth,
    AuthAccepted,
    AuthRefused,
    Command,
    Excess,
    GetStatus,
    Malformed,
    Ping,
    Pong,
    Publish,
    Request,
    Subscribe,
    Unsubscribe,
    is_event,
)
from .patterns import Pattern
from .permissions import Identity
from .protocol import WireProtocol
from .session_states import NEXT, UNAUTHENTICATED, Move, State
from .session_subscriptions import LISTS, NOT_GRANTED, Holdings, JudgedRequest

__all__ = ["Session", "State"]


_OPEN, _CLOSED = State.OPEN, State.CLOSED  # Slow to look up in enum classes (3.11).
_NOT_ALLOWED: Final = "the application does not allow this"
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
    """

    __slots__ = (
        "_asks",
        "_auth_deadline",
        "_commands",
        "_excess",
        "_generation",
        "_holdings",
        "_judged",
        "_limits",
        "_on_answer",
        "_protocol",
        "_takes_tokens",
        "_waiting",
        "deadline",
        "heartbeat",
        "identity",
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
    ) -> None:
        self.state: State = State.AWAITING if identity is None else State.OPEN
        self.identity = identity
        self.heartbeat: Final = heartbeat
        self.deadline: float = 0.0
        """When :meth:`handle_deadline` has something to do, in monotonic seconds."""
        self.rate: Final = _bucket(limits.messages_per_second)
        """The rate of messages. What comes while it has no token need not be decoded: hand in what
        :meth:`.WireProtocol.glance` makes of it. None: any number."""
        self._protocol: Final = protocol
        self._limits: Final = limits
        self._takes_tokens: Final = takes_tokens
        self._asks: Final = asks
        self._commands: Final = _bucket(limits.commands_per_second)
        self._excess: ExcessRun | None = None
        self._holdings: Final = Holdings(limits)
        self._generation = 0
        self._on_answer: Callable[[Any, Instant], list[Action]] | None = None
        self._judged: JudgedRequest | None = None  # What the application is asked about now.
        self._waiting: deque[Request] | None = None
        self._auth_deadline = now.monotonic + limits.auth_timeout
        self.reschedule(now)

    # --- commands ----------------------------------------------------------------------------

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
        if self.state is _OPEN:
            return self._act(command, now)
        if self.state is not State.AWAITING:
            return self._wait(command, now)
        if isinstance(command, Auth):
            return self._handle_auth(command)
        return [refuse(command, ErrorCode.UNAUTHENTICATED, "authenticate first")]

    def _act(self, command: Request, now: Instant) -> list[Action]:  # noqa: C901  # one table
        match command:
            case Command():
                return self._handle_call(command, now)
            case Ping():
                return [Send(Pong(command.ref))]
            case Publish():
                return self._handle_publish(command)
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
            case GetStatus():
                return [ReportStatus(command.ref)]
            case Malformed():
                return [refuse(command, command.code, command.message)]
            case Excess():
                return self._limited(command, _TOO_FAST, now)

    def _wait(self, command: Request, now: Instant) -> list[Action]:
        if isinstance(command, Ping | Pong):
            return self._act(command, now)
        if self._waiting is None:
            self._waiting = deque()
        if len(self._waiting) >= self._limits.max_waiting:
            return self._limited(command, "too many messages while one is being judged", now)
        self._waiting.append(command)
        return []

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
        if not self._trusted.grants.may_command(call.action):
            return [refuse(call, ErrorCode.FORBIDDEN, NOT_GRANTED)]
        then = Invoke(call)
        return self._permitted("command", call.action, call, then) if self._asks else [then]

    def _handle_publish(self, publish: Publish) -> list[Action]:
        try:
            channel = self._protocol.channel(publish.channel)
        except InvalidChannel as exc:
            return [refuse(publish, ErrorCode.INVALID_CHANNEL, exc.reason)]
        if not is_event(publish.event):
            why = "an event is a printable text of at most 255 bytes"
            return [refuse(publish, ErrorCode.INVALID_MESSAGE, why)]
        if not self._trusted.grants.may_publish(channel):
            return [refuse(publish, ErrorCode.FORBIDDEN, NOT_GRANTED)]
        return self._permitted("publish", channel, publish, Emit(channel, publish))

    def _permitted(self, verb: str, name: str, command: Request, then: Action) -> list[Action]:
        """Return the action, or the question that stands before it."""
        if not self._asks:
            return [then]

        def answered(allowed: Sequence[bool], now: Instant) -> list[Action]:
            return [then if all(allowed) else refuse(command, ErrorCode.FORBIDDEN, _NOT_ALLOWED)]

        return [AskPermission(self._ask(answered), self._trusted, verb, (name,))]

    # --- subscriptions -----------------------------------------------------------------------

    def _handle_subscribe(self, command: Subscribe) -> list[Action]:
        holdings = self._holdings
        judged = holdings.judge(command, self._protocol, self._trusted.grants)
        asked = judged.permitted if self._asks else ()
        if not asked:
            return holdings.subscribe(judged)

        def answered(allowed: Sequence[bool], now: Instant) -> list[Action]:
            refused = {pattern for pattern, yes in zip(asked, allowed, strict=True) if not yes}
            judged.refuse(refused, _NOT_ALLOWED)
            return holdings.subscribe(judged)

        self._judged = judged
        patterns = tuple(pattern.text for pattern in asked)
        return [AskPermission(self._ask(answered), self._trusted, "subscribe", patterns)]

    def assign(self, pattern: Pattern) -> list[Action]:
        """Subscribe on the server's account: not told to the client, not counted against it."""
        return [] if self.state is State.CLOSED else self._holdings.assign(pattern)

    def unassign(self, pattern: Pattern) -> list[Action]:
        """Take :meth:`assign` back; what the client subscribed itself stays."""
        return [] if self.state is State.CLOSED else self._holdings.unassign(pattern)

    def revoke(self, pattern: Pattern, reason: str | None) -> list[Action]:
        """Take a subscription away, also one that still waits for permission."""
        if self.state is State.CLOSED:
            return []
        if self._judged is not None:
            self._judged.refuse({pattern}, reason or _NOT_ALLOWED)
        return self._holdings.revoke(pattern, reason)

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

    # --- questions and answers ---------------------------------------------------------------

    def _handle_auth(self, auth: Auth) -> list[Action]:
        if not self._takes_tokens:
            return [Send(AuthRefused("this endpoint takes no tokens", ref=auth.ref))]

        def answered(verdict: Identity | str, now: Instant) -> list[Action]:
            return self._authenticated(verdict, auth.ref, now)

        return [AskToken(self._ask(answered), auth.token)]

    def _ask(self, on_answer: Callable[[Any, Instant], list[Action]]) -> int:
        self._move(Move.ASK)
        self._generation += 1
        self._on_answer = on_answer
        return self._generation

    def handle_token(self, generation: int, verdict: Identity | str, now: Instant) -> list[Action]:
        """Take the answer to :class:`.AskToken`: the identity, or why the token was refused."""
        return self._handle_answer(generation, verdict, now)

    def handle_permission(
        self, generation: int, allowed: Sequence[bool], now: Instant
    ) -> list[Action]:
        """Take the answer to :class:`.AskPermission`: a yes or no for each name, in order."""
        return self._handle_answer(generation, allowed, now)

    def _handle_answer(self, generation: int, answer: object, now: Instant) -> list[Action]:
        on_answer = self._on_answer
        if on_answer is None or generation != self._generation:
            return []
        self._on_answer = self._judged = None
        is_nobody = self.state is State.JUDGING and not isinstance(answer, Identity)
        self._move(Move.REFUSE if is_nobody else Move.ACCEPT)
        return on_answer(answer, now)

    def resume(self, now: Instant) -> list[Action] | None:
        """Act on the next message that waited; None: none waits, or a question is out.

        To be called after each answer until it returns None, each time once the actions are
        performed: a command that they invoke must find what it sees here to be done.
        """
        if not self._waiting or self.state is not State.OPEN:
            return None
        return self._act(self._waiting.popleft(), now)

    def hold(self) -> int | None:
        """Have what the client says from now on wait, as behind a question.

        Returns:
            What to give to :meth:`release`; None: it waits already, or is not acted on anyway.
        """
        return self._ask(lambda _answer, _now: []) if self.state is State.OPEN else None

    def release(self, generation: int, now: Instant) -> list[Action]:
        """End a :meth:`hold`."""
        return self._handle_answer(generation, None, now)

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
        self.identity = verdict
        self.reschedule(now)
        actions: list[Action] = [
            Adopt(verdict, is_renewal=old is not None),
            Send(AuthAccepted(verdict.subject, verdict.expires_at, ref)),
        ]
        may = verdict.grants.may_subscribe
        lost = [name for name, pattern in self.subscriptions.items() if not may(pattern)]
        return actions + self._holdings.unsubscribe(lost) if lost else actions

    # --- time --------------------------------------------------------------------------------

    def reschedule(self, now: Instant) -> None:
        """Work :attr:`deadline` out anew; to be called also when the wall clock was set."""
        deadline = self.heartbeat.deadline()
        if self.state in UNAUTHENTICATED:
            deadline = min(deadline, self._auth_deadline)
        if self.identity is not None and self.identity.expires_at is not None:
            # Expiry is a moment of the wall clock: this is when that clock will show it.
            deadline = min(deadline, now.monotonic + self.identity.expires_at - now.wall)
        self.deadline = deadline

    def handle_deadline(self, now: Instant) -> list[Action]:
        """Do what time demands: ping, or end what is expired, silent or never authenticated."""
        if self.state is State.CLOSED:
            return []
        expires_at = self.identity.expires_at if self.identity else None
        if expires_at is not None and expires_at <= now.wall:
            return self.close(CloseCode.TOKEN_EXPIRED, "token expired")
        if self.state in UNAUTHENTICATED and now.monotonic >= self._auth_deadline:
            return self.close(CloseCode.TOKEN_REFUSED, "no token in time")
        beat = self.heartbeat.judge(now.monotonic)
        if beat is Beat.DEAD:
            return self.close(CloseCode.HEARTBEAT_TIMEOUT, "heartbeat timeout")
        self.reschedule(now)
        return [Send(Ping())] if beat is Beat.PING else []

    def close(self, code: int, reason: str) -> list[Action]:
        """End the conversation; nothing is acted on afterwards."""
        if self.state is State.CLOSED:
            return []
        self._move(Move.END)
        self._on_answer = self._judged = None
        self._waiting = None
        return [Close(code, reason)]

    def _move(self, heard: Move) -> None:
        self.state = NEXT[self.state, heard]

    @property
    def _trusted(self) -> Identity:
        assert self.identity is not None  # OPEN and ASKING imply it; see NEXT.
        return self.identity


def _bucket(rate: float | None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate)
