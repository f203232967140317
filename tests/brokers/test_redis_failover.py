"""History and presence on Redis when a primary dies: with sentinels, and in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any, Final

import pytest
from anyio import create_task_group, fail_after, sleep, to_thread

from tests.brokers.servers import Server
from tests.brokers.test_redis_groups import Cluster, Watched, ask, until
from tests.server.clients import Client, connecting, judge
from wsbus import Bus, Event, History, Position, PositionLost, Presence, Subscription
from wsbus.brokers import RedisBroker
from wsbus.core.errors import BrokerUnavailable

pytestmark = pytest.mark.anyio

SECONDS: Final = 45.0


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """redis-py runs on asyncio only."""
    return request.param


class Group:
    """A primary with its replica, and the URL that leads to it."""

    def __init__(self, url: str, primary: Server, replica: Server) -> None:
        self.url: Final = url
        self.primary: Final = primary
        self.replica: Final = replica

    def catch_up(self) -> None:
        """Wait until the replica has what the primary has now."""
        wanted = ask(self.primary, "INFO", "replication")["master_repl_offset"]
        until(lambda: ask(self.replica, "INFO", "replication")["slave_repl_offset"] >= wanted)

    def cut(self) -> None:
        """Let the replica miss what comes from now on, though it lives."""
        ask(self.primary, "ACL", "SETUSER", "default", "-psync", "-sync")
        ask(self.primary, "CLIENT", "KILL", "TYPE", "replica")


@pytest.fixture(params=["sentinel", "cluster"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Give one that sentinels watch, then one that is a part of a cluster."""
    with ExitStack() as stack:
        if request.param == "sentinel":
            watched = Watched(stack)
            yield Group(watched.url, watched.primary, watched.replica)
        else:
            cluster = Cluster(stack)
            yield Group(cluster.url, cluster.owner, cluster.replica)


class Stage:
    """Two nodes, and a subscription at each: by name at one, by a wildcard at the other."""

    def __init__(self, near: Bus, far: Bus, heard: list[Subscription[Any]]) -> None:
        self.near: Final = near
        self.far: Final = far
        self.heard: Final = heard

    async def next(self) -> list[Event[Any]]:
        """Return the next event of each subscription."""
        return [await anext(each) for each in self.heard]


@asynccontextmanager
async def stage(group: Group) -> AsyncIterator[Stage]:
    """Run two nodes."""
    near, far = buses = [Bus(broker=RedisBroker(group.url)) for _ in range(2)]
    for bus in buses:
        bus.family("kept.*", history=History(), presence=Presence())
    async with AsyncExitStack() as stack:
        for bus in buses:
            await stack.enter_async_context(bus)
        heard = [
            await stack.enter_async_context(near.subscribe("kept.a")),
            await stack.enter_async_context(far.subscribe("kept.*")),
        ]
        with fail_after(SECONDS):
            yield Stage(near, far, heard)


async def publish_until_taken(bus: Bus, data: object, key: str | None = None) -> Position:
    """Publish, and again while there is no primary; return the position."""
    while True:
        with suppress(BrokerUnavailable):
            receipt = await bus.publish("kept.a", data, idempotency_key=key)
            assert receipt.position is not None
            return receipt.position
        await sleep(0.02)  # A refusal comes at once.


async def holds(condition: Callable[[], object]) -> None:
    """Wait until nodes have learned something."""
    while not condition():  # noqa: ASYNC110  # of another node: nothing here tells
        await sleep(0.02)


async def test_a_replica_that_has_everything_loses_nothing(group: Group) -> None:
    """No gap, no copy: positions, the keys of publications and history hold behind a failover."""
    async with stage(group) as at:
        await at.near.publish("kept.b", "before")
        positions = [await publish_until_taken(at.near, n, key=f"once {n}") for n in range(3)]
        await to_thread.run_sync(group.catch_up)
        assert [event.data for event in await at.next()] == [0, "before"]
        group.primary.kill()
        assert await publish_until_taken(at.far, 2, key="once 2") == positions[2]
        last = await publish_until_taken(at.far, 3)
        assert (last.epoch, last.offset) == (positions[0].epoch, positions[2].offset + 1)
        events = [[await anext(each) for _ in range(3)] for each in at.heard]
        assert [event.data for event in events[0]] == [1, 2, 3]
        assert [event.data for event in events[1]] == [0, 1, 2]
        assert (await anext(at.heard[1])).data == 3
        assert not [event for its in events for event in its if event.gap]

        page = await at.near.history("kept.a", limit=2)
        assert [event.data for event in page.events] == [2, 3]
        async with at.far.subscribe("kept.*", since=positions[0]) as again:
            assert [(await anext(again)).data for _ in range(3)] == [1, 2, 3]


async def test_a_replica_that_lacks_the_end_is_a_gap(group: Group) -> None:
    """What was acknowledged and is gone comes behind a gap at each node, and its position is none.

    The offsets of what is lost are given away again.
    """
    async with stage(group) as at:
        kept = await publish_until_taken(at.near, 0)
        await to_thread.run_sync(group.catch_up)
        group.cut()
        lost = [await publish_until_taken(at.near, n) for n in (1, 2, 3)]
        for expected in range(4):
            assert {event.data for event in await at.next()} == {expected}
        group.primary.kill()
        async with create_task_group() as tasks:
            tasks.start_soon(publish_always, at.far)
            for event in await at.next():
                assert event.gap is not None
                assert str(event.data).startswith("after")
                assert event.position is not None
                assert event.position.epoch != kept.epoch
            assert [event.gap for event in await at.next()] == [None, None]
            tasks.cancel_scope.cancel()
        for bus in (at.near, at.far):
            for position in lost:
                with pytest.raises(PositionLost):
                    async with bus.subscribe("kept.a", since=position):
                        pass


async def publish_always(bus: Bus) -> None:
    """Publish, and again, whenever there is a primary."""
    for number in count():
        await publish_until_taken(bus, f"after {number}")


async def test_presence_agrees_behind_a_failover(group: Group) -> None:
    """Nodes learn of a client that left and of one that came while no primary was there."""
    async with stage(group) as at, AsyncExitStack() as stack:
        options = {"authenticator": judge, "query_token": "token"}
        ada, bob = [
            await connected(stack, bus, name, options)
            for bus, name in ((at.near, "ada"), (at.far, "bob"))
        ]
        for bus in (at.near, at.far):
            await holds(lambda bus=bus: there(bus, "kept.a") == {"ada", "bob"})  # type: ignore[misc]
        group.primary.kill()
        await holds(lambda: not at.near.healthy and not at.far.healthy)
        ada.peer.close()
        await subscribe_until_confirmed(bob, "kept.b")
        for bus in (at.near, at.far):
            await holds(lambda bus=bus: there(bus, "kept.a") == {"bob"})  # type: ignore[misc]
            await holds(lambda bus=bus: there(bus, "kept.b") == {"bob"})  # type: ignore[misc]
            assert bus.healthy


async def connected(stack: AsyncExitStack, bus: Bus, name: str, options: dict[str, Any]) -> Client:
    """Connect a client that is on ``kept.a``."""
    connect = await stack.enter_async_context(connecting(bus.endpoint(**options)))
    client = await connect(name)
    await client.subscribe("kept.a")
    return client


async def subscribe_until_confirmed(client: Client, name: str) -> None:
    """Subscribe, and again while no broker confirms it: an election may outlast the answer."""
    while True:
        client.say("subscribe", channels=[name])
        answer = (await client.hear("subscribed"))["data"]
        if answer["channels"]:
            return
        assert [each["code"] for each in answer["rejected"]] == ["UNAVAILABLE"]


def there(bus: Bus, channel: str) -> set[str | None]:
    """Return who is on a channel, as a node knows."""
    return {each.subject for each in bus.presence(channel)}
