from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.stock_prices import StockPrices
from tests.protocols.golden import neutral, publication, vectors
from wsbus import InvalidChannel
from wsbus.core.instant import Instant
from wsbus.core.messages import Gap, Malformed, Ping, Response, ServerMessage, Status

DIALECT: Final = StockPrices()
# Wherever the tests run: the page's timestamps are local.
NOW: Final = Instant(monotonic=17.0, wall=datetime(2025, 11, 24, 10, 30, 0, 987_654).timestamp())  # noqa: DTZ001
NAME: Final = "stock_prices"


@pytest.mark.parametrize(("means", "text"), vectors(NAME, "means"))
def test_what_clients_send_is_understood(means: list[dict[str, Any]], text: str) -> None:
    """Each message of the scenes means what the page says."""
    assert list(DIALECT.decode(text)) == [neutral(spec) for spec in means]


@pytest.mark.parametrize(("says", "text"), vectors(NAME, "says"))
def test_replies_are_word_for_word(says: dict[str, Any], text: str) -> None:
    """Each reply is sent byte for byte, keys in the page's order, seconds cut off."""
    frame = DIALECT.encode(neutral(says), NOW)

    assert frame is not None
    assert frame.is_text
    assert frame.text == text


@pytest.mark.parametrize(("publishes", "text"), vectors(NAME, "publishes"))
def test_updates_are_word_for_word(publishes: dict[str, str], text: str) -> None:
    """Each update is sent byte for byte, Chinese unescaped, with the number of its prices."""
    published = msgspec.structs.replace(publication(publishes), timestamp=NOW.wall)

    assert DIALECT.encode_publication(published).text == text


@pytest.mark.parametrize(
    "reply",
    [Gap(3), Ping(), Response(b"1"), Status("client_xxx", None, 1703836800.0, (), 0, 0)],
    ids=lambda reply: type(reply).__name__,
)
def test_what_the_page_has_no_word_for_is_not_sent(reply: ServerMessage) -> None:
    """A reply whose type is not on the page has no frame."""
    assert DIALECT.encode(reply, NOW) is None


@given(
    st.sampled_from(["strategy", "stock"]),
    st.text(max_size=20),
    st.sampled_from(["strategy", "stock"]),
    st.text(max_size=20),
)
def test_different_names_share_no_channel(
    kind: str, target: str, other_kind: str, other_target: str
) -> None:
    """Each target is one channel, exact, of its own and not the market's."""
    pattern = DIALECT.pattern(f"{kind}:{target}")
    other = DIALECT.pattern(f"{other_kind}:{other_target}")

    assert pattern.is_exact
    assert pattern.text != "market"
    assert (pattern == other) == ((kind, target) == (other_kind, other_target))


@given(st.text(max_size=300))
def test_the_market_is_one(target: str) -> None:
    """Whatever its target, the market is the same channel."""
    assert DIALECT.pattern(f"market:{target}").text == "market"


def test_a_name_beyond_the_bounds_is_refused() -> None:
    """255 bytes are the bound of every channel."""
    with pytest.raises(InvalidChannel):
        DIALECT.pattern(f"stock:{'茅' * 90}")


@given(st.text() | st.binary())
def test_decoding_never_raises(frame: str | bytes) -> None:
    """Whatever comes is one command."""
    [command] = DIALECT.decode(frame)

    assert isinstance(command, Malformed)
