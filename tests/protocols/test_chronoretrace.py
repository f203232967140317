from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.chronoretrace import (
    INTERVALS,
    KINDS,
    ChronoRetrace,
    channel_of,
    is_topic,
    topic_of,
)
from tests.protocols.golden import NOW, neutral, publication, vectors
from wsbus.core.errors import InvalidChannel
from wsbus.core.instant import Instant
from wsbus.core.messages import Gap, Malformed, Pong, Rejection, ServerMessage, Status, Subscribed

DIALECT: Final = ChronoRetrace()

SYMBOLS: Final = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="*").filter(
        lambda character: not character.isspace()
    ),
    min_size=1,
    max_size=12,
).filter(lambda symbol: all(symbol.split(".")))


@pytest.fixture(autouse=True)
def in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The vectors are told in the local time of Shanghai."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("means", "text"), vectors("chronoretrace", "means"))
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """Each message of a client means what the page says."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(("says", "text"), vectors("chronoretrace", "says"))
def test_replies_are_word_for_word(says: dict[str, Any], text: str) -> None:
    """Each reply is sent byte for byte, keys in the page's order, Chinese unescaped."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.is_text
    assert frame.text == text


@pytest.mark.parametrize(("publishes", "text"), vectors("chronoretrace", "publishes"))
def test_data_is_word_for_word(publishes: dict[str, str], text: str) -> None:
    """Data is sent byte for byte, under the topic's own name, as it was published."""
    assert DIALECT.encode_publication(publication(publishes)).text == text


@pytest.mark.parametrize(("says", "text"), vectors("chronoretrace", "says"))
def test_topics_are_judged_as_the_replies_say(says: dict[str, Any], text: str) -> None:
    """What the vectors acknowledge is a topic, what they refuse is none, or does not fit."""
    if says["is"] == "Subscribed":
        for name in says["names"]:
            assert DIALECT.pattern(name).text == channel_of(name)
        for rejection in says.get("rejected", []):
            with pytest.raises(InvalidChannel, match=rejection["message"]):
                DIALECT.pattern(rejection["name"])


@given(st.sampled_from(sorted(KINDS)), SYMBOLS, st.sampled_from(sorted(INTERVALS)))
def test_every_topic_has_a_channel_of_its_own(kind: str, symbol: str, interval: str) -> None:
    """A topic is the channel it is escaped to, without loss, and no character is a wildcard."""
    topic = f"{kind}.{symbol}.{interval}"
    assert is_topic(topic)
    pattern = DIALECT.pattern(topic)
    assert pattern.is_exact
    assert pattern.matches(channel_of(topic))
    assert topic_of(channel_of(topic)) == topic


@given(st.text())
def test_nothing_else_is_a_topic(text: str) -> None:
    """Text without the right type and interval is no topic."""
    kind, _, rest = text.partition(".")
    if kind not in KINDS or rest.rpartition(".")[2] not in {*INTERVALS, "summary"}:
        assert not is_topic(text)


@pytest.mark.parametrize("code", ["FORBIDDEN", "TOO_MANY_SUBSCRIPTIONS", "INVALID_CHANNEL"])
def test_a_topic_that_is_refused_is_a_failed_subscription(code: str) -> None:
    """A well-formed topic is never called invalid, whatever it is refused for."""
    frame = DIALECT.encode(Subscribed((), 0, (Rejection("stock.A.1m", code, "why"),)), NOW)

    assert frame is not None
    assert '"error_code":"subscription_failed","error_message":"订阅失败: stock.A.1m"' in frame.text


def test_what_the_source_does_not_take_on_is_refused() -> None:
    """The source is asked about topics only, and its no is a refusal."""
    asked: list[str] = []

    def refuse(topic: str) -> bool:
        asked.append(topic)
        return False

    dialect = ChronoRetrace(refuse)
    for name in ("stock.A.1m", "stock_data", f"stock.{'x' * 300}.1m"):
        with pytest.raises(InvalidChannel):
            dialect.pattern(name)

    assert asked == ["stock.A.1m"]


@pytest.mark.parametrize(
    "reply",
    [Gap(3), Status("c-1", None, 1703836800.0, (), 0, 0)],
    ids=lambda reply: type(reply).__name__,
)
def test_what_the_page_has_no_word_for_is_not_sent(reply: ServerMessage) -> None:
    """There are no gaps and statuses."""
    assert DIALECT.encode(reply, NOW) is None


@pytest.mark.parametrize("wall", [1703836800.0, 1703836800.5, 0.1])
def test_timestamps_have_six_fraction_digits(wall: float) -> None:
    """Also on the full second."""
    frame = DIALECT.encode(Pong(), Instant(0.0, wall))

    assert frame is not None
    assert len(frame.text) == len('{"type":"pong","timestamp":"2023-12-29T16:00:00.000000"}')


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"subscribe","topic":"\\ud800"}',
        '{"type":"ping","x":NaN}',
        '{"type":"ping","type":"pong"}',
        "[" * 60_000,
        f'{{"type":"ping","x":{"[" * 30_000}{"]" * 30_000}}}',
        "\ud800",
        b"\xff\x00",
    ],
    ids=lambda frame: ascii(frame[:20]),
)
def test_decoding_never_raises(frame: str | bytes) -> None:
    """Whatever comes, it is one command."""
    [command] = DIALECT.decode(frame)

    assert isinstance(command, Malformed)
