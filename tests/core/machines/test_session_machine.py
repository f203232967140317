from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbus.core.actions import (
    Action,
    Adopt,
    AskPermission,
    AskToken,
    Close,
    Emit,
    Invoke,
    Join,
    Leave,
    ReportStatus,
    Send,
)
from wsbus.core.errors import CloseCode, ErrorCode, InvalidChannel
from wsbus.core.heartbeat import Heartbeat, HeartbeatPolicy
from wsbus.core.instant import Instant
from wsbus.core.limits import Limits
from wsbus.core.messages import (
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
    Refused,
    Rejection,
    Request,
    ServerMessage,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from wsbus.core.patterns import Pattern, parse_pattern
from wsbus.core.permissions import Grants, Identity
from wsbus.core.session import Session, State
from wsbus.protocols.zigquant import ZigQuant

# All times are multiples of 1/128 s, so that sums and differences are exact.
START: Final = Instant(100.0, 1_700_000_000.0)
AUTH_TIMEOUT: Final = 6.0
POLICY: Final = HeartbeatPolicy(interval=4, timeout=9)
LIMITS: Final = Limits(
    max_subscriptions=3,
    max_names=20,
    max_waiting=3,
    messages_per_second=8,
    commands_per_second=2,
    rate_abuse_seconds=2,
    auth_timeout=AUTH_TIMEOUT,
)
GRANTS: Final = [
    Grants(),
    Grants.of(subscribe=["a.*", "b"], command=["run"]),
    Grants.of(subscribe=["*"], command=["*"], publish=["a.*"]),
    Grants.of(admin=True, deny_subscribe=["a.x"], publish=["*"], deny_publish=["b"]),
]
NAMES: Final = ["a.x", "a.*", "a.x.*", "b", "c", "*", "a..b", "+"]
PATTERNS: Final = [parse_pattern(text) for text in ("a.x", "a.*", "b", "d")]
sizes = st.sampled_from([5, 5, 5, 24])
names = sizes.flatmap(lambda n: st.lists(st.sampled_from(NAMES), max_size=n)).map(tuple)
grants = st.sampled_from(GRANTS)
lifetimes = st.integers(8, 400).map(lambda eighths: eighths / 8)


def pattern_of(name: str) -> Pattern | None:
    try:
        return parse_pattern(name, plus=False)
    except InvalidChannel:
        return None


class Held:
    """What the client says waits until the hooks have returned; no answer decides anything."""


class Rates:
    """The rate of messages and what it means to exceed one, from docs/reference/protocol.md.

    The lines that are quoted are those of "Rate limits".
    """

    def __init__(self) -> None:
        self.tokens = 8.0
        self.looked = START.monotonic
        self.excess = 0.0
        self.last_excess: float | None = None

    def pass_to(self, now: float) -> None:
        """The page: "a token bucket with a burst of one second"."""
        self.tokens = min(8.0, self.tokens + (now - self.looked) * 8)
        self.looked = now

    def takes(self, command: Request, held: int) -> bool:
        """The page: "A request that is refused counts as one message"."""
        cost = min(self.cost(command, held), 8)
        is_within = self.tokens >= cost
        if self.tokens >= 1:
            self.tokens -= cost if is_within else 1
        return is_within

    def cost(self, command: Request, held: int) -> int:
        """The page: "counts as one message for each 8 names begun"."""
        match command:
            case Subscribe() | Unsubscribe() if len(command.names) <= 20:
                return max(1, len(command.names) // 8 + (len(command.names) % 8 > 0))
            case GetStatus():  # "the same for each 8 subscriptions that it lists"
                return max(1, held // 8 + (held % 8 > 0))
        return 1

    def exceed(self, now: float) -> None:
        """The page: "time between two excesses that are less than a second apart"."""
        if self.last_excess is not None:
            since = now - self.last_excess
            self.excess = self.excess + since if since < 1 else max(0, self.excess - since * 0.2)
        self.last_excess = now

    @property
    def is_abuse(self) -> bool:
        """The page: "closed with 4429"."""
        return self.excess >= 2


class SessionMachine(RuleBasedStateMachine):
    """Talks to a session as client, driver and application, and believes only what it sees.

    The client knows what it was told, the driver what it joined; both must agree with the session
    at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.asks = self.glances = self.is_abuser = False
        self.last_seen = self.last_ping = START.monotonic
        self.identity: Identity | None = None
        self.subscribed: list[str] = []
        self.assigned: set[Pattern] = set()
        self.joined: set[Pattern] = set()
        self.commands: dict[str, Request] = {}
        self.answered: list[str] = []
        self.waiting: list[str] = []
        self.allowed: dict[str, bool] = {}
        self.question: AskToken | AskPermission | Held | None = None
        self.revoked: set[Pattern] = set()
        self.in_question: str | None = None
        self.asked = 0
        self.rates = Rates()
        self.is_closed = False

    @initialize(
        grants=st.none() | grants | grants,
        asks=st.booleans(),
        glances=st.booleans(),
        lifetime=lifetimes,
    )
    def begin(self, grants: Grants | None, lifetime: float, *, asks: bool, glances: bool) -> None:
        expires_at = START.later(lifetime).wall
        self.identity = None if grants is None else Identity("u", grants, expires_at)
        self.asks, self.glances = asks, glances
        self.session = Session(
            protocol=ZigQuant(),
            limits=LIMITS,
            heartbeat=Heartbeat(POLICY, START.monotonic),
            identity=self.identity,
            now=START,
            takes_tokens=True,
            asks=asks,
        )

    # --- the driver --------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what a session wants, as a driver does, and doubt it."""
        announced: set[str] = set()
        taken: set[str] = set()
        for action in actions:
            assert not self.is_closed, "something was done after the end"
            assert not self.is_abuser or isinstance(action, Close)
            match action:
                case Join(pattern):
                    assert pattern not in self.joined, "joined twice"
                    assert pattern in self.assigned or pattern.text in announced
                    self.joined.add(pattern)
                case Leave(pattern):
                    self.joined.remove(pattern)
                    assert pattern.text not in taken, "left too late"
                case Send(reply):
                    if isinstance(reply, Subscribed):
                        announced.update(reply.names)
                    taken = self.taken_after(reply, taken)
                    self.hear(reply)
                case Invoke() | Emit() | ReportStatus():
                    self.do(action)
                case Adopt(identity):
                    self.identity = identity
                case AskToken() | AskPermission():
                    self.ask(action)
                case Close(code):
                    assert (code == CloseCode.RATE_ABUSE) == self.is_abuser
                    self.is_closed = True
                    self.question = None
                    self.waiting.clear()

        assert self.is_closed or not self.is_abuser

    def taken_after(self, reply: ServerMessage, taken: set[str]) -> set[str]:
        """Return the names that the client was told it has no more."""
        match reply:
            case Subscribed(names):
                return taken - set(names)
            case Unsubscribed(names):
                return taken | set(names)
            case _:
                return taken

    def ask(self, action: AskToken | AskPermission) -> None:
        assert self.question is None
        self.asked += 1
        assert action.generation == self.asked
        self.question = action
        self.revoked.clear()
        if isinstance(action, AskPermission) and action.action == "subscribe":
            assert len(action.names) <= 3 - len(self.subscribed), "asked for no use"
            assert not set(action.names) & set(self.subscribed)

    def do(self, action: Invoke | Emit | ReportStatus) -> None:
        """Only what the grants, and the application if it is asked, allow is ever done."""
        assert self.identity is not None
        match action:
            case Invoke(call):
                assert self.identity.grants.may_command(call.action)
                assert not self.asks or self.allowed[call.action]
                self.answer(call.ref)
            case Emit(channel, publish):
                assert channel == publish.channel
                assert self.identity.grants.may_publish(channel)
                assert not self.asks or self.allowed[channel]
                self.answer(publish.ref)
            case ReportStatus(ref):
                self.answer(ref)

    # --- the client --------------------------------------------------------------------------

    def hear(self, reply: ServerMessage) -> None:
        match reply:
            case Subscribed():
                self.hear_subscribed(reply)
            case Unsubscribed():
                self.subscribed = [name for name in self.subscribed if name not in reply.names]
                assert reply.active == len(self.subscribed)
                if reply.ref is None:
                    return  # A refresh, or the application, took them away.
            case AuthAccepted():
                assert self.identity is not None
                assert (reply.subject, reply.expires_at) == ("u", self.identity.expires_at)
            case Refused():
                self.hear_refused(reply)
            case AuthRefused() | Pong():
                pass
            case Ping():
                return
            case _:
                raise AssertionError(reply)
        self.answer(reply.ref)

    def hear_refused(self, reply: Refused) -> None:
        assert reply.ref is not None
        command = self.commands[reply.ref]
        assert reply.is_call == isinstance(command, Command | Publish)
        if reply.code == ErrorCode.RATE_LIMITED:
            self.rates.exceed(self.now.monotonic)
            self.is_abuser = self.rates.is_abuse
        if reply.code == ErrorCode.INVALID_MESSAGE:
            assert isinstance(command, Malformed) or self.is_too_large(command)

    def is_too_large(self, command: Request) -> bool:
        """The page: "A request with more than `max_names` names is refused whole"."""
        return isinstance(command, Subscribe | Unsubscribe) and len(command.names) > 20

    def hear_subscribed(self, reply: Subscribed) -> None:
        """Judge a request as a reader of the page would, name by name."""
        assert reply.ref is not None
        assert self.identity is not None
        command = self.commands[reply.ref]
        assert isinstance(command, Subscribe)
        assert not self.is_too_large(command)
        accepted: list[str] = []
        rejected: list[tuple[str, str]] = []
        # "No more patterns are considered than there are places left"
        free, considered = 3 - len(self.subscribed), set[str]()
        for name in command.names:
            pattern = pattern_of(name)
            if name in self.subscribed:
                accepted.append(name)
            elif pattern is None:
                rejected.append((name, ErrorCode.INVALID_CHANNEL))
            elif not self.identity.grants.may_subscribe(pattern):
                rejected.append((name, ErrorCode.FORBIDDEN))
            elif name not in considered and len(considered) == free:
                rejected.append((name, ErrorCode.TOO_MANY_SUBSCRIPTIONS))
            elif self.asks and not self.allowed[name]:
                considered.add(name)
                rejected.append((name, ErrorCode.FORBIDDEN))
            else:
                considered.add(name)
                accepted.append(name)
                self.subscribed.append(name)
        assert reply.names == tuple(accepted)
        assert [(r.name, r.code) for r in reply.rejected] == rejected
        assert all(isinstance(r, Rejection) for r in reply.rejected)
        assert reply.active == len(self.subscribed)

    def answer(self, ref: str | None) -> None:
        assert ref is not None
        assert ref not in self.answered, "answered twice"
        self.answered.append(ref)
        if ref == self.in_question:
            self.in_question = None
        if ref in self.waiting:
            assert self.waiting[0] == ref, "answered before one that came earlier"
            self.waiting.remove(ref)

    # --- what happens ------------------------------------------------------------------------

    @rule(names=names)
    def subscribe(self, names: tuple[str, ...]) -> None:
        self.say(Subscribe(names))

    @rule(names=names)
    def unsubscribe(self, names: tuple[str, ...]) -> None:
        self.say(Unsubscribe(names))

    @rule()
    def authenticate(self) -> None:
        self.say(Auth("token"))

    @rule(
        command=st.builds(Command, st.sampled_from(["run", "run", "stop"]))
        | st.builds(Publish, st.sampled_from(NAMES), st.just("e"), st.just(b"1"))
        | st.just(Malformed(ErrorCode.INVALID_MESSAGE, "why"))
        | st.sampled_from([Ping(), Ping(), Pong(), GetStatus()])
    )
    def say_something_else(self, command: Request) -> None:
        self.say(command)

    @rule(command=st.sampled_from([Ping(), Command("run")]), times=st.integers(2, 12))
    def flood(self, command: Request, times: int) -> None:
        for _ in range(times):
            self.say(command)

    def say(self, command: Request) -> None:
        ref = str(len(self.commands))
        command = type(command)(
            **{f: getattr(command, f) for f in command.__struct_fields__} | {"ref": ref}
        )
        self.commands[ref] = command
        self.last_seen = self.now.monotonic
        self.session.heartbeat.seen(self.now.monotonic)
        was_closed, was_asking = self.is_closed, self.question is not None
        is_nobody = self.identity is None and not was_asking
        self.rates.pass_to(self.now.monotonic)
        assert self.session.rate is not None
        assert self.session.rate.take(self.now.monotonic, 0) == (self.rates.tokens >= 1)
        handed: Request = command
        if self.glances and self.rates.tokens < 1:
            handed = Excess(ref, isinstance(command, Command | Publish))
        # "It is checked before everything else."
        is_excess = not was_closed and not self.rates.takes(command, len(self.subscribed))
        actions = self.session.handle(handed, self.now)

        waits = was_asking and not isinstance(command, Ping | Pong)
        if was_closed:
            assert actions == []
        elif is_excess or (waits and len(self.waiting) == 3):
            assert self.codes(actions)[0] == ErrorCode.RATE_LIMITED
            assert all(isinstance(action, Close) for action in actions[1:])
        elif is_nobody and not isinstance(command, Auth):
            assert self.codes(actions) == [ErrorCode.UNAUTHENTICATED]
        elif waits:
            assert actions == []
            self.waiting.append(ref)
        elif isinstance(command, Ping):
            assert actions == [Send(Pong(ref))]
        elif isinstance(command, Pong):
            assert actions == []
        else:
            assert actions != []
            self.in_question = ref
        self.perform(actions)

    def codes(self, actions: Sequence[Action]) -> list[str]:
        said = [action.reply for action in actions if isinstance(action, Send)]
        return [reply.code for reply in said if isinstance(reply, Refused)]

    def take_up(self) -> None:
        """After an answer, the commands that waited act until one of them asks."""
        while (actions := self.session.resume(self.now)) is not None:
            assert self.question is None
            self.perform(actions)
        if self.question is not None and self.waiting:
            self.in_question = self.waiting.pop(0)
        assert self.question is not None or not self.waiting

    @precondition(lambda self: isinstance(self.question, AskToken))
    @rule(
        grants=grants,
        subject=st.sampled_from(["u", "u", "u", "someone else"]),
        lifetime=st.none() | lifetimes,
    )
    def accept(self, grants: Grants, subject: str, lifetime: float | None) -> None:
        expires_at = None if lifetime is None else self.now.later(lifetime).wall
        # Only one subject is played; the first token decides which.
        verdict = Identity(subject if self.identity else "u", grants, expires_at)
        is_refused = verdict.subject != "u"
        self.question = None
        actions = self.session.handle_token(self.asked, verdict, self.now)

        assert isinstance(actions[0], Send if is_refused else Adopt)
        self.perform(actions)
        self.take_up()

    @precondition(lambda self: isinstance(self.question, AskToken))
    @rule()
    def refuse(self) -> None:
        self.question = None
        was_nobody = self.identity is None
        actions = self.session.handle_token(self.asked, "no", self.now)

        assert isinstance(actions[0], Send)
        assert isinstance(actions[0].reply, AuthRefused)
        assert len(actions) == 1 + was_nobody
        assert isinstance(actions[-1], Close) or not was_nobody
        self.perform(actions)
        self.take_up()

    @precondition(lambda self: isinstance(self.question, AskPermission))
    @rule(data=st.data())
    def permit(self, data: st.DataObject) -> None:
        assert isinstance(self.question, AskPermission)
        asked = self.question.names
        assert self.question.identity is self.identity
        assert len(set(asked)) == len(asked)
        allowed = data.draw(st.lists(st.booleans(), min_size=len(asked), max_size=len(asked)))
        self.allowed = dict(zip(asked, allowed, strict=True))
        # "A request for it that is being judged is refused."
        if self.question.action == "subscribe":
            self.allowed |= {pattern.text: False for pattern in self.revoked}
        self.question = None
        self.perform(self.session.handle_permission(self.asked, allowed, self.now))
        self.take_up()

    @rule(offset=st.integers(-2, 1), good=st.booleans())
    def answer_late(self, offset: int, *, good: bool) -> None:
        generation = self.asked + offset
        if self.question is None or generation != self.asked:
            verdict = Identity("u", GRANTS[-1]) if good else "no"
            assert self.session.handle_token(generation, verdict, self.now) == []
            assert self.session.handle_permission(generation, [good], self.now) == []
            assert self.session.release(generation, self.now) == []

    @rule(pattern=st.sampled_from(PATTERNS))
    def assign(self, pattern: Pattern) -> None:
        if not self.is_closed:
            self.assigned.add(pattern)
        self.perform(self.session.assign(pattern))

    @rule(pattern=st.sampled_from(PATTERNS))
    def unassign(self, pattern: Pattern) -> None:
        if not self.is_closed:
            self.assigned.discard(pattern)
        self.perform(self.session.unassign(pattern))

    @rule(pattern=st.sampled_from(PATTERNS))
    def revoke(self, pattern: Pattern) -> None:
        """The page: "whether the client asked for it or the application subscribed it"."""
        actions = self.session.revoke(pattern, "why")
        if self.is_closed:
            assert actions == []
            return
        self.assigned.discard(pattern)
        self.revoked.add(pattern)
        had = tuple(name for name in self.subscribed if pattern_of(name) == pattern)
        said = [action.reply for action in actions if isinstance(action, Send)]
        left = len(self.subscribed) - len(had)
        assert said == ([Unsubscribed(had, left, reason="why")] if had else [])
        self.perform(actions)
        assert pattern not in self.joined

    @rule()
    def hold(self) -> None:
        generation = self.session.hold()
        is_open = not self.is_closed and self.identity is not None and self.question is None
        assert (generation is not None) == is_open
        if is_open:
            self.asked += 1
            assert generation == self.asked
            self.question = Held()

    @precondition(lambda self: isinstance(self.question, Held))
    @rule()
    def release(self) -> None:
        self.question = None
        assert self.session.release(self.asked, self.now) == []
        self.take_up()

    @rule(seconds=st.sampled_from([1 / 128, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1, 3]))
    def wait(self, seconds: float) -> None:
        self.now = self.now.later(seconds)

    @rule()
    def tick(self) -> None:
        actions = self.session.handle_deadline(self.now)
        due = self.obligation() <= self.now.monotonic
        assert bool(actions) == (due and not self.is_closed)
        if actions == [Send(Ping())]:
            self.last_ping = self.now.monotonic
        self.perform(actions)

    @rule(sure=st.integers(0, 5))
    def close(self, sure: int) -> None:
        if sure:
            return  # An end that comes too soon shows little.
        actions = self.session.close(CloseCode.DISCONNECTED, "")
        assert len(actions) == (not self.is_closed)
        self.perform(actions)

    # --- what must hold ----------------------------------------------------------------------

    def obligation(self) -> float:
        """Return when something is truly due, in monotonic seconds."""
        due = [self.last_seen + 9, self.last_ping + 4]
        if self.identity is None:
            due.append(START.monotonic + AUTH_TIMEOUT)
        elif self.identity.expires_at is not None:
            due.append(self.now.monotonic + self.identity.expires_at - self.now.wall)
        return min(due)

    @invariant()
    def state_is_what_everybody_believes(self) -> None:
        if not hasattr(self, "session"):
            return
        if self.is_closed:
            expected = State.CLOSED
        elif self.identity is None:
            expected = State.JUDGING if self.question else State.AWAITING
        else:
            expected = State.ASKING if self.question else State.OPEN
        assert self.session.state is expected
        assert self.session.identity is self.identity

    @invariant()
    def subscriptions_are_what_everybody_believes(self) -> None:
        if not hasattr(self, "session"):
            return
        held = {pattern for name in self.subscribed if (pattern := pattern_of(name))}
        assert list(self.session.subscriptions) == self.subscribed
        assert set(self.session.patterns) == self.joined == held | self.assigned
        assert len(self.subscribed) <= 3
        for pattern in held:
            assert self.identity is not None
            assert self.identity.grants.may_subscribe(pattern)

    @invariant()
    def nothing_is_due_before_the_deadline(self) -> None:
        if hasattr(self, "session") and not self.is_closed:
            assert self.session.deadline <= self.obligation()

    @invariant()
    def everything_is_answered_that_does_not_wait(self) -> None:
        assert len(self.waiting) <= 3
        if not self.is_closed and self.question is None:
            silent = {ref for ref, said in self.commands.items() if isinstance(said, Pong)}
            assert set(self.commands) - set(self.answered) <= silent
            assert self.in_question is None


SessionMachine.TestCase.settings = settings(
    max_examples=2 * settings().max_examples,
    stateful_step_count=2 * settings().stateful_step_count,
)
TestSessionMachine = SessionMachine.TestCase
