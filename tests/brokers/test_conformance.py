"""Every broker keeps the laws of the suite, on real servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.brokers.servers import NATS, REDIS, Servers
from wsbus.brokers import broker_of
from wsbus.core.channels import split_name
from wsbus.testing import BROKER_CHECKS, FaultProxy, check_broker
from wsbus.testing.checks import links
from wsbus.testing.nodes import BrokerUnderTest

KINDS = (*REDIS, *NATS)
VECTORS = Path(__file__).parents[1] / "core/vectors/channels.json"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every test here on asyncio: the client libraries know no other loop."""
    return "asyncio"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", BROKER_CHECKS)
async def test_broker(check: str, kind: str, servers: Servers) -> None:
    """A broker keeps each law of the suite on each server that it is for."""
    server = servers.of(kind)
    async with FaultProxy(*server.address) as proxy:
        url = f"{server.kind.scheme}://127.0.0.1:{proxy.port}"

        async def cut() -> None:
            proxy.reset()

        await check_broker(lambda: broker_of(url), check, cut=cut)


@pytest.mark.parametrize("kind", KINDS)
async def test_all_names(kind: str, servers: Servers) -> None:
    """Whatever may be the segment of a channel is itself for a broker."""
    valid = json.loads(VECTORS.read_text(encoding="utf-8"))["valid"]
    segments = [segment for name in valid for segment in split_name(name)]
    case = BrokerUnderTest(lambda: broker_of(servers.of(kind).url))
    await links.strange_names(case, segments)
