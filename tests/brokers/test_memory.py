"""The brokers inside the process keep the laws of all brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsbus.brokers import MemoryBroker
from wsbus.testing import BROKER_CHECKS, check_broker


# Nothing can end a link of a broker inside the process.
@pytest.mark.parametrize("check", [name for name in BROKER_CHECKS if not name.startswith("lost_")])
async def test_memory_broker(check: str) -> None:
    """The memory broker keeps each law of the suite, also those of history."""
    broker = MemoryBroker()
    await check_broker(lambda: broker, check)


# The links of several brokers cannot share a file.
@pytest.mark.parametrize("check", [name for name in BROKER_CHECKS if not name.startswith("lost_")])
async def test_memory_broker_with_a_file(check: str, tmp_path: Path) -> None:
    """So does a memory broker with a file."""
    broker = MemoryBroker(tmp_path / "bus.db")
    await check_broker(lambda: broker, check)
