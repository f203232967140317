from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Final, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import frames as rfc6455
from websockets.frames import Opcode
from websockets.streams import StreamReader

from wsbus.core.frame import Frame, join_lines
from wsbus.core.pacing import MAX_JOIN_BYTES

T = TypeVar("T")

# Those around which RFC 6455, section 5.2, changes the length field.
LENGTHS: Final = [0, 1, 125, 126, 127, 65535, 65536, 65537]


def parse(wire: bytes) -> rfc6455.Frame:
    """Read one frame as a client of the websockets library does, and nothing after it."""
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    frame = result(rfc6455.Frame.parse(reader.read_exact, mask=False))
    assert result(reader.at_eof())
    return frame


def result(steps: Generator[None, None, T]) -> T:
    """Run a step of the parser that has all the bytes it needs."""
    with pytest.raises(StopIteration) as end:
        next(steps)
    value: T = end.value.value
    return value


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("is_text", [True, False], ids=["text", "binary"])
def test_wire_is_one_frame_of_rfc_6455(length: int, is_text: bool) -> None:
    """An independent parser reads back the payload, final, not masked, with no reserved bit."""
    payload = b"x" * length
    parsed = parse(Frame(payload, is_text=is_text).wire)

    assert parsed.data == payload
    assert parsed.opcode is (Opcode.TEXT if is_text else Opcode.BINARY)
    assert parsed.fin
    assert [parsed.rsv1, parsed.rsv2, parsed.rsv3] == [False] * 3


@pytest.mark.parametrize(("length", "head"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_the_length_field_is_the_shortest(length: int, head: int) -> None:
    """RFC 6455, section 5.2: the minimal number of bytes must be used."""
    assert len(Frame(b"x" * length).wire) == head + length


@given(text=st.text())
def test_text_is_the_payload_as_utf_8(text: str) -> None:
    """Both forms hold the same words; the size counts bytes, not characters."""
    frame = Frame(text.encode())

    assert frame.text == text
    assert parse(frame.wire).data == text.encode()
    assert frame.size == len(text.encode())


def test_forms_are_made_once() -> None:
    """A frame serves every connection: what one of them had made the others share."""
    frame = Frame("中".encode() * 100)

    assert frame.text is frame.text
    assert frame.wire is frame.wire


def test_the_repr_shows_no_payload() -> None:
    """A frame in a log line betrays nothing but its kind and size."""
    assert repr(Frame(b"secret")) == "<Frame text 6 bytes>"
    assert repr(Frame(b"secret", is_text=False)) == "<Frame binary 6 bytes>"


def test_what_is_joined_is_separated_by_newlines() -> None:
    """Several text frames become one; binary ones stand alone in their place."""
    frames = [Frame(b"1"), Frame(b"2"), Frame(b"\0", is_text=False), Frame(b"3"), Frame(b"4")]
    joined = list(join_lines(frames))

    assert [frame.payload for frame in joined] == [b"1\n2", b"\0", b"3\n4"]
    assert [frame.is_text for frame in joined] == [True, False, True]


def test_one_frame_is_passed_on_as_it_is() -> None:
    """Nothing to join: the forms that were made of it are not made again."""
    frame = Frame(b"1")

    assert list(join_lines([frame])) == [frame]
    assert list(join_lines([])) == []


def test_the_newline_counts() -> None:
    """Two halves of the bound do not fit together: their newline would be over it."""
    half = MAX_JOIN_BYTES // 2
    fits = [Frame(b"x" * half), Frame(b"x" * (half - 2))]
    too_large = [Frame(b"x" * half), Frame(b"x" * half)]

    assert [frame.size for frame in join_lines(fits)] == [MAX_JOIN_BYTES - 1]
    assert [frame.size for frame in join_lines(too_large)] == [half, half]


sizes = st.sampled_from([0, 1, 7, 30_000, 32_768, 65_535, 65_536, 70_000]) | st.integers(0, 70_000)
frame_lists = st.lists(
    st.builds(lambda size, is_text: Frame(b"x" * size, is_text=is_text), sizes, st.booleans()),
    max_size=12,
)


@given(frames=frame_lists)
def test_joining_loses_nothing_and_keeps_the_order(frames: list[Frame]) -> None:
    """Split at the newlines, the joined frames are the frames."""
    split = [
        (frame.is_text, line)
        for frame in join_lines(frames)
        for line in (frame.payload.split(b"\n") if frame.is_text else [frame.payload])
    ]

    assert split == [(frame.is_text, frame.payload) for frame in frames]


@given(frames=frame_lists)
def test_no_join_is_over_the_bound_or_smaller_than_need_be(frames: list[Frame]) -> None:
    """Only what came too large is too large, and no two neighbours have room to spare."""
    joined = list(join_lines(frames))

    assert all(frame.size <= MAX_JOIN_BYTES or frame in frames for frame in joined)
    for left, right in pairwise(joined):
        if left.is_text and right.is_text:
            first_of_right = right.payload.split(b"\n")[0]
            assert left.size + 1 + len(first_of_right) >= MAX_JOIN_BYTES
