"""What fails among whole processes loses nothing in silence: nodes, and a primary of Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anyio import create_task_group

from tests.brokers.process_runs import failover, frozen_broker, killed_node, rolling_restart
from tests.brokers.servers import KINDS, Server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every test here on asyncio: the client libraries know no other loop."""
    return "asyncio"


async def test_a_killed_node_costs_its_own_clients_a_gap_and_others_nothing(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """A node of 500 clients is killed."""
    await killed_node(start_server("redis7"), tmp_path)


async def test_a_rolling_restart_loses_nothing_in_silence(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Two nodes are restarted in turn, five times in all."""
    await rolling_restart(start_server("redis7"), tmp_path)


@pytest.mark.parametrize("keeps", [False, True], ids=["live", "kept"])
async def test_a_failover_of_sentinels_loses_nothing_in_silence(*, keeps: bool) -> None:
    """The primary is killed while two nodes publish."""
    await failover(keeps=keeps)


@pytest.mark.slow
async def test_a_frozen_broker_is_noticed_in_time() -> None:
    """A broker of each client library is stopped for longer than the bound."""

    async def run(kind: str) -> None:
        with Server(KINDS[kind]) as server:
            await frozen_broker(server)

    async with create_task_group() as tasks:
        for kind in ("redis7", "nats2.15"):
            tasks.start_soon(run, kind)
