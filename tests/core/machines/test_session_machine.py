from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbus.core.actions import (
    Action,
    Adopt,
    AskPermission,
    AskToken,
    Attach,
    Brought,
    Close,
    Emit,
    Invoke,
    Join,
    Leave,
    Outcome,
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
CALM: Final = Limits(
    max_subscriptions=3,
    max_names=20,
    max_waiting=4,
    messages_per_second=None,
    commands_per_second=None,
)
GRANTS: Final = [
    Grants(),
    Grants.of(subscribe=["a.*", "b"], command=["run"]),
    Grants.of(subscribe=["*"], command=["*"], publish=["a.*"]),
    Grants.of(admin=True, deny_subscribe=["a.x"], publish=["*"], deny_publish=["b"]),
]
NAMES: Final = ["a.x", "a.*", "a.x.*", "b", "c", "*", "a..b", "+"]
PATTERN: Final = {
    name: parse_pattern(name, plus=False) for name in ("a.x", "a.*", "a.x.*", "b", "c", "*")
}
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


Question = AskToken | AskPermission | Attach


class Out(NamedTuple):
    """A question that is out, and the request that it is about."""

    ref: str
    question: Question


class Judged:
    """What a reader of the page makes of a subscribe request at the moment it is acted on."""

    def __init__(self, request: Subscribe, held: Sequence[str], grants: Grants) -> None:
        self.fate: dict[str, str] = {}
        """Codes of names that are refused, by name; the first verdict counts."""
        self.wanted: list[Pattern] = []
        free, considered = 3 - len(held), set[str]()
        for name in request.names:
            if name in held or name in self.fate or name in considered:
                continue
            pattern = pattern_of(name)
            if pattern is None:
                self.fate[name] = ErrorCode.INVALID_CHANNEL
            elif not grants.may_subscribe(pattern):
                self.fate[name] = ErrorCode.FORBIDDEN
            # "No more patterns are considered than there are places left"
            elif len(considered) == free:
                self.fate[name] = ErrorCode.TOO_MANY_SUBSCRIPTIONS
            else:
                considered.add(name)
                self.wanted.append(pattern)

    def refuse(self, patterns: Sequence[Pattern], code: str) -> None:
        for pattern in patterns:
            if pattern in self.wanted:
                self.wanted.remove(pattern)
                self.fate[pattern.text] = code


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
    at every step. In a calm conversation nobody exceeds a rate and time stands still, so that many
    requests are pending at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.asks = self.glances = self.is_abuser = self.is_local = False
        self.last_seen = self.last_ping = START.monotonic
        self.identity: Identity | None = None
        self.subscribed: list[str] = []
        self.assigned: set[Pattern] = set()
        self.joined: set[Pattern] = set()
        self.commands: dict[str, Request] = {}
        self.answered: list[str] = []
        self.allowed: dict[str, bool] = {}
        self.unsettled: dict[str, Request] = {}
        """Requests that wait or are pending, in the order in which they came."""
        self.judged: dict[str, Judged] = {}
        self.out: dict[int, Out] = {}
        self.kept: dict[int, Callable[[], None]] = {}
        """What follows from answers that came while the session was held, by number."""
        self.acting = ""
        self.is_held = self.is_calm = False
        self.most = 3
        """Requests that may be unsettled at once."""
        self.asked = 0
        self.rates = Rates()
        self.is_closed = False

    @initialize(
        grants=st.none() | grants | grants,
        asks=st.booleans(),
        glances=st.booleans(),
        is_local=st.booleans(),
        is_calm=st.booleans(),
        lifetime=lifetimes,
    )
    def begin(  # one for each thing that differs
        self,
        grants: Grants | None,
        lifetime: float,
        *,
        asks: bool,
        glances: bool,
        is_local: bool,
        is_calm: bool,
    ) -> None:
        self.is_calm, self.most = is_calm, 4 if is_calm else 3
        expires_at = None if is_calm else START.later(lifetime).wall
        if is_calm and (grants is None or not grants.subscribe):
            grants = GRANTS[2]
        self.identity = None if grants is None else Identity("u", grants, expires_at)
        self.asks, self.glances, self.is_local = asks, glances, is_local
        self.session = Session(
            protocol=ZigQuant(),
            limits=CALM if is_calm else LIMITS,
            heartbeat=Heartbeat(POLICY, START.monotonic),
            identity=self.identity,
            now=START,
            takes_tokens=True,
            asks=asks,
            attaches=None if is_local else lambda _: True,
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
                case AskToken() | AskPermission() | Attach():
                    self.ask(action)
                case Close(code):
                    assert (code == CloseCode.RATE_ABUSE) == self.is_abuser
                    self.is_closed = True
                    self.is_held = False
                    self.out.clear()
                    self.unsettled.clear()
                    self.kept.clear()

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

    def ask(self, question: Question) -> None:
        self.asked += 1
        assert question.request == self.asked
        request = self.commands[self.acting]
        self.unsettled.setdefault(self.acting, request)
        self.out[question.request] = Out(self.acting, question)
        match question:
            case AskPermission(_, identity, "subscribe", names):
                assert identity is self.identity
                assert names == tuple(p.text for p in self.judged[self.acting].wanted)
            case AskPermission(_, identity, _, (name,)):
                assert identity is self.identity
                assert isinstance(request, Command | Publish)
                assert name == getattr(request, "action", getattr(request, "channel", None))
            case Attach(_, patterns):
                # What the grants and the application allow, and nothing else, is brought.
                assert not self.is_local
                assert list(patterns) == self.judged[self.acting].wanted

    def do(self, action: Invoke | Emit | ReportStatus) -> None:
        """Only what the grants, and the application if it is asked, allow is ever done."""
        assert self.identity is not None
        match action:
            case Invoke(call):
                assert self.identity.grants.may_command(call.action)
                assert not self.asks or self.allowed[self.acting]
                self.answer(call.ref)
            case Emit(channel, publish):
                assert channel == publish.channel
                assert self.identity.grants.may_publish(channel)
                assert not self.asks or self.allowed[self.acting]
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
        judged = self.judged.pop(reply.ref)
        accepted: list[str] = []
        rejected: list[tuple[str, str]] = []
        for name in command.names:
            if name in self.subscribed:
                accepted.append(name)
            elif pattern_of(name) in judged.wanted:
                accepted.append(name)
                self.subscribed.append(name)
            else:  # Without a fate: it was held, and was taken away while others were judged.
                rejected.append((name, judged.fate.get(name, ErrorCode.FORBIDDEN)))
        assert reply.names == tuple(accepted)
        assert [(r.name, r.code) for r in reply.rejected] == rejected
        assert all(isinstance(r, Rejection) for r in reply.rejected)
        assert reply.active == len(self.subscribed)

    def answer(self, ref: str | None) -> None:
        assert ref is not None
        assert ref not in self.answered, "answered twice"
        self.answered.append(ref)
        if ref in self.unsettled:
            assert not self.follows(self.commands[ref], self.before(ref)), "out of its order"
            del self.unsettled[ref]

    # --- what waits for what ---------------------------------------------------------------------

    def before(self, ref: str) -> list[Request]:
        refs = list(self.unsettled)
        return [self.commands[each] for each in refs[: refs.index(ref)]]

    def follows(self, request: Request, earlier: Sequence[Request]) -> bool:
        """Read docs/reference/protocol.md, "Order", of one request and those before it."""
        for each in earlier:
            match request, each:
                case (Subscribe() | Unsubscribe(), Subscribe() | Unsubscribe()):
                    # "that names a pattern which an earlier one names"
                    named = set(request.names) & set(each.names)
                    if named and not (self.is_too_large(request) or self.is_too_large(each)):
                        return True
                case (Publish(), Publish()) if request.channel == each.channel:
                    return True  # "a `publish` waits for an earlier one on the same channel"
                case (Command(), Command()) if request.action == each.action:
                    return True  # "a `command` for an earlier one with the same `action`"
                case (Auth(), Auth()):
                    return True
        return False

    def is_behind(self, request: Request, earlier: Sequence[Request]) -> bool:
        if self.follows(request, earlier):
            return True
        if not isinstance(request, Subscribe) or self.is_too_large(request):
            return False
        # "for which there may be too few places"
        asked = [set(each.names) for each in (*earlier, request) if isinstance(each, Subscribe)]
        is_short = sum(map(len, asked)) > 3 - len(self.subscribed)
        is_asking = bool(request.names)
        return (
            is_short
            and is_asking
            and any(isinstance(each, Subscribe | Unsubscribe) for each in earlier)
        )

    def act(self, ref: str) -> None:
        """Judge a request now, before the session does."""
        self.acting = ref
        request = self.commands[ref]
        if isinstance(request, Subscribe) and not self.is_too_large(request):
            assert self.identity is not None
            self.judged[ref] = Judged(request, self.subscribed, self.identity.grants)

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
        for _ in range(1 if self.is_calm else times):
            self.say(command)

    def say(self, command: Request) -> None:  # noqa: C901  # one branch for each outcome
        if len(self.unsettled) >= self.most:
            return  # "it is not read until one of them is answered"
        ref = str(len(self.commands))
        command = type(command)(
            **{f: getattr(command, f) for f in command.__struct_fields__} | {"ref": ref}
        )
        self.commands[ref] = command
        self.last_seen = self.now.monotonic
        self.session.heartbeat.seen(self.now.monotonic)
        was_closed, is_judging = self.is_closed, bool(self.out) and self.identity is None
        is_nobody = self.identity is None and not is_judging
        self.rates.pass_to(self.now.monotonic)
        if self.session.rate is not None:
            assert self.session.rate.take(self.now.monotonic, 0) == (self.rates.tokens >= 1)
        handed: Request = command
        if self.glances and not self.is_calm and self.rates.tokens < 1:
            handed = Excess(ref, isinstance(command, Command | Publish))
        # "It is checked before everything else."
        is_free = was_closed or self.is_calm
        is_excess = not (is_free or self.rates.takes(command, len(self.subscribed)))
        is_beat = isinstance(command, Ping | Pong)
        waits = not is_beat and (
            is_judging
            or self.is_held
            or (not is_nobody and self.is_behind(command, [*self.unsettled.values()]))
        )
        if not (was_closed or is_excess or waits) and self.identity is not None:
            self.act(ref)
        self.acting = ref
        actions = self.session.handle(handed, self.now)

        if was_closed:
            assert actions == []
        elif is_excess:
            assert self.codes(actions)[0] == ErrorCode.RATE_LIMITED
            assert all(isinstance(action, Close) for action in actions[1:])
        elif is_nobody and not isinstance(command, Auth):
            assert self.codes(actions) == [ErrorCode.UNAUTHENTICATED]
        elif waits:
            assert actions == []
            self.unsettled[ref] = command
        elif isinstance(command, Ping):
            assert actions == [Send(Pong(ref))]
        elif isinstance(command, Pong):
            assert actions == []
        else:
            assert actions != [], "nothing else waits"
        self.perform(actions)

    def codes(self, actions: Sequence[Action]) -> list[str]:
        said = [action.reply for action in actions if isinstance(action, Send)]
        return [reply.code for reply in said if isinstance(reply, Refused)]

    def take_up(self) -> None:
        """After an answer, those that waited act, each as soon as none before stops it."""
        while not self.is_closed and not self.is_held and self.identity is not None:
            if self.kept:
                self.kept.pop(next(iter(self.kept)))()
                continue
            pending = {out.ref for out in self.out.values()}
            free = [
                ref
                for ref, request in self.unsettled.items()
                if ref not in pending and not self.is_behind(request, self.ahead(ref, pending))
            ]
            if not free:
                break
            self.act(free[0])
            actions = self.session.resume(self.now)
            assert actions is not None
            self.perform(actions)
        assert self.session.resume(self.now) is None

    def ahead(self, ref: str, pending: set[str]) -> list[Request]:
        """Return what a request that waits may have to wait for."""
        own = list(self.unsettled).index(ref)
        return [
            request
            for i, (each, request) in enumerate(self.unsettled.items())
            if each != ref and (i < own or each in pending)
        ]

    def settle(
        self, number: int, answer: Callable[[], list[Action]], then: Callable[[], None]
    ) -> None:
        """Give an answer; while the session is held, it acts on it later."""
        ref = self.out[number].ref

        def follow(actions: list[Action] | None) -> None:
            assert actions is not None
            self.acting = ref
            del self.out[number]
            then()
            self.perform(actions)

        if self.is_held:
            assert answer() == []
            self.kept[number] = lambda: follow(self.session.resume(self.now))
            return
        follow(answer())
        self.take_up()

    def outs(self, kind: type[Question]) -> list[int]:
        """Return the numbers of questions that are out, but for those that were answered."""
        return [
            number
            for number, out in self.out.items()
            if isinstance(out.question, kind) and number not in self.kept
        ]

    @precondition(lambda self: bool(self.outs(AskToken)))
    @rule(
        grants=grants,
        subject=st.sampled_from(["u", "u", "u", "someone else"]),
        lifetime=st.none() | lifetimes,
    )
    def accept(self, grants: Grants, subject: str, lifetime: float | None) -> None:
        expires_at = None if lifetime is None else self.now.later(lifetime).wall
        # Only one subject is played; the first token decides which.
        verdict = Identity(subject if self.identity else "u", grants, expires_at)
        (number,) = self.outs(AskToken)

        def then() -> None:
            if verdict.subject == "u":
                # "takes grants away": what is pending and not covered any more is refused, too
                for judged in self.judged.values():
                    gone = [p for p in judged.wanted if not grants.may_subscribe(p)]
                    judged.refuse(gone, ErrorCode.FORBIDDEN)

        self.settle(number, lambda: self.session.handle_answer(number, verdict, self.now), then)

    @precondition(lambda self: bool(self.outs(AskToken)))
    @rule()
    def refuse(self) -> None:
        (number,) = self.outs(AskToken)
        was_nobody = self.identity is None

        def answer() -> list[Action]:
            actions = self.session.handle_answer(number, "no", self.now)
            if not self.is_held:
                assert isinstance(actions[0], Send)
                assert isinstance(actions[0].reply, AuthRefused)
                assert len(actions) == 1 + was_nobody
                assert isinstance(actions[-1], Close) or not was_nobody
            return actions

        self.settle(number, answer, lambda: None)

    @precondition(lambda self: bool(self.outs(AskPermission)))
    @rule(data=st.data())
    def permit(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.outs(AskPermission)))
        ref, question = self.out[number]
        assert isinstance(question, AskPermission)
        asked = question.names
        assert len(set(asked)) == len(asked)
        allowed = data.draw(st.lists(st.booleans(), min_size=len(asked), max_size=len(asked)))

        def then() -> None:
            self.allowed[ref] = all(allowed)
            if question.action == "subscribe":
                no = [PATTERN[name] for name, yes in zip(asked, allowed, strict=True) if not yes]
                self.judged[ref].refuse(no, ErrorCode.FORBIDDEN)

        answer = self.session.handle_answer
        self.settle(number, lambda: answer(number, allowed, self.now), then)

    @precondition(lambda self: bool(self.outs(Attach)))
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        """The page: `UNAVAILABLE`."""
        number = data.draw(st.sampled_from(self.outs(Attach)))
        ref, question = self.out[number]
        assert isinstance(question, Attach)
        size = len(question.patterns)
        outcomes = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
        brought = [Outcome(each) for each in outcomes]

        def then() -> None:
            missed = [p for p, ok in zip(question.patterns, outcomes, strict=True) if not ok]
            self.judged[ref].refuse(missed, ErrorCode.UNAVAILABLE)

        answer = self.session.handle_answer
        self.settle(number, lambda: answer(number, Brought(brought), self.now), then)

    @rule(number=st.integers(-1, 9), good=st.booleans())
    def answer_late(self, number: int, *, good: bool) -> None:
        if number not in self.out:
            verdict = Identity("u", GRANTS[-1]) if good else "no"
            assert self.session.handle_answer(number, verdict, self.now) == []
            assert self.session.handle_answer(number, [good], self.now) == []
            assert self.session.handle_answer(number, Brought([Outcome(good)]), self.now) == []

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
        # "A request for it that is pending is refused."
        for judged in self.judged.values():
            judged.refuse([pattern], ErrorCode.FORBIDDEN)
        had = tuple(name for name in self.subscribed if pattern_of(name) == pattern)
        said = [action.reply for action in actions if isinstance(action, Send)]
        left = len(self.subscribed) - len(had)
        assert said == ([Unsubscribed(had, left, reason="why")] if had else [])
        self.perform(actions)
        assert pattern not in self.joined

    @rule()
    def hold(self) -> None:
        is_open = not (self.is_closed or self.is_held) and self.identity is not None
        assert self.session.hold() == is_open
        self.is_held |= is_open

    @precondition(lambda self: self.is_held)
    @rule()
    def release(self) -> None:
        self.is_held = False
        self.session.release()
        self.take_up()

    @rule(seconds=st.sampled_from([1 / 128, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1, 3]))
    def wait(self, seconds: float) -> None:
        if not self.is_calm:
            self.now = self.now.later(seconds)

    @rule()
    def tick(self) -> None:
        actions = self.session.handle_deadline(self.now)
        if len(self.unsettled) >= self.most:  # Nothing is read, so that it is not silent.
            self.last_seen = self.now.monotonic
        due = self.obligation() <= self.now.monotonic
        assert bool(actions) == (due and not self.is_closed)
        if actions == [Send(Ping())]:
            self.last_ping = self.now.monotonic
        self.perform(actions)

    @rule(sure=st.integers(0, 5))
    def close(self, sure: int) -> None:
        if sure or (self.is_calm and not self.out):
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
            expected = State.JUDGING if self.out else State.AWAITING
        else:
            expected = State.HELD if self.is_held else State.OPEN
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
        if hasattr(self, "session") and not self.is_closed:
            silent = {ref for ref, said in self.commands.items() if isinstance(said, Pong)}
            assert set(self.commands) - set(self.answered) - set(self.unsettled) <= silent
            assert self.session.pending.is_full == (len(self.unsettled) >= self.most)


TestSessionMachine = SessionMachine.TestCase
