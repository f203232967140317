"""The bounds of what is held; the rules are in machines/test_thinning_machine.py."""

from __future__ import annotations

from wsbus.core.channels import parse_channel
from wsbus.core.messages import Publication
from wsbus.core.outlet import Owed
from wsbus.core.patterns import parse_pattern
from wsbus.core.thinning import Thinning, fastest


def event(key: int, size: int = 2) -> Owed:
    """Return an event with a key of its own."""
    data = b'"' + b"x" * (size - 2) + b'"'
    return Owed(None, Publication(parse_channel("a"), "tick", data, 0.0, str(key), number=key))


def numbers(owed: object) -> list[int]:
    """Return the numbers of events."""
    return [each.publication.number for each in owed]  # type: ignore[attr-defined]


def test_many_keys_lose_nothing() -> None:
    """A full queue sends what it holds early, in order; memory for keys is bounded, too."""
    thinning = Thinning(max_messages=10)
    thinning.set_rates({parse_pattern("a"): 1.0}, 0.0)
    got = [number for key in range(3000) for number in numbers(thinning.pace(event(key), 0.0))]
    assert len(thinning) <= 10
    got += numbers(thinning.release_all(0.0))
    assert got == [*range(3000)]
    assert thinning.lost == thinning.dropped == 0


def test_bytes_are_bounded() -> None:
    """What is larger than the queue goes at once, after what is held."""
    thinning = Thinning(max_bytes=100)
    thinning.set_rates({parse_pattern("a"): 1.0}, 0.0)
    assert numbers(thinning.pace(event(1), 0.0)) == [1]
    assert numbers(thinning.pace(event(1, 60), 0.0)) == []
    assert numbers(thinning.pace(event(2, 60), 0.0)) == [1]
    assert numbers(thinning.pace(event(3, 500), 0.0)) == [2, 3]
    assert thinning.bytes == len(thinning) == 0


def test_what_is_given_up_is_discarded() -> None:
    """Held events of a pattern that is left are not sent, and those of others are, at once."""
    thinning = Thinning()
    a, b = parse_pattern("a"), parse_pattern("b")
    thinning.set_rates({a: 1.0, b: 1.0}, 0.0)
    for key in (1, 1, 2, 2):
        thinning.pace(event(key), 0.0)
    assert len(thinning) == 2
    assert numbers(thinning.set_rates({b: 1.0}, 0.0)) == []
    assert (len(thinning), thinning.discarded, thinning.due) == (0, 2, float("inf"))


def test_all_events_are_faster_than_any_rate() -> None:
    """Of several rates for one thing the fastest serves all; without any there is none."""
    assert fastest([1.0, 5.0]) == 5.0
    assert fastest([1.0, None]) is None
    assert fastest([]) is None
