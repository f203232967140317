from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.console.operators import TOKEN, operators
from wsbus import Bus, Grants, Handshake, Identity, parse_channel, parse_pattern
from wsbus.console import Console, tap
from wsbus.console.samples import CUT
from wsbus.console.tap import KEPT, ChannelTap, Tail
from wsbus.core.hub import Hub
from wsbus.core.messages import Publication


def publication(channel: str, data: bytes = b"1", event: str = "message") -> Publication:
    """Return one."""
    return Publication(parse_channel(channel), event, data, 17.0)


def tail(pattern: str, text: str = "", **denied: list[str]) -> Tail:
    """Return a tail of somebody with these denies."""
    return Tail(parse_pattern(pattern), text, Grants.of(admin=True, **denied))


# --- counting ---------------------------------------------------------------------------------


def test_a_hub_is_as_it_was_once_the_tap_is_closed() -> None:
    """Tapped or not, a hub answers its publishers alike; closed, nothing of the tap is left."""
    hub, counted = Hub(), ChannelTap()
    before = dict(vars(hub))
    counted.open(hub, 0.0)
    receipts = [hub.publish(publication("a")), hub.publish_to([], publication("b"))]
    counted.close()
    counted.close()
    hub.publish(publication("a"))

    assert [receipt.local_matched for receipt in receipts] == [0, 0]
    assert {name: seen.count for name, seen in counted.channels.items()} == {"a": 1, "b": 1}
    assert vars(hub).keys() == before.keys()
    assert hub.statistics().publications == 3


def test_several_taps_do_not_know_of_each_other() -> None:
    """Whichever of two consoles closes its tap first, the other one hears on."""
    for first, second in ((0, 1), (1, 0)):
        hub, taps = Hub(), (ChannelTap(), ChannelTap())
        for counted in taps:
            counted.open(hub, 0.0)
        hub.publish(publication("a"))
        taps[first].close()
        hub.publish(publication("a"))
        taps[second].close()
        hub.publish(publication("a"))

        counts = [taps[i].channels[parse_channel("a")].count for i in (first, second)]
        assert counts == [1, 2]
        assert "publish" not in vars(hub)


def test_channels_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever is published; tails still hear all of it."""
    monkeypatch.setattr(tap, "MAX_CHANNELS", 2)
    counted, everything = ChannelTap(), tail("*")
    counted.tail([everything])
    for name in ("a", "b", "c", "d", "a"):
        counted.hear(publication(name), 0)

    assert list(counted.channels) == ["a", "b"]
    assert (counted.channels[parse_channel("a")].count, counted.others) == (2, 2)
    assert everything.matched == 5


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.sampled_from([1, 40, 200]), st.sampled_from([1, 500, 100_000])
        ),
        max_size=200,
    )
)
def test_what_a_tap_keeps_is_bounded_in_bytes(published: list[tuple[int, int, int]]) -> None:
    """Names, events and texts are cut when they are kept, and their number is bounded."""
    counted, everything = ChannelTap(), tail("*")
    counted.tail([everything])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tap, "MAX_CHANNELS", 10)
        for number, length, size in published:
            name = f"c{number}" + "x" * length
            counted.hear(publication(name, b"1" * size, "e" * size), 0)

    assert len(counted.channels) <= 10
    assert all(len(seen.event) <= tap.MAX_EVENT for seen in counted.channels.values())
    assert len(everything.kept) <= KEPT
    for kept in everything.kept:
        assert len(kept.event) <= CUT
        assert len(kept.data) <= tap.MAX_TEXT <= max(kept.size, tap.MAX_TEXT)
    assert everything.matched == len(published)
    assert counted.others + sum(seen.count for seen in counted.channels.values()) == len(published)


def test_a_rate_settles_on_what_is_published() -> None:
    """A steady stream is told at its rate from the first sample on; silence brings it down."""
    hub, counted = Hub(), ChannelTap()
    counted.open(hub, 100.0)
    rates = []
    for second in range(1, 31):
        for _ in range(7 if second <= 15 else 0):
            hub.publish(publication("steady"))
        if second == 10:
            hub.publish(publication("once"))
        counted.rate(100.0 + second)
        rates.append(counted.channels[parse_channel("steady")].rate)
    counted.rate(130.0)  # No time has passed.
    once = counted.channels[parse_channel("once")].rate
    counted.close()

    assert rates[:15] == pytest.approx([7.0] * 15)
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert rates[-1] < 7.0 / 4
    assert once < 0.05


# --- tails ------------------------------------------------------------------------------------


def test_a_tail_keeps_the_newest_and_counts_all() -> None:
    """However much is published, a tail holds a few publications."""
    counted, grid = ChannelTap(), tail("grid.*")
    counted.tail([grid])
    for i in range(1000):
        counted.hear(publication("grid.a", str(i).encode()), 0)
        counted.hear(publication("prices.a"), 0)

    assert grid.matched == 1000
    assert [p.data for p in grid.kept] == [str(i).encode() for i in range(1000 - KEPT, 1000)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", 3), ("BUY", 1), ("Grid.B", 1), ("filled", 2), ("贵州", 1), ("nothing", 0)],
)
def test_a_tail_may_look_for_a_text(text: str, wanted: int) -> None:
    """A text in the data, the channel or the event decides, whatever its case in ASCII."""
    looking = tail("*", text)
    for each in (
        publication("grid.a", '{"side":"Buy","note":"贵州茅台"}'.encode(), "filled"),
        publication("grid.b", b'{"side":"sell"}', "Filled"),
        publication("grid.c", b"null", "gone"),
    ):
        looking.offer(each)

    assert looking.matched == wanted


def test_a_tail_has_nothing_that_is_denied() -> None:
    """A deny that is narrower than the pattern takes channels out of it."""
    counted, some = ChannelTap(), tail("grid.*", deny_subscribe=["grid.secret.*"])
    counted.tail([some])
    for name in ("grid.a", "grid.secret.key", "grid.a"):
        counted.hear(publication(name), 0)

    assert (some.matched, {p.channel for p in some.kept}) == (2, {"grid.a"})


async def test_an_operator_tails_what_is_granted() -> None:
    """Tails are refused as subscriptions are: by name, and by deny."""

    def half(token: str | None, handshake: Handshake) -> Identity | None:
        grants = Grants.of(admin=True, deny_subscribe=["secret.*"])
        return None if token is None else Identity("half", grants)

    bus = Bus()
    async with bus, operators(Console(bus, authenticator=half)) as sign_in:
        operator = await sign_in()

        assert await operator.is_refused("console.watch", tail="a..b") == "INVALID_CHANNEL"
        assert await operator.is_refused("console.watch", tail="") == "INVALID_CHANNEL"
        assert await operator.is_refused("console.watch", tail="secret.*") == "FORBIDDEN"
        await operator.see(tail="*")
        await bus.publish("secret.key", 1)
        await bus.publish("public", 2)
        batch = await operator.hear_of("tail")
        assert [(e["channel"], e["text"]) for e in batch["events"]] == [("public", "2")]


async def test_a_tail_tells_what_it_could_not_show() -> None:
    """A flood comes as a sample of it, with the true count; long data is cut, and its size told."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        operator = await sign_in()
        await operator.see(tail="flood")
        for i in range(10 * KEPT):
            bus.publish_soon("flood", i, event="drop")
        bus.publish_soon("flood", "é" * 5000)
        batch = await operator.hear_of("tail")
        *_, number, last = batch["events"]

        assert (batch["tail"], batch["matched"], len(batch["events"])) == ("flood", 251, KEPT)
        assert (number["text"], number["event"], number["size"]) == ("249", "drop", 3)
        assert (last["size"], set(last["text"])) == (10_002, {'"', "é"})
        assert len(last["text"].encode()) <= 4096


async def test_a_tail_goes_on_while_other_things_change() -> None:
    """To look at another list does not begin a tail anew; another text does."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        operator = await sign_in()
        counts = []
        for wanted in (
            {"view": "published"},
            {"view": "subscribed", "find": "x"},
            {"view": "subscribed", "text": "1"},
        ):
            await operator.watch(tail="a", **wanted)
            await bus.publish("a", 1)
            counts.append((await operator.hear_of("tail"))["matched"])
        await operator.watch()
        await bus.publish("a", 1)
        await operator.hear_of("sample")

        assert counts == [1, 2, 1]
        assert not [frame for frame in operator.peer.received if '"tail"' in str(frame)]
