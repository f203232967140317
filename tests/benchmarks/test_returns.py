from __future__ import annotations

import asyncio

from tests.benchmarks.returns import measure


def test_no_second_has_many_more_clients_than_another() -> None:
    """Real clients are told to come again evenly over the window, and they all do."""
    found = asyncio.run(measure(clients=120, window=3))

    assert found.took <= 10
    assert len(found.back) == 120
    assert found.largest(found.due) <= 1.5
