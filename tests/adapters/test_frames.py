from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wsbus.adapters._frames import Frames
from wsbus.testing.frames import Opcode, client_frame

SMALL = 128

lengths = st.one_of(
    st.integers(0, 300), st.sampled_from([125, 126, 127, 128, 65_535, 65_536, 70_000])
)
frames = st.tuples(st.sampled_from(Opcode), lengths, st.booleans())


@given(sent=st.lists(frames, max_size=8), data=st.data())
def test_small_frames_are_found_however_the_bytes_arrive(
    sent: list[tuple[Opcode, int, bool]], data: st.DataObject
) -> None:
    """Control frames count, and fragments below 128 bytes; text and binary in one frame do not."""
    wire, expected = b"", 0
    for opcode, length, is_final in sent:
        is_control = opcode >= Opcode.CLOSE
        wire += client_frame(opcode, b"x" * length, is_final=is_final)
        is_fragment = not is_final or opcode is Opcode.CONTINUATION
        expected += is_control or (is_fragment and length < SMALL)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    scanner = Frames(SMALL)
    found = 0
    for begin, end in pairwise([0, *sorted(cuts), len(wire)]):
        if not scanner.is_message(wire[begin:end]):
            found += scanner.count(wire[begin:end])
    assert found == expected
