"""What fails among whole processes: nodes of 500 clients, and brokers with the times of a service.

Each run checks what it promises, and returns what became of its publications. The tests do each
once; ``python -m tests.benchmarks.process_faults`` does it many times.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from anyio import create_task_group, fail_after, sleep, to_thread
from anyio.abc import TaskGroup

from tests.brokers.fault_runs import CHANNELS, Load, Log, Outcome, judge, under_load
from tests.brokers.node import Report
from tests.brokers.servers import Server
from tests.brokers.test_redis_groups import Watched, role
from wsbus.bench.processes import need_files
from wsbus.bench.sockets import RawClient
from wsbus.client import Client, Retry, connect
from wsbus.core.events import GapCause
from wsbus.emitter import Emitter

__all__ = ["failover", "frozen_broker", "killed_node", "rolling_restart"]

FORGOTTEN_SECONDS: Final = 7.0
"""After which a node that was killed is no node any more."""
STOPPED_SECONDS: Final = 10.0
"""After which a node that was asked to stop has stopped."""
BACK_SECONDS: Final = 3.0
"""After which nodes use a broker that answers again."""
HEALTHY_SECONDS: Final = 15.0
"""After which nodes have the next primary of their sentinels."""
SLACK: Final = 3
"""How much longer a busy machine may take."""

RESTARTS: Final = 5
FROZEN_SECONDS: Final = 8.0

PACE: Final = 4 / 300
"""Seconds between two publications on one of the four channels: 300 a second on all of them."""


class NodeProcess:
    """A node that may be killed, or stopped, and started again on its port; a context."""

    def __init__(self, broker: Server, log: Path) -> None:
        self._broker: Final = broker
        self._log: Final = log
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """Warnings and errors, from all of its processes."""
        return self._log.read_text()

    def begin(self) -> None:
        """Start it."""
        assert self._process is None
        command = [sys.executable, "-m", "tests.brokers.node", self._broker.url, str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        if self._process is None:
            self.begin()
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdecimal(), self.said
        self.port = int(line)

    def kill(self) -> None:
        """End it with ``SIGKILL``. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def stop(self) -> None:
        """End it as its operators do; it says that all went well."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(SLACK * STOPPED_SECONDS) == 0, self.said
        self.kill()


@contextmanager
def two_nodes(broker: Server, directory: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Start two nodes with one broker."""
    nodes = NodeProcess(broker, directory / "a.log"), NodeProcess(broker, directory / "b.log")
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
            node.begin()
        for node in nodes:
            node.start()
        yield nodes


class Listener:
    """A client that comes back, with all channels of the load, and what it got."""

    def __init__(self, client: Client) -> None:
        self.client: Final = client
        self.log: Final[Log] = []
        self.causes: Final[list[GapCause]] = []
        self._finished: Final[set[str]] = set()

    @property
    def is_done(self) -> bool:
        """Whether it has got the last word on each channel."""
        return self._finished == {*CHANNELS}

    @asynccontextmanager
    async def listening(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Subscribe, and take what comes in a task."""
        async with self.client.subscribe("load.*", buffer=200_000) as events:

            async def take() -> None:
                async for event in events:
                    if event.gap is not None:
                        self.causes.append(event.gap.cause)
                        self.log.append(None)
                    if event.data["n"] is None:
                        self._finished.add(event.channel)
                    else:
                        self.log.append((event.channel, event.data["n"]))

            tasks.start_soon(take)
            yield


async def listeners(
    node: NodeProcess, count: int, tasks: TaskGroup, stack: AsyncExitStack
) -> list[Listener]:
    """Connect clients to a node."""
    found = []
    for _ in range(count):
        retry = Retry(base=0.2, cap=0.5)
        client = await stack.enter_async_context(connect(node.url, retry=retry))
        listener = Listener(client)
        await stack.enter_async_context(listener.listening(tasks))
        found.append(listener)
    return found


def judged(load: Load, found: list[Listener]) -> Outcome:
    """Return what became of a load."""
    outcome = Outcome()
    judge(load, [(listener.log, CHANNELS) for listener in found], outcome)
    return outcome


async def only_nodes(listener: Listener, *nodes: NodeProcess) -> Report:
    """Ask the node of a client until it knows these processes, and no others."""
    wanted = {node.pid for node in nodes}
    while True:
        report = await listener.client.command("report", returns=Report)
        if {*report.nodes} == wanted:
            return report
        await sleep(0.05)  # A beacon comes every 2 s; the first may come before anybody follows.


def raw_clients(node: NodeProcess, count: int, stack: ExitStack) -> list[RawClient]:
    """Connect clients that have one channel, and read later."""
    subscribe = b'{"type":"subscribe","channels":["load.0"]}'
    found = []
    for _ in range(count):
        client = RawClient("127.0.0.1", node.port)
        stack.callback(client.close)
        client.converse([(subscribe, b'"subscribed"')])
        found.append(client)
    return found


def numbers_of(client: RawClient) -> list[int]:
    """Read to the end of the connection; return the numbers that came."""
    data = bytearray()
    try:
        while more := client.sock.recv(1 << 20):
            data += more
    except ConnectionResetError:  # The end of a process that had something to read.
        pass
    assert b'"gap"' not in data
    # The last one may be cut off.
    return [int(number) for number in re.findall(rb'"n":(\d+),', data)]


async def killed_node(redis: Server, directory: Path) -> Outcome:
    """Kill a node of 500 clients: what its clients miss has a gap; those of another miss nothing.

    Before the end each got everything, in order. The other node forgets the killed one, and has
    nothing to say about it.
    """
    need_files(500)
    with two_nodes(redis, directory) as (a, b), ExitStack() as raw:
        async with (
            Emitter(redis.url) as emitter,
            create_task_group() as tasks,
            AsyncExitStack() as stack,
        ):
            at_a = await listeners(a, 20, tasks, stack)
            at_b = await listeners(b, 5, tasks, stack)
            counting = await to_thread.run_sync(raw_clients, a, 480, raw)
            load = Load(emitter.publish, pace=PACE)
            async with create_task_group() as publisher:
                publisher.start_soon(load.run)
                with fail_after(30):
                    heard = at_a[-1].log, at_b[0].log  # A node may starve on a busy machine.
                    while min(map(len, heard)) < 300:  # noqa: ASYNC110  # of other tasks
                        await sleep(0.02)
                    await only_nodes(at_b[0], a, b)
                    a.kill()
                    counted = await to_thread.run_sync(lambda: [*map(numbers_of, counting)])
                    await to_thread.run_sync(a.start)
                    while not all(listener.causes for listener in at_a):  # noqa: ASYNC110
                        await sleep(0.02)
                with fail_after(SLACK * FORGOTTEN_SECONDS):
                    report = await only_nodes(at_b[0], a, b)
                load.is_over = True
            with fail_after(20):
                await load.finish(lambda: all(each.is_done for each in at_a + at_b))
            tasks.cancel_scope.cancel()
        assert (report.losses, report.gaps, report.late, report.unreadable) == (0, 0, 0, 0)
        assert b.said == ""

        for numbers in counted:
            assert numbers == [*range(len(numbers))]
            assert len(numbers) > 10
        outcome = judged(load, at_a)
        assert outcome.wrong == 0, outcome
        assert outcome.told > 0, outcome
        assert {cause for each in at_a for cause in each.causes} == {GapCause.RECONNECT}
        everything = {
            (channel, n) for channel in CHANNELS for n in range(len(load.outcomes[channel]))
        }
        for each in at_b:
            assert not each.causes
            assert len(each.log) == len(everything)
            assert {*each.log} == everything
        assert judged(load, at_b).wrong == 0
        return outcome


async def rolling_restart(redis: Server, directory: Path) -> Outcome:
    """Two nodes are restarted in turn, five times in all, while somebody publishes.

    A node ends in time, and well; its clients get all up to then, and a gap when they are back.
    """
    with two_nodes(redis, directory) as nodes:
        async with (
            Emitter(redis.url) as emitter,
            create_task_group() as tasks,
            AsyncExitStack() as stack,
        ):
            found = [await listeners(node, 3, tasks, stack) for node in nodes]
            load = Load(emitter.publish, pace=PACE)
            async with create_task_group() as publisher:
                publisher.start_soon(load.run)
                for turn in range(RESTARTS):
                    node, its = nodes[turn % 2], found[turn % 2]
                    await to_thread.run_sync(node.stop)
                    await to_thread.run_sync(node.start)
                    with fail_after(20):  # Its clients are back before the other one is stopped.
                        while any(len(each.causes) <= turn // 2 for each in its):  # noqa: ASYNC110
                            await sleep(0.02)
                load.is_over = True
            every = found[0] + found[1]
            with fail_after(20):
                await load.finish(lambda: all(each.is_done for each in every))
            tasks.cancel_scope.cancel()
        outcome = judged(load, every)
        assert outcome.wrong == 0, outcome
        assert outcome.told > 0, outcome
        assert outcome.refused == outcome.uncertain == 0, outcome
        for its, restarts in zip(found, (RESTARTS - RESTARTS // 2, RESTARTS // 2), strict=True):
            assert [each.causes for each in its] == [[GapCause.RECONNECT] * restarts] * len(its)
        assert [node.said for node in nodes] == ["", ""]
        return outcome


async def failover(*, keeps: bool) -> Outcome:
    """Kill the primary while two nodes publish: both are healthy again with the next one.

    Where channels have history, nothing comes twice either, and what is gone has a gap.
    """
    with ExitStack() as stack:
        watched = await to_thread.run_sync(Watched, stack)

        async def kill(_load: Load) -> None:
            watched.primary.kill()
            await sleep(0.05)

        outcome = await under_load(
            (watched.url, watched.url),
            kill,
            pace=4 / 500,
            is_mutual=True,
            keeps=keeps,
            seconds=60,
        )
        assert role(watched.replica) == "master"
    assert outcome.wrong == 0, outcome
    assert outcome.arrived > 0, outcome
    assert outcome.refused > 0, outcome
    assert keeps or outcome.gaps >= 4, outcome
    assert outcome.noticed is not None, outcome
    assert outcome.back < SLACK * HEALTHY_SECONDS, outcome
    return outcome


async def frozen_broker(server: Server, seconds: float = FROZEN_SECONDS) -> Outcome:
    """Stop a broker, with the times of a real service: it is noticed, and soon used again."""

    async def freeze(_load: Load) -> None:
        await to_thread.run_sync(server.freeze)
        await sleep(seconds)
        server.thaw()

    urls = server.url, server.url
    outcome = await under_load(urls, freeze, pace=PACE, seconds=seconds + 60)
    assert outcome.wrong == 0, outcome
    assert outcome.arrived > 0, outcome
    assert outcome.noticed is not None, outcome
    assert outcome.noticed < FROZEN_SECONDS, outcome  # The bound is 6 s.
    assert outcome.back < SLACK * BACK_SECONDS, outcome
    return outcome
