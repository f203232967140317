from __future__ import annotations

import inspect
import json
import sys
from typing import Final, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsbus.core.channels import parse_channel
from wsbus.core.frame import Frame
from wsbus.core.instant import Instant
from wsbus.core.messages import (
    Command,
    Malformed,
    Ping,
    Publication,
    Publish,
    Refused,
    Request,
    ServerMessage,
)
from wsbus.protocols import TaggedJson, TaggedMessage, WireProtocol, protocol

BOTH: Final = [protocol("wsbus.v1"), protocol("zigquant-v2")]
V1: Final = BOTH[0]
SECRET: Final = "eyJhbGciOiJIUzI1NiJ9"  # stands for a token that must not come back


def nested(levels: int) -> str:
    """Return arrays nested so deep."""
    return "[" * levels + "]" * levels


def call(params: str) -> str:
    """Return a command with the id ``c1``."""
    return f'{{"type":"command","id":"c1","action":"a","params":{params}}}'


# By what must be told: an error without an id, an error with the id "x1", a response to "c1".
WITHOUT_ID: Final = {
    "empty": "",
    "blank": "  ",
    "not JSON": "hello",
    "cut off": '{"type":"command","id":"c1"',
    "cut off after an unknown type": '{"type":"nope"',
    "trailing": '{"type":"ping"}{"type":"ping"}',
    "byte order mark": '\ufeff{"type":"ping"}',
    "array": '["ping"]',
    "text": '"ping"',
    "number": "1",
    "null": "null",
    "type is null": '{"type":null}',
    "type is a list": '{"type":["ping"]}',
    "two types": f'{{"type":"{SECRET}","type":"ping"}}',
    "token is a list": f'{{"type":"auth","token":["{SECRET}"]}}',
    "token of half a character": f'{{"type":"auth","token":"{SECRET}\\ud800"}}',
    "channels is text": f'{{"type":"subscribe","channels":"{SECRET}"}}',
    "channels is null": '{"type":"unsubscribe","channels":null}',
    "a channel is a number": '{"type":"subscribe","channels":["a",1]}',
    "channels in data": '{"type":"subscribe","data":{"channels":["a"]}}',
    "no action": '{"type":"command"}',
    "id of a command is a number": '{"type":"command","id":7,"action":"a"}',
    "id of a command is a list": '{"type":"command","id":["c1"],"action":"a"}',
    "id of half a character": '{"type":"command","id":"\\ud800","action":"a"}',
    "id of a ping is a number": '{"type":"ping","id":7}',
    "Infinity": '{"type":"ping","timestamp":-Infinity}',
    "leading zero": '{"type":"ping","timestamp":01}',
    "half a character in a key": '{"type":"ping","\\udfff":1}',
    "control character": '{"type":"ping","x":"\x00"}',
    "30,000 levels": call(nested(30_000)),
    "30,000 open": "[" * 30_000,
}
WITH_ID: Final = {
    "no type": '{"id":"x1","action":"a"}',
    "type is a number": '{"type":1,"id":"x1"}',
    "no token": '{"type":"auth","id":"x1"}',
    "no channels": '{"type":"subscribe","id":"x1"}',
    "65 levels": f'{{"type":"ping","id":"x1","x":{nested(64)}}}',
}
BY_RESPONSE: Final = {
    "no action": '{"type":"command","id":"c1"}',
    "action is null": '{"type":"command","id":"c1","action":null}',
    "5,000 digits, no action": f'{{"type":"command","id":"c1","timestamp":{"9" * 5000}}}',
    "NaN": call("NaN"),
    "half a character, escaped": call('"\\ud800"'),
    "half a character": call('"\ud800"'),
    "65 levels": call(nested(64)),
}
BAD: Final = [
    pytest.param(frame, ref, is_call, id=f"{name}, {ref}")
    for table, ref, is_call in (
        (WITHOUT_ID, None, False),
        (WITH_ID, "x1", False),
        (BY_RESPONSE, "c1", True),
    )
    for name, frame in table.items()
]

BAD_DATA: Final = [
    "1e999",
    "-1e999",
    '{"x":[1e999]}',
    "9" * 5000,
    "-" + "9" * 5000,
    "NaN",
    "Infinity",
    "01",
    "+1",
    ".5",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '{"\\ud800":1}',
    '"\ud800"',
    '"\udcff"',
    '"\x00"',
    '"\t"',
    "tru",
    "{",
    '"',
    "{'a':1}",
    "[1,]",
    nested(64),
    "[" + "1e300," * 128 + "1e300]",
    "[" + "[]," * 16_384 + "[]]",
    "[" + ",".join(["9" * 4_000] * 5) + "]",
]


@pytest.mark.parametrize("dialect", BOTH, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(("frame", "ref", "is_call"), BAD)
def test_bad_messages_are_told_to_whom_it_concerns(
    dialect: WireProtocol, frame: str, ref: str | None, *, is_call: bool
) -> None:
    """What cannot be understood is answered by its id if it has one, and never repeated."""
    [command] = dialect.decode(frame)

    assert isinstance(command, Malformed)
    assert (command.code, command.ref, command.is_call) == ("INVALID_MESSAGE", ref, is_call)
    assert command.message
    assert SECRET not in command.message


@pytest.mark.parametrize(
    ("frame", "ref"),
    [
        (f'{{"type":"{SECRET}","id":"x1"}}', "x1"),
        (f'{{"id":7,"type":"{SECRET}"}}', None),
        (f'{{"type":"ping","type":"{SECRET}"}}', None),
    ],
)
def test_unknown_types_are_not_repeated(frame: str, ref: str | None) -> None:
    """An unknown type is told by its code alone."""
    for dialect in BOTH:
        [command] = dialect.decode(frame)

        assert isinstance(command, Malformed)
        assert (command.code, command.ref, command.is_call) == ("UNKNOWN_TYPE", ref, False)
        assert SECRET not in command.message


@pytest.mark.parametrize(
    ("frame", "place"),
    [
        ('{"type":"subscribe","channels":["a",1]}', "$.channels[1]"),
        ('{"type":"subscribe"}', "`channels`"),
        ('{"type":"command","action":1}', "$.action"),
        ('{"type":"ping","id":1}', "$.id"),
    ],
)
def test_a_wrong_shape_is_told_by_its_place(frame: str, place: str) -> None:
    """The message for the client names the field that is wrong."""
    for dialect in BOTH:
        [command] = dialect.decode(frame)

        assert isinstance(command, Malformed)
        assert place in command.message


@pytest.mark.parametrize("data", BAD_DATA, ids=lambda data: ascii(data[:12]))
def test_poison_is_never_published(data: str) -> None:
    """Data that another client could not read is refused to the one who sent it."""
    [command] = V1.decode(f'{{"type":"publish","id":"p1","channel":"a","data":{data}}}')

    assert isinstance(command, Malformed)
    assert (command.code, command.is_call) == ("INVALID_MESSAGE", command.ref == "p1")


@pytest.mark.parametrize("data", BAD_DATA, ids=lambda data: ascii(data[:12]))
def test_poison_in_params_raises_nothing(data: str) -> None:
    """Params that are no good are refused at once, or left to the command's own types."""
    for dialect in BOTH:
        [command] = dialect.decode(call(data))

        assert isinstance(command, Command | Malformed)


@pytest.mark.parametrize(
    "data",
    [
        '"\\n"',
        '"\\u2028"',
        '"\\u0000"',
        "9" * 4000,
        "1e308",
        "-0.0",
        "1E-999",
        '{"a":1,"a":2}',
        nested(63),
    ],
    ids=lambda data: ascii(data[:12]),
)
def test_what_is_odd_but_sound_is_published_on_one_line(data: str) -> None:
    """Odd data comes back from an event as an independent parser reads it."""
    [command] = V1.decode(f'{{"type":"publish","channel":"a","data":{data}}}')

    assert isinstance(command, Publish)
    payload = V1.encode_publication(
        Publication(parse_channel("a"), command.event, command.data, 0.0)
    ).payload
    assert b"\n" not in payload
    assert json.loads(payload)["data"] == json.loads(data)


@pytest.mark.parametrize("field", ["channel", "data"])
def test_publish_needs_channel_and_data(field: str) -> None:
    """A publish without one of them is refused, by a response if it has an id."""
    body = {"type": "publish", "id": "p1", "channel": "a", "data": 1}
    del body[field]
    [command] = V1.decode(json.dumps(body))

    assert isinstance(command, Malformed)
    assert (command.code, command.ref, command.is_call) == ("INVALID_MESSAGE", "p1", True)
    assert f"`{field}`" in command.message


@pytest.mark.parametrize("frame", [b"", b'{"type":"ping"}', b'{"data":{"x":"\xff"}}'])
def test_binary_is_no_message(frame: bytes) -> None:
    """A binary frame is malformed, even if it would be a message as text."""
    for dialect in BOTH:
        [command] = dialect.decode(frame)

        assert isinstance(command, Malformed)
        assert command.code == "INVALID_MESSAGE"


def test_a_caller_deep_in_its_stack_gets_an_answer() -> None:
    """Where the interpreter's own limit strikes first, a message of legal depth raises nothing."""

    def dive(levels: int) -> list[Request]:
        return dive(levels - 1) if levels else list(V1.decode(call(nested(60))))

    # On Python 3.11 the frames of the stack and the levels of the message share one limit.
    [command] = dive(sys.getrecursionlimit() - len(inspect.stack(0)) - 40)

    assert isinstance(command, Command | Malformed)


def test_an_enumerated_code_is_sent_as_its_text() -> None:
    """A refusal made from a malformed message can be said by both dialects."""
    for dialect in BOTH:
        [command] = dialect.decode("")
        assert isinstance(command, Malformed)

        frame = dialect.encode(Refused(command.code, command.message), Instant(0.0, 0.0))

        assert frame is not None
        assert json.loads(frame.payload)["error"]["code"] == "INVALID_MESSAGE"


# --- anything at all --------------------------------------------------------------------------

WORDS: Final = ["type", "id", "channels", "token", "action", "params", "channel", "event", "data"]
TYPES: Final = ["auth", "subscribe", "unsubscribe", "command", "publish", "ping", "get_status"]
TEXTS: Final = st.text(max_size=8) | st.sampled_from(TYPES)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS) | TEXTS, inner),
    max_leaves=12,
)
MESSAGES: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | VALUES},
    optional={word: VALUES for word in WORDS if word != "type"},
)
SURROGATES: Final = st.characters(categories=["Cs"])


def all_commands(frame: str | bytes) -> list[Request]:
    """Decode in both dialects; each must yield at least one command."""
    decoded = [list(dialect.decode(frame)) for dialect in BOTH]

    assert all(decoded)
    return [command for commands in decoded for command in commands]


def assert_sound(command: Request) -> None:
    """Assert that nothing in a command can harm whoever it is sent to."""
    assert isinstance(command, Request)
    if command.ref is not None:
        command.ref.encode()
    match command:
        case Malformed():
            assert command.code in {"INVALID_MESSAGE", "UNKNOWN_TYPE"}
            assert not command.is_call or command.ref is not None
        case Publish():
            command.data.decode()
            assert b"\n" not in command.data
            json.loads(command.data, parse_constant=pytest.fail)


@given(st.text() | st.text(SURROGATES) | st.binary())
@example("\ud800")
@example("{" * 70 + "\ud800")
@example('{"type":"ping"}\n\ud800')
def test_any_frame_is_understood_or_malformed(frame: str | bytes) -> None:
    """No text and no bytes make a dialect raise, or say nothing."""
    for command in all_commands(frame):
        assert_sound(command)


@given(VALUES | MESSAGES, st.booleans())
def test_any_json_is_understood_or_malformed(value: object, ascii_only: bool) -> None:
    """Nothing that Python calls JSON, NaN and lone surrogates included, makes a dialect raise."""
    for command in all_commands(json.dumps(value, ensure_ascii=ascii_only)):
        assert_sound(command)


@given(MESSAGES, st.data())
def test_any_damage_is_understood_or_malformed(value: object, data: st.DataObject) -> None:
    """A message with a piece replaced by anything makes no dialect raise."""
    text = json.dumps(value)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    piece = data.draw(st.sampled_from(["", "1e999", "\\ud800", "\ud800", "\n", "[", "}", '"']))
    for command in all_commands(text[:start] + piece + text[end:]):
        assert_sound(command)


class Pick(TaggedMessage, frozen=True, tag="pick"):
    """A message with one of two words."""

    word: Literal["a", "b"]

    def request(self) -> Request:
        """Return what the client wants."""
        return Ping()


class Picky(TaggedJson):
    """A dialect with that message only."""

    name = "picky"
    messages = (Pick,)

    def encode(self, reply: ServerMessage, at: Instant) -> None:
        """Say nothing."""

    def encode_publication(self, publication: Publication) -> Frame:
        """Say nothing in so many words."""
        return Frame(b"")


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: t not in {"a", "b"}))
@example("x' - at `$.word`")
@example('it\'s "quoted"')
def test_a_word_that_is_none_of_several_is_not_repeated(word: str) -> None:
    """The error of an enum names the place, and nothing of what was sent."""
    (command,) = Picky().decode(json.dumps({"type": "pick", "word": word}))

    assert isinstance(command, Malformed)
    assert command.message == "Invalid enum value - at `$.word`"
