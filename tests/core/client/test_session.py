from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import parse_channel
from wsbus.core.client.actions import (
    Admitted,
    Answer,
    ClientAction,
    Confirm,
    Cut,
    Dial,
    Dismiss,
    FetchToken,
    HangUp,
    Heard,
    Lose,
    Say,
    Stop,
    TellConnected,
    TellReconnecting,
    TellRefreshFailed,
)
from wsbus.core.client.liveness import Liveness
from wsbus.core.client.pace import Pace
from wsbus.core.client.retry import Advice, Retry, advice_for
from wsbus.core.client.session import ClientSession
from wsbus.core.client.states import TABLE, ClientDuty, ClientInput, ClientState
from wsbus.core.client.token import TokenUse
from wsbus.core.errors import (
    CloseCode,
    CommandError,
    ConnectError,
    ConnectionLost,
    ErrorCode,
    MessageTooLarge,
    Unauthenticated,
    UsageError,
    WsbusError,
    may_reconnect,
)
from wsbus.core.events import GapCause
from wsbus.core.heartbeat import Beat
from wsbus.core.instant import Instant
from wsbus.core.limits import TokenBucket
from wsbus.core.messages import (
    Auth,
    AuthRefused,
    Command,
    Gap,
    GetStatus,
    Greeting,
    Ping,
    Pong,
    Publication,
    Publish,
    Refused,
    Rejection,
    Request,
    Response,
    Status,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from wsbus.core.patterns import parse_pattern

A = TypeVar("A")
START: Final = Instant(1000.0, 1_700_000_000.0)
NO_TOKEN: Final = TokenUse()
FIXED: Final = TokenUse(fixed="t")
FETCHED: Final = TokenUse(is_fetched=True)
HELLO: Final = Greeting("c1", "u1", 30, 60)
STATUS: Final = Status("c1", "u1", 0.0, (), 0, 0, "1")
CALL: Final = Command("run")
GRID: Final = parse_pattern("grid.*")
OTHER: Final = parse_pattern("other")
EVENT: Final = Publication(parse_channel("grid.a"), "e", b"1", 0.0)


def at(seconds: float) -> Instant:
    """Return the moment that long after START."""
    return START.later(seconds)


def make(token: TokenUse = NO_TOKEN, *, greets: bool = True, **retry: Any) -> ClientSession[str]:
    """Return a session that has not begun; its holders are texts."""
    return ClientSession(
        token=token, retry=Retry(**retry), liveness=Liveness(15, 20), greets=greets
    )


def dialled(token: TokenUse = NO_TOKEN, **options: Any) -> ClientSession[str]:
    """Return a session whose first connection is open, and nothing was heard."""
    session = make(token, **options)
    session.handle_deadline(START)
    session.opened(START)
    return session


def opened(token: TokenUse = NO_TOKEN, **options: Any) -> ClientSession[str]:
    """Return a session that is connected, and known to the server."""
    session = dialled(token, **options)
    if token.fixed:
        session.handle(Admitted("u1", None), START)
    else:
        session.handle(HELLO, START)
    assert session.state is ClientState.OPEN
    return session


def said(todo: Sequence[ClientAction]) -> list[Request]:
    """Return what is to be said to the server."""
    return [action.command for action in todo if isinstance(action, Say)]


def only(todo: Sequence[ClientAction], kind: type[A]) -> A:
    """Return the one action of a type."""
    (found,) = [action for action in todo if isinstance(action, kind)]
    return found


def ref_of(todo: Sequence[ClientAction]) -> str:
    """Return the ref of the one message that is to be said."""
    (command,) = said(todo)
    assert not isinstance(command, list)
    assert command.ref is not None
    return command.ref


def reconnect(session: ClientSession[str], code: int = 1006) -> list[ClientAction]:
    """Lose the connection and get another one; return what is done once it is open."""
    session.lost(code, "", START, 0.0)
    session.handle_deadline(START)
    session.opened(START)
    return session.handle(HELLO, START)


def subscribed(session: ClientSession[str], holder: str = "h") -> None:
    """Subscribe a holder, and have it confirmed."""
    ref = ref_of(session.subscribe(GRID, holder, START))
    assert session.handle(Subscribed(("grid.*",), 1, ref=ref), START) == [Confirm(holder, None)]


# --- beginning -----------------------------------------------------------------------------------


def test_nothing_begins_before_it_is_asked() -> None:
    """A session is due at once; its first deed is to dial."""
    session = make()

    assert session.deadline < START.monotonic
    assert session.handle_deadline(START) == [Dial(None)]
    assert session.state is ClientState.DIALLING


def test_who_needs_no_token_waits_for_the_greeting() -> None:
    """In a dialect that greets, nothing is said until the server has spoken."""
    session = make()
    session.handle_deadline(START)

    assert session.opened(START) == []
    assert session.handle(HELLO, START) == [TellConnected("c1", "u1", is_again=False)]


def test_where_nobody_greets_a_ping_finds_out() -> None:
    """In a dialect that does not greet, the pong is the greeting; a refusal asks for a token."""
    session = make(greets=False)
    session.handle_deadline(START)
    ping = session.opened(START)
    assert said(ping) == [Ping(ref_of(ping))]
    assert session.handle(Pong(ref_of(ping)), START) == [TellConnected(None, None, is_again=False)]

    session = dialled(greets=False)
    refused = Refused(ErrorCode.UNAUTHENTICATED, "authenticate first", "1")
    stop = only(session.handle(refused, START), Stop)
    assert isinstance(stop.error, Unauthenticated)
    assert "none was given" in str(stop.error)


def test_a_token_is_shown_before_all_else() -> None:
    """A token is shown at once; only when it is accepted the rest follows."""
    session = make(FIXED)
    session.handle_deadline(START)
    session.subscribe(GRID, "h", START)
    auth = session.opened(START)
    assert said(auth) == [Auth("t", ref_of(auth))]
    assert session.handle(Greeting("c1", None, 30, 60), START) == []

    todo = session.handle(Admitted("u1", None, ref_of(auth)), START)

    assert todo[0] == TellConnected("c1", "u1", is_again=False)
    assert [type(command) for command in said(todo)] == [Subscribe]


def test_a_refused_token_stops_it() -> None:
    """A first token that is refused is the end, with the server's words."""
    session = dialled(FIXED)

    todo = session.handle(AuthRefused("expired", ref="1"), START)

    assert [type(action) for action in todo] == [HangUp, Stop]
    error = only(todo, Stop).error
    assert isinstance(error, Unauthenticated)
    assert error.message == "expired"


def test_a_server_that_lets_nobody_in_is_left() -> None:
    """What it refuses before the greeting is over, for another reason, is a failed attempt."""
    session = dialled(FIXED)

    assert session.handle(Refused("RATE_LIMITED", "no", "1"), START) == [Cut()]
    error = only(session.lost(1006, "", START, 0.5), Stop).error
    assert isinstance(error, ConnectionLost)
    assert "does not let this client in: RATE_LIMITED" in str(error)


def test_a_token_in_the_query_is_not_said() -> None:
    """It goes with the address; a server that knows nobody then did not take it."""
    session = make(TokenUse(fixed="t", in_handshake=True))

    assert session.handle_deadline(START) == [Dial("t")]
    assert session.opened(START) == []
    stop = only(session.handle(Greeting("c1", None, 30, 60), START), Stop)
    assert "did not take the token from the handshake" in str(stop.error)


def test_the_first_failure_is_told_at_once() -> None:
    """Before any success a failure ends it, unless the first connection is to be tried again."""
    for first in (False, True):
        session = make(first=first)
        session.handle_deadline(START)
        (action,) = session.failed(ConnectError("nobody"), Advice.NOW, START, 0.5)[-1:]

        assert isinstance(action, TellReconnecting if first else Stop)


@pytest.mark.parametrize("state", [ClientState.DIALLING, ClientState.GREETING])
def test_a_step_that_takes_too_long_is_cut(state: ClientState) -> None:
    """Each step has its time limit; then the driver cuts, and the end says what was waited for."""
    session = make() if state is ClientState.DIALLING else dialled()
    session.handle_deadline(START)
    assert session.state is state
    assert session.deadline == START.monotonic + 10

    assert session.handle_deadline(at(9.9)) == []
    assert session.handle_deadline(at(10)) == [Cut()]
    assert session.deadline == math.inf
    error = only(session.lost(1006, "", at(10), 0.5), Stop).error
    assert ("no answer" if state is ClientState.DIALLING else "said nothing") in str(error)


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (CALL, Response(b"1")),
        (Publish("a", "e", b"1"), Response(b"{}")),
        (GetStatus(), STATUS),
        (CALL, Refused("NO", "never", is_call=True)),
        (GetStatus(), Refused("NO", "never")),
    ],
)
def test_a_request_is_answered_once(request_: Any, answer: Any) -> None:
    """The answer with its ref goes to whoever asked; a second one, and a late one, go nowhere."""
    session = opened()
    ref = ref_of(session.request("key", request_, START))
    reply = cast("Heard", msgspec.structs.replace(answer, ref=ref))

    todo = session.handle(reply, START)

    assert only(todo, Answer).key == "key"
    if isinstance(answer, Refused):
        error = only(todo, Answer).outcome
        assert isinstance(error, CommandError)
        assert (error.code, error.message) == ("NO", "never")
    else:
        assert only(todo, Answer).outcome == reply
    assert session.handle(reply, START) == []


def test_what_answers_nothing_changes_nothing() -> None:
    """Answers without ref, with a ref of nobody's, or of another kind, are ignored."""
    session = opened()
    call = ref_of(session.request("call", CALL, START))
    status = ref_of(session.request("status", GetStatus(), START))
    holder = ref_of(session.subscribe(GRID, "h", START))

    replies: list[Heard] = [
        Response(b"1"),
        Response(b"1", "99"),
        Response(b"1", status),
        Response(b"1", holder),
        Refused("NO", "no"),
        Subscribed(("grid.*",), 1),
        Subscribed(("grid.*",), 1, ref=call),
        Unsubscribed(("grid.*",), 0),
        Unsubscribed(("grid.*",), 0, call),
        Admitted("u2", 1.0),
        Admitted("u2", 1.0, call),
        AuthRefused("no"),
        Pong("99"),
        HELLO,
    ]
    for reply in replies:
        assert session.handle(reply, START) == []
    assert session.deadline == START.monotonic + 15


def test_a_request_waits_for_a_connection() -> None:
    """Without one it is kept, in order, and sent when there is one; forgotten, it never is."""
    session = make()
    assert session.request("a", CALL, START) == session.request("b", CALL, START) == []
    session.request("c", GetStatus(), START)
    assert session.forget("b")
    session.handle_deadline(START)
    session.opened(START)

    todo = session.handle(HELLO, START)

    assert [type(command) for command in said(todo)] == [Command, GetStatus]
    assert not session.forget("a")
    assert session.handle(Response(b"1", "1"), START) == []


def test_a_cut_fails_what_is_in_flight_and_nothing_else() -> None:
    """What was sent fails at once; what is idempotent, or was not sent, waits, oldest first."""
    session = opened()
    session.request("lost", CALL, START)
    session.request("again", Command("again"), START, is_idempotent=True)

    todo = session.lost(1001, "bye", START, 0.5)
    session.request("new", Command("new"), START)

    answer = only(todo, Answer)
    assert answer.key == "lost"
    assert isinstance(answer.outcome, ConnectionLost)
    assert answer.outcome.code == 1001
    assert "may have been carried out or not" in str(answer.outcome)
    session.handle_deadline(at(60))
    session.opened(at(60))
    calls = [c.action for c in said(session.handle(HELLO, at(60))) if isinstance(c, Command)]
    assert calls == ["again", "new"]


def test_a_close_fails_everything() -> None:
    """After a close whatever waits fails, and nothing is done any more."""
    session = opened()
    session.request("sent", CALL, START, is_idempotent=True)
    todo = session.close()

    assert isinstance(only(todo, Answer).outcome, UsageError)
    assert todo[-1] == Stop(None)
    assert session.state is ClientState.ENDED
    assert session.deadline == math.inf
    for nothing in [
        session.close(),
        session.handle(HELLO, START),
        session.lost(1006, "", START, 0.5),
        session.failed(ConnectError("no"), Advice.NOW, START, 0.5),
        session.opened(START),
        session.handle_deadline(at(1000)),
        session.unsubscribe(GRID, "h", START),
    ]:
        assert nothing == []


# --- subscriptions -------------------------------------------------------------------------------


def test_events_come_from_the_confirmation_to_the_end() -> None:
    """A holder is in the audience while the server holds its name, and it wants it."""
    session = opened()
    todo = session.subscribe(GRID, "h", START)
    assert said(todo) == [Subscribe(("grid.*",), ref_of(todo))]
    assert list(session.receive(EVENT)) == []

    session.handle(Subscribed(("grid.*",), 1, ref=ref_of(todo)), START)
    assert list(session.receive(EVENT)) == ["h"]
    assert list(session.subscriptions) == ["grid.*"]

    todo = session.unsubscribe(GRID, "h", START)
    assert said(todo) == [Unsubscribe(("grid.*",), ref_of(todo))]
    assert list(session.receive(EVENT)) == []
    assert session.unsubscribe(GRID, "h", START) == []


def test_one_name_is_asked_for_once() -> None:
    """Holders share a name: the first asks, later ones join, the last gives it up."""
    session = opened()
    ref = ref_of(session.subscribe(GRID, "a", START))
    assert session.subscribe(GRID, "b", START) == []
    assert session.handle(Subscribed(("grid.*",), 1, ref=ref), START) == [
        Confirm("a", None),
        Confirm("b", None),
    ]
    assert session.subscribe(GRID, "c", START) == [Confirm("c", None)]
    assert list(session.receive(EVENT)) == ["a", "b", "c"]

    assert session.unsubscribe(GRID, "a", START) == session.unsubscribe(GRID, "c", START) == []
    assert [type(command) for command in said(session.unsubscribe(GRID, "b", START))] == [
        Unsubscribe
    ]


def test_a_late_confirmation_is_for_nobody() -> None:
    """Who gives a name up and wants it again waits for the answer to the second request."""
    session = opened()
    first = ref_of(session.subscribe(GRID, "a", START))
    session.unsubscribe(GRID, "a", START)
    second = ref_of(session.subscribe(GRID, "b", START))

    assert session.handle(Subscribed(("grid.*",), 1, ref=first), START) == []
    assert session.handle(Subscribed(("grid.*",), 1, ref=second), START) == [Confirm("b", None)]


def test_a_refusal_dismisses() -> None:
    """A rejected name, a refused request, and a name that the server forgets end it, with words."""
    answers: dict[str, Callable[[str], Heard]] = {
        "grid.*: no": lambda ref: Subscribed((), 0, (Rejection("grid.*", "FORBIDDEN", "no"),), ref),
        "too many": lambda ref: Refused("TOO_MANY_SUBSCRIPTIONS", "too many", ref),
        "did not say": lambda ref: Subscribed(("other",), 1, ref=ref),
    }
    for words, answer in answers.items():
        session = opened()
        todo = session.handle(answer(ref_of(session.subscribe(GRID, "h", START))), START)

        dismissed = only(todo, Dismiss)
        assert dismissed.holder == "h"
        assert words in str(dismissed.error)
        assert list(session.subscriptions) == list(session.receive(EVENT)) == []
        assert session.unsubscribe(GRID, "h", START) == []


def test_what_the_server_takes_away_is_told() -> None:
    """An ``unsubscribed`` that nobody asked for ends the subscriptions that it names."""
    session = opened()
    subscribed(session)

    taken = Unsubscribed(("grid.*", "x"), 0, reason="banned")
    dismissed = only(session.handle(taken, START), Dismiss)

    assert isinstance(dismissed.error, CommandError)
    assert dismissed.error.code == "FORBIDDEN"
    assert str(dismissed.error).endswith("the server took the subscription away: banned")
    assert list(session.receive(EVENT)) == []
    # What is asked for anew has an answer of its own to come.
    ref = ref_of(session.subscribe(GRID, "h", START))
    assert session.handle(Unsubscribed(("grid.*",), 0), START) == []
    assert session.handle(Subscribed(("grid.*",), 1, ref=ref), START) == [Confirm("h", None)]


def test_all_is_asked_for_anew() -> None:
    """After a reconnect one request asks for all names; who had events is told of the gap."""
    session = opened()
    subscribed(session, "old")
    session.subscribe(OTHER, "waits", START)
    assert list(session.receive(EVENT)) == ["old"]

    session.lost(1006, "", START, 0.0)
    assert list(session.receive(EVENT)) == list(session.subscriptions) == []
    session.subscribe(GRID, "new", START)
    session.handle_deadline(START)
    session.opened(START)
    todo = session.handle(HELLO, START)

    assert todo[0] == TellConnected("c1", "u1", is_again=True)
    assert said(todo) == [Subscribe(("grid.*", "other"), ref_of(todo))]
    assert list(session.receive(EVENT)) == []
    assert session.handle(Subscribed(("grid.*", "other"), 2, ref=ref_of(todo)), START) == [
        Lose("old", Gap(None, GapCause.RECONNECT)),
        Confirm("new", None),
        Confirm("waits", None),
    ]
    assert list(session.receive(EVENT)) == ["old", "new"]


def test_many_names_are_asked_for_in_several_messages() -> None:
    """No request outgrows what a server reads as one message."""
    session = make()
    names = [parse_pattern(f"{n:03}" + "x" * 250) for n in range(200)]
    for name in names:
        session.subscribe(name, name.text, START)
    session.handle_deadline(START)
    session.opened(START)

    asked = [c for c in said(session.handle(HELLO, START)) if isinstance(c, Subscribe)]

    assert [name for command in asked for name in command.names] == [n.text for n in names]
    assert 1 < len(asked) < 10
    assert max(sum(len(name) + 3 for name in command.names) for command in asked) <= 16 * 1024


def test_a_server_that_is_short_of_something_is_tried_again() -> None:
    """What was held before is not given up because one request was refused: it comes again."""
    session = opened()
    subscribed(session)
    ref = ref_of(reconnect(session))

    assert session.handle(Refused("TOO_MANY_SUBSCRIPTIONS", "later", ref), START) == [Cut()]
    todo = session.lost(1006, "", START, 0.5)
    assert "TOO_MANY_SUBSCRIPTIONS" in str(only(todo, TellReconnecting).error)


def test_what_cannot_be_served_again_yet_is_asked_for_again() -> None:
    """``UNAVAILABLE`` ends no subscription that was held; one that is new ends with an error."""
    session = opened()
    unavailable = (Rejection("grid.*", "UNAVAILABLE", "later"),)
    subscribed(session)
    ref = ref_of(reconnect(session))

    assert session.handle(Subscribed((), 0, unavailable, ref), START) == [Cut()]
    todo = session.lost(1006, "", START, 0.5)
    assert "cannot serve the subscriptions" in str(only(todo, TellReconnecting).error)

    new = opened()
    ref = ref_of(new.subscribe(GRID, "h", START))
    assert only(new.handle(Subscribed((), 0, unavailable, ref), START), Dismiss).holder == "h"


def test_who_only_listens_asks_nothing() -> None:
    """A listener gets what comes by itself, over every connection, and is told of the gap."""
    session = opened()
    assert session.listen(GRID, "l") == [Confirm("l", None)]
    assert list(session.receive(EVENT)) == ["l"]
    assert list(session.subscriptions) == []

    assert only(reconnect(session), Lose) == Lose("l", Gap(None, GapCause.RECONNECT))
    assert list(session.receive(EVENT)) == ["l"]
    assert session.unsubscribe(GRID, "l", START) == []
    assert list(session.receive(EVENT)) == []


def test_a_gap_of_the_server_is_for_all() -> None:
    """Nobody knows whose publications the server had no room for: all who get some are told."""
    session = opened()
    subscribed(session)
    session.subscribe(OTHER, "waits", START)
    session.listen(OTHER, "l")

    assert session.handle(Gap(3), START) == [
        Lose("l", Gap(3, GapCause.SERVER)),
        Lose("h", Gap(3, GapCause.SERVER)),
    ]


# --- time ----------------------------------------------------------------------------------------


def test_pings_of_the_server_are_answered_at_once() -> None:
    """Also before the greeting is over."""
    for session in (opened(), dialled(FIXED)):
        assert said(session.handle(Ping("7"), START)) == [Pong("7")]


def test_it_pings_and_wants_an_answer() -> None:
    """A ping every 15 s; 20 s without its pong, and the connection is cut."""
    session = opened()
    assert session.deadline == START.monotonic + 15
    ping = session.handle_deadline(at(15))
    assert said(ping) == [Ping(ref_of(ping))]
    session.handle(Pong(ref_of(ping)), at(16))
    assert session.deadline == START.monotonic + 30

    session.handle_deadline(at(30))
    assert session.deadline == START.monotonic + 50
    assert session.handle_deadline(at(50)) == [Cut()]
    todo = session.lost(1006, "", at(50), 0.5)
    assert "no answer to a ping for 20 s" in str(only(todo, TellReconnecting).error)


def test_who_stood_still_is_given_a_second() -> None:
    """A process that wakes up late has read nothing meanwhile: the pong may be there."""
    session = opened()
    ping = session.handle_deadline(at(15))
    assert session.handle_deadline(at(500)) == []
    assert session.deadline == at(501).monotonic

    session.handle(Pong(ref_of(ping)), at(500.5))
    assert said(session.handle_deadline(at(501)))
    session.handle_deadline(at(1000))
    assert session.handle_deadline(at(1002.5)) == [Cut()]


def test_liveness_judges_nothing_early() -> None:
    """Before its deadline nothing is due; without a connection never; durations are positive."""
    liveness = Liveness(1, 2)
    assert liveness.deadline() == math.inf
    liveness.start(0)
    assert liveness.judge(0.5) is Beat.NOTHING
    liveness.pong()
    assert liveness.judge(1) is Beat.PING
    for interval, timeout in [(0, 1), (1, 0), (math.inf, 1), (1, math.nan)]:
        with pytest.raises(UsageError):
            Liveness(interval, timeout)


# --- tokens --------------------------------------------------------------------------------------


def fetched(session: ClientSession[str], lifetime: float | None) -> None:
    """Go through the first token of a session that fetches them."""
    generation = only(session.handle_deadline(START), FetchToken).generation
    assert session.handle_token(generation, "t1", START) == [Dial(None)]
    session.opened(START)
    session.handle(Admitted("u1", lifetime), START)


@pytest.mark.parametrize(("lifetime", "after"), [(3600, 3570), (40, 20), (10, 5)])
def test_a_token_is_refreshed_in_time(lifetime: float, after: float) -> None:
    """30 s before it expires, or after half its life if that is later; then shown."""
    session = make(FETCHED)
    fetched(session, lifetime)
    for ping in range(15, int(after), 15):
        session.handle_deadline(at(ping))
        session.handle(Pong(), at(ping))

    assert session.deadline == at(after).monotonic
    fetch = only(session.handle_deadline(at(after)), FetchToken)
    auth = session.handle_token(fetch.generation, "t2", at(after))
    assert said(auth) == [Auth("t2", ref_of(auth))]
    assert session.handle(Admitted("u1", None, ref_of(auth)), at(after)) == []


def test_a_fixed_token_is_not_refreshed() -> None:
    """There is no newer one: nothing is due but pings, and its end is the end of all."""
    session = dialled(FIXED)
    session.handle(Admitted("u1", 10), START)

    assert session.deadline == at(15).monotonic
    error = only(session.lost(4401, "", at(10), 0.5), Stop).error
    assert isinstance(error, Unauthenticated)
    assert "give a function" in str(error)


def test_a_failed_refresh_is_tried_again() -> None:
    """The old token holds; after half of what is left the next attempt follows, to the end."""
    session = make(FETCHED)
    fetched(session, 10)

    fetch = only(session.handle_deadline(at(5)), FetchToken)
    assert session.handle_no_token(fetch.generation, "why", at(5), 0.5) == [
        TellRefreshFailed("why")
    ]
    assert session.deadline == at(7.5).monotonic
    fetch = only(session.handle_deadline(at(7.5)), FetchToken)
    ref = ref_of(session.handle_token(fetch.generation, "bad", at(7.5)))
    assert session.handle(Refused("RATE_LIMITED", "no", ref), at(7.5)) == [TellRefreshFailed("no")]
    assert session.deadline == at(8.75).monotonic


def test_a_late_token_is_for_nothing() -> None:
    """An answer to an older question, or after the connection was lost, is ignored."""
    session = make(FETCHED)
    fetched(session, 10)
    fetch = only(session.handle_deadline(at(5)), FetchToken)
    session.lost(1006, "", at(5), 0.5)

    assert session.handle_token(fetch.generation, "late", at(6)) == []
    assert session.handle_no_token(fetch.generation, "late", at(6), 0.5) == []
    newer = only(session.handle_deadline(at(6)), FetchToken)
    assert session.handle_token(fetch.generation, "late", at(6)) == []
    assert session.handle_token(newer.generation, "t2", at(6)) == [Dial(None)]


def test_without_a_token_it_does_not_dial() -> None:
    """Who has no token for the next connection waits, and counts it as an attempt."""
    session = make(FETCHED, first=True, attempts=2)
    for attempt in (1, 2):
        fetch = only(session.handle_deadline(at(60 * attempt)), FetchToken)
        assert session.deadline == math.inf
        todo = session.handle_no_token(fetch.generation, "why", at(60 * attempt), 0.5)
        assert only(todo, TellReconnecting).attempt == attempt
    fetch = only(session.handle_deadline(at(180)), FetchToken)
    stop = only(session.handle_no_token(fetch.generation, "why", at(180), 0.5), Stop)
    assert "gave up after 2 attempts" in str(stop.error)


# --- coming again --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*CloseCode, 3000, 4000, 4499, 4501, 4999])
def test_the_class_of_a_close_code_decides(code: int) -> None:
    """It stops exactly for the codes that ask not to come again, and says which it was."""
    session = opened(FIXED)

    todo = session.lost(code, "the reason", START, 0.5)

    if code == CloseCode.TOKEN_EXPIRED:
        return
    assert (advice_for(code) is Advice.STOP) is not may_reconnect(code)
    (action,) = todo[-1:]
    assert isinstance(action, TellReconnecting if may_reconnect(code) else Stop)
    assert isinstance(action, TellReconnecting | Stop)
    assert "the reason" in str(action.error)
    if code != CloseCode.TOKEN_REFUSED:
        assert str(code) in str(action.error)


def test_every_close_code_has_words() -> None:
    """A front-end engineer need not look a code up; of those of an application's own it is said."""
    for code in CloseCode:
        assert "a code of its own" not in str(ConnectionLost(code))
    assert str(ConnectionLost(4123, "gone fishing")) == (
        "the connection was lost; the server closed it with a code of its own "
        "(close code 4123: gone fishing)"
    )


def test_delays_grow_with_full_jitter() -> None:
    """Between 0 and base · 2ⁿ⁻¹ by chance, never above the cap; a success starts anew."""
    session = opened(attempts=None)
    bounds = []
    for _ in range(7):
        todo = session.lost(1006, "", START, 1.0)
        bounds.append(only(todo, TellReconnecting).delay)
        assert session.deadline == START.monotonic + bounds[-1]
        session.handle_deadline(at(60))
        session.opened(START)
    assert bounds == [1, 2, 4, 8, 16, 30, 30]

    session.handle(HELLO, START)
    assert only(session.lost(1006, "", at(1), 0.25), TellReconnecting).delay == 0.25


def test_a_connection_that_ends_at_once_is_no_success() -> None:
    """A server that takes every connection and ends it is left alone for longer and longer."""
    session = opened(base=2)
    delays = []
    for _ in range(3):
        delays.append(only(session.lost(1006, "", at(1.9), 0.5), TellReconnecting).delay)
        session.handle_deadline(at(60))
        session.opened(START)
        session.handle(HELLO, START)
    assert delays == [1, 2, 4]
    assert only(session.lost(1006, "", at(2), 0.5), TellReconnecting).delay == 1


def test_a_success_is_one_when_all_is_held_again() -> None:
    """A server that is lost before it has confirmed the subscriptions was no success."""
    session = opened()
    subscribed(session)
    reconnect(session)
    assert only(session.lost(1006, "", START, 0.0), TellReconnecting).attempt == 2
    session.handle_deadline(START)
    session.opened(START)
    ref = ref_of(session.handle(HELLO, START))
    session.handle(Subscribed(("grid.*",), 1, ref=ref), START)
    assert only(session.lost(1006, "", at(1), 0.5), TellReconnecting).attempt == 1


@given(
    attempt=st.integers(1, 10_000),
    advice=st.sampled_from([advice for advice in Advice if advice is not Advice.STOP]),
    chance=st.floats(0, 1, exclude_max=True),
    base=st.floats(0.001, 100),
    cap=st.floats(0.001, 1000),
)
def test_no_delay_exceeds_the_cap(
    attempt: int, advice: Advice, chance: float, base: float, cap: float
) -> None:
    """Whatever the attempt, a delay is between 0 and the cap."""
    assert 0 <= Retry(base=base, cap=cap).delay(attempt, advice, chance) <= cap


def test_advice_changes_the_delay() -> None:
    """A drain asks for no more patience than a cut, a failed server for more, abuse for most."""
    retry = Retry()
    delays = {advice: retry.delay(1, advice, 0.5) for advice in Advice}

    assert delays[Advice.NOW] == delays[Advice.NEW_TOKEN] == 0.5
    assert delays[Advice.LATER] == 2
    assert delays[Advice.MUCH_LATER] == 22.5
    assert retry.delay(1, Advice.MUCH_LATER, 0.0) == 15
    assert [advice_for(code) for code in (1001, 1012, 1011, 4401, 4408, 4429, 4500, 1006)] == [
        Advice.NOW,
        Advice.NOW,
        Advice.LATER,
        Advice.NEW_TOKEN,
        Advice.NOW,
        Advice.MUCH_LATER,
        Advice.STOP,
        Advice.NOW,
    ]


@pytest.mark.parametrize("code", [1001, 1012])
def test_after_a_drain_it_comes_again_soon(code: int) -> None:
    """A server that says goodbye is looked for within the base delay, however chance has it."""
    todo = opened(attempts=1).lost(code, "", START, 0.999)

    assert only(todo, TellReconnecting).delay == 0.999


@pytest.mark.parametrize(
    ("reason", "delay"),
    [
        ("the server is shutting down; retry=12.250", 12.25),
        ("retry=0.001", 0.001),
        ("gone; retry=7", 7),
        ("gone; retry=" + "9" * 100, 3600),
        ("gone; retry=-1", 0.5),
        ("gone; retry=1e3", 0.5),
        ("gone; retry=", 0.5),
        ("gone; retry=5 or so", 0.5),
        ("gone; retry=\N{FULLWIDTH DIGIT FIVE}", 0.5),
        ("gone; noretry=5", 0.5),
        ("gone; retry=5\n", 0.5),
    ],
)
def test_it_comes_again_when_the_server_says(reason: str, delay: float) -> None:
    """The advice counts in place of chance, at most an hour; what is no number is no advice."""
    todo = opened().lost(1012, reason, START, 0.5)

    assert only(todo, TellReconnecting).delay == delay


def test_advice_does_not_hurry_a_client() -> None:
    """Of servers that all send it away at once, it asks no faster than without their advice."""
    session = opened()
    delays = []
    for _ in range(4):
        todo = session.lost(1012, "gone; retry=0.1", at(0.5), 0.5)
        delays.append(only(todo, TellReconnecting).delay)
        session.handle_deadline(at(60))
        session.opened(START)
        session.handle(HELLO, START)
    assert delays == [0.1, 1, 2, 4]


def test_what_stops_it_stops_it_in_spite_of_advice() -> None:
    """A close code that says not to come again wins."""
    only(opened().lost(4510, "gone; retry=1", START, 0.5), Stop)


def test_it_gives_up_after_its_attempts() -> None:
    """After so many attempts in a row without success it ends, and says how many there were."""
    session = opened(attempts=2)
    session.lost(1006, "", START, 0.5)
    session.handle_deadline(at(60))
    only(session.failed(ConnectError("nobody"), Advice.NOW, at(60), 0.5), TellReconnecting)
    session.handle_deadline(at(120))

    error = only(session.failed(ConnectError("nobody"), Advice.NOW, at(120), 0.5), Stop).error

    assert str(error) == "gave up after 2 attempts to connect again; the last one: nobody"


@pytest.mark.parametrize(
    "options", [{"base": 0}, {"cap": -1}, {"cap": math.inf}, {"attempts": -1}, {"base": math.nan}]
)
def test_a_retry_must_make_sense(options: dict[str, Any]) -> None:
    """Delays are positive and finite, and attempts are not negative."""
    with pytest.raises(UsageError):
        Retry(**options)


def test_a_close_for_a_reason_keeps_it() -> None:
    """Whoever ends the session from outside may say why; requests fail for that reason."""
    session = opened()
    session.request("key", CALL, START)
    error = ConnectError("the client has failed")

    todo = session.close(error)

    assert only(todo, Stop).error is error
    outcome = only(todo, Answer).outcome
    assert isinstance(outcome, WsbusError)
    assert outcome is not error  # Several callers may raise theirs.
    assert str(outcome) == str(error)


# --- the limits of a server ----------------------------------------------------------------------


def told(**limits: Any) -> ClientSession[Any]:
    """Return an open session whose server told its limits."""
    session = fresh(measure=lambda request: 100 + len(cast("Any", request).params))
    session.opened(START)
    session.handle(msgspec.structs.replace(HELLO, **limits), START)
    assert session.state is ClientState.OPEN
    return session


def fresh(**options: Any) -> ClientSession[Any]:
    """Return a session that is dialling."""
    session = ClientSession[Any](
        token=NO_TOKEN, retry=Retry(), liveness=Liveness(1000, 1000), **options
    )
    session.handle_deadline(START)
    return session


def calls(todo: Sequence[ClientAction]) -> list[str]:
    """Return the refs of the calls that are said."""
    said = [action.command for action in todo if isinstance(action, Say)]
    return [str(command.ref) for command in said if isinstance(command, Command)]


def play(session: ClientSession[Any], until: float) -> list[tuple[float, ClientAction]]:
    """Let time pass; return what is wanted, and when."""
    done: list[tuple[float, ClientAction]] = []
    while session.deadline <= until:
        now = START.later(max(0.0, session.deadline - START.monotonic))
        done += [(now.monotonic, action) for action in session.handle_deadline(now)]
    return done


@given(
    commands=st.floats(0.5, 50),
    messages=st.floats(0.5, 100),
    count=st.integers(1, 20),
    names=st.integers(0, 40),
    late=st.floats(0, 0.02),
)
def test_a_client_keeps_within_the_rates(
    commands: float, messages: float, count: int, names: int, late: float
) -> None:
    """What is sent fits the server's own buckets, also where the first of it comes late.

    All of it is sent in the end.
    """
    session = told(commands_per_second=commands, messages_per_second=messages, max_names=16)
    done: list[tuple[float, ClientAction]] = []
    for number in range(names):
        todo = session.subscribe(parse_pattern(f"n.{number}"), number, START)
        done += [(START.monotonic, action) for action in todo]
    for number in range(count):
        todo = session.request(number, CALL, START)
        done += [(START.monotonic, action) for action in todo]
    done += play(session, START.monotonic + 900)
    of_messages, of_commands = TokenBucket(messages), TokenBucket(commands)
    asked = sent = 0
    is_first = True
    for at, action in done:
        assert isinstance(action, Say)
        arrives = at + (late / max(commands, messages) if is_first else 0)
        is_first = False
        if isinstance(action.command, Subscribe):
            count_of = len(action.command.names)
            assert count_of <= 16
            asked += count_of
            for _ in range(-(-count_of // 8)):
                assert of_messages.take(arrives)
        else:
            sent += 1
            assert of_messages.take(arrives)
            assert of_commands.take(arrives)
    assert (asked, sent) == (names, count)


def test_what_cannot_wait_counts_after_a_silence_too() -> None:
    """A ping is one of those that may be sent at once: at most 80 % of a second's worth."""
    pace = Pace()
    pace.learn(Greeting("c", None, None, None, messages_per_second=10), 0.0)
    pace.take(100.0)  # A ping, after a silence.
    sent = 0
    while pace.ready_at(100.0, is_call=False) <= 100.0:
        pace.take(100.0)
        sent += 1

    assert sent == 7


def test_a_rate_that_is_not_told_is_found() -> None:
    """RATE_LIMITED is no answer: the request is sent again, after pauses that grow."""
    session = told()
    refs = calls([a for n in range(3) for a in session.request(n, CALL, START)])
    assert len(refs) == 3
    moments: list[float] = []
    now = START
    for _ in range(6):
        for ref in refs:
            assert session.handle(Refused("RATE_LIMITED", "slow down", ref), now) == []
        assert session.deadline > now.monotonic
        moments.append(session.deadline - now.monotonic)
        now = now.later(session.deadline - now.monotonic)
        refs = calls(session.handle_deadline(now))
        assert len(refs) == 1, "one at a time"
    assert moments == sorted(moments)
    assert moments[-1] >= 4 * moments[0]
    assert moments[-1] <= 5.01
    (answer,) = session.handle(Response(b"1", refs[0]), now)
    assert isinstance(answer, Answer)


def test_subscribing_too_fast_is_no_refusal() -> None:
    """RATE_LIMITED to a subscription, or to giving one up, is said again later."""
    session = told()
    ref = ref_of(session.subscribe(GRID, "h", START))
    assert session.handle(Refused("RATE_LIMITED", "slow down", ref), START) == []
    ((at, action),) = play(session, START.monotonic + 10)
    assert at > START.monotonic
    assert isinstance(action, Say)
    assert isinstance(action.command, Subscribe)
    assert action.command.names == ("grid.*",)
    now = START.later(10)
    confirmed = session.handle(Subscribed(("grid.*",), 1, ref=action.command.ref), now)
    assert confirmed == [Confirm("h", None)]
    ref = ref_of(session.unsubscribe(GRID, "h", now))
    assert session.handle(Refused("RATE_LIMITED", "slow down", ref), now) == []
    ((_, action),) = play(session, START.monotonic + 30)
    assert isinstance(action, Say)
    assert isinstance(action.command, Unsubscribe)


def test_names_that_are_too_many_at_once_are_asked_for_in_parts() -> None:
    """A server that tells no limit refuses too many names as invalid; then fewer are named."""
    session = told()
    names = [f"n.{number}" for number in range(10)]
    for name in names:
        session.subscribe(parse_pattern(name), name, START)
    sizes: list[int] = []
    commands = said(reconnect(session))
    while commands:
        command = commands.pop(0)
        assert isinstance(command, Subscribe)
        sizes.append(len(command.names))
        heard: Heard = Subscribed(command.names, 0, ref=command.ref)
        if len(command.names) > 3:
            heard = Refused(ErrorCode.INVALID_MESSAGE, "too many names", command.ref)
        commands += said(session.handle(heard, START))
    assert sorted(session.subscriptions) == sorted(names)
    assert sizes == [10, 5, 5, 2, 2, 1, 2, 2, 1]


def test_an_idle_client_saves_up_no_more_than_a_burst() -> None:
    """After a silence a burst is sent, and right after it no second one."""
    session = told(commands_per_second=10)
    now = START.later(60)
    first = [a for n in range(20) for a in session.request(n, CALL, now)]
    assert len(calls(first)) == 8  # 80 % of a second's worth.
    now = now.later(0.01)
    assert calls(session.handle(Pong("other"), now)) == []
    assert session.request("last", CALL, now) == []


def test_what_is_too_large_is_told_before_its_turn() -> None:
    """A request that is too large fails at once, whatever the rates make wait before it."""
    session = told(max_message_bytes=1000, commands_per_second=1)
    assert len(calls([a for n in range(3) for a in session.request(n, CALL, START)])) == 1
    (answer,) = session.request("large", Command("save", b"x" * 1000), START)
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, MessageTooLarge)
    assert not session.forget("large")


def test_what_is_too_large_is_not_sent() -> None:
    """A request larger than the server reads fails at once, with its size and the limit."""
    session = told(max_message_bytes=1000)
    (answer,) = session.request("key", Command("save", b"x" * 901), START, is_idempotent=True)
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcome, MessageTooLarge)
    assert (answer.outcome.size, answer.outcome.limit) == (1001, 1000)
    assert "too large: it has 1001 bytes, and the server takes 1000" in str(answer.outcome)
    (say,) = session.request("other", Command("save", b"x" * 900), START)
    assert isinstance(say, Say)


def test_what_waits_is_measured_by_the_next_server() -> None:
    """What was asked for while there was no connection is measured against the one that comes."""
    session = fresh(measure=lambda request: 2000)
    assert session.request("key", Command("save", b"x" * 2000), START) == []
    session.opened(START)
    todo = session.handle(msgspec.structs.replace(HELLO, max_message_bytes=1000), START)
    assert isinstance(only(todo, Answer).outcome, MessageTooLarge)
    assert calls(todo) == []


def test_after_1009_what_is_known_to_be_small_enough_is_sent_again() -> None:
    """A message that is larger than every one that was ever answered may be the cause."""
    session = told()
    ref = ref_of(session.request("first", Command("run", b"12345"), START))
    session.handle(Response(b"null", ref), START)
    session.request("small", Command("run", b"1234"), START, is_idempotent=True)
    session.request("large", Command("run", b"123456"), START, is_idempotent=True)
    todo = session.lost(CloseCode.MESSAGE_TOO_BIG, "", START, 0.5)
    assert only(todo, Answer).key == "large"
    session.handle_deadline(at(60))
    session.opened(at(60))
    assert len(calls(session.handle(HELLO, at(60)))) == 1


def test_a_token_that_is_too_large_ends_the_client() -> None:
    """A first token that may be the cause of a 1009 ends the client: it is not shown again."""
    session = dialled(FIXED)
    todo = session.lost(CloseCode.MESSAGE_TOO_BIG, "", START, 0.5)
    assert isinstance(only(todo, Stop).error, ConnectionLost)


def test_after_1009_nothing_is_sent_again() -> None:
    """What may have been too large fails, though it is idempotent; subscriptions become smaller."""
    session = told()
    session.request("key", CALL, START, is_idempotent=True)
    todo = session.lost(CloseCode.MESSAGE_TOO_BIG, "", START, 0.5)
    assert isinstance(only(todo, Answer).outcome, ConnectionLost)
    todo = reconnect(session)
    assert calls(todo) == []


def test_the_reason_of_a_loss_is_told_once() -> None:
    """What this client found out about one connection is not told about the next."""
    session = opened()
    subscribed(session)
    ref = ref_of(reconnect(session))
    assert session.handle(Refused("TOO_MANY_SUBSCRIPTIONS", "later", ref), START) == [Cut()]
    first = only(session.lost(1006, "", START, 0.5), TellReconnecting)
    assert "did not take the subscriptions again" in str(first.error)
    reconnect_only(session)
    second = only(session.lost(1012, "soon back", START, 0.5), TellReconnecting)
    assert "did not take" not in str(second.error)
    assert "soon back" in str(second.error)


def reconnect_only(session: ClientSession[Any]) -> None:
    """Connect again."""
    now = START.later(1000)
    session.handle_deadline(now)
    session.opened(now)
    session.handle(HELLO, now)


def test_a_keepalive_timeout_is_a_heartbeat_timeout() -> None:
    """1011 with the words of `websockets` counts as 4408: the client comes again soon."""
    todo = opened().lost(1011, "keepalive ping timeout", START, 0.999)
    told_now = only(todo, TellReconnecting)
    assert told_now.delay < 1
    assert isinstance(told_now.error, ConnectionLost)
    assert told_now.error.code == CloseCode.HEARTBEAT_TIMEOUT


def test_every_move_is_in_the_table() -> None:
    """Each state but the last can be left, and every state can be reached; the last has no exit."""
    assert {state for (state, _), (_, then) in TABLE.items() if then is not state} == set(
        ClientState
    ) - {ClientState.ENDED}
    assert {then for (state, _), (_, then) in TABLE.items() if then is not state} == set(
        ClientState
    )


def test_what_comes_from_outside_has_a_row_in_every_state() -> None:
    """A late message, a lost connection or a deadline is acted on, or ignored, never a mistake."""
    outside = {
        ClientInput.OPENED,
        ClientInput.FAILED,
        ClientInput.LOST,
        ClientInput.HEARD,
        ClientInput.DUE,
    }
    assert set(TABLE) >= {(state, heard) for state in ClientState for heard in outside}
    assert all(
        TABLE[ClientState.ENDED, heard] == (ClientDuty.IGNORE, ClientState.ENDED)
        for heard in (*outside, ClientInput.END)
    )


def test_it_goes_on_for_ever_by_default() -> None:
    """Without a word about attempts a client never stops by itself."""
    session = opened(attempts=None)
    assert Retry().attempts is None
    session.lost(1006, "", START, 0.5)
    for number in range(1, 100):
        now = START.later(100 * number)
        session.handle_deadline(now)
        todo = session.failed(ConnectError("no"), Advice.NOW, now, 0.999)
        assert only(todo, TellReconnecting).delay < 30


def test_what_looks_wrong_stops_the_first_attempt_only() -> None:
    """A path that is not there is told at once; while a server is deployed it may be missing."""
    session = fresh()
    todo = session.failed(ConnectError("no such path"), Advice.WRONG, START, 0.5)
    assert str(only(todo, Stop).error) == "no such path"
    session = opened()
    session.lost(1006, "", START, 0.5)
    session.handle_deadline(START.later(100))
    todo = session.failed(ConnectError("no such path"), Advice.WRONG, START.later(100), 0.5)
    assert only(todo, TellReconnecting).attempt == 2
