"""What a client makes of positions; the rules are those of protocol.md, "History and recovery"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import pytest

from wsbus.core.channels import parse_channel
from wsbus.core.client.actions import (
    Answer,
    ClientAction,
    Confirm,
    Dismiss,
    LatestPublication,
    Lose,
    Say,
)
from wsbus.core.client.liveness import Liveness
from wsbus.core.client.retry import Retry
from wsbus.core.client.session import ClientSession
from wsbus.core.client.token import TokenUse
from wsbus.core.errors import (
    CommandError,
    ConnectionLost,
    ErrorCode,
    PositionLost,
    UsageError,
    WsbusError,
)
from wsbus.core.events import Gap, GapCause, Position
from wsbus.core.instant import Instant
from wsbus.core.messages import (
    GetStatus,
    Greeting,
    HistoryResult,
    Publication,
    Publish,
    ReadHistory,
    Refused,
    Rejection,
    Response,
    Since,
    StartPosition,
    Subscribe,
    Subscribed,
)
from wsbus.core.patterns import parse_pattern

A = TypeVar("A")
START: Final = Instant(1000.0, 1_700_000_000.0)
LATER: Final = START.later(100)
ALL: Final = parse_pattern("chat.*")
ROOM: Final = parse_pattern("chat.room")
HELLO: Final = Greeting("c1", "u1", 30, 60)
RECONNECTED: Final = Gap(None, GapCause.RECONNECT)
PUBLISH: Final = Publish("chat.room", "e", b"1", None, "key")


def at(offset: int, epoch: str = "e") -> Position:
    """Return a position."""
    return Position(epoch, offset, "t")


def event(offset: int, epoch: str = "e", *, is_latest: bool = False) -> Publication:
    """Return an event of ``chat.room``."""
    kind = LatestPublication if is_latest else Publication
    return kind(parse_channel("chat.room"), "e", b"1", 0.0, position=at(offset, epoch))


def opened(greeting: Greeting = HELLO) -> ClientSession[str]:
    """Return a session that is connected."""
    session = ClientSession[str](
        token=TokenUse(), retry=Retry(), liveness=Liveness(15, 20), measure=lambda _: 100
    )
    session.handle_deadline(START)
    session.opened(START)
    session.handle(greeting, START)
    return session


def said(todo: Sequence[ClientAction], kind: type[A]) -> A:
    """Return the one thing of a type that is to be said."""
    (found,) = [
        action.command
        for action in todo
        if isinstance(action, Say) and isinstance(action.command, kind)
    ]
    return found


def come_again(session: ClientSession[str]) -> list[ClientAction]:
    """Lose the connection and get the next one; return what follows from that."""
    session.lost(1006, "", START, 0.5)
    session.handle_deadline(LATER)
    session.opened(LATER)
    return session.handle(Greeting("c2", "u1", 30, 60), LATER)


def answer(
    session: ClientSession[str], ask: Subscribe, *starts: StartPosition, **more: Any
) -> list[ClientAction]:
    """Have the server accept all names of a request."""
    return session.handle(Subscribed(ask.names, 1, (), ask.ref, starts, **more), LATER)


def held(pattern: str = "chat.*", offset: int = 5) -> ClientSession[str]:
    """Return a session in which a holder ``h`` is subscribed since a position."""
    session = opened()
    ask = said(session.subscribe(parse_pattern(pattern), "h", START), Subscribe)
    assert ask.since == {}
    confirmed = answer(session, ask, StartPosition(pattern, at(offset)))
    assert confirmed == [Confirm("h", at(offset))]
    return session


def test_a_name_goes_on_where_its_last_event_was() -> None:
    """The mark is set by ``subscribed`` and moved by each event; ``recovered``: nothing to tell."""
    session = held()
    assert list(session.receive(event(7))) == ["h"]

    ask = said(come_again(session), Subscribe)

    assert ask.since == {"chat.*": Since(at(7))}
    assert answer(session, ask, StartPosition("chat.*", at(7), is_recovered=True)) == []
    assert list(session.receive(event(8))) == ["h"]


@pytest.mark.parametrize("start", [None, False], ids=["no position", "not recovered"])
def test_what_is_not_recovered_is_missing(start: bool | None) -> None:
    """Not recovered, or no position: the holders miss something, and the mark is the new one."""
    session = held()
    ask = said(come_again(session), Subscribe)
    starts = [] if start is None else [StartPosition("chat.*", at(2, "other"), start)]

    assert answer(session, ask, *starts) == [Lose("h", RECONNECTED)]

    since = said(come_again(session), Subscribe).since
    assert since == ({} if start is None else {"chat.*": Since(at(2, "other"))})


def test_an_event_comes_once() -> None:
    """What is not after the mark is dropped."""
    session = held(offset=5)

    assert [list(session.receive(event(n))) for n in (5, 6, 6, 4, 9)] == [[], ["h"], [], [], ["h"]]


def test_offsets_of_another_epoch_are_new() -> None:
    """Offsets of two epochs cannot be compared: the mark goes over to the new one."""
    session = held(offset=5)

    assert list(session.receive(event(1, "other"))) == ["h"]
    assert list(session.receive(event(1, "other"))) == []
    assert said(come_again(session), Subscribe).since == {"chat.*": Since(at(1, "other"))}


def test_every_name_has_a_mark_of_its_own() -> None:
    """What one name has is new for another that goes on further back, and only for that."""
    session = held("chat.*", 5)
    ask = said(session.subscribe(ROOM, "r", START, at(2)), Subscribe)
    assert ask.since == {"chat.room": Since(at(2), is_strict=True)}
    assert list(session.receive(event(6))) == ["h"]

    answer(session, ask, StartPosition("chat.room", at(2), is_recovered=True))

    assert [list(session.receive(event(n))) for n in (4, 6, 7, 7)] == [["r"], ["r"], ["h", "r"], []]


def test_who_gets_what_is_sent_anyway_gets_nothing_twice() -> None:
    """A holder that did not ask gets an event if it is new for a name, or if no name matches."""
    session = held("chat.*", 5)
    session.listen(parse_pattern("*"), "l")

    assert [list(session.receive(event(n))) for n in (5, 6)] == [[], ["h", "l"]]


def test_the_latest_goes_to_new_subscriptions_and_moves_no_mark() -> None:
    """It may be older than the mark, and comes to the names of the last confirmation only."""
    session = held("chat.*", 5)
    ask = said(session.subscribe(ROOM, "r", START), Subscribe)
    answer(session, ask, StartPosition("chat.room", at(5)))

    assert list(session.receive(event(3, is_latest=True))) == ["r"]
    assert said(come_again(session), Subscribe).since == {
        "chat.*": Since(at(5)),
        "chat.room": Since(at(5)),
    }


def test_what_went_on_gets_no_latest() -> None:
    """A recovered name has had it."""
    session = held()
    ask = said(come_again(session), Subscribe)
    answer(session, ask, StartPosition("chat.*", at(5), is_recovered=True))

    assert list(session.receive(event(3, is_latest=True))) == []


def test_a_mark_ends_with_its_subscription() -> None:
    """Given up and made again, a subscription begins with what is new."""
    session = held()
    session.unsubscribe(ALL, "h", START)
    ask = said(session.subscribe(ALL, "again", START), Subscribe)

    assert ask.since == {}
    assert list(session.receive(event(9))) == []


def test_a_second_holder_shares_the_mark() -> None:
    """It is confirmed at once, with the position after which it gets everything."""
    session = held()
    session.receive(event(7))

    assert session.subscribe(ALL, "second", START) == [Confirm("second", at(7))]


def test_a_start_is_asked_for_until_it_is_confirmed_and_then_never_again() -> None:
    """A lost connection before the answer changes nothing; after it, marks count."""
    session = opened()
    session.subscribe(ALL, "h", START, at(3))
    ask = said(come_again(session), Subscribe)
    assert ask.since == {"chat.*": Since(at(3), is_strict=True)}

    confirmed = answer(session, ask, StartPosition("chat.*", at(3), is_recovered=True))

    assert confirmed == [Confirm("h", at(3))]
    assert said(come_again(session), Subscribe).since == {"chat.*": Since(at(3))}


def lost_start(ask: Subscribe) -> Subscribed:
    """Return the answer of a server that does not keep what was asked for."""
    rejected = (Rejection("chat.*", ErrorCode.POSITION_LOST, "gone"),)
    return Subscribed((), 0, rejected, ask.ref)


def test_a_start_that_is_not_kept_is_told() -> None:
    """``POSITION_LOST``: the holder is dismissed, and may subscribe again without."""
    session = opened()
    ask = said(session.subscribe(ALL, "h", START, at(3)), Subscribe)

    (dismissed,) = session.handle(lost_start(ask), START)

    assert isinstance(dismissed, Dismiss)
    assert isinstance(dismissed.error, PositionLost)
    assert said(session.subscribe(ALL, "h", START), Subscribe).since == {}


@pytest.mark.parametrize("leaves", [False, True])
def test_a_start_that_is_not_kept_is_nothing_to_others(*, leaves: bool) -> None:
    """Holders of the same name that did not ask for it are asked for again, without."""
    session = opened()
    ask = said(session.subscribe(ALL, "h", START, at(3)), Subscribe)
    session.subscribe(ALL, "other", START)
    if leaves:
        session.unsubscribe(ALL, "h", START)

    todo = session.handle(lost_start(ask), START)

    assert [action.holder for action in todo if isinstance(action, Dismiss)] == ["h"][leaves:]
    again = said(todo, Subscribe)
    assert (again.names, again.since) == (("chat.*",), {})
    assert answer(session, again) == [Confirm("other", None)]


def test_a_start_needs_a_name_of_its_own() -> None:
    """A name that is subscribed already gets no replay."""
    session = held()

    with pytest.raises(UsageError, match="subscribed to it already"):
        session.subscribe(ALL, "late", START, at(3))
    assert list(session.receive(event(6))) == ["h"]


def test_positions_count_when_requests_are_split() -> None:
    """A request stays within half of what the server reads, positions included."""
    session = opened(Greeting("c1", "u1", 30, 60, max_message_bytes=600))
    names = [f"chat.room{number}" for number in range(20)]
    for name in names:
        ask = said(session.subscribe(parse_pattern(name), name, START), Subscribe)
        answer(session, ask, StartPosition(name, at(5)))
    session.lost(1006, "", START, 0.5)
    session.handle_deadline(LATER)
    session.opened(LATER)
    todo = session.handle(Greeting("c2", "u1", 30, 60, max_message_bytes=600), LATER)

    asks = [action.command for action in todo if isinstance(action, Say)]

    assert [name for ask in asks if isinstance(ask, Subscribe) for name in ask.since] == names
    assert all(len(ask.names) <= 4 for ask in asks if isinstance(ask, Subscribe))


def test_a_position_that_no_request_has_place_for_is_left_out() -> None:
    """Better a gap than a request that is too large each time."""
    name = "chat." + "x" * 200
    session = held(name)
    session.lost(1006, "", START, 0.5)
    session.handle_deadline(LATER)
    session.opened(LATER)
    todo = session.handle(Greeting("c2", "u1", 30, 60, max_message_bytes=400), LATER)

    assert said(todo, Subscribe).since == {}


# --- publishing ----------------------------------------------------------------------------------


def test_a_publication_in_flight_is_sent_again_with_its_key() -> None:
    """It says that it is a repetition; the answer is the publication's."""
    session = opened()
    first = said(session.request("p", PUBLISH, START), Publish)
    assert (first.idempotency_key, first.is_retry) == ("key", False)

    again = said(come_again(session), Publish)

    assert (again.idempotency_key, again.is_retry) == ("key", True)
    assert session.handle(Response(b"{}", again.ref), LATER) == [
        Answer("p", Response(b"{}", again.ref))
    ]


def test_what_cannot_be_repeated_may_have_been_published() -> None:
    """``NOT_REPEATABLE``: the outcome is the connection's end, as if it had not been sent again."""
    session = opened()
    session.request("p", PUBLISH, START)
    again = said(come_again(session), Publish)

    (told,) = session.handle(Refused(ErrorCode.NOT_REPEATABLE, "no", again.ref), LATER)

    assert isinstance(told, Answer)
    assert isinstance(told.outcome, ConnectionLost)
    assert told.outcome.code == 1006


def test_a_publication_that_was_never_sent_is_no_repetition() -> None:
    """It waited for the connection."""
    session = opened()
    session.lost(1006, "", START, 0.5)
    session.request("p", PUBLISH, START)
    session.handle_deadline(LATER)
    session.opened(LATER)

    assert not said(session.handle(Greeting("c2", "u", 30, 60), LATER), Publish).is_retry


def test_a_publication_without_a_key_is_sent_once() -> None:
    """Nothing could tell a repetition apart."""
    session = opened()
    session.request("p", Publish("chat.room", "e", b"1"), START)

    told, *_ = session.lost(1006, "", START, 0.5)

    assert isinstance(told, Answer)
    assert isinstance(told.outcome, ConnectionLost)


# --- history -------------------------------------------------------------------------------------


def test_history_is_answered_by_history_only() -> None:
    """An answer of another kind with the same ref is none."""
    session = opened()
    ask = said(session.request("q", ReadHistory("chat.room", 5), START), ReadHistory)
    page = HistoryResult("chat.room", (), at(3), has_more=False, ref=ask.ref)

    assert session.handle(Response(b"{}", ask.ref), START) == []
    assert session.handle(page, START) == [Answer("q", page)]
    assert session.handle(page, START) == []


def test_history_answers_nothing_else() -> None:
    """A status is not answered by it."""
    session = opened()
    ask = said(session.request("q", GetStatus(), START), GetStatus)
    page = HistoryResult("chat.room", (), at(3), has_more=False, ref=ask.ref)

    assert session.handle(page, START) == []
    (told,) = session.handle(Refused("FORBIDDEN", "no", ask.ref), START)
    assert isinstance(told, Answer)
    outcome: object = told.outcome
    assert isinstance(outcome, WsbusError)
    assert isinstance(outcome, CommandError)
