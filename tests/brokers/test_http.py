"""Readers over HTTP where the history is at a broker."""

from __future__ import annotations

import pytest

from tests.adapters.serving import serving
from tests.adapters.wanderer import wander
from tests.brokers.servers import Server
from wsbus import Bus, History
from wsbus.adapters import asgi
from wsbus.brokers.redis import RedisBroker


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio, as the client library for Redis does."""
    return "asyncio"


async def test_one_position_for_every_way(redis_server: Server) -> None:
    """A reader that changes its way and its node loses nothing, and gets nothing twice."""
    nodes = [Bus(broker=RedisBroker(redis_server.url, prefix="ways")) for _ in range(2)]
    for bus in nodes:
        bus.family("run.*", history=History(size=1000))
    publisher, other = nodes
    async with publisher, serving(asgi.app(other)) as (port, _):
        reader = await wander(publisher, port, 3)
    assert reader.seen == list(range(1000))
    assert len(reader.ways) == 3
