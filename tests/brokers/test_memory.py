"""The broker inside the process keeps the laws of all brokers."""

from __future__ import annotations

import pytest

from wsbus.brokers import MemoryBroker
from wsbus.testing import BROKER_CHECKS, check_broker


# Nothing can end a link of a broker inside the process.
@pytest.mark.parametrize("check", [name for name in BROKER_CHECKS if name != "lost_links"])
async def test_memory_broker(check: str) -> None:
    """The memory broker keeps each law of the suite."""
    broker = MemoryBroker()
    await check_broker(lambda: broker, check)
