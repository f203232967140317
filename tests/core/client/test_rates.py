"""What a client asks for with rates; the rules are those of protocol.md, "Rates"."""

from __future__ import annotations

from tests.core.client.test_history import ALL, LATER, ROOM, START, answer, come_again, opened, said
from wsbus.core.client.actions import Confirm
from wsbus.core.client.session import ClientSession
from wsbus.core.messages import Refused, Subscribe, Unsubscribe


def held(rate: float | None) -> ClientSession[str]:
    """Return a session in which a holder ``h`` has ``chat.*`` with a rate."""
    session = opened()
    ask = said(session.subscribe(ALL, "h", START, None, rate), Subscribe)
    assert ask.rates == ({} if rate is None else {"chat.*": rate})
    assert answer(session, ask) == [Confirm("h", None)]
    return session


def test_a_rate_lasts_over_connections() -> None:
    """Each request for a name has its rate."""
    assert said(come_again(held(5.0)), Subscribe).rates == {"chat.*": 5.0}


def test_the_holder_that_wants_most_decides() -> None:
    """A name that is held is asked for anew when its rate changes, and only then."""
    session = held(5.0)
    for holder, rate, asked in (
        ("slow", 1.0, None),
        ("fast", 9.0, {"chat.*": 9.0}),
        ("all", None, {}),
        ("late", 50.0, None),
    ):
        todo = session.subscribe(ALL, holder, START, None, rate)
        assert Confirm(holder, None) in todo
        if asked is None:
            assert len(todo) == 1
        else:
            ask = said(todo, Subscribe)
            assert (ask.names, ask.rates, ask.since) == (("chat.*",), asked, {})
            assert answer(session, ask) == []
    for holder, left in (("fast", None), ("all", 50.0), ("late", 5.0), ("h", 1.0)):
        todo = session.unsubscribe(ALL, holder, START)
        rates = said(todo, Subscribe).rates if todo else {}
        assert rates.get("chat.*") == left
    assert said(session.unsubscribe(ALL, "slow", START), Unsubscribe).names == ("chat.*",)


def test_a_change_that_was_refused_for_its_time_is_made_later() -> None:
    """A rate limit of the server only postpones it."""
    session = held(5.0)
    ask = said(session.subscribe(ALL, "fast", START, None, 9.0), Subscribe)
    session.handle(Refused("RATE_LIMITED", "too fast", ask.ref), START)
    again = said(session.handle_deadline(LATER), Subscribe)
    assert (again.names, again.rates) == (("chat.*",), {"chat.*": 9.0})


def test_a_change_that_is_refused_ends_nothing() -> None:
    """The subscription stays as it is."""
    session = held(5.0)
    ask = said(session.subscribe(ALL, "fast", START, None, 9.0), Subscribe)
    assert session.handle(Refused("INVALID_MESSAGE", "no", ask.ref), START) == []
    assert session.subscriptions == ["chat.*"]


def test_a_name_that_is_asked_for_takes_a_change() -> None:
    """The change follows the request, and the holder is confirmed by the answer to that."""
    session = opened()
    first = said(session.subscribe(ROOM, "h", START, None, 5.0), Subscribe)
    second = said(session.subscribe(ROOM, "all", START), Subscribe)
    assert (second.names, second.rates) == (("chat.room",), {})
    assert answer(session, first) == [Confirm("h", None), Confirm("all", None)]
    assert answer(session, second) == []
