from __future__ import annotations

import json
import logging
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.servers import JSON_PROTOCOLS
from wsbus.client.dialects import dialect
from wsbus.core import messages
from wsbus.core.channels import parse_channel
from wsbus.core.client.actions import Admitted
from wsbus.core.errors import UsageError
from wsbus.core.events import ChannelLoss, Position
from wsbus.core.frame import join_lines
from wsbus.core.instant import Instant
from wsbus.core.messages import Publication, Request, ServerMessage
from wsbus.core.packing import pack_json
from wsbus.protocols import protocol

NOW: Final = Instant(1.0, 1_700_000_000.25)
COMMANDS: Final[list[Request]] = [
    messages.Auth("t", "1"),
    messages.Subscribe(("a.*", "b"), "2"),
    messages.Unsubscribe(("a.*",), "3"),
    messages.Command("run", b'{"x":[1,2.5,null,"\xc3\xa9"]}', "4"),
    messages.Command("run"),
    messages.Ping("5"),
    messages.Pong(),
]
RICH_COMMANDS: Final[list[Request]] = [
    messages.Publish("a.b", "tick", b"[1]", "6"),
    messages.GetStatus("7"),
]
REPLIES: Final[list[ServerMessage]] = [
    messages.AuthRefused("expired", ref="1"),
    messages.Subscribed(("a.*",), 1, (messages.Rejection("b", "FORBIDDEN", "no"),), "2"),
    messages.Unsubscribed(("a.*",), 0),
    messages.Response(b'{"x":[1,2.5,null]}', "3"),
    messages.Response(b"null", "3"),
    messages.Refused("NO", "never", "4", is_call=True),
    messages.Refused("NO", "never", "4"),
    messages.Refused("NO", "never"),
    messages.Ping(),
    messages.Pong("5"),
]
RICH_REPLIES: Final[list[ServerMessage]] = [
    messages.Greeting("c1", "u1", 30, 60),
    messages.Greeting("c1", None, None, None),
    messages.Gap(3),
    messages.Gap(None),
    messages.Gap(3, channels={"a": ChannelLoss(2, Position("e", 41)), "b": ChannelLoss(1)}),
    messages.Status("c1", "u1", 1_700_000_000.5, ("a.*",), 7, 1, "6"),
]


def heard(name: str, text: str) -> list[Any]:
    """Return what the client hears in a frame."""
    return list(dialect(name).decode(text))


@pytest.mark.parametrize("name", JSON_PROTOCOLS)
def test_the_server_understands_what_the_client_says(name: str) -> None:
    """Every command arrives as it was meant."""
    speaks = dialect(name)
    for command in COMMANDS + (RICH_COMMANDS if speaks.is_rich else []):
        assert list(protocol(name).decode(speaks.encode(command).decode())) == [command]


@pytest.mark.parametrize("name", JSON_PROTOCOLS)
def test_the_client_understands_what_the_server_says(name: str) -> None:
    """Every reply arrives as it was meant, but for what only a clock could tell."""
    for reply in REPLIES + (RICH_REPLIES if dialect(name).is_rich else []):
        frame = protocol(name).encode(reply, NOW)
        assert frame is not None
        assert heard(name, frame.text) == [reply]


@pytest.mark.parametrize(("expires_at", "lifetime"), [(None, None), (NOW.wall + 90, 90), (1, 0)])
def test_a_lifetime_goes_by_the_servers_clock(
    expires_at: float | None, lifetime: float | None
) -> None:
    """The moment of expiry is read against the time of the message, not this machine's."""
    frame = protocol("wsbus.v1").encode(messages.AuthAccepted("u1", expires_at, "1"), NOW)
    assert frame is not None

    assert heard("wsbus.v1", frame.text) == [Admitted("u1", lifetime, "1")]


@pytest.mark.parametrize("name", JSON_PROTOCOLS)
def test_a_publication_arrives(name: str) -> None:
    """Channel, event, time and data are those that were published."""
    publication = Publication(parse_channel("a.b"), "tick", b'{"x":"\xc3\xa9"}', NOW.wall)
    (delivery,) = heard(name, protocol(name).encode_publication(publication).text)

    assert isinstance(delivery, Publication)
    assert (delivery.channel, delivery.event, delivery.timestamp) == ("a.b", "tick", NOW.wall)
    assert (delivery.data, delivery.size) == (b'{"x":"\xc3\xa9"}', 10)


POSITIONS: Final = st.builds(Position, st.sampled_from(["e1", "e2"]), st.integers(0, 1 << 53))


@given(POSITIONS, st.none() | POSITIONS)
def test_a_publication_arrives_with_its_position(
    position: Position, previous: Position | None
) -> None:
    """protocol.md: a position, and that of the publication before it in the same epoch."""
    sent = Publication(
        parse_channel("a"), "tick", b"1", NOW.wall, position=position, previous=previous
    )
    frame = protocol("wsbus.v1").encode_publication(sent)
    (heard_of,) = heard("wsbus.v1", frame.text)

    assert heard_of.position == position
    is_same = previous is not None and previous.epoch == position.epoch
    assert heard_of.previous == (previous if is_same else None)


def test_positions_are_for_clients_that_know_them() -> None:
    """protocol.md: only in ``wsbus.v1``."""
    sent = Publication(parse_channel("a"), "tick", b"1", NOW.wall, position=Position("e", 1))

    assert "position" not in protocol("zigquant-v2").encode_publication(sent).text


def test_a_frame_may_hold_many_messages() -> None:
    """In wsbus.v1 lines are messages, and one that is not understood hides none of the others."""
    frames = [protocol("wsbus.v1").encode(reply, NOW) for reply in REPLIES + RICH_REPLIES]
    (joined,) = join_lines([frame for frame in frames if frame is not None])

    assert heard("wsbus.v1", joined.text) == REPLIES + RICH_REPLIES
    assert heard("wsbus.v1", joined.text + '\n{"type":"later"}\n\n{"type":') == (
        REPLIES + RICH_REPLIES
    )


@pytest.mark.parametrize("name", JSON_PROTOCOLS)
def test_what_is_new_is_passed_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Types and keys that are not known are no errors: the server may be newer than the client."""
    assert heard(name, '{"type":"weather","data":{"x":1}}') == []
    assert heard(name, '{"type":"pong","id":"1","timestamp":1,"new":{}}') == [messages.Pong("1")]
    assert caplog.records == []


POISON: Final = [
    "",
    "nonsense",
    "[]",
    "1",
    "null",
    "{}",
    '{"type":1}',
    '{"type":"event"}',
    '{"type":"event","channel":1,"event":"e","data":1}',
    '{"type":"subscribed","id":"1","data":{"channels":[1]}}',
    '{"type":"gap","data":{"lost":"many"}}',
    '{"type":"response","id":1,"success":true}',
    '{"type":"response","id":"1","success":"yes"}',
    '{"type":"pong","id":"\\ud800"}',
    '{"type":"pong","timestamp":1e999}',
    "[" * 100_000,
    '{"type":"event","channel":"a","data":' + "[" * 100_000,
    '\n{"type":"event"}\nnull',
]


@pytest.mark.parametrize("name", JSON_PROTOCOLS)
@pytest.mark.parametrize("text", POISON, ids=range(len(POISON)))
def test_what_is_wrong_is_passed_over_and_logged(
    name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a server sends, decoding never raises; the log repeats nothing of it."""
    with caplog.at_level(logging.WARNING):
        assert heard(name, text) == []
    for record in caplog.records:
        assert "not understood" in record.getMessage()
        assert len(record.getMessage()) < 100


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "id", "data", "channel", "error", "success"]), children
            )
        ),
    )
)
def test_no_json_makes_it_raise(value: object) -> None:
    """Any JSON, also what is almost a message, is understood or passed over."""
    text = json.dumps(value)
    for name in JSON_PROTOCOLS:
        heard(name, text)
        heard(name, f"{text}\n{text}")


def test_names_that_are_too_long_are_no_events() -> None:
    """A name longer than any channel is passed over: it would only fill caches."""
    event = '{"type":"event","channel":"%s","event":"e","data":1}'

    assert heard("wsbus.v1", event % ("x" * 256)) == []
    assert len(heard("wsbus.v1", event % ("x" * 255))) == 1


def test_data_that_waits_holds_no_frame() -> None:
    """The data of an event is a copy: a frame of 64 KiB must not wait with it."""
    text = '{"type":"event","channel":"a","event":"e","data":[1, 2]}'
    (delivery,) = heard("zigquant-v2", text)

    assert type(delivery.data) is bytes
    assert delivery.data == b"[1, 2]"


def test_an_unknown_dialect_is_refused() -> None:
    """There are two."""
    with pytest.raises(UsageError, match=r"it speaks wsbus\.v1, wsbus\.v1\.msgpack, zigquant-v2"):
        dialect("soap")


def test_a_client_of_messagepack_is_understood() -> None:
    """protocol.md: the messages are those of ``wsbus.v1``, and arrive as they were meant."""
    speaks, server = dialect("wsbus.v1.msgpack"), protocol("wsbus.v1.msgpack")
    for request in COMMANDS + RICH_COMMANDS:
        if isinstance(request, messages.Command):
            params = pack_json(request.params)
            [found] = server.decode(speaks.encode(msgspec.structs.replace(request, params=params)))
            assert found == msgspec.structs.replace(request, params=params)
        elif isinstance(request, messages.Publish):
            sent = msgspec.structs.replace(request, data=pack_json(request.data))
            assert list(server.decode(speaks.encode(sent))) == [request]
        else:
            assert list(server.decode(speaks.encode(request))) == [request]
    for reply in REPLIES + RICH_REPLIES:
        frame = server.encode(reply, NOW)
        assert frame is not None
        expected: Any = reply
        if isinstance(reply, messages.Response):
            expected = msgspec.structs.replace(reply, data=pack_json(reply.data))
        assert list(speaks.decode(frame.payload)) == [expected]


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"\x01", b"\x80", b"\x81\xa4type\x01", b"\xc1", b"\xdd\xff\xff\xff\xff"),
        *(b"\x91" * 100_000, b"\x81\xa4type\xa5event", b"\x81\xa4type\xa1\xff"),
    ],
    ids=range(9),
)
def test_what_is_wrong_in_messagepack_is_passed_over(
    frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a server sends, decoding never raises; it is logged."""
    assert list(dialect("wsbus.v1.msgpack").decode(frame)) == []
    assert len(caplog.records) == 1
