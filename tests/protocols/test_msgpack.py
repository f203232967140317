from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.golden import NOW, neutral, vectors
from tests.protocols.test_native import JSON, TEXTS
from wsbus.core.channels import parse_channel
from wsbus.core.events import Position
from wsbus.core.messages import (
    Command,
    Excess,
    Malformed,
    Ping,
    Publication,
    Publish,
    Response,
)
from wsbus.core.packing import (
    MAX_SCANNED,
    InvalidPacked,
    Packed,
    is_plain,
    open_packed,
    pack,
    pack_json,
    text_of,
)
from wsbus.protocols import protocol

DIALECT: Final = protocol("wsbus.v1.msgpack")
NATIVE: Final = protocol("wsbus.v1")
MOMENTS: Final = st.integers(-(2**33), 2**33).map(
    lambda seconds: msgspec.convert(seconds, type(open_packed(b"\xd6\xff\0\0\0\0")), strict=False)
)
PACKABLE: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.binary(max_size=8)
    | MOMENTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
encode: Final = msgspec.msgpack.encode


def packed_of(text: str) -> bytes:
    """Return a frame of JSON as MessagePack."""
    return encode(json.loads(text))


def plain(request: Any) -> Any:
    """Return a request with its data as JSON, in a form that can be compared."""
    if isinstance(request, Command):
        data = request.params
        value = msgspec.msgpack.decode(data) if isinstance(data, Packed) else json.loads(data)
        return msgspec.structs.replace(request, params=json.dumps(value).encode())
    if isinstance(request, Publish):
        return msgspec.structs.replace(request, data=json.dumps(json.loads(request.data)).encode())
    return request


# --- the same messages ----------------------------------------------------------------------------


@pytest.mark.parametrize(("means", "text"), vectors("wsbus.v1", "means"))
def test_a_request_means_the_same(means: object, text: str) -> None:
    """protocol.md: the messages are those of ``wsbus.v1``, written as MessagePack."""
    for line in text.splitlines():
        try:
            frame = packed_of(line)
        except ValueError:
            continue
        [in_json], [in_msgpack] = NATIVE.decode(line), DIALECT.decode(frame)
        if isinstance(in_json, Malformed):
            assert isinstance(in_msgpack, Malformed)
            assert (in_msgpack.code, in_msgpack.ref) == (in_json.code, in_json.ref)
        else:
            assert plain(in_msgpack) == plain(in_json)


@given(JSON, TEXTS)
def test_what_the_server_says_means_the_same(data: Any, ref: str) -> None:
    """A reply and an event have the same fields in the same order."""
    text = msgspec.json.encode(data)
    at = Position("e", 3)
    publication = Publication(parse_channel("a"), "tick", text, NOW.wall, position=at)
    for in_json, in_msgpack in (
        (NATIVE.encode(Response(text, ref), NOW), DIALECT.encode(Response(text, ref), NOW)),
        (NATIVE.encode_publication(publication), DIALECT.encode_publication(publication)),
        (NATIVE.encode_latest(publication), DIALECT.encode_latest(publication)),
    ):
        assert in_json is not None
        assert in_msgpack is not None
        assert not in_msgpack.is_text
        # Whole numbers beyond 64 bits are floats, as in JavaScript.
        expected = msgspec.msgpack.decode(pack_json(in_json.payload))
        found = msgspec.msgpack.decode(in_msgpack.payload)
        assert found == expected
        assert list(found) == list(expected)


@pytest.mark.parametrize(("says", "text"), vectors("wsbus.v1", "says"))
def test_every_message_of_the_server_has_its_form(says: Any, text: str) -> None:
    """No message is missing, and none differs."""
    frame = DIALECT.encode(neutral(says), NOW)
    assert frame is not None
    assert msgspec.msgpack.decode(frame.payload) == json.loads(text)


# --- data -----------------------------------------------------------------------------------------


@given(PACKABLE)
def test_data_come_out_as_they_went_in(data: Any) -> None:
    """Publishing in this dialect and hearing in it changes nothing; JSON is what msgspec makes."""
    frame = encode({"type": "publish", "channel": "a", "data": data})
    [publish] = DIALECT.decode(frame)
    assert isinstance(publish, Publish)
    assert publish.data == msgspec.json.encode(data)
    publication = Publication(
        parse_channel("a"), publish.event, publish.data, NOW.wall, packed=publish.packed
    )
    event = msgspec.msgpack.decode(DIALECT.encode_publication(publication).payload)
    assert encode(event["data"]) == encode(data)


@given(PACKABLE)
def test_what_is_packed_says_more_than_json(data: Any) -> None:
    """A second form is made only of data that JSON would change."""
    text = msgspec.json.encode(data)
    packed = pack(data, text)
    if is_plain(data) or pack_json(text) == encode(data):
        assert packed is None
    else:
        assert packed == encode(data)


def test_raw_json_in_data_is_read() -> None:
    """A ``msgspec.Raw`` is JSON text: as MessagePack it would be something else."""
    data = {"raw": msgspec.Raw(b"5"), "bytes": bytearray(b"x"), 1: memoryview(b"y")}
    packed = pack(data, msgspec.json.encode(data))
    assert packed is not None
    assert open_packed(packed) == {"raw": 5, "bytes": b"x", "1": b"y"}


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 2**70])
def test_numbers_beyond_64_bits_are_floats(number: int) -> None:
    """protocol.md: MessagePack has no larger ones."""
    assert open_packed(pack_json(f"[{number}]".encode())) == [float(number)]


# --- bad input ------------------------------------------------------------------------------------


def of(data: bytes) -> bytes:
    """Return a publish request with these bytes as its data."""
    start = encode({"type": "publish", "id": "7", "channel": "a"})
    return bytes([start[0] + 1]) + start[1:] + encode("data") + data


BAD: Final = [
    pytest.param(of(b"\x91" * 64 + b"\xc0"), "nested", "7", id="deep"),
    pytest.param(of(b"\x91" * 60_000 + b"\xc0"), "nested", None, id="very-deep"),
    pytest.param(of(b"\xa1\xff"), "UTF-8", "7", id="not-utf-8"),
    pytest.param(of(b"\xd4\x05x"), "extension type 5", "7", id="extension"),
    pytest.param(of(b"\xc7\x03\xff\0\0\0"), "timestamp", "7", id="bad-timestamp"),
    pytest.param(of(b"\xd7\xff" + b"\xff" * 8), "nanoseconds", "7", id="nanoseconds"),
    pytest.param(of(b"\x82\xa1a\x01\xa1a\x02"), "key twice", "7", id="twice"),
    pytest.param(of(b"\x82\xa1a\x01\xd9\x01a\x02"), "key twice", "7", id="twice-differently"),
    pytest.param(
        b"\x84\xa4type\xa4ping\xa2id\xa17\xa1x\x01\xa1x\x02",
        "key twice",
        "7",
        id="twice-unknown",
    ),
    pytest.param(of(b"\x81\x01\x02"), "not a text", "7", id="number-as-key"),
    pytest.param(of(b"\x81\xc4\x01a\x02"), "not a text", "7", id="bytes-as-key"),
    pytest.param(of(b"\xcb\x7f\xf8" + b"\0" * 6), "finite", "7", id="nan"),
    pytest.param(of(b"\xca\x7f\x80\0\0"), "finite", "7", id="infinity"),
    pytest.param(of(b"\xdd\xff\xff\xff\xff"), "truncated", None, id="huge-array"),
    pytest.param(of(b"\xdf\xff\xff\xff\xff"), "truncated", None, id="huge-map"),
    pytest.param(of(b"\xdb\xff\xff\xff\xffx"), "truncated", None, id="huge-text"),
    pytest.param(of(b"\xc6\xff\xff\xff\xffx"), "truncated", None, id="huge-bytes"),
    pytest.param(of(b"\xc1"), "malformed", None, id="never-used"),
    pytest.param(of(b"\x01") + b"\x02", "trailing", None, id="trailing"),
    pytest.param(of(b"\xdc\x40\x01" + b"\x80" * 16_385), "arrays and maps", "7", id="crowd"),
    pytest.param(
        of(b"\xdc\x30\0" + b"\xcc\x01" * 0x3000), str(MAX_SCANNED), "7", id="not-the-shortest"
    ),
    pytest.param(encode({"type": "ping", "id": 5}), "Expected `str", None, id="id"),
    pytest.param(encode([1]), "Expected `object`", None, id="no-map"),
    pytest.param(b"", "truncated", None, id="empty"),
]


@pytest.mark.parametrize(("frame", "reason", "ref"), BAD)
def test_bad_input_is_refused_with_a_reason(frame: bytes, reason: str, ref: str | None) -> None:
    """protocol.md: the answer says what is wrong, and has the ``id`` where it can be read."""
    [request] = DIALECT.decode(frame)
    assert isinstance(request, Malformed)
    assert request.code == "INVALID_MESSAGE"
    assert reason in request.message
    assert request.ref == ref


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_refused(frame: bytes) -> None:
    """Decoding never raises, and gives one request."""
    assert len(list(DIALECT.decode(frame))) == 1
    assert isinstance(DIALECT.glance(frame), Excess)


@given(PACKABLE, st.data())
def test_broken_frames_are_refused_or_harmless(data: Any, more: st.DataObject) -> None:
    """A frame with a few bytes changed or cut off is refused, or its data fit into JSON."""
    frame = bytearray(of(encode(data)))
    for _ in range(more.draw(st.integers(0, 3))):
        frame[more.draw(st.integers(0, len(frame) - 1))] = more.draw(st.integers(0, 255))
    cut = bytes(frame[: more.draw(st.integers(0, len(frame)))])
    [request] = DIALECT.decode(cut)
    if isinstance(request, Publish):
        json.loads(request.data)
        if request.packed is not None:
            assert text_of(open_packed(request.packed)) == request.data


@given(PACKABLE)
def test_truncated_data_are_refused(data: Any) -> None:
    """No proper beginning of a message is one."""
    packed = encode(data)
    for end in range(len(packed)):
        with pytest.raises(InvalidPacked):
            open_packed(packed[:end])


def test_text_frames_are_refused() -> None:
    """protocol.md: a text message is answered with INVALID_MESSAGE, and the connection goes on."""
    [request] = DIALECT.decode('{"type":"ping"}')
    assert isinstance(request, Malformed)
    assert "binary" in request.message
    assert list(DIALECT.decode(encode({"type": "ping"}))) == [Ping()]


def test_a_message_over_the_rate_is_named() -> None:
    """Only ``type`` and ``id`` are read."""
    assert DIALECT.glance(of(b"\x01")) == Excess("7", is_call=True)
    assert DIALECT.glance(encode({"type": "ping"})) == Excess()
