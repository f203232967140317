from __future__ import annotations

import json
from itertools import islice
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.golden import NOW, neutral, publication, vectors
from wsbus.core.channels import parse_channel
from wsbus.core.events import ChannelLoss, GapCause
from wsbus.core.frame import Frame, join_lines
from wsbus.core.messages import (
    Auth,
    AuthAccepted,
    AuthRefused,
    Command,
    Excess,
    Gap,
    GetStatus,
    Greeting,
    Malformed,
    Ping,
    Pong,
    Publication,
    Publish,
    Refused,
    Rejection,
    Request,
    Response,
    ServerMessage,
    Status,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from wsbus.protocols import protocol
from wsbus.protocols.registry import single, spoken

DIALECT: Final = protocol("wsbus.v1")
ZIGQUANT: Final = protocol("zigquant-v2")

# Text that msgspec yields: anything but lone surrogates.
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
REFS: Final = st.none() | TEXTS
NAMES: Final = st.lists(TEXTS, max_size=4).map(tuple)
COUNTS: Final = st.integers(0, 2**40)
SECONDS: Final = st.floats(0, 4e9)
JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
DATA: Final = JSON.map(lambda value: compact(value).encode())

COMMANDS: Final[st.SearchStrategy[Request]] = st.one_of(
    st.builds(Auth, TEXTS, REFS),
    st.builds(Subscribe, NAMES, REFS),
    st.builds(Unsubscribe, NAMES, REFS),
    st.builds(Command, TEXTS, DATA, REFS),
    st.builds(Publish, TEXTS, TEXTS, DATA, REFS),
    st.builds(Ping, REFS),
    st.builds(Pong, REFS),
    st.builds(GetStatus, REFS),
)
REPLIES: Final[st.SearchStrategy[ServerMessage]] = st.one_of(
    st.builds(Greeting, TEXTS, REFS, st.none() | SECONDS, st.none() | SECONDS),
    st.builds(AuthAccepted, TEXTS, st.none() | SECONDS, REFS),
    st.builds(AuthRefused, TEXTS, TEXTS, REFS),
    st.builds(
        Subscribed,
        NAMES,
        COUNTS,
        st.lists(st.builds(Rejection, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple),
        REFS,
    ),
    st.builds(Unsubscribed, NAMES, COUNTS, REFS),
    st.builds(Response, DATA, REFS),
    st.builds(Refused, TEXTS, TEXTS, REFS, st.booleans()),
    st.builds(Ping, REFS),
    st.builds(Pong, REFS),
    st.builds(Gap, COUNTS),
    st.builds(Status, TEXTS, REFS, SECONDS, NAMES, COUNTS, COUNTS, REFS),
)


def compact(value: object) -> str:
    """Encode as the standard library does, as an oracle of its own."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def typed(command: Request) -> str:
    """Write a command as a client would."""
    body = body_of(command)
    if command.ref is not None:
        body["id"] = command.ref
    return compact(body)


def body_of(command: Request) -> dict[str, Any]:
    """Return what a client would say, but for the id."""
    match command:
        case Auth(token):
            return {"type": "auth", "token": token}
        case Subscribe(names):
            return {"type": "subscribe", "channels": names}
        case Unsubscribe(names):
            return {"channels": names, "type": "unsubscribe"}
        case Command(action, params):
            return {"type": "command", "action": action, "params": json.loads(params)}
        case Publish(channel, event, data):
            given = json.loads(data)
            return {"type": "publish", "channel": channel, "event": event, "data": given}
        case Ping():
            return {"type": "ping"}
        case Pong():
            return {"type": "pong"}
        case _:
            return {"type": "get_status"}


def parsed(command: Request) -> Request:
    """Return the command with its data as a value, since numbers have several spellings."""
    match command:
        case Publish(channel, event, data, ref):
            return Publish(channel, event, repr(json.loads(data)).encode(), ref)
        case _:
            return command


@pytest.mark.parametrize(
    ("means", "text"), vectors("zigquant-v2", "means") + vectors("wsbus.v1", "means")
)
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """Each sample of a client's message, those of zigquant-v2 too, means what it should."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(
    ("says", "text"), vectors("zigquant-v2", "says") + vectors("wsbus.v1", "says")
)
def test_replies_are_word_for_word(says: dict[str, Any], text: str) -> None:
    """Each sample of a reply, those of zigquant-v2 too, is sent byte for byte."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.text == text


@pytest.mark.parametrize(
    ("publishes", "text"), vectors("zigquant-v2", "publishes") + vectors("wsbus.v1", "publishes")
)
def test_events_are_word_for_word(publishes: dict[str, Any], text: str) -> None:
    """Each sample event is sent byte for byte, those of zigquant-v2 as there.

    protocol.md: an event of a channel with history carries its position; ``previous`` is absent
    if there is none in the same epoch.
    """
    assert DIALECT.encode_publication(publication(publishes)).text == text


def test_a_gap_names_at_most_sixteen_channels() -> None:
    """protocol.md: ``data.channels`` is absent if more than 16 are concerned."""
    losses = {f"a.{n}": ChannelLoss(1) for n in range(17)}
    frames = [
        DIALECT.encode(Gap(17, channels=dict(list(losses.items())[:count])), NOW)
        for count in (16, 17)
    ]
    some, many = [json.loads(frame.payload)["data"] for frame in frames if frame is not None]

    assert [each["channel"] for each in some["channels"]] == [f"a.{n}" for n in range(16)]
    assert many == {"lost": 17}


@pytest.mark.parametrize(
    ("cause", "data"),
    [
        (GapCause.SERVER, b'{"lost":3}'),
        (GapCause.BROKER, b'{"lost":3,"cause":"broker"}'),
    ],
)
def test_a_gap_names_its_cause_unless_it_is_the_queue(cause: GapCause, data: bytes) -> None:
    """protocol.md: ``data.cause`` is absent if the queue of this client was full."""
    frame = DIALECT.encode(Gap(3, cause), NOW)

    assert frame is not None
    assert frame.payload.endswith(b'"data":' + data + b"}")


@given(COMMANDS)
def test_decoding_undoes_what_a_client_wrote(command: Request) -> None:
    """Each command, written by an independent encoder, is read back as itself."""
    [decoded] = DIALECT.decode(typed(command))

    assert parsed(decoded) == parsed(command)


@given(st.lists(COMMANDS, min_size=1, max_size=6))
def test_joined_messages_are_read_one_by_one(commands: list[Request]) -> None:
    """Joining frames by lines and decoding them gives each frame's command, in order."""
    frames = [Frame(typed(command).encode()) for command in commands]
    alone = [command for frame in frames for command in DIALECT.decode(frame.text)]

    joined = [command for frame in join_lines(frames) for command in DIALECT.decode(frame.text)]

    assert joined == alone
    assert len(joined) == len(commands)


@given(REPLIES)
def test_every_reply_is_one_line_of_json(reply: ServerMessage) -> None:
    """A reply is one compact JSON object on one line, which is what joining relies on."""
    frame = DIALECT.encode(reply, NOW)

    assert frame is not None
    assert b"\n" not in frame.payload
    body = json.loads(frame.payload)
    assert frame.text.startswith('{"type":"')
    assert body["timestamp"] == 1703836800000
    assert body.get("id") == getattr(reply, "ref", None)
    assert None not in body.values() or isinstance(reply, Response)


@given(REPLIES)
def test_the_dialects_agree_on_what_both_can_say(reply: ServerMessage) -> None:
    """What zigquant-v2 has a word for, wsbus.v1 says in the same words."""
    shorter, longer = ZIGQUANT.encode(reply, NOW), DIALECT.encode(reply, NOW)

    assert longer is not None
    if isinstance(reply, Greeting | Gap | Status):
        assert shorter is None
    else:
        assert shorter is not None
        assert shorter.text == longer.text


@given(TEXTS, DATA, SECONDS)
def test_an_event_carries_the_data_as_accepted(event: str, data: bytes, at: float) -> None:
    """The frame of a publication is its envelope around the very bytes, on one line."""
    published = Publication(parse_channel("贵州.茅台"), event, data, at)

    frame = DIALECT.encode_publication(published)

    assert frame.payload.endswith(b'"data":' + data + b"}")
    assert b"\n" not in frame.payload
    body = json.loads(frame.payload)
    assert list(body) == ["type", "channel", "event", "timestamp", "data"]
    assert (body["channel"], body["event"]) == ("贵州.茅台", event)
    assert abs(body["timestamp"] - at * 1000) <= 0.5


@pytest.mark.parametrize("frame", ["\n", "\n\n \r\n\t", " \n"])
def test_a_frame_without_a_message_is_malformed_once(frame: str) -> None:
    """Blank lines are passed over, but a frame of nothing else counts as a bad message."""
    [command] = DIALECT.decode(frame)

    assert isinstance(command, Malformed)
    assert command.code == "INVALID_MESSAGE"


def test_a_bad_line_harms_no_other() -> None:
    """Each line is judged for itself."""
    kinds = [type(c) for c in DIALECT.decode('{"type":"ping"}\nnonsense\n{"type":"pong"}')]

    assert kinds == [Ping, Malformed, Pong]


def test_white_space_is_what_json_says() -> None:
    """A line of other white space is not blank but a bad message."""
    kinds = [type(command) for command in DIALECT.decode('\u2003\n{"type":"ping"}')]

    assert kinds == [Malformed, Ping]


def test_lines_are_cut_at_newlines_only() -> None:
    """Line separators of Unicode, which JSON text may hold, do not end a message."""
    [command] = DIALECT.decode('{"type":"ping","id":"\u2028\u0085"}\n')

    assert command == Ping("\u2028\u0085")


def test_lines_are_decoded_as_they_are_asked_for() -> None:
    """The caller may stop after any line; the rest of a frame costs nothing until then."""
    commands = iter(DIALECT.decode('{"type":"ping"}\n' * 4000))

    assert list(islice(commands, 2)) == [Ping(), Ping()]
    assert sum(1 for _ in commands) == 3998


def test_a_frame_is_cut_as_it_is_decoded() -> None:
    """Cutting gives the messages one by one: lines that are not blank, at least one message."""
    assert list(DIALECT.split('{"type":"ping"}')) == ['{"type":"ping"}']
    assert list(DIALECT.split(" \n{}\n\r\n\t0 \n")) == ["{}", "0 "]
    assert list(DIALECT.split("\n \n")) == [""]
    assert list(DIALECT.split(b"\n")) == [b"\n"]


@pytest.mark.parametrize("frame", ["\n" * 65536, "\n" * 65535 + "0", " \r\n" * 21845])
def test_blank_lines_cost_no_python(frame: str) -> None:
    """A frame of blank lines is one message, found in one step of the iteration."""
    assert len(list(DIALECT.split(frame))) == 1


@given(COMMANDS)
def test_a_glance_sees_what_a_refusal_needs(command: Request) -> None:
    """The ``id`` of a message, and whether a response answers it, as decoding would find them."""
    excess = DIALECT.glance(typed(command))

    assert excess.ref == command.ref
    assert excess.is_call == (isinstance(command, Command | Publish) and command.ref is not None)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "0",
        "[",
        b"{}",
        '["id"]',
        '{"id":5}',
        '{"id":"\\ud800"}',
        '{"id":"\ud800"}',
        '{"id":"1"',
        '{"id":"1","x":' + "[" * 30000,
        '{"x":{"id":"1"}}',
    ],
)
def test_a_glance_never_raises(message: str | bytes) -> None:
    """What cannot be read at a glance has no ``id``."""
    assert DIALECT.glance(message) == Excess()


def test_connected_tells_the_limits() -> None:
    """protocol.md: ``data`` holds limits after ``timeout``; a rate that is off is absent."""
    told = Greeting("c", None, 30.0, 60.0, 65536, 128, 100.0, 2.5)
    frame, off = DIALECT.encode(told, NOW), DIALECT.encode(Greeting("c", None, 30, 60, 1, 2), NOW)

    assert frame is not None
    assert off is not None
    assert frame.text.endswith(
        '"timeout":60,"max_message_bytes":65536,"max_names":128,'
        '"messages_per_second":100,"commands_per_second":2.5}}'
    )
    assert off.text.endswith('"timeout":60,"max_message_bytes":1,"max_names":2}}')


def test_one_message_a_frame_is_the_same_dialect() -> None:
    """``wsbus.v1.single`` reads and says the same, and there is one of it."""
    variant = protocol("wsbus.v1.single")
    status = Status("c", None, 1.0, ("a",), 0, 0)

    assert (variant.name, variant.joins, DIALECT.joins) == ("wsbus.v1.single", False, True)
    assert single(DIALECT) is variant
    assert list(variant.decode("0\n0")) == list(DIALECT.decode("0\n0"))
    for reply in (Pong("1"), Gap(3), status):
        one, other = variant.encode(reply, NOW), DIALECT.encode(reply, NOW)
        assert one is not None
        assert other is not None
        assert one.text == other.text
    assert variant.pattern("a.+") == DIALECT.pattern("a.+")


def test_an_endpoint_speaks_each_dialect_that_joins_without_joining_too() -> None:
    """protocol.md: offer ``wsbus.v1.single``. What is given comes first, and nothing twice."""
    variant = single(DIALECT)
    joined = spoken((ZIGQUANT, DIALECT), joins=True)
    unjoined = spoken((DIALECT, ZIGQUANT), joins=False)

    assert joined == (ZIGQUANT, DIALECT, variant)
    assert [(d.name, d.joins) for d in unjoined] == [
        ("wsbus.v1", False),
        ("zigquant-v2", False),
        ("wsbus.v1.single", False),
    ]
    assert spoken((DIALECT, ZIGQUANT), joins=False) == unjoined
    assert spoken(unjoined, joins=True) == unjoined
    assert spoken((variant, DIALECT), joins=True) == (variant, DIALECT)
    assert spoken((variant,), joins=True) == (variant,)


def test_plus_is_a_wildcard() -> None:
    """``+`` is a whole segment that matches one."""
    assert DIALECT.pattern("grid.+").matches("grid.abc")
    assert not DIALECT.pattern("grid.+").matches("grid.abc.status")


def test_it_is_text_and_joins_frames() -> None:
    """The dialect is text, and several messages may share a frame."""
    assert (DIALECT.name, DIALECT.binary, DIALECT.joins) == ("wsbus.v1", False, True)
