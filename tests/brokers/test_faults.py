"""What fails between nodes and broker loses nothing in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from anyio import create_task_group

from tests.brokers.fault_runs import FAULTS, PACE, overflow_arguments, run, shortened
from tests.brokers.servers import Server

RUNS = 5


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every test here on asyncio: the client libraries know no other loop."""
    return "asyncio"


SURVIVED = sorted({*FAULTS} - {"killed", "restarted"})
"""Faults that leave a store without persistence as it was."""


@pytest.mark.parametrize("kind", ["redis7", "nats2.15"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_history_loses_nothing(
    fault: str, kind: str, start_server: Callable[..., Server]
) -> None:
    """Everything that was acknowledged arrives once and in order, however long a link was away.

    Only what the store itself has lost is missing, and a gap says so.
    """
    arguments = overflow_arguments(kind) if fault == "overflow" else []

    async def judge(seed: int, server: Server) -> None:
        outcome = await run(server, fault, seed, pace=2 * PACE, keeps=True)
        assert outcome.wrong == 0, f"seed {seed}: {outcome}"
        assert outcome.arrived > 0, f"seed {seed}: {outcome}"
        if fault in SURVIVED:
            assert outcome.told == outcome.gaps == 0, f"seed {seed}: {outcome}"

    servers = [start_server(kind, *arguments) for _ in range(2)]
    with shortened():
        async with create_task_group() as runs:
            for seed, server in enumerate(servers):
                runs.start_soon(judge, seed, server)


@pytest.mark.parametrize("kind", ["redis7", "nats2.15"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_is_lost_in_silence(
    fault: str, kind: str, start_server: Callable[..., Server]
) -> None:
    """What is acknowledged arrives once and in order, or a gap says so where it is missing.

    Five runs at once, each with a broker of its own, a thousand publications a second in all of
    them: a publish during the outage is acknowledged or raises, and the nodes say meanwhile that
    they are not healthy.
    """
    arguments = overflow_arguments(kind) if fault == "overflow" else []

    async def judge(seed: int, server: Server) -> None:
        outcome = await run(server, fault, seed, pace=RUNS * PACE)
        assert outcome.wrong == 0, f"seed {seed}: {outcome}"
        assert outcome.arrived > 0, f"seed {seed}: {outcome}"
        assert outcome.noticed is not None, f"seed {seed}: {outcome}"

    servers = [start_server(kind, *arguments) for _ in range(RUNS)]
    with shortened():
        async with create_task_group() as runs:
            for seed, server in enumerate(servers):
                runs.start_soon(judge, seed, server)
