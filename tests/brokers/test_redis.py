"""RedisBroker, against real servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from anyio import Event, fail_after, sleep_forever

from tests.brokers.servers import Server
from wsbus.brokers import RedisBroker
from wsbus.core.envelope import Turn
from wsbus.core.errors import BrokerUnavailable, UsageError
from wsbus.core.feeds import ALL_NODES, Feed

StartServer = Callable[..., Server]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """redis-py runs on asyncio only."""
    return request.param


class Seen:
    """What a link brought: the one byte that each message ends with."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self._more = Event()

    def __call__(self, message: bytes) -> None:
        self.items.append(message[-1])
        self._more.set()
        self._more = Event()

    async def until(self, count: int) -> list[int]:
        """Wait until so many have come."""
        with fail_after(10):
            while len(self.items) < count:
                await self._more.wait()
        return self.items


def turn_of(*items: tuple[Feed, int]) -> Turn:
    """Return a turn with these items, each of one byte."""
    turn = Turn("node", 1, 0.0)
    for feed, item in items:
        turn.add(feed, bytes((item,)))
    return turn


async def stay(broker: RedisBroker, then: Callable[[], object]) -> None:
    """Keep a link until it fails, and do something once it is there."""
    with fail_after(20):
        async with broker.connect(Seen()):
            then()
            await sleep_forever()


def feeds(*texts: str) -> Sequence[Feed]:
    """Return texts as feeds."""
    return [Feed(text) for text in texts]


async def test_a_link_brings_what_it_follows(redis_server: Server) -> None:
    """Exact feeds, prefix feeds and the feed of nodes arrive once and in order, others do not."""
    broker = RedisBroker(redis_server.url, prefix="follow")
    seen = Seen()
    async with broker.connect(seen) as link:
        await link.follow([*feeds("=a.b", "~x."), ALL_NODES])
        turn = turn_of(
            (Feed("=a.b"), 1),
            (Feed("=a"), 2),
            (Feed("=x.y.z"), 3),
            (Feed("=x"), 4),
            (ALL_NODES, 5),
        )
        await link.publish(turn)
        assert await seen.until(3) == [1, 3, 5]
        await link.unfollow(feeds("~x."))
        await link.publish(turn)
        assert await seen.until(5) == [1, 3, 5, 1, 5]


async def test_a_killed_server_ends_the_link(start_server: StartServer) -> None:
    """The body is cancelled, the context raises, and a new dial is refused in plain words."""
    server = start_server("redis7")
    broker = RedisBroker(server.url)
    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await stay(broker, server.kill)
    with pytest.raises(BrokerUnavailable, match="connection refused"):
        await stay(broker, server.kill)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused(anyio_backend: str) -> None:
    """A link needs asyncio, and says so."""
    with pytest.raises(UsageError, match="asyncio"):
        await stay(RedisBroker("redis://127.0.0.1:1"), lambda: None)
