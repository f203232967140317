"""RedisBroker with sentinels and in a cluster, of real processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from anyio import fail_after, sleep, to_thread
from redis import Redis

from tests.brokers.links import Seen, turn_of
from tests.brokers.servers import KINDS, Kind, Server
from tests.brokers.test_redis import feeds, free_port, stay
from wsbus.brokers import RedisBroker
from wsbus.core.errors import BrokerUnavailable
from wsbus.core.feeds import ALL_NODES, Feed

pytestmark = pytest.mark.anyio

SECONDS: Final = 30.0
QUIET: Final = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """redis-py runs on asyncio only."""
    return request.param


def sentinel_arguments(port: int, directory: str) -> list[str]:
    """Return the arguments of a sentinel, which writes to its file."""
    file = Path(directory) / "sentinel.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\ndir {directory}\n")
    return [str(file), "--sentinel"]


SENTINEL: Final = Kind(
    name="sentinel7",
    scheme="redis",
    find=KINDS["redis7"].find,
    install=KINDS["redis7"].install,
    arguments=sentinel_arguments,
)


def ask(server: Server, *words: str) -> Any:
    """Send a command, and return the reply."""
    with Redis(host="127.0.0.1", port=server.port, decode_responses=True, protocol=2) as client:
        return client.execute_command(*words)


def until(condition: Callable[[], object]) -> None:
    """Ask other processes until something holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)  # They tell nobody when it does.


def role(server: Server) -> str:
    """Return ``master`` or ``slave``."""
    found: str = ask(server, "ROLE")[0]
    return found


async def linked_again(broker: RedisBroker) -> None:
    """Dial until there is a link that brings what it publishes."""
    seen = Seen()
    with fail_after(SECONDS):
        while True:
            try:
                async with broker.connect(seen) as link:
                    await link.follow([ALL_NODES, Feed("=a.b")])
                    await link.publish(turn_of((ALL_NODES, 1), (Feed("=a.b"), 2)))
                    assert await seen.until(2) == [1, 2]
                    return
            except BrokerUnavailable:
                await sleep(0.05)  # A dial fails at once while there is no primary.


class Watched:
    """A primary, its replica, and sentinels."""

    def __init__(self, stack: ExitStack, sentinels: int = 3) -> None:
        self.primary: Final = stack.enter_context(Server(KINDS["redis7"], *QUIET))
        self.replica: Final = stack.enter_context(
            Server(KINDS["redis7"], *QUIET, "--replicaof", f"127.0.0.1 {self.primary.port}")
        )
        self.sentinels: Final = [stack.enter_context(Server(SENTINEL)) for _ in range(sentinels)]
        for each in self.sentinels:
            place = ("127.0.0.1", str(self.primary.port), str(sentinels // 2 + 1))
            ask(each, "SENTINEL", "MONITOR", "chat", *place)
            ask(each, "SENTINEL", "SET", "chat", "down-after-milliseconds", "400")
            ask(each, "SENTINEL", "SET", "chat", "failover-timeout", "3000")
        for each in self.sentinels:
            until(lambda each=each: self._knows_all(each))  # type: ignore[misc]

    @property
    def url(self) -> str:
        """Its URL, with a sentinel that is not there."""
        hosts = [f"127.0.0.1:{each.port}" for each in self.sentinels]
        return f"redis+sentinel://{','.join(hosts)}/chat"

    def _knows_all(self, sentinel: Server) -> bool:
        reply = ask(sentinel, "SENTINEL", "MASTER", "chat")
        facts = (
            reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
        )
        others = len(self.sentinels) - 1
        return int(facts["num-slaves"]) == 1 and int(facts["num-other-sentinels"]) == others


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Give a primary that three sentinels watch."""
    with ExitStack() as stack:
        yield Watched(stack)


async def test_sentinels_lead_to_the_next_primary(watched: Watched) -> None:
    """A failover that an operator asks for ends the link; the next dial finds the new primary."""
    broker = RedisBroker(watched.url)
    await linked_again(broker)

    def fail_over() -> None:
        ask(watched.sentinels[0], "SENTINEL", "FAILOVER", "chat")

    with pytest.raises(BrokerUnavailable):
        await stay_publishing(broker, fail_over)
    await linked_again(broker)
    assert role(watched.replica) == "master"


async def test_a_killed_primary_is_replaced(watched: Watched) -> None:
    """Sentinels promote the replica, and the next dial finds it."""
    broker = RedisBroker(watched.url)
    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await stay(broker, watched.primary.kill)
    await linked_again(broker)
    assert role(watched.replica) == "master"


async def test_a_demoted_primary_refuses_a_turn() -> None:
    """A server that becomes a replica, its connections open, ends the link at the next turn."""
    with ExitStack() as stack:
        one, other = [stack.enter_context(Server(KINDS["redis7"], *QUIET)) for _ in range(2)]

        def demote() -> None:
            ask(one, "REPLICAOF", "127.0.0.1", str(other.port))

        with pytest.raises(BrokerUnavailable, match="it is a replica"):
            await stay_publishing(RedisBroker(one.url), demote)
        with pytest.raises(BrokerUnavailable, match="it is a replica"):
            await stay(RedisBroker(one.url), lambda: None)


async def test_an_unknown_service_is_named() -> None:
    """Sentinels that know no such primary are quoted."""
    with Server(SENTINEL) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/nobody"
        with pytest.raises(BrokerUnavailable, match="the sentinel does not know 'nobody'"):
            await stay(RedisBroker(url), lambda: None)


async def stay_publishing(broker: RedisBroker, then: Callable[[], object]) -> None:
    """Keep a link and publish on it until it fails, and do something once it is there."""
    with fail_after(SECONDS):
        async with broker.connect(Seen()) as link:
            await link.publish(turn_of((ALL_NODES, 0)))
            await to_thread.run_sync(then)
            while True:
                await link.publish(turn_of((ALL_NODES, 0)))


class Cluster:
    """Three primaries, and a replica of the one that has the prefix ``wsbus``."""

    def __init__(self, stack: ExitStack) -> None:
        ports = [free_port() for _ in range(4)]
        self.nodes: Final = [stack.enter_context(clustered(port)) for port in ports]
        self.replica: Final = self.nodes[3]
        for number, each in enumerate(self.nodes[:3]):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            ask(each, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            ask(each, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for each, port in zip(self.nodes[1:], ports[1:], strict=True):
            ask(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", str(each.port), str(port))
        slot = int(ask(self.replica, "CLUSTER", "KEYSLOT", "wsbus:{0}:primary"))
        self.owner: Final = self.nodes[slot * 3 // 16384]
        owner = ask(self.owner, "CLUSTER", "MYID")
        until(lambda: owner in str(ask(self.replica, "CLUSTER", "NODES")))
        ask(self.replica, "CLUSTER", "REPLICATE", owner)
        for each in self.nodes:
            until(lambda each=each: self._is_ready(each))  # type: ignore[misc]

    @property
    def url(self) -> str:
        """All nodes."""
        return "redis+cluster://" + ",".join([f"127.0.0.1:{each.port}" for each in self.nodes])

    def _is_ready(self, node: Server) -> bool:
        state = "cluster_state:ok" in ask(node, "CLUSTER", "INFO")
        return state and "slave" in str(ask(node, "CLUSTER", "NODES"))


def clustered(port: int) -> Server:
    """Return a node of a cluster that talks to the others on a port."""
    return Server(
        KINDS["redis7"],
        *QUIET,
        *("--cluster-enabled", "yes", "--cluster-port", str(port)),
        *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
    )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Give a cluster."""
    with ExitStack() as stack:
        yield Cluster(stack)


async def test_a_cluster_leads_to_the_owner_of_the_prefix(cluster: Cluster) -> None:
    """Any node leads to the one with the prefix; kill it, and the next dial finds its replica."""
    broker = RedisBroker(cluster.url)
    seen = Seen()
    async with broker.connect(seen) as far:
        await far.follow(feeds("=a.b"))
        async with broker.connect(Seen()) as near:
            for number in range(20):
                await near.publish(turn_of((Feed("=a.b"), number)))
        assert await seen.until(20) == [*range(20)]
    for node in cluster.nodes:
        await linked_again(RedisBroker(f"redis+cluster://127.0.0.1:{node.port}"))
    # All of these links are closed.
    until(lambda: "wsbus" not in [each["name"] for each in clients(cluster.owner)])

    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await stay(broker, cluster.owner.kill)
    await linked_again(broker)
    assert role(cluster.replica) == "master"


async def test_a_moved_prefix_ends_the_link(cluster: Cluster) -> None:
    """A failover that kills nobody ends the link; a URL without ``+cluster`` is corrected."""

    def fail_over() -> None:
        ask(cluster.replica, "CLUSTER", "FAILOVER")

    with pytest.raises(BrokerUnavailable, match="another node of its cluster has the slot"):
        await stay_publishing(RedisBroker(cluster.url), fail_over)
    await linked_again(RedisBroker(cluster.url))
    with pytest.raises(BrokerUnavailable, match=r"write redis\+cluster://"):
        await stay(RedisBroker(cluster.owner.url), lambda: None)


def clients(server: Server) -> list[dict[str, str]]:
    """Return the clients of a server."""
    with Redis(host="127.0.0.1", port=server.port, decode_responses=True) as client:
        found: list[dict[str, str]] = client.client_list()
        return found
