"""Rates of subscriptions, with a clock that the test moves, against a list of what was sent.

The model is written from docs/reference/protocol.md, "Rates". Its lines are quoted.
"""

from __future__ import annotations

from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsbus.core.channels import parse_channel
from wsbus.core.events import Position
from wsbus.core.families import Family
from wsbus.core.messages import Publication
from wsbus.core.outlet import Owed
from wsbus.core.patterns import parse_pattern
from wsbus.core.thinning import Thinning

NAMES = {
    "prices.*": (2.0, 4.0, None),
    "prices.a": (2.0, 8.0, None),
    "book.*": (4.0, None),
}
RATES = st.fixed_dictionaries({name: st.sampled_from(rates) for name, rates in NAMES.items()})
CHANNELS = ["prices.a", "prices.b", "book.a", "book.b"]
FAMILY = Family(parse_pattern("book.*"), key="level")


class Sent:
    """An event, and what the page says of it."""

    def __init__(self, number: int, channel: str, key: object, rates: list[float | None]) -> None:
        self.number, self.channel, self.key = number, channel, (channel, key)
        # "An event on a channel that several patterns match goes by the fastest of them"
        self.rate = None if None in rates else max([rate for rate in rates if rate])
        self.is_shared = len(set(rates)) > 1


class ThinningMachine(RuleBasedStateMachine):
    """Publishes, waits and changes rates."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count(1)
        self.now = 0.0
        self.rates: dict[str, float | None] = {}
        self.thinning = Thinning(max_messages=50)
        self.held: list[Sent] = []
        self.sent_at: dict[object, float] = {}
        self.skipped = 0

    # --- the model -------------------------------------------------------------------------

    def due(self, rate: float) -> float:
        """Tell when held events of a rate go.

        "They go together, when the last of their intervals is over"
        """
        held = [each for each in self.held if each.rate == rate]
        ends = [self.sent_at[each.key] + 1 / rate for each in held if each.key in self.sent_at]
        return max(ends, default=self.now)

    def go(self, events: list[Sent]) -> list[int]:
        for each in events:
            self.sent_at[each.key] = self.now
            if each in self.held:
                self.held.remove(each)
        return [each.number for each in events]

    def expected(self, event: Sent, *, has_position: bool) -> list[int]:
        if event.rate is not None:
            lane = [each for each in self.held if each.rate == event.rate]
            last = self.sent_at.get(event.key)
            # "Of the events with the same key one is sent at once"
            if lane or (last is not None and last + 1 / event.rate > self.now):
                # "A newer event replaces the held one of its key."
                before = [each for each in self.held if each.key == event.key]
                self.skipped += len(before)
                self.held = [each for each in self.held if each.key != event.key] + [event]
                return []
        # "If it has a position, everything that is held goes before it"
        older = self.go(list(self.held)) if has_position and event.is_shared else []
        return [*older, *(self.go([event]) if event.rate else [event.number])]

    # --- what happens ----------------------------------------------------------------------

    @initialize(
        rates=st.fixed_dictionaries({name: st.sampled_from(r) for name, r in NAMES.items()})
    )
    def begin(self, rates: dict[str, float | None]) -> None:
        self.change(rates)

    @rule(
        channel=st.sampled_from(CHANNELS),
        level=st.sampled_from([1, 2, 3]),
        key=st.sampled_from([None, None, "k"]),
    )
    def publish(self, channel: str, level: int, key: str | None) -> None:
        number = next(self.numbers)
        # Those of prices.* have history.
        position = Position("e", number) if channel.startswith("prices") else None
        data = b'{"level":%d}' % level
        publication = Publication(
            parse_channel(channel), "tick", data, self.now, key, number=number, position=position
        )
        family = FAMILY if channel.startswith("book") else None
        rates = [rate for name, rate in self.rates.items() if parse_pattern(name).matches(channel)]
        meant: object = key
        if key is None and family is not None:
            meant = level
        event = Sent(number, channel, meant, rates)
        due = {rate: self.due(rate) for rate in NAMES["prices.a"] + NAMES["book.*"] if rate}
        has_free_lane = event.rate is not None and due[event.rate] <= self.now
        if has_free_lane and any(each.rate == event.rate for each in self.held):
            self.wait(0.0)  # A timer would have come first.
        got = self.thinning.pace(Owed(None, publication, family), self.now)
        assert numbers(got) == self.expected(event, has_position=position is not None)

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.125, 0.25, 0.5]))
    def wait(self, seconds: float) -> None:
        """Move to each moment at which something is due."""
        until = self.now + seconds
        while True:
            rates = {each.rate for each in self.held if each.rate}
            due = min((self.due(rate) for rate in rates), default=until + 1)
            assert self.thinning.due == (due if rates else float("inf"))
            if due > until:
                break
            self.now = max(self.now, due)
            ripe = [each for each in self.held if each.rate and self.due(each.rate) <= self.now]
            if any(each.is_shared for each in ripe):
                ripe = list(self.held)
            assert numbers(self.thinning.release(self.now)) == self.go(ripe)
        self.now = until

    @rule(rates=RATES)
    def change(self, rates: dict[str, float | None]) -> None:
        """Change rates: what is held and still subscribed goes at once."""
        self.rates = rates
        patterns = {parse_pattern(name): rate for name, rate in rates.items()}
        self.sent_at.clear()  # "Intervals begin anew"
        want = self.go(list(self.held))
        assert numbers(self.thinning.set_rates(patterns, self.now)) == want

    # --- what always holds -----------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        assert self.thinning.conflated == self.thinning.dropped == self.skipped
        assert len(self.thinning) == len(self.held)
        assert self.thinning.lost == 0

    @invariant()
    def none_is_late(self) -> None:
        """A held event is late by one interval at most."""
        for each in self.held:
            assert each.rate is not None
            assert self.due(each.rate) <= self.now + 1 / each.rate


def numbers(owed: object) -> list[int]:
    """Return the numbers of events."""
    return [each.publication.number for each in owed]  # type: ignore[attr-defined]


TestThinning = ThinningMachine.TestCase
