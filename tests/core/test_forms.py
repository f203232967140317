from __future__ import annotations

import zlib
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import frames as rfc6455
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.streams import StreamReader

from wsbus import Bus, Compression, UsageError
from wsbus.core.forms import BYTES, FRAMES, WINDOW_BITS, Deflate
from wsbus.core.frame import Frame
from wsbus.core.outlet import Owed
from wsbus.core.plan import joined_writes
from wsbus.protocols import Native

ALL: Final = Compression(minimum=0)


def read(wire: bytes) -> list[bytes]:
    """Read all messages as a client of the websockets library that agreed on no takeover."""
    inflate = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=WINDOW_BITS,
        local_max_window_bits=WINDOW_BITS,
    )
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    found: list[bytes] = []
    while True:
        steps = reader.at_eof()
        with pytest.raises(StopIteration) as end:
            next(steps)
        if end.value.value:
            return found
        with pytest.raises(StopIteration) as end:
            next(rfc6455.Frame.parse(reader.read_exact, mask=False, extensions=[inflate]))
        found.append(bytes(end.value.value.data))


@given(
    st.lists(
        st.tuples(st.text(max_size=400).map(str.encode), st.booleans()), min_size=1, max_size=6
    ),
    st.integers(1, 9),
)
def test_every_message_is_read_by_itself(messages: list[tuple[bytes, bool]], level: int) -> None:
    """Whatever was compressed before: a client may get some of the messages only, in any order."""
    form = Deflate(Compression(level=level, minimum=0))
    wires = [form.wire(Frame(payload, is_text=is_text)) for payload, is_text in messages]

    for (payload, _), wire in reversed(list(zip(messages, wires, strict=True))):
        assert read(wire) == [payload]
    assert read(b"".join(wires)) == [payload for payload, _ in messages]


@pytest.mark.parametrize("size", [300, 60_000, 70_000, 300_000])
def test_it_is_marked_and_smaller(size: int) -> None:
    """RSV1 says that a message is compressed; the opcode stays."""
    text = (b'{"channel":"prices.BTC","last":95000.25},' * (size // 40 + 1))[:size]
    form = Deflate(ALL)

    for is_text, first in ((True, 0xC1), (False, 0xC2)):
        wire = form.wire(Frame(text, is_text=is_text))
        assert wire[0] == first
        assert len(wire) < size / 4
        assert read(wire) == [text]


def test_what_is_short_or_does_not_shrink_goes_as_it_is() -> None:
    """Neither the clients nor this process work for nothing."""
    short = Frame(b"a" * 199)
    dense = Frame(zlib.compress(b"".join(bytes([n * 7 % 256]) for n in range(999))), is_text=False)
    form = Deflate(Compression(minimum=200))

    assert form.wire(short) is short.wire
    assert Deflate(ALL).wire(dense) is dense.wire
    assert form.wire(Frame(b"a" * 200))[0] == 0xC1


def test_a_frame_is_compressed_once() -> None:
    """Others who are owed the same frame get the same bytes; those of other settings theirs."""
    frame = Frame(b"abc" * 200)
    fast, small = Deflate(Compression(level=1)), Deflate(Compression(level=9))

    assert fast.wire(frame) is fast.wire(frame)
    assert small.wire(frame) is not fast.wire(frame)
    assert BYTES.wire(frame) is frame.wire


def test_a_turn_is_one_message_where_the_dialect_joins() -> None:
    """It is compressed as a whole, so that what its messages share costs bytes once."""
    lines = [b'{"type":"event","channel":"prices.BTC","data":{"last":%d}}' % n for n in range(16)]
    owed = [Owed(Frame(line), None) for line in lines]
    form = Deflate(ALL)
    joined = [wire for wire, _ in joined_writes(owed, Native(), form)]
    single = [wire for wire, _ in joined_writes(owed, None, form)]

    assert [read(wire) for wire in joined] == [[b"\n".join(lines)]]
    assert [read(wire) for wire in single] == [lines]
    assert len(joined[0]) < len(single[0]) / 2


@pytest.mark.parametrize(
    "setting",
    [
        {"level": 0},
        {"level": 10},
        {"level": True},
        {"level": 1.0},
        {"minimum": -1},
        {"minimum": "1"},
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, Any]) -> None:
    """The message names the setting and its bounds."""
    (name,) = setting

    with pytest.raises(UsageError, match=rf"Compression\({name}=…\) must be a whole number from"):
        Compression(**setting)


def test_an_endpoint_takes_settings_or_a_flag() -> None:
    """What is neither is refused when the endpoint is made."""
    bus = Bus()

    assert bus.endpoint().deflate is None
    on = bus.endpoint(compression=True).deflate
    assert on is not None
    assert on.settings == Compression()
    made = bus.endpoint(compression=Compression(level=9)).deflate
    assert made is not None
    assert made.settings.level == 9
    with pytest.raises(UsageError, match="compression must be True, False or a Compression, not 6"):
        bus.endpoint(compression=6)  # type: ignore[arg-type]  # on purpose
    assert not FRAMES.writes_bytes
