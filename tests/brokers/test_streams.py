"""Streams over every broker with history: readers of other nodes, gone producers, emitters."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from unittest import mock

import anyio.lowlevel
import pytest
from anyio import Event, create_task_group, fail_after, sleep, to_thread

from tests.benchmarks.streams import run_all
from tests.benchmarks.streams import start as start_process
from tests.brokers.servers import Servers
from wsbus import Bus, Stream, StreamCancelled, StreamFailed, UsageError
from wsbus.broker import Broker
from wsbus.brokers import MemoryBroker, broker_of
from wsbus.emitter import Emitter, SyncEmitter
from wsbus.server import streams as care

KINDS: Final = ("memory", "sqlite", "redis7", "valkey9", "nats2.15")
SERVERS: Final = KINDS[2:]
SHORT: Final = {"LEASE_SECONDS": 0.1, "SILENCE_SECONDS": 1.0, "_LOOK_SECONDS": 0.05}


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every test here on asyncio: the client libraries know no other loop."""
    return "asyncio"


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Broker:
    """Give a broker of each kind, with channels that no test before has used."""
    if request.param == "memory":
        return MemoryBroker()
    if request.param == "sqlite":
        return MemoryBroker(tmp_path / "bus.db")
    return broker_of(servers.of(request.param).url)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """Give a channel of this test."""
    return f"answers.{zlib.crc32(request.node.nodeid.encode())}"


@pytest.fixture
def soon() -> Iterator[None]:
    """Notice sooner that a producer is gone."""
    with ExitStack() as stack:
        for name, seconds in SHORT.items():
            stack.enter_context(mock.patch.object(care, name, seconds))
        yield


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Bus]:
    """Give a node."""
    bus = Bus(broker=broker)
    bus.family("answers.*", stream=Stream())
    with fail_after(40):
        async with bus:
            yield bus


async def read(bus: Bus, channel: str, into: list[str]) -> None:
    """Read a stream to its end; the end is the last of what it gives."""
    try:
        async for part in bus.read_stream(channel):
            into.append(part.delta)  # noqa: PERF401  # what came before an error counts
        into.append("<ended>")
    except StreamFailed as exc:
        into.append(f"<failed: {exc}>")
    except StreamCancelled:
        into.append("<cancelled>")


async def test_readers_of_every_node_get_all_of_it(broker: Broker, channel: str) -> None:
    """One before, one in between and one after the end; the bounds of the store are crossed."""
    texts: list[list[str]] = [[], [], [], []]
    async with running(broker) as first, running(broker) as second:
        async with create_task_group() as tasks:
            tasks.start_soon(read, second, channel, texts[0])
            async with first.stream(channel) as s:
                for i in range(600):
                    await s.append(f"{i} ")
                    if i == 300:
                        tasks.start_soon(read, second, channel, texts[1])
                        tasks.start_soon(read, first, channel, texts[2])
                        await anyio.lowlevel.checkpoint()
        await read(second, channel, texts[3])
        for each in texts:
            assert "".join(each) == "".join(f"{i} " for i in range(600)) + "<ended>"
        with pytest.raises(UsageError, match="has ended"):
            await second.stream(channel).__aenter__()


async def test_of_two_producers_one_has_the_stream(broker: Broker, channel: str) -> None:
    """Also if both open it at the same moment, on two nodes."""
    outcomes: list[str] = []
    refused = Event()
    async with running(broker) as first, running(broker) as second, create_task_group() as tasks:

        async def produce(bus: Bus) -> None:
            try:
                async with bus.stream(channel) as s:
                    outcomes.append("open")
                    await refused.wait()
                    await s.append("mine")
            except UsageError as exc:
                outcomes.append(str(exc))
                refused.set()

        tasks.start_soon(produce, first)
        tasks.start_soon(produce, second)
    assert sorted(outcome == "open" for outcome in outcomes) == [False, True]


async def test_a_reader_of_another_node_cancels(broker: Broker, channel: str) -> None:
    """The request reaches the producer where it is."""
    text: list[str] = []
    async with running(broker) as first, running(broker) as second, create_task_group() as tasks:
        tasks.start_soon(read, second, channel, text)
        async with first.stream(channel) as s:
            await s.append("a")
            assert await second.cancel_stream(channel)
            await s.wait_cancelled()
            with pytest.raises(StreamCancelled):
                await s.append("b")
        assert not await second.cancel_stream("answers.none")
    assert "".join(text) == "a<cancelled>"


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_killed_producer_is_missed_once(
    kind: str, servers: Servers, channel: str, soon: None
) -> None:
    """Its readers on both nodes, and one that comes later, learn of one failure."""
    url = servers.of(kind).url
    texts: list[list[str]] = [[], [], []]
    async with running(broker_of(url)) as first, running(broker_of(url)) as second:
        process = start_process("--produce", url, channel)
        assert process.stdout is not None
        try:
            async with create_task_group() as tasks:
                tasks.start_soon(read, first, channel, texts[0])
                tasks.start_soon(read, second, channel, texts[1])
                for _ in range(20):
                    await to_thread.run_sync(process.stdout.readline)
                process.kill()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        await read(second, channel, texts[2])
        joined = {"".join(each) for each in texts}
        assert len(joined) == 1
        assert joined.pop().endswith(" <failed: the producer is gone>")
        page = await first.history(channel, limit=1000)
        assert [event.event for event in page.events].count("fail") == 1


async def test_a_stream_of_a_killed_process_fails_after_its_restart(
    tmp_path: Path, channel: str, soon: None
) -> None:
    """With history in a file: the process that comes after it tells the readers."""
    path = tmp_path / "bus.db"
    process = start_process("--produce", f"file:{path}", channel)
    assert process.stdout is not None
    for _ in range(5):
        await to_thread.run_sync(process.stdout.readline)
    process.kill()
    process.wait()
    process.stdout.close()
    text: list[str] = []
    async with running(MemoryBroker(path)) as bus:
        await read(bus, channel, text)
    assert "".join(text).startswith("0 1 2 3 4 ")
    assert text[-1] == "<failed: the producer is gone>"


async def test_an_emitter_produces_and_hears_of_a_request(
    broker: Broker, channel: str, soon: None
) -> None:
    """A reader sees no difference; nobody takes its silence for its end."""
    texts: list[list[str]] = [[], []]
    emitter = Emitter(broker)
    emitter.family("answers.*", stream=Stream())
    with mock.patch("wsbus.emitter.streams.LEASE_SECONDS", 0.1):
        async with running(broker) as bus, emitter, create_task_group() as tasks:
            tasks.start_soon(read, bus, channel, texts[0])
            async with emitter.stream(channel) as s:
                await s.append("a")
                await sleep(1.5)  # Longer than a producer may be silent.
                await s.append("b")
            tasks.start_soon(read, bus, f"{channel}x", texts[1])
            async with emitter.stream(f"{channel}x") as s:
                await s.append("c")
                assert await bus.cancel_stream(f"{channel}x")
                await s.wait_cancelled()
                await s.append("d")
    assert ["".join(each) for each in texts] == ["ab<ended>", "c<cancelled>"]


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_worker_without_an_event_loop_produces(
    kind: str, servers: Servers, channel: str
) -> None:
    """As a task of Celery does."""
    url, text = servers.of(kind).url, list[str]()

    def work() -> str:
        with SyncEmitter(url) as emitter:
            emitter.family("answers.*", stream=Stream())
            with emitter.stream(channel) as s:
                for word in ("a", "b", "c"):
                    s.append(word)
                s.result = 3
            with pytest.raises(UsageError, match="has ended"), emitter.stream(channel):
                pass
            return s.text

    async with running(broker_of(url)) as bus, create_task_group() as tasks:
        tasks.start_soon(read, bus, channel, text)
        assert await to_thread.run_sync(work) == "abc"
    assert "".join(text) == "abc<ended>"


@pytest.mark.parametrize("kind", SERVERS)
async def test_cuts_cost_no_reader_a_token(kind: str, servers: Servers) -> None:
    """The short form of ``python -m tests.benchmarks.streams``."""
    found = await run_all(servers.of(kind).url, 4, kills=False, seed=7)
    assert (found["runs"], found["wrong"]) == (4, 0)
