from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.events import MAX_GAP_CHANNELS, ChannelLoss, Gap, GapCause, Position

LOST: Final = st.none() | st.integers(1, 9)
POSITIONS: Final = st.none() | st.builds(Position, st.just("e"), st.integers(1, 99))
CHANNELS: Final = st.none() | st.dictionaries(
    st.integers(0, 2 * MAX_GAP_CHANNELS).map(str),
    st.builds(ChannelLoss, LOST, POSITIONS),
    min_size=1,
    max_size=MAX_GAP_CHANNELS,
)
GAPS: Final = st.builds(Gap, LOST, st.sampled_from(GapCause), CHANNELS)


def total(first: int | None, later: int | None) -> int | None:
    """Add numbers; with an unknown one the sum is unknown."""
    return None if first is None or later is None else first + later


@given(GAPS, GAPS)
def test_two_gaps_are_one_that_says_no_less(first: Gap, later: Gap) -> None:
    """Numbers add up, unknown stays unknown, and of each channel the newest position is told."""
    both = first.joined(later)

    assert both.lost == total(first.lost, later.lost)
    order = ["reconnect", "broker", "server", "buffer"]
    assert both.cause == min(first.cause, later.cause, key=order.index)
    if first.channels is None or later.channels is None:
        assert both.channels is None
        return
    names = first.channels.keys() | later.channels.keys()
    if len(names) > MAX_GAP_CHANNELS:
        assert both.channels is None
        return
    assert both.channels is not None
    assert both.channels.keys() == names
    for name, loss in both.channels.items():
        parts = [gap[name] for gap in (first.channels, later.channels) if name in gap]
        known = [part.position for part in parts if part.position is not None]
        assert loss.lost == (parts[0].lost if len(parts) == 1 else total(*[p.lost for p in parts]))
        assert loss.position == (known[-1] if known else None)
