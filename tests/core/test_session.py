from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Replay,
    ReportStatus,
    Send,
)
from wsbus.core.channels import parse_channel
from wsbus.core.errors import CloseCode, ErrorCode
from wsbus.core.events import Position
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
    Publication,
    Publish,
    Refused,
    Rejection,
    Request,
    ServerMessage,
    Since,
    StartPosition,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from wsbus.core.patterns import parse_pattern
from wsbus.core.permissions import Grants, Identity
from wsbus.core.session import Session, State
from wsbus.core.session_states import TABLE, SessionDuty, SessionInput
from wsbus.protocols.zigquant import ZigQuant

START: Final = Instant(1000.0, 1_700_000_000.0)
GRANTS: Final = Grants.of(subscribe=["grid.*", "system.*"], publish=["chat.*"], command=["grid.*"])
USER: Final = Identity("u1", GRANTS)
ADMIN: Final = Identity("root", Grants.of(admin=True))
EVERY_COMMAND: Final[list[Request]] = [
    Auth("t", "1"),
    Subscribe(("grid.a",), "1"),
    Unsubscribe(("grid.a",), "1"),
    Command("grid.start", b"{}", "1"),
    Publish("chat.a", "message", b"1", "1"),
    Ping("1"),
    Pong("1"),
    GetStatus("1"),
    Malformed(ErrorCode.INVALID_MESSAGE, "not JSON", "1"),
]


def make(
    identity: Identity | None = USER,
    *,
    takes_tokens: bool = True,
    asks: bool = False,
    attaches: bool = False,
    heartbeat: HeartbeatPolicy | None = None,
    **limits: Any,
) -> Session:
    """Return a session that began at START."""
    policy = heartbeat or HeartbeatPolicy.client_drives()
    return Session(
        protocol=ZigQuant(),
        limits=Limits(**limits),
        heartbeat=Heartbeat(policy, START.monotonic),
        identity=identity,
        now=START,
        takes_tokens=takes_tokens,
        asks=asks,
        attaches=(lambda _: True) if attaches else None,
    )


def at(seconds: float) -> Instant:
    """Return the moment that long after START."""
    return START.later(seconds)


def brought(*reached: bool) -> Brought:
    """Return what was brought for patterns without history."""
    return Brought([Outcome(each) for each in reached])


def replies(actions: Sequence[Action]) -> list[ServerMessage]:
    """Return what is said to the client."""
    return [action.reply for action in actions if isinstance(action, Send)]


def codes(actions: Sequence[Action]) -> list[str]:
    """Return the codes of the refusals."""
    return [reply.code for reply in replies(actions) if isinstance(reply, Refused)]


def joined(actions: Sequence[Action]) -> list[str]:
    """Return the patterns that are joined."""
    return [action.pattern.text for action in actions if isinstance(action, Join)]


def left(actions: Sequence[Action]) -> list[str]:
    """Return the patterns that are left."""
    return [action.pattern.text for action in actions if isinstance(action, Leave)]


def subscribe(session: Session, *names: str, ref: str | None = None) -> Subscribed:
    """Subscribe at START; return the answer."""
    answer = replies(session.handle(Subscribe(names, ref), START))[0]
    assert isinstance(answer, Subscribed)
    return answer


def ask(session: Session, command: Request, now: Instant = START) -> AskToken | AskPermission:
    """Say something that makes the session ask; return the question, which is all it does."""
    (question,) = session.handle(command, now)
    assert isinstance(question, AskToken | AskPermission)
    return question


def sign_in(session: Session, identity: Identity, now: Instant = START) -> list[Action]:
    """Show a token that is found to be good."""
    question = ask(session, Auth("t"), now)
    return session.handle_answer(question.request, identity, now)


def resumed(session: Session, actions: list[Action], now: Instant = START) -> list[Action]:
    """Return what follows from an answer, and from what waited for it."""
    while (waited := session.resume(now)) is not None:
        actions = actions + waited
    return actions


# --- the table -----------------------------------------------------------------------------------


def test_a_conversation_begins_with_or_without_identity() -> None:
    """A valid token in the handshake authenticates; without one the session waits for ``auth``."""
    assert make(USER).state is State.OPEN
    assert make(None).state is State.AWAITING


def in_state(state: State) -> Session:
    """Return a session in this state, reached as a client reaches it."""
    session = make(None if state in {State.AWAITING, State.JUDGING} else USER)
    match state:
        case State.JUDGING:
            ask(session, Auth("t"))
        case State.HELD:
            assert session.hold()
        case State.CLOSED:
            session.close(CloseCode.NORMAL, "")
        case State.AWAITING | State.OPEN:
            pass
    assert session.state is state
    return session


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (State.JUDGING, USER, State.OPEN),
        (State.JUDGING, "no", State.CLOSED),
        (State.OPEN, USER, State.OPEN),
        (State.OPEN, "no", State.OPEN),
    ],
)
def test_an_answer_moves_the_session_on(
    before: State, answer: Identity | str, after: State
) -> None:
    """A first token opens or closes; a newer one changes no state."""
    session = in_state(before)
    if before is State.OPEN:
        ask(session, Auth("t"))
    session.handle_answer(1, answer, START)

    assert session.state is after


@pytest.mark.parametrize("state", State)
def test_every_state_ends(state: State) -> None:
    """Whatever goes on, ``close`` ends it with one Close, and a second time does nothing."""
    session = in_state(state)

    expected = [] if state is State.CLOSED else [Close(4510, "go")]
    assert session.close(4510, "go") == expected
    assert session.close(4510, "go") == []
    assert session.state is State.CLOSED


@pytest.mark.parametrize("heard", SessionInput, ids=lambda heard: str(heard.name))
@pytest.mark.parametrize("state", State, ids=lambda state: str(state.name))
def test_a_pair_that_is_not_in_the_table_raises_and_changes_nothing(
    state: State, heard: SessionInput
) -> None:
    """To hold who is not held is a duty, to release who is not is a mistake."""
    session = in_state(state)
    if (state, heard) in TABLE:
        duty, then = TABLE[state, heard]
        assert session._take(heard) is duty
        assert session.state is then
    else:
        with pytest.raises(KeyError):
            session._take(heard)
        assert session.state is state


def test_the_table_is_complete() -> None:
    """Whatever a client or the application does, and the end, has a row in every state."""
    anybody = {
        SessionInput.PING,
        SessionInput.AUTH,
        SessionInput.REQUEST,
        SessionInput.HOLD,
        SessionInput.CHANGE,
        SessionInput.END,
    }
    assert set(TABLE) >= {(state, heard) for state in State for heard in anybody}
    # What the rest stands for cannot happen in the other states.
    assert {pair for pair in TABLE if pair[1] not in anybody} == {
        (State.AWAITING, SessionInput.JUDGE),
        (State.AWAITING, SessionInput.ADMIT),
        (State.JUDGING, SessionInput.ADMIT),
        (State.JUDGING, SessionInput.ANSWER),
        (State.OPEN, SessionInput.JUDGE),
        (State.OPEN, SessionInput.ANSWER),
        (State.HELD, SessionInput.ANSWER),
        (State.HELD, SessionInput.RELEASE),
        (State.CLOSED, SessionInput.RELEASE),
    }
    # What `Session.handle` takes for granted, since it is what happens most.
    for heard in (SessionInput.PING, SessionInput.AUTH, SessionInput.REQUEST):
        assert TABLE[State.OPEN, heard] == (SessionDuty.ACT, State.OPEN)


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda command: type(command).__name__)
def test_nothing_is_acted_on_after_the_end(command: Request) -> None:
    """A closed session answers no command, no answer, no deadline and no call of the server's."""
    session = in_state(State.OPEN)
    ask(session, Auth("t"))
    session.assign(parse_pattern("a"))
    session.close(CloseCode.NORMAL, "")

    assert session.handle(command, START) == []
    assert session.handle_answer(1, ADMIN, START) == []
    assert not session.hold()
    session.release()
    assert session.handle_deadline(at(1e6)) == []
    assert session.assign(parse_pattern("b")) == []
    assert session.unassign(parse_pattern("a")) == []
    assert session.revoke(parse_pattern("a"), None) == []
    assert session.resume(START) is None
    assert session.identity is USER


# --- authentication ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [command for command in EVERY_COMMAND if not isinstance(command, Auth)],
    ids=lambda command: type(command).__name__,
)
def test_before_auth_everything_else_is_refused(command: Request) -> None:
    """Who has shown no token is answered UNAUTHENTICATED, and nothing is acted on."""
    session = make(None)
    (answer,) = replies(session.handle(command, START))

    assert isinstance(answer, Refused)
    assert (answer.code, answer.ref) == (ErrorCode.UNAUTHENTICATED, "1")
    assert answer.is_call == isinstance(command, Command | Publish)
    assert session.state is State.AWAITING


def test_a_good_token_makes_the_client_somebody() -> None:
    """``auth`` asks; the answer is adopted and told, with its subject, its expiry and the ref."""
    session, identity = make(None), Identity("u1", GRANTS, at(60).wall)
    question = ask(session, Auth("secret", "7"))

    assert question == AskToken(1, "secret")
    assert session.handle_answer(1, identity, START) == [
        Adopt(identity),
        Send(AuthAccepted("u1", at(60).wall, "7")),
    ]
    assert session.identity is identity


def test_a_bad_first_token_ends_the_conversation() -> None:
    """The refusal is told in the words of the authenticator, then comes close 4500."""
    session = make(None)
    question = ask(session, Auth("secret", "7"))

    assert session.handle_answer(question.request, "expired", START) == [
        Send(AuthRefused("expired", ref="7")),
        Close(CloseCode.TOKEN_REFUSED, "token refused"),
    ]


def test_a_failed_refresh_leaves_the_old_token_in_force() -> None:
    """Nothing changes but that the client is told; what it had ends when it always would."""
    session = make(Identity("u1", GRANTS, at(60).wall))
    subscribe(session, "grid.*")
    deadline = session.deadline
    question = ask(session, Auth("bad", "7"))

    assert session.handle_answer(question.request, "no", at(1)) == [
        Send(AuthRefused("no", ref="7"))
    ]
    assert list(session.subscriptions) == ["grid.*"]
    assert session.deadline == deadline
    assert session.handle_deadline(at(60)) == [Close(CloseCode.TOKEN_EXPIRED, "token expired")]


def test_a_refresh_moves_the_expiry() -> None:
    """The connection stays as long as the new token lasts."""
    session = make(Identity("u1", GRANTS, at(60).wall))
    sign_in(session, Identity("u1", GRANTS, at(120).wall), at(30))

    assert session.deadline == pytest.approx(at(120).monotonic)
    assert session.handle_deadline(at(60)) == []
    assert session.handle_deadline(at(120)) == [Close(CloseCode.TOKEN_EXPIRED, "token expired")]


def test_a_refresh_that_takes_grants_away_drops_subscriptions_and_says_so() -> None:
    """What is not covered any more is left before ``unsubscribed`` says so; the rest stays."""
    session = make(USER)
    subscribe(session, "grid.a.*", "system.log", "grid.b.*")
    less = Identity("u1", Grants.of(subscribe=["system.*"]))

    assert sign_in(session, less) == [
        Adopt(less, is_renewal=True),
        Send(AuthAccepted("u1", None)),
        Leave(parse_pattern("grid.a.*")),
        Leave(parse_pattern("grid.b.*")),
        Send(Unsubscribed(("grid.a.*", "grid.b.*"), 1)),
    ]
    assert list(session.subscriptions) == ["system.log"]


def test_a_refresh_does_not_touch_what_the_server_subscribed() -> None:
    """The server's own subscriptions are not the client's grants' business."""
    session = make(USER)
    subscribe(session, "grid.a")
    session.assign(parse_pattern("grid.a"))
    session.assign(parse_pattern("broadcast"))
    actions = sign_in(session, Identity("u1", Grants()))

    assert left(actions) == []
    assert replies(actions)[-1] == Unsubscribed(("grid.a",), 0)
    assert {pattern.text for pattern in session.patterns} == {"grid.a", "broadcast"}


def test_a_refresh_for_somebody_else_is_refused() -> None:
    """A socket belongs to one subject; the old token stays in force."""
    session = make(USER)
    (answer,) = replies(sign_in(session, ADMIN))

    assert isinstance(answer, AuthRefused)
    assert session.identity is USER
    assert session.state is State.OPEN


@pytest.mark.parametrize("identity", [USER, None])
def test_where_no_tokens_are_taken_auth_is_refused(identity: Identity | None) -> None:
    """An endpoint without an authenticator says so, and goes on."""
    session = make(identity, takes_tokens=False)
    before = session.state
    (answer,) = replies(session.handle(Auth("t", "7"), START))

    assert isinstance(answer, AuthRefused)
    assert answer.ref == "7"
    assert session.state is before


# --- questions and answers -----------------------------------------------------------------------


@pytest.mark.parametrize("generation", [0, 1, 3, -1])
def test_an_answer_to_another_question_is_ignored(generation: int) -> None:
    """Only the answer to the question that is out counts."""
    session = make(USER)
    sign_in(session, USER)
    question = ask(session, Auth("t"))

    assert question.request == 2
    assert session.handle_answer(generation, ADMIN, START) == []
    assert session.handle_answer(2, USER, START) != []


def test_an_answer_counts_once() -> None:
    """The same answer again does nothing."""
    session = make(None)
    question = ask(session, Auth("t"))
    session.handle_answer(question.request, USER, START)

    assert session.handle_answer(question.request, USER, START) == []
    assert session.handle_answer(question.request, "no", START) == []
    assert session.state is State.OPEN


def test_an_answer_after_the_end_is_ignored() -> None:
    """Who was closed meanwhile is not opened again."""
    session = make(None)
    question = ask(session, Auth("t"))
    session.close(CloseCode.DISCONNECTED, "")

    assert session.handle_answer(question.request, USER, START) == []
    assert session.identity is None


def test_while_a_token_is_judged_commands_wait_in_order() -> None:
    """What came meanwhile acts in the order in which it came, after the answer."""
    session = make(None)
    question = ask(session, Auth("t"))
    assert session.handle(Subscribe(("grid.a",), "1"), START) == []
    assert session.handle(Command("grid.start", b"{}", "2"), START) == []
    assert session.handle(Unsubscribe(("grid.a",), "3"), START) == []
    answer = session.handle_answer(question.request, USER, START)
    actions = resumed(session, answer)[2:]

    assert actions == [
        Send(Subscribed(("grid.a",), 1, (), "1")),
        Join(parse_pattern("grid.a")),
        Invoke(Command("grid.start", b"{}", "2")),
        Leave(parse_pattern("grid.a")),
        Send(Unsubscribed(("grid.a",), 0, "3")),
    ]


@pytest.mark.parametrize("state", [State.JUDGING, State.HELD])
def test_pings_are_answered_while_all_else_waits(state: State) -> None:
    """A ping does not wait for anybody's judgement."""
    session = in_state(state)

    assert session.handle(Ping("9"), START) == [Send(Pong("9"))]
    assert session.handle(Pong(), START) == []


@pytest.mark.parametrize("state", [State.JUDGING, State.HELD])
def test_sixteen_that_are_not_settled_are_enough(state: State) -> None:
    """Then nothing is to be handed in; what is, nevertheless, is not refused."""
    session = in_state(state)
    pending = 1 if state is State.JUDGING else 0  # The token.
    for n in range(16 - pending):
        assert not session.pending.is_full
        assert session.handle(Subscribe((f"grid.{n}",)), START) == []
    assert session.pending.is_full
    assert session.handle(Subscribe(("grid.16",)), START) == []
    assert session.handle(Ping(), START) == [Send(Pong())]

    if state is State.JUDGING:
        actions = resumed(session, session.handle_answer(1, USER, START))
    else:
        session.release()
        actions = resumed(session, [])
    assert joined(actions) == [*[f"grid.{n}" for n in range(16 - pending)], "grid.16"]
    assert not session.pending.is_full


def test_what_waited_for_a_refused_token_is_not_acted_on() -> None:
    """The last word is the close."""
    session = make(None)
    question = ask(session, Auth("t"))
    session.handle(Subscribe(("grid.a",)), START)
    actions = resumed(session, session.handle_answer(question.request, "no", START))

    assert isinstance(actions[-1], Close)
    assert joined(actions) == []
    assert session.handle_answer(question.request, USER, START) == []


def test_a_second_auth_waits_for_the_first() -> None:
    """Tokens are judged one after the other, each with its own answer."""
    session = make(None)
    first = ask(session, Auth("a", "1"))
    session.handle(Auth("b", "2"), START)
    session.handle(Subscribe(("grid.a",)), START)
    actions = resumed(session, session.handle_answer(first.request, USER, START))

    assert AskToken(2, "b") in actions
    assert joined(actions) == ["grid.a"]  # A refresh stops nothing but another one.
    actions = resumed(session, session.handle_answer(2, USER, START))
    assert replies(actions) == [AuthAccepted("u1", None, "2")]


def test_permissions_are_asked_after_the_grants() -> None:
    """Only what the grants allow is put to the application, as one question a request."""
    session = make(USER, asks=True)
    question = ask(session, Subscribe(("grid.a", "secret", "a..b", "grid.*", "grid.a"), "5"))

    assert question == AskPermission(1, USER, "subscribe", ("grid.a", "grid.*"))
    actions = session.handle_answer(1, [False, True], START)
    (answer,) = replies(actions)
    assert isinstance(answer, Subscribed)
    assert answer.names == ("grid.*",)
    assert [(r.name, r.code) for r in answer.rejected] == [
        ("grid.a", ErrorCode.FORBIDDEN),
        ("secret", ErrorCode.FORBIDDEN),
        ("a..b", ErrorCode.INVALID_CHANNEL),
        ("grid.a", ErrorCode.FORBIDDEN),
    ]
    assert joined(actions) == ["grid.*"]


def test_what_is_refused_anyway_asks_nobody() -> None:
    """There is no question if nothing is left to ask."""
    session = make(USER, asks=True)

    assert isinstance(session.handle(Subscribe(("secret",)), START)[0], Send)
    assert codes(session.handle(Command("other", b"{}", "1"), START)) == [ErrorCode.FORBIDDEN]
    assert codes(session.handle(Publish("other", "e", b"1"), START)) == [ErrorCode.FORBIDDEN]
    assert session.state is State.OPEN


@pytest.mark.parametrize(
    ("command", "verb", "name", "then"),
    [
        (
            Command("grid.start", b"{}", "1"),
            "command",
            "grid.start",
            Invoke(Command("grid.start", b"{}", "1")),
        ),
        (
            Publish("chat.a", "e", b"1", "1"),
            "publish",
            "chat.a",
            Emit(parse_channel("chat.a"), Publish("chat.a", "e", b"1", "1")),
        ),
    ],
)
def test_a_permission_stands_before_the_action(
    command: Request, verb: str, name: str, then: Action
) -> None:
    """A yes does what was asked for, a no is FORBIDDEN."""
    session = make(USER, asks=True)

    assert ask(session, command) == AskPermission(1, USER, verb, (name,))
    assert session.handle_answer(1, [True], START) == [then]
    ask(session, command)
    refused = session.handle_answer(2, [False], START)
    why = "the application does not allow this"
    assert replies(refused) == [Refused(ErrorCode.FORBIDDEN, why, "1", True)]
    assert session.state is State.OPEN


def test_no_more_is_asked_than_could_be_accepted() -> None:
    """Names past the places left, and names that are held, are not put to the application."""
    session = make(USER, max_subscriptions=3, asks=True)
    held = ask(session, Subscribe(("grid.a",)))
    session.handle_answer(held.request, [True], START)
    names = ("grid.b", "grid.a", "grid.b", "grid.c", "grid.d", "secret", "grid.e")
    question = ask(session, Subscribe(names))

    assert isinstance(question, AskPermission)
    assert question.names == ("grid.b", "grid.c")
    (answer,) = replies(session.handle_answer(question.request, [False, True], START))
    assert isinstance(answer, Subscribed)
    assert answer.names == ("grid.a", "grid.c")
    assert [(r.name, r.code) for r in answer.rejected] == [
        ("grid.b", ErrorCode.FORBIDDEN),
        ("grid.b", ErrorCode.FORBIDDEN),
        ("grid.d", ErrorCode.TOO_MANY_SUBSCRIPTIONS),
        ("secret", ErrorCode.FORBIDDEN),
        ("grid.e", ErrorCode.TOO_MANY_SUBSCRIPTIONS),
    ]


@pytest.mark.parametrize(
    ("grants", "allowed", "why"),
    [
        (Grants.of(subscribe=["a"]), True, "no grant covers this"),
        (Grants.of(subscribe=["*"]), True, "* itself needs admin"),
        (Grants.of(admin=True), False, "the application does not allow this"),
    ],
)
def test_a_refusal_says_who_refuses(grants: Grants, why: str, *, allowed: bool) -> None:
    """The grants, the rule that ``*`` needs admin, and the application are told apart."""
    session = make(Identity("u", grants), asks=True)
    name = "b" if "grant covers this" in why else "*"
    actions = session.handle(Subscribe((name,)), START)
    if isinstance(actions[0], AskPermission):
        actions = session.handle_answer(1, [allowed], START)
    (answer,) = replies(actions)

    assert isinstance(answer, Subscribed)
    assert answer.rejected[0].code == ErrorCode.FORBIDDEN
    assert answer.rejected[0].message.startswith(why)


@pytest.mark.parametrize(
    "command",
    [Subscribe(("chat.a",), "1"), Publish("chat.a", "e", b"1", "1"), Command("chat.a", ref="1")],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize(
    "grants",
    [
        Grants(),
        Grants.of(
            subscribe=["chat.*"],
            publish=["chat.*"],
            command=["chat.*"],
            deny_subscribe=["chat.a"],
            deny_publish=["chat.a"],
            deny_command=["chat.a"],
        ),
    ],
    ids=["none", "denied"],
)
def test_what_the_grants_refuse_is_not_put_on_the_application(
    command: Request, grants: Grants, *, asks: bool
) -> None:
    """At each place the message names the grants, and ``authorize`` is not asked."""
    session = make(Identity("u", grants), asks=asks)
    (reply,) = replies(session.handle(command, START))
    refused = reply.rejected[0] if isinstance(reply, Subscribed) else reply

    assert isinstance(refused, Refused | Rejection)
    assert (refused.code, refused.message) == (ErrorCode.FORBIDDEN, "no grant covers this")


# --- subscriptions -------------------------------------------------------------------------------


def test_subscribed_lists_this_request_and_counts_all() -> None:
    """The answer has the accepted names in order, and comes before the joins."""
    session = make(USER)
    subscribe(session, "system.log")
    actions = session.handle(Subscribe(("grid.b.*", "grid.a"), "1"), START)

    assert actions == [
        Send(Subscribed(("grid.b.*", "grid.a"), 3, (), "1")),
        Join(parse_pattern("grid.b.*")),
        Join(parse_pattern("grid.a")),
    ]


def test_refused_names_stand_in_rejected() -> None:
    """Each with its own code, even if all are refused; the good ones are accepted all the same."""
    session = make(USER)
    answer = subscribe(session, "*", "grid.a", "a b", "other.*", "grid.+", ref="1")

    assert answer.names == ("grid.a",)
    assert answer.active == 1
    assert [(r.name, r.code) for r in answer.rejected] == [
        ("*", ErrorCode.FORBIDDEN),
        ("a b", ErrorCode.INVALID_CHANNEL),
        ("other.*", ErrorCode.FORBIDDEN),
        ("grid.+", ErrorCode.INVALID_CHANNEL),
    ]
    assert subscribe(session, "*").names == ()


def test_a_channel_that_is_subscribed_counts_as_accepted_and_once() -> None:
    """To subscribe again, in one request or in two, changes nothing."""
    session = make(USER)

    assert subscribe(session, "grid.a", "grid.a") == Subscribed(("grid.a", "grid.a"), 1)
    actions = session.handle(Subscribe(("grid.a",)), START)
    assert actions == [Send(Subscribed(("grid.a",), 1))]
    assert left(session.handle(Unsubscribe(("grid.a",)), START)) == ["grid.a"]


@pytest.mark.parametrize(
    ("grants", "name", "granted"),
    [
        (Grants.of(subscribe=["grid.*"]), "grid.*", True),
        (Grants.of(subscribe=["grid.*"]), "grid.*.status", True),
        (Grants.of(subscribe=["grid.*"]), "grid", False),
        (Grants.of(subscribe=["grid.a"]), "grid.*", False),
        (Grants.of(subscribe=["*"]), "anything.at.all", True),
        (Grants.of(subscribe=["*"]), "grid.*", True),
        (Grants.of(subscribe=["*"]), "*", False),
        (Grants.of(admin=True), "*", True),
        (Grants.of(admin=True, deny_subscribe=["secret.*"]), "secret.a", False),
    ],
)
def test_a_grant_must_cover_the_pattern(grants: Grants, name: str, *, granted: bool) -> None:
    """A pattern may be subscribed only if a grant covers it; ``*`` needs ``admin``."""
    answer = subscribe(make(Identity("u1", grants)), name)

    assert (answer.names == (name,)) == granted


def test_admin_covers_subscribing_only() -> None:
    """Commands and publishes need their grants."""
    session = make(ADMIN)

    assert codes(session.handle(Command("grid.start", b"{}", "1"), START)) == [ErrorCode.FORBIDDEN]
    assert codes(session.handle(Publish("chat.a", "e", b"1"), START)) == [ErrorCode.FORBIDDEN]


def test_subscriptions_are_limited() -> None:
    """What exceeds the limit is refused by name, and room made by ``unsubscribe`` is used again."""
    session = make(USER, max_subscriptions=50, max_names=300)
    answer = subscribe(session, *(f"grid.{n}" for n in range(300)))

    assert answer.active == len(answer.names) == 50
    assert len(answer.rejected) == 250
    assert {r.code for r in answer.rejected} == {ErrorCode.TOO_MANY_SUBSCRIPTIONS}
    assert subscribe(session, "grid.0").names == ("grid.0",)
    session.handle(Unsubscribe(("grid.0",)), START)
    assert subscribe(session, "grid.new", "grid.0").names == ("grid.new",)


@pytest.mark.parametrize("request_of", [Subscribe, Unsubscribe])
def test_a_request_names_only_so_many(request_of: type[Subscribe | Unsubscribe]) -> None:
    """protocol.md: a request with more than ``max_names`` is refused whole, duplicates counted."""
    session = make(USER, max_names=3)
    few, many = ("grid.a",) * 3, ("grid.a",) * 4

    assert codes(session.handle(request_of(few, "1"), START)) == []
    (answer,) = replies(session.handle(request_of(many, "2"), START))
    why = "more than 3 names in one request"
    assert answer == Refused(ErrorCode.INVALID_MESSAGE, why, "2")


def test_unsubscribe_answers_the_request_as_it_was() -> None:
    """All its names in order, also those never subscribed or no names at all; leaves come first."""
    session = make(USER)
    subscribe(session, "grid.a", "grid.*", "grid.b")
    actions = session.handle(Unsubscribe(("never", "grid.a", "a..b", "grid.a"), "1"), START)

    assert actions == [
        Leave(parse_pattern("grid.a")),
        Send(Unsubscribed(("never", "grid.a", "a..b", "grid.a"), 2, "1")),
    ]


def test_unsubscribe_goes_by_exact_text() -> None:
    """A pattern does not unsubscribe what it matches."""
    session = make(USER)
    subscribe(session, "grid.a")

    assert left(session.handle(Unsubscribe(("grid.*",)), START)) == []
    assert list(session.subscriptions) == ["grid.a"]


def test_the_servers_subscriptions_are_its_own() -> None:
    """A pattern both hold is joined once and left when both have let go, in any order."""
    pattern = parse_pattern("grid.a")
    for server_first in (True, False):
        session = make(USER)
        assert session.assign(pattern) == [Join(pattern)]
        assert session.assign(pattern) == []
        assert joined(session.handle(Subscribe(("grid.a",)), START)) == []
        if server_first:
            assert session.unassign(pattern) == []
            assert session.unassign(pattern) == []
            assert left(session.handle(Unsubscribe(("grid.a",)), START)) == ["grid.a"]
        else:
            assert left(session.handle(Unsubscribe(("grid.a",)), START)) == []
            assert session.unassign(pattern) == [Leave(pattern)]
        assert list(session.patterns) == []


def test_what_the_server_never_assigned_it_cannot_take_away() -> None:
    """``unassign`` does not touch what the client subscribed itself."""
    session = make(USER)
    subscribe(session, "grid.a")

    assert session.unassign(parse_pattern("grid.a")) == []
    assert list(session.patterns) == [parse_pattern("grid.a")]


def test_the_servers_subscriptions_do_not_count() -> None:
    """Neither against the limit, nor in ``active``, and grants are not asked for."""
    session = make(USER, max_subscriptions=1)
    session.assign(parse_pattern("other"))

    assert subscribe(session, "grid.a") == Subscribed(("grid.a",), 1)
    assert list(session.subscriptions) == ["grid.a"]


# --- commands, publishes and the rest ------------------------------------------------------------


def test_a_permitted_command_is_invoked() -> None:
    """Whether there is such a command is for whoever invokes to find out, after FORBIDDEN."""
    call = Command("grid.no_such", b'{"a":1}', "1")

    assert make(USER).handle(call, START) == [Invoke(call)]


@pytest.mark.parametrize("ref", ["1", None])
def test_what_refuses_a_command_pairs_with_its_ref(ref: str | None) -> None:
    """A command with an id gets a response, one without can only get an error."""
    refused = replies(make(USER).handle(Command("other", b"{}", ref), START))

    assert refused == [Refused(ErrorCode.FORBIDDEN, "no grant covers this", ref, ref is not None)]


def test_a_command_is_checked_in_the_stated_order() -> None:
    """UNAUTHENTICATED, then RATE_LIMITED, then FORBIDDEN; only then is it invoked."""
    forbidden, fine = Command("other", b"{}", "1"), Command("grid.start", b"{}", "1")
    session = make(None, commands_per_second=1)
    assert codes(session.handle(forbidden, START)) == [ErrorCode.UNAUTHENTICATED]
    assert codes(session.handle(forbidden, START)) == [ErrorCode.UNAUTHENTICATED]
    sign_in(session, USER)
    assert codes(session.handle(forbidden, START)) == [ErrorCode.FORBIDDEN]
    assert codes(session.handle(forbidden, START)) == [ErrorCode.RATE_LIMITED]
    assert codes(session.handle(fine, START)) == [ErrorCode.RATE_LIMITED]
    assert session.handle(fine, at(1)) == [Invoke(fine)]


@pytest.mark.parametrize("name", ["chat.*", "*", "a..b", "+", "x" * 256, ".".join("a" * 17)])
def test_a_publish_goes_to_a_channel_only(name: str) -> None:
    """A pattern, or a name that is no name, is INVALID_CHANNEL."""
    refused = make(USER).handle(Publish(name, "e", b"1", "1"), START)

    assert codes(refused) == [ErrorCode.INVALID_CHANNEL]


@pytest.mark.parametrize("event", ["a\nb", "\x00", "\u202e", "\ud800", "é" * 128])
def test_an_event_of_a_client_is_printable_and_short(event: str) -> None:
    """What happened is a printable text of at most 255 bytes, as the application's own is."""
    session = make()
    (answer,) = replies(session.handle(Publish("chat.a", event, b"1", "1"), START))

    assert isinstance(answer, Refused)
    assert (answer.code, answer.ref, answer.is_call) == (ErrorCode.INVALID_MESSAGE, "1", True)
    assert session.handle(Publish("chat.a", "é" * 127, b"1"), START) != []
    assert codes(session.handle(Publish("chat.a", "é" * 127, b"1"), START)) == []


def test_a_message_that_was_not_understood_is_answered_as_the_dialect_says() -> None:
    """With its code, its words and its ref; as a response if it was a command."""
    session = make(USER)
    for is_call in (True, False):
        malformed = Malformed(ErrorCode.INVALID_MESSAGE, "why", "1", is_call)
        assert replies(session.handle(malformed, START)) == [
            Refused(ErrorCode.INVALID_MESSAGE, "why", "1", is_call)
        ]


def test_pings_pongs_and_status() -> None:
    """A ping is answered with its ref, a pong with nothing; a status is reported by the driver."""
    session = make(USER)

    assert session.handle(Ping("a"), START) == [Send(Pong("a"))]
    assert session.handle(Pong("a"), START) == []
    assert session.handle(GetStatus("a"), START) == [ReportStatus("a")]


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda command: type(command).__name__)
def test_every_message_counts_and_each_excess_one_is_answered(command: Request) -> None:
    """Messages of any kind share one bucket with a burst of a second; excess is not acted on."""
    session = make(USER, messages_per_second=3)
    for _ in range(3):
        session.handle(Pong(), START)
    (answer,) = replies(session.handle(command, START))

    assert isinstance(answer, Refused)
    assert (answer.code, answer.ref) == (ErrorCode.RATE_LIMITED, "1")
    assert answer.is_call == isinstance(command, Command | Publish)
    assert (session.state, list(session.subscriptions)) == (State.OPEN, [])


@pytest.mark.parametrize("state", State)
def test_the_rate_is_judged_before_everything_else(state: State) -> None:
    """protocol.md: it "counts every message, also before it is authenticated"."""
    session = in_state(state)
    outcomes = [codes(session.handle(GetStatus("1"), START)) for _ in range(120)]

    if state is State.CLOSED:
        assert outcomes == [[]] * 120
    else:
        assert outcomes[100:] == [[ErrorCode.RATE_LIMITED]] * 20
        unauthenticated = [[ErrorCode.UNAUTHENTICATED]] * 100
        assert state is not State.AWAITING or outcomes[:100] == unauthenticated


def test_who_floods_before_authentication_is_closed() -> None:
    """protocol.md: who keeps exceeding a limit is closed with 4429; no token is needed for that."""
    session = make(None, messages_per_second=1, rate_abuse_seconds=2)
    for quarter in range(16):
        session.handle(Ping(), at(quarter / 4))

    assert session.state is State.CLOSED


@pytest.mark.parametrize(("names", "cost"), [(0, 1), (1, 1), (8, 1), (9, 2), (128, 16), (129, 1)])
@pytest.mark.parametrize("request_of", [Subscribe, Unsubscribe])
def test_names_count(request_of: type[Subscribe | Unsubscribe], names: int, cost: int) -> None:
    """A request counts as one message for each eight names begun; one that is too large as one."""
    session = make(messages_per_second=20)
    session.handle(request_of(("grid.a",) * names), START)
    taken = 20 - sum(codes(session.handle(Ping(), START)) == [] for _ in range(20))

    assert taken == cost


def test_a_status_counts_for_what_it_lists() -> None:
    """``get_status`` counts as one message for each eight subscriptions begun."""
    session = make(messages_per_second=20)
    subscribe(session, *(f"grid.{n}" for n in range(17)))
    session.handle(GetStatus(), at(1))

    assert sum(codes(session.handle(Ping(), at(1))) == [] for _ in range(20)) == 17


def test_a_request_may_cost_more_than_the_burst() -> None:
    """With a low rate a full bucket lets any request pass, and is empty then."""
    session = make(messages_per_second=5)

    assert codes(session.handle(Subscribe(("grid.a",) * 128), START)) == []
    assert codes(session.handle(Ping(), START)) == [ErrorCode.RATE_LIMITED]
    assert codes(session.handle(Subscribe(("grid.b",) * 128), at(0.9))) == [ErrorCode.RATE_LIMITED]


def test_what_was_not_decoded_is_refused_as_it_was_asked() -> None:
    """A message of which only ``id`` and ``type`` were read gets the answer that pairs with it."""
    session = make(messages_per_second=1)
    session.handle(Ping(), START)

    assert replies(session.handle(Excess("1", is_call=True), START)) == [
        Refused(ErrorCode.RATE_LIMITED, "too many messages", "1", True)
    ]


def test_rates_recover() -> None:
    """A token comes back in its time."""
    session = make(USER, messages_per_second=2)
    outcomes = [codes(session.handle(Ping(), at(t))) for t in (0, 0, 0, 0.25, 0.5, 0.6, 1.0)]

    assert [bool(outcome) for outcome in outcomes] == [
        False,
        False,
        True,
        True,
        False,
        True,
        False,
    ]


def test_rates_may_be_off() -> None:
    """Without rates nothing is ever RATE_LIMITED."""
    session = make(USER, messages_per_second=None, commands_per_second=None)

    for _ in range(1000):
        assert codes(session.handle(Command("grid.start"), START)) == []


@pytest.mark.parametrize("state", [State.JUDGING, State.HELD])
def test_who_waits_is_limited_too(state: State) -> None:
    """While a question is out messages count as always, pings among them."""
    session = in_state(state)
    for _ in range(100):
        session.handle(Ping(), START)

    assert codes(session.handle(Ping("1"), START)) == [ErrorCode.RATE_LIMITED]


def test_commands_that_waited_count_when_they_act() -> None:
    """Commands that waited take from the bucket of commands once, after the answer."""
    session = make(None, commands_per_second=2)
    question = ask(session, Auth("t"))
    for _ in range(3):
        session.handle(Command("grid.start"), START)
    actions = resumed(session, session.handle_answer(question.request, USER, START))

    assert sum(isinstance(action, Invoke) for action in actions) == 2
    assert codes(actions) == [ErrorCode.RATE_LIMITED]


@pytest.mark.parametrize(
    "limits",
    [{"messages_per_second": 1}, {"commands_per_second": 1}],
    ids=lambda limits: next(iter(limits)),
)
def test_who_keeps_on_for_ten_seconds_is_closed(limits: dict[str, Any]) -> None:
    """Excess without a pause of a second, for 10 s, ends in 4429; the last excess is answered."""
    session = make(USER, **{"messages_per_second": None, "commands_per_second": None} | limits)
    call = Command("grid.start", b"{}", "1")
    ends: list[tuple[float, list[Action]]] = []
    for tenth in range(200):
        for _ in range(2):
            actions = session.handle(call, at(tenth / 10))
            if session.state is State.CLOSED and actions:
                ends.append((tenth / 10, actions))

    ((when, actions),) = ends
    assert when == pytest.approx(10.0, abs=0.2)
    assert codes(actions) == [ErrorCode.RATE_LIMITED]
    assert actions[-1] == Close(CloseCode.RATE_ABUSE, "rate limits exceeded")


def test_who_pauses_is_not_closed() -> None:
    """Bursts with a second's rest between them are answered RATE_LIMITED and no more."""
    session = make(USER, messages_per_second=1)
    for n in range(60):
        for _ in range(3):
            session.handle(Ping(), at(n * 1.5))

    assert session.state is State.OPEN


def test_who_pauses_to_start_anew_is_closed() -> None:
    """A flood of 1.8 s and a pause of 1.1 s, for ever, is more than 2 s of excess."""
    session = make(USER, messages_per_second=10, rate_abuse_seconds=2)
    ends = None
    for flood in range(10):
        for n in range(180):
            session.handle(Ping(), at(flood * 2.9 + n / 100))
            if session.state is State.CLOSED and ends is None:
                ends = flood

    assert ends == 1


def test_what_waited_ends_with_the_session() -> None:
    """If one of the commands that waited closes the session, those after it are not acted on."""
    session = make(USER, commands_per_second=1, rate_abuse_seconds=0.001)
    session.handle(Command("grid.start"), START)
    session.handle(Command("grid.start"), START)
    session.hold()
    session.handle(Command("grid.start", b"{}", "1"), START)
    session.handle(Subscribe(("grid.a",)), START)
    session.release()
    actions = resumed(session, [], at(0.5))

    assert isinstance(actions[-1], Close)
    assert sum(isinstance(action, Close) for action in actions) == 1
    assert joined(actions) == []


# --- what the application takes away -------------------------------------------------------------


def test_a_revoked_subscription_is_left_and_the_client_is_told_why() -> None:
    """It goes on both accounts; the client hears of its own, after the last event."""
    session = make(USER)
    subscribe(session, "grid.a", "grid.b")
    session.assign(parse_pattern("grid.a"))

    assert session.revoke(parse_pattern("grid.a"), "banned") == [
        Leave(parse_pattern("grid.a")),
        Send(Unsubscribed(("grid.a",), 1, None, "banned")),
    ]
    assert session.revoke(parse_pattern("grid.a"), "banned") == []
    assert [pattern.text for pattern in session.patterns] == ["grid.b"]


def test_what_only_the_server_had_subscribed_is_revoked_without_a_word() -> None:
    """The client never heard of it."""
    session = make(USER)
    session.assign(parse_pattern("notices"))

    assert session.revoke(parse_pattern("notices"), None) == [Leave(parse_pattern("notices"))]
    assert list(session.assigned) == []


def test_a_wider_pattern_is_not_revoked() -> None:
    """What is revoked is a subscription, not a channel."""
    session = make(USER)
    subscribe(session, "grid.*")

    assert session.revoke(parse_pattern("grid.a"), None) == []
    assert list(session.subscriptions) == ["grid.*"]


def test_a_request_that_is_being_judged_is_revoked_too() -> None:
    """The application's yes of a moment ago does not undo what it revoked meanwhile."""
    session = make(USER, asks=True)
    question = ask(session, Subscribe(("grid.a", "grid.b"), "1"))
    assert session.revoke(parse_pattern("grid.a"), "banned") == []
    actions = session.handle_answer(question.request, [True, True], START)

    assert joined(actions) == ["grid.b"]
    (answer,) = replies(actions)
    assert isinstance(answer, Subscribed)
    assert answer.rejected == (Rejection("grid.a", ErrorCode.FORBIDDEN, "banned"),)
    again = ask(session, Subscribe(("grid.a",)))
    assert joined(session.handle_answer(again.request, [True], START)) == ["grid.a"]


# --- what waits ----------------------------------------------------------------------------------


def test_what_waited_acts_one_message_at_a_time() -> None:
    """A command finds the session as far as the connection is, not at the end of the queue."""
    session = make(None)
    question = ask(session, Auth("t"))
    session.handle(Subscribe(("grid.a",)), START)
    session.handle(Command("grid.start"), START)
    session.handle(Unsubscribe(("grid.a",)), START)
    session.handle_answer(question.request, USER, START)

    assert joined(session.resume(START) or []) == ["grid.a"]
    assert session.resume(START) == [Invoke(Command("grid.start"))]
    assert list(session.subscriptions) == ["grid.a"]
    assert left(session.resume(START) or []) == ["grid.a"]
    assert session.resume(START) is None


@pytest.mark.parametrize("state", State, ids=lambda state: str(state.name))
def test_only_an_open_session_is_held(state: State) -> None:
    """Elsewhere messages wait, or are not acted on, already."""
    session = in_state(state)

    assert session.hold() == (state is State.OPEN)
    assert session.state is (State.HELD if state is State.OPEN else state)


def test_while_a_session_is_held_messages_wait_and_pings_do_not() -> None:
    """What comes meanwhile acts in the order in which it came, after the release."""
    session = make(USER)
    session.hold()

    assert session.handle(Subscribe(("grid.a",)), START) == []
    assert session.handle(Ping("1"), START) == [Send(Pong("1"))]
    assert session.resume(START) is None
    session.release()
    assert joined(resumed(session, [])) == ["grid.a"]


# --- what is pending -----------------------------------------------------------------------------


def numbers(actions: Sequence[Action]) -> list[int]:
    """Return the numbers of the questions."""
    return [a.request for a in actions if isinstance(a, AskToken | AskPermission | Attach)]


def test_a_slow_permission_stops_nothing_else() -> None:
    """Commands, publishes, pings, status and other names go on; answers come as they come."""
    session = make(USER, asks=True)
    slow = ask(session, Subscribe(("grid.a",), "slow"))
    other = ask(session, Subscribe(("grid.b",), "other"))
    call = ask(session, Command("grid.start", b"{}", "call"))
    publish = ask(session, Publish("chat.a", "e", b"1", "publish"))

    assert session.handle(Ping("9"), START) == [Send(Pong("9"))]
    assert session.handle(GetStatus("s"), START) == [ReportStatus("s")]
    assert session.handle_answer(publish.request, [True], START) == [
        Emit(parse_channel("chat.a"), Publish("chat.a", "e", b"1", "publish"))
    ]
    assert session.handle_answer(call.request, [True], START) == [
        Invoke(Command("grid.start", b"{}", "call"))
    ]
    assert joined(session.handle_answer(other.request, [True], START)) == ["grid.b"]
    assert joined(session.handle_answer(slow.request, [True], START)) == ["grid.a"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Subscribe(("grid.a", "grid.b")), Unsubscribe(("grid.b",))),
        (Subscribe(("grid.a", "grid.b")), Subscribe(("grid.b", "grid.c"))),
        (Publish("chat.a", "e", b"1"), Publish("chat.a", "e", b"2")),
        (Command("grid.start", b"1"), Command("grid.start", b"2")),
        (Auth("a"), Auth("b")),
    ],
    ids=["unsubscribe", "subscribe", "publish", "command", "auth"],
)
def test_requests_about_the_same_keep_their_order(first: Request, second: Request) -> None:
    """The second is not looked at before the first is settled."""
    session = make(USER, asks=True)
    question = ask(session, first)

    assert session.handle(second, START) == []
    assert session.resume(START) is None
    if isinstance(question, AskToken):
        session.handle_answer(question.request, USER, START)
    else:
        session.handle_answer(question.request, [True] * len(question.names), START)
    assert session.resume(START) not in (None, [])


def test_a_subscribe_that_may_find_no_place_waits() -> None:
    """It gets the place if the earlier request is refused, as if that had been settled at once."""
    session = make(USER, asks=True, max_subscriptions=1)
    question = ask(session, Subscribe(("grid.a",)))
    assert session.handle(Subscribe(("grid.b",)), START) == []
    session.handle_answer(question.request, [False], START)

    (number,) = numbers(session.resume(START) or [])
    assert joined(session.handle_answer(number, [True], START)) == ["grid.b"]


def test_what_a_refresh_takes_away_is_refused_although_it_is_permitted() -> None:
    """Subscriptions, commands and publishes go by the grants of the moment of the answer."""
    session = make(USER, asks=True, attaches=True)
    asked = ask(session, Subscribe(("grid.a", "system.a"), "1"))
    call = ask(session, Command("grid.start", b"{}", "2"))
    publish = ask(session, Publish("chat.a", "e", b"1", "3"))
    sign_in(session, Identity("u1", Grants.of(subscribe=["system.*"])))

    (attach,) = session.handle_answer(asked.request, [True, True], START)
    assert isinstance(attach, Attach)
    assert attach.patterns == (parse_pattern("system.a"),)
    assert joined(session.handle_answer(attach.request, brought(True), START)) == ["system.a"]
    for question in (call, publish):
        actions = session.handle_answer(question.request, [True], START)
        assert codes(actions) == [ErrorCode.FORBIDDEN]


def test_what_cannot_be_brought_is_rejected() -> None:
    """The reply and the joins of the rest come in one step; nothing is joined before."""
    session = make(USER, attaches=True)
    (attach,) = session.handle(Subscribe(("grid.a", "grid.b"), "1"), START)
    assert isinstance(attach, Attach)
    assert attach.patterns == (parse_pattern("grid.a"), parse_pattern("grid.b"))
    assert not session.patterns
    actions = session.handle_answer(attach.request, brought(False, True), START)

    why = "it cannot be reached now; try again later"
    rejection = Rejection("grid.a", ErrorCode.UNAVAILABLE, why)
    assert actions == [
        Send(Subscribed(("grid.b",), 1, (rejection,), "1")),
        Join(parse_pattern("grid.b")),
    ]
    assert session.handle_answer(attach.request, brought(True, True), START) == []


def test_a_name_that_is_taken_away_while_others_are_judged_is_rejected() -> None:
    """It was held when it was asked for again, and is not when the answer is given."""
    session = make(USER, asks=True)
    held = ask(session, Subscribe(("grid.a",)))
    session.handle_answer(held.request, [True], START)
    question = ask(session, Subscribe(("grid.a", "grid.b")))
    session.revoke(parse_pattern("grid.a"), None)

    (answer,) = replies(session.handle_answer(question.request, [True], START))
    assert isinstance(answer, Subscribed)
    assert answer.names == ("grid.b",)
    assert [(r.name, r.code) for r in answer.rejected] == [("grid.a", ErrorCode.FORBIDDEN)]


def test_answers_wait_while_hooks_run() -> None:
    """No message is acted on before the hooks have returned, however early it was permitted."""
    session = make(USER, asks=True)
    question = ask(session, Command("grid.start"))
    session.hold()

    assert session.handle_answer(question.request, [True], START) == []
    session.release()
    assert session.resume(START) == [Invoke(Command("grid.start"))]
    assert session.resume(START) is None


def test_a_client_that_is_not_read_is_not_silent() -> None:
    """While too many requests are not settled, the heartbeat's timeout does not count."""
    policy = HeartbeatPolicy(interval=None, timeout=9)
    session = make(USER, asks=True, heartbeat=policy, max_waiting=1)
    ask(session, Command("grid.start"))

    assert session.handle_deadline(at(10)) == []
    assert session.state is State.OPEN


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("judging", [False, True])
def test_who_shows_no_valid_token_in_time_is_closed(*, judging: bool) -> None:
    """10 s after the handshake, also while the token is still being judged: 4500."""
    session = make(None)
    if judging:
        ask(session, Auth("t"))

    assert session.deadline == at(10).monotonic
    assert session.handle_deadline(at(9.9)) == []
    assert session.handle_deadline(at(10)) == [Close(CloseCode.TOKEN_REFUSED, "no token in time")]


def test_who_is_authenticated_owes_no_token() -> None:
    """The deadline for ``auth`` goes with it."""
    session = make(None)
    sign_in(session, USER)

    assert session.deadline == math.inf
    assert session.handle_deadline(at(10)) == []


def test_a_token_that_expires_ends_the_connection() -> None:
    """At the wall clock's moment, not before: 4401, also while a refresh is being judged."""
    for refreshing in (False, True):
        session = make(Identity("u1", GRANTS, at(60).wall))
        if refreshing:
            ask(session, Auth("t"))
        assert session.deadline == at(60).monotonic
        assert session.handle_deadline(at(59.9)) == []
        assert session.handle_deadline(at(60)) == [Close(CloseCode.TOKEN_EXPIRED, "token expired")]


def test_expiry_goes_by_the_wall_clock() -> None:
    """When the operator sets the clock, expiry moves with it, and nothing else does."""
    session = make(
        Identity("u1", GRANTS, at(60).wall), heartbeat=HeartbeatPolicy(interval=None, timeout=100)
    )
    set_back = Instant(at(10).monotonic, at(10).wall - 20)
    session.reschedule(set_back)
    assert session.deadline == at(80).monotonic
    assert session.handle_deadline(Instant(at(60).monotonic, at(40).wall)) == []
    set_forward = Instant(at(61).monotonic, at(60).wall)
    session.reschedule(set_forward)

    assert session.deadline <= set_forward.monotonic
    assert session.handle_deadline(set_forward) == [Close(CloseCode.TOKEN_EXPIRED, "token expired")]


def test_the_heartbeat_is_kept() -> None:
    """The server pings every 30 s and closes 60 s after the last frame, with 4408."""
    session = make(USER, heartbeat=HeartbeatPolicy())

    assert session.deadline == at(30).monotonic
    assert session.handle_deadline(at(30)) == [Send(Ping())]
    assert session.handle_deadline(at(31)) == []
    session.heartbeat.seen(at(40).monotonic)
    assert session.handle_deadline(at(60)) == [Send(Ping())]
    assert session.handle_deadline(at(90)) == [Send(Ping())]
    assert session.deadline == at(100).monotonic
    assert session.handle_deadline(at(100)) == [
        Close(CloseCode.HEARTBEAT_TIMEOUT, "heartbeat timeout")
    ]


def test_silence_counts_for_who_is_nobody_yet() -> None:
    """A heartbeat shorter than the time for ``auth`` is kept before it, too."""
    session = make(None, heartbeat=HeartbeatPolicy(interval=2, timeout=5))

    assert session.handle_deadline(at(2)) == [Send(Ping())]
    assert session.handle_deadline(at(5))[0] == Close(
        CloseCode.HEARTBEAT_TIMEOUT, "heartbeat timeout"
    )


@given(
    expires=st.none() | st.floats(1, 100),
    interval=st.none() | st.floats(1, 50),
    timeout=st.none() | st.floats(1, 100),
    authenticated=st.booleans(),
)
def test_who_looks_at_the_deadline_only_misses_nothing(
    expires: float | None, interval: float | None, timeout: float | None, *, authenticated: bool
) -> None:
    """Before its deadline a session has nothing to do; a driver that waits for it is in time."""
    if interval is not None and timeout is not None:
        timeout += interval
    identity = Identity("u1", GRANTS, None if expires is None else at(expires).wall)
    session = make(
        identity if authenticated else None, heartbeat=HeartbeatPolicy(interval, timeout)
    )
    for _ in range(5):
        if session.deadline == math.inf:
            break
        before = (session.deadline - START.monotonic) - 1e-3
        if before > 0:
            assert session.handle_deadline(at(before)) == []
        # A hair later: the clocks are floats of different sizes.
        actions = session.handle_deadline(at(session.deadline - START.monotonic + 1e-6))
        assert actions != []
        if session.state is State.CLOSED:
            break


def test_what_the_server_has_subscribed_is_replayed_too() -> None:
    """What came by the server's subscription has not come to the client's, which goes on before."""
    session = make(USER, attaches=True)
    session.assign(parse_pattern("grid.*"))
    since = Since(Position("e", 1))
    asked = Subscribe(("grid.*",), "1", {"grid.*": since})
    (attach,) = session.handle(asked, START)
    assert isinstance(attach, Attach)
    assert attach.since == {parse_pattern("grid.*"): since}
    missed = Publication(parse_channel("grid.a"), "e", b"1", 0.0, position=Position("e", 2))
    outcome = Outcome(position=since.position, is_recovered=True)
    actions = session.handle_answer(attach.request, Brought([outcome], [missed]), START)
    start = StartPosition("grid.*", since.position, is_recovered=True)
    assert actions == [
        Send(Subscribed(("grid.*",), 1, (), "1", (start,))),
        Replay([missed]),
    ]
