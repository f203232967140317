"""What fails between nodes and broker loses nothing in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.brokers.fault_runs import FAULTS, overflow_arguments, run, shortened
from tests.brokers.servers import Server

RUNS = 5


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every test here on asyncio: the client libraries know no other loop."""
    return "asyncio"


SURVIVED = sorted({*FAULTS} - {"killed", "restarted"})
"""Faults that leave a store without persistence as it was."""


@pytest.mark.parametrize("kind", ["redis7"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_history_loses_nothing(
    fault: str, kind: str, start_server: Callable[..., Server]
) -> None:
    """Everything that was acknowledged arrives once and in order, however long a link was away.

    Only what the store itself has lost is missing, and a gap says so.
    """
    arguments = overflow_arguments(kind) if fault == "overflow" else []
    server = start_server(kind, *arguments)
    with shortened():
        for seed in range(2):
            outcome = await run(server, fault, seed, keeps=True)
            assert outcome.wrong == 0, f"seed {seed}: {outcome}"
            assert outcome.arrived > 0, f"seed {seed}: {outcome}"
            if fault in SURVIVED:
                assert outcome.told == outcome.gaps == 0, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("kind", ["redis7", "nats2.15"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_is_lost_in_silence(
    fault: str, kind: str, start_server: Callable[..., Server]
) -> None:
    """What is acknowledged arrives once and in order, or a gap says so where it is missing.

    Five runs, a thousand publications a second: a publish during the outage is acknowledged or
    raises, and the nodes say meanwhile that they are not healthy.
    """
    arguments = overflow_arguments(kind) if fault == "overflow" else []
    server = start_server(kind, *arguments)
    with shortened():
        for seed in range(RUNS):
            outcome = await run(server, fault, seed)
            assert outcome.wrong == 0, f"seed {seed}: {outcome}"
            assert outcome.arrived > 0, f"seed {seed}: {outcome}"
            assert outcome.noticed is not None, f"seed {seed}: {outcome}"
