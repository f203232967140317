from __future__ import annotations

from tests.benchmarks.typed import measure


async def test_both_ways_of_publishing_are_measured() -> None:
    """Each publication takes some time, with subscribers and without."""
    for subscribers in (0, 2):
        assert all(seconds > 0 for seconds in await measure(subscribers, rounds=2, per_round=200))
