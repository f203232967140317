from __future__ import annotations

from typing import Any, Final

import pytest

from tests.protocols.golden import NOW, neutral, publication, vectors
from wsbus.core.channels import parse_channel
from wsbus.core.errors import InvalidChannel, UsageError
from wsbus.core.limits import MAX_DEPTH
from wsbus.core.messages import (
    Gap,
    Greeting,
    Malformed,
    Publication,
    ServerMessage,
    Status,
    Unsubscribed,
)
from wsbus.protocols import Native, WireProtocol, ZigQuant, protocol, register

DIALECT: Final = protocol("zigquant-v2")


@pytest.mark.parametrize(("means", "text"), vectors("zigquant-v2", "means"))
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """Each sample of a client's message means what the page says."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(("says", "text"), vectors("zigquant-v2", "says"))
def test_replies_are_word_for_word(says: dict[str, Any], text: str) -> None:
    """Each sample of a reply is sent byte for byte, keys in the page's order."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.is_text
    assert frame.text == text


def test_a_reason_has_no_place() -> None:
    """What the application takes away is told as after a refresh: old clients see nothing new."""
    with_reason = DIALECT.encode(Unsubscribed(("room.1",), 2, reason="banned"), NOW)
    without = DIALECT.encode(Unsubscribed(("room.1",), 2), NOW)

    assert with_reason is not None
    assert without is not None
    assert with_reason.text == without.text


@pytest.mark.parametrize(("publishes", "text"), vectors("zigquant-v2", "publishes"))
def test_events_are_word_for_word(publishes: dict[str, str], text: str) -> None:
    """Each sample event is sent byte for byte, its data as it was accepted."""
    assert DIALECT.encode_publication(publication(publishes)).text == text


@pytest.mark.parametrize(
    "reply",
    [
        Greeting("c-1", "u1", 30.0, 60.0),
        Gap(3),
        Status("c-1", "u1", 1703836800.0, (), 0, 0),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_the_page_has_no_word_for_is_not_sent(reply: ServerMessage) -> None:
    """A reply whose type is not on the page has no frame."""
    assert DIALECT.encode(reply, NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"publish","channel":"a","data":1}',
        '{"type":"get_status"}',
        '{"type":"subscribed"}',
        '{"type":"event"}',
        '{"type":""}',
        '{"type":"PING"}',
    ],
)
def test_types_that_are_not_on_the_page_are_unknown(text: str) -> None:
    """A type that no client may send, or none at all, is an unknown type."""
    [command] = DIALECT.decode(text)

    assert isinstance(command, Malformed)
    assert (command.code, command.ref, command.is_call) == ("UNKNOWN_TYPE", None, False)


def test_one_frame_is_one_message() -> None:
    """Two messages in one frame are not understood."""
    [command] = DIALECT.decode('{"type":"ping"}\n{"type":"ping"}')

    assert isinstance(command, Malformed)
    assert command.code == "INVALID_MESSAGE"


def test_timestamps_are_the_nearest_millisecond() -> None:
    """Seconds become whole milliseconds, neither cut off nor with a fraction."""
    published = Publication(parse_channel("a"), "e", b"1", 1703836800.1239)

    assert b'"timestamp":1703836800124,' in DIALECT.encode_publication(published).payload


def test_names_mean_what_the_wildcard_table_says() -> None:
    """Only ``*`` is a wildcard, and no wildcard is a channel."""
    assert DIALECT.pattern("grid.*").matches("grid.abc.status")
    for name in ("grid.+", "a..b", "a b", "", ".".join("a" * 17), "a*"):
        with pytest.raises(InvalidChannel):
            DIALECT.pattern(name)
    assert DIALECT.channel("system.health") == "system.health"
    for name in ("grid.*", "grid.+", "*"):
        with pytest.raises(InvalidChannel):
            DIALECT.channel(name)


def test_it_is_text_and_frames_are_not_joined() -> None:
    """The dialect is text, one message a frame."""
    assert (DIALECT.name, DIALECT.binary, DIALECT.joins) == ("zigquant-v2", False, False)


# --- the registry -----------------------------------------------------------------------------


class Named(ZigQuant):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_a_dialect_is_found_by_name_and_stands_for_itself() -> None:
    """Where a name may stand, the object may stand."""
    unregistered = Named("elsewhere")

    assert isinstance(protocol("zigquant-v2"), ZigQuant)
    assert isinstance(protocol("wsbus.v1"), Native)
    assert protocol(unregistered) is unregistered


def test_an_unknown_name_is_the_callers_fault() -> None:
    """Asking for a protocol that nobody registered names those there are."""
    with pytest.raises(
        UsageError, match=r"'v3'; there are wsbus\.v1, wsbus\.v1\.msgpack, .*, zigquant-v2"
    ):
        protocol("v3")


@pytest.mark.parametrize("name", ["", "a b", "a,b", "频道", 'a"'])
def test_a_name_must_fit_in_the_handshake(name: str) -> None:
    """What is no subprotocol token is not registered."""
    with pytest.raises(UsageError, match="not a subprotocol token"):
        register(Named(name))


def test_a_name_belongs_to_one_dialect() -> None:
    """A taken name is refused to another dialect, and no news to its owner."""
    register(DIALECT)
    with pytest.raises(UsageError, match="another protocol"):
        register(Named("zigquant-v2"))

    assert protocol("zigquant-v2") is DIALECT


def test_an_unfinished_dialect_cannot_be_made() -> None:
    """A class without all three translations has no instances."""

    class Mute(WireProtocol):
        name = "mute"

    with pytest.raises(TypeError, match="abstract"):
        Mute()  # type: ignore[abstract]


def test_depth_counts_the_message_itself() -> None:
    """64 levels are read, the message being one of them; 65 are not."""
    for levels, kind in ((MAX_DEPTH, "Command"), (MAX_DEPTH + 1, "Malformed")):
        params = "[" * (levels - 1) + "]" * (levels - 1)
        [command] = DIALECT.decode(f'{{"type":"command","action":"a","params":{params}}}')

        assert type(command).__name__ == kind
