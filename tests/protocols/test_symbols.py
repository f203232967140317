from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples.symbol_stream import SymbolStream, symbol_channel
from tests.protocols.golden import NOW, neutral, publication, vectors
from wsbus.core.errors import InvalidChannel
from wsbus.core.instant import Instant
from wsbus.core.messages import (
    Gap,
    Greeting,
    Malformed,
    Pong,
    Refused,
    ServerMessage,
    Subscribe,
    Subscribed,
    Unsubscribed,
)

DIALECT: Final = SymbolStream()


@pytest.fixture(params=[("UTC", "08:00:00"), ("Asia/Shanghai", "16:00:00")])
def local(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the clock on the wall shows, in two places."""
    zone, shown = request.param
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield shown
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("means", "text"), vectors("symbols", "means"))
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """Each message of the scenes means what the page says; bad input means nothing."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(("says", "text"), vectors("symbols", "says"))
def test_replies_are_word_for_word(says: dict[str, Any], text: str, local: str) -> None:
    """Ping, pong and status are sent byte for byte, with the local time in whole seconds."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.is_text
    assert frame.text == text.replace("08:00:00", local)


@pytest.mark.parametrize(("publishes", "text"), vectors("symbols", "publishes"))
def test_broadcasts_are_verbatim(publishes: dict[str, str], text: str) -> None:
    """What is broadcast is the message and nothing else, Chinese unescaped."""
    assert DIALECT.encode_publication(publication(publishes)).text == text


def test_fractions_of_a_second_are_cut_off() -> None:
    """The timestamp of a pong is the second that has begun, not the nearest."""
    early, late = (
        DIALECT.encode(Pong(), Instant(1.0, 1703836800.0 + part)) for part in (0.0, 0.999)
    )

    assert early is not None
    assert late is not None
    assert early.text == late.text


@pytest.mark.parametrize(
    "reply",
    [
        Greeting("c-1", "anonymous", 30.0, 60.0),
        Subscribed(("AAPL",), 1),
        Unsubscribed(("AAPL",), 0),
        Refused("INVALID_MESSAGE", "not JSON"),
        Gap(3),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_the_page_has_no_word_for_is_not_sent(reply: ServerMessage) -> None:
    """There are no greetings, errors and gaps, and subscribing is not answered."""
    assert DIALECT.encode(reply, NOW) is None


SYMBOLS: Final = st.text(st.characters(codec="utf-8"), max_size=15) | st.text(".*+%/^ 2ABae")


@given(st.lists(SYMBOLS, min_size=2, max_size=2, unique=True))
@example(["*", "%2A"])
@example(["A B", "A%20B"])
@example(["BRK.B", "BRK%2EB"])
@example(["", "%"])
@example(["+", "%2B"])
def test_two_names_never_share_a_channel(names: list[str]) -> None:
    """A symbol stands for its own channel and no other, whatever its characters mean elsewhere."""
    try:
        one, other = map(DIALECT.pattern, names)
    except InvalidChannel:
        assert max(len(name.encode()) for name in names) > 80  # three bytes each, at most
        return
    assert one.is_exact
    assert other.is_exact
    assert one.matches(symbol_channel(names[0]))
    assert not one.matches(symbol_channel(names[1]))
    assert not other.matches(symbol_channel(names[0]))
    assert not one.matches("everybody")


def test_a_thousand_symbols_fit_in_a_message() -> None:
    """One frame may ask for all there are."""
    names = tuple(f"SYM{i}/USDT" for i in range(1000))
    [command] = DIALECT.decode(f'{{"type":"subscribe","symbols":{list(names)}}}'.replace("'", '"'))

    assert command == Subscribe(names)


def test_a_text_repeats_nothing_of_the_frame() -> None:
    """What is logged about bad input holds none of it."""
    for frame in ('{"type":"secret\\n"}', '{"type":"subscribe","symbol":{"secret":1}}', "secret"):
        [command] = DIALECT.decode(frame)

        assert isinstance(command, Malformed)
        assert "secret" not in command.message
