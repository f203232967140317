from __future__ import annotations

import json
from typing import Any, Final

import pytest

from examples.laicai_stream import LaicaiStream
from tests.protocols.golden import NOW, neutral, publication, vectors
from wsbus.core.errors import InvalidChannel
from wsbus.core.messages import Gap, Greeting, Malformed, Refused, ServerMessage, Status

DIALECT: Final = LaicaiStream()


@pytest.mark.parametrize(("means", "text"), vectors("laicai", "means"))
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """What clients send in the scenes of the page is a ping, a pong, or nothing."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(("says", "text"), vectors("laicai", "says"))
def test_replies_are_word_for_word(says: dict[str, Any], text: str) -> None:
    """Ping and pong are sent byte for byte."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.is_text
    assert frame.text == text


@pytest.mark.parametrize(("publishes", "text"), vectors("laicai", "publishes"))
def test_events_are_word_for_word(publishes: dict[str, str], text: str) -> None:
    """An event is its type and its data, in one object."""
    frame = DIALECT.encode_publication(publication(publishes))

    assert frame.text == text
    assert json.loads(text) == {"type": publishes["event"]} | json.loads(publishes["data"])


@pytest.mark.parametrize(
    "reply",
    [
        Greeting("c-1", None, None, None),
        Gap(3),
        Refused("INVALID_MESSAGE", "not JSON"),
        Status("c-1", None, 1703836800.0, (), 0, 0),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_the_page_has_no_word_for_is_not_sent(reply: ServerMessage) -> None:
    """There are no greetings, gaps, errors and statuses."""
    assert DIALECT.encode(reply, NOW) is None


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "null",
        "NaN",
        '{"type":"PING"}',
        '{"type":"ping"',
        '{"Type":"ping"}',
        '{"type":null}',
        "\ud800",
        f'{{"type":"ping","x":1{"0" * 5000}}}',
        "[" * 60_000,
        f'{{"type":"ping","x":{"[" * 30_000}{"]" * 30_000}}}',
        b"\xff\x00",
    ],
    ids=lambda frame: ascii(frame[:20]),
)
def test_decoding_never_raises(frame: str | bytes) -> None:
    """Whatever comes, it is one command, and says nothing of the frame."""
    [command] = DIALECT.decode(frame)

    assert isinstance(command, Malformed)
    assert command.message in {"not JSON", "neither a ping nor a pong"}


def test_it_is_text_and_frames_are_not_joined() -> None:
    """The dialect is text, one message a frame."""
    assert (DIALECT.binary, DIALECT.joins) == (False, False)
    with pytest.raises(InvalidChannel):
        DIALECT.channel("a b")
