"""Emitters: what they publish reaches buses through real brokers, or they raise."""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, to_thread
from opentelemetry.sdk.trace import TracerProvider

from tests.brokers.listening import BusThread, receiving
from tests.brokers.servers import Server
from tests.server.clients import connecting, judge
from wsbus import Bus, ConnectionId, Event, History, InvalidChannel, UsageError
from wsbus.brokers import MemoryBroker, broker_of
from wsbus.core.errors import BrokerUnavailable, TransportClosed
from wsbus.emitter import Emitter, SyncEmitter
from wsbus.opentelemetry import OpenTelemetry, links_to

StartServer = Callable[..., Server]

pytestmark = pytest.mark.anyio


async def in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a blocking function."""
    with fail_after(30):
        return await to_thread.run_sync(partial(call, *args, **options))


@contextmanager
def black_hole() -> Iterator[str]:
    """Give the URL of a server that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


# --- with an event loop ----------------------------------------------------------------------


async def test_a_bus_gets_what_an_emitter_publishes() -> None:
    """Channel, event, data and order are those of the calls, and the receipt counts nobody."""
    broker = MemoryBroker()
    async with receiving(broker) as got, Emitter(broker) as emitter:
        receipt = await emitter.publish("t.a", {"n": 1}, event="first")
        await emitter.publish("t.b", 2, key="k")
        one, two = await got.next(), await got.next()
    assert (one.channel, one.event, one.data) == ("t.a", "first", {"n": 1})
    assert (two.channel, two.event, two.data) == ("t.b", "message", 2)
    assert (receipt.local_matched, receipt.local_accepted) == (0, 0)


async def test_an_emitter_reaches_clients_as_a_bus_does() -> None:
    """send, broadcast, exclude, revoke and disconnect go by subject or connection id."""
    broker = MemoryBroker()
    bus = Bus(broker=broker)
    endpoint = bus.endpoint(authenticator=judge, query_token="token", broadcast="news")
    async with bus, connecting(endpoint) as connect, Emitter(broker) as emitter:
        ann, bob = await connect("ann"), await connect("bob")
        await ann.subscribe("t.a")
        await bob.subscribe("t.a")

        await emitter.send("t.mail", "for ann", to="ann")
        assert (await ann.hear("event"))["data"] == "for ann"
        await emitter.send("t.mail", "for bob", to=ConnectionId(bob.id))
        assert (await bob.hear("event"))["data"] == "for bob"

        await emitter.publish("t.a", 1, exclude=[ConnectionId(bob.id)])
        await emitter.broadcast(2, exclude="ann")
        await emitter.broadcast(3)
        assert [(await ann.hear("event"))["data"] for _ in range(2)] == [1, 3]
        assert [(await bob.hear("event"))["data"] for _ in range(2)] == [2, 3]

        await emitter.revoke("ann", "t.a", reason="moved")
        assert (await ann.hear("unsubscribed"))["data"]["channels"] == ["t.a"]
        await emitter.disconnect("bob", code=4500, reason="bye")
        with fail_after(5), pytest.raises(TransportClosed) as closed:
            await bob.hear("nothing more")
        assert (closed.value.code, closed.value.reason) == (4500, "bye")


async def test_a_batch_is_taken_at_once_or_not_at_all() -> None:
    """The items of a channel arrive in order; nothing of it is published if the block raises."""
    broker = MemoryBroker()
    async with receiving(broker) as got, Emitter(broker) as emitter:
        with suppress(InvalidChannel):
            async with emitter.batch() as batch:
                batch.publish("t.a", 0)
                batch.publish("t.*", 0)
                pytest.fail("a pattern is no channel")
        async with emitter.batch() as batch:
            for n in range(100):
                batch.publish(f"t.{n % 3}", n)
        assert len(batch) == 100
        data = await got.data(100)
        assert [[n for n in data if n % 3 == rest] for rest in range(3)] == [
            [*range(rest, 100, 3)] for rest in range(3)
        ]
        relay = got.bus.statistics().broker
        assert relay is not None
        assert relay.received == 100


async def test_a_batch_of_any_size_is_taken() -> None:
    """What is more than one turn holds goes in several, in order, and all of it."""
    broker = MemoryBroker()
    bus = Bus(broker=broker)
    async with (
        bus,
        bus.subscribe("t.*", max_messages=30_000, max_bytes=1 << 26) as events,
        Emitter(broker) as emitter,
    ):
        async with emitter.batch() as batch:
            for n in range(12_000):
                batch.publish("t.a", n)
        assert [(await anext(events)).data for _ in range(12_000)] == [*range(12_000)]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda e: e.publish("t.*", 1), "wildcard"),
        (lambda e: e.publish("t.a", object()), "object"),
        (lambda e: e.publish("t.a", 1, event="a\nb"), "printable"),
        (lambda e: e.publish("t.a", 1, key=3), "key must be a text"),
        (lambda e: e.publish("t.a", 1, exclude=[3]), "exclude must be"),
        (lambda e: e.send("t.a", 1, to=None), "to must be"),
        (lambda e: e.disconnect("ann", code=1006), "1006"),
        (lambda e: e.disconnect("ann", reason=3), "reason"),
        (lambda e: e.revoke("ann", "a..b"), "empty"),
    ],
)
async def test_an_emitter_checks_what_a_bus_checks(wrong: Any, text: str) -> None:
    """Wrong arguments raise a UsageError before anything is dialled."""
    async with Emitter("redis://127.0.0.1:1") as emitter:
        with pytest.raises(UsageError, match=text):
            await wrong(emitter)


async def test_an_emitter_is_used_within_its_block() -> None:
    """Before, after, twice at once, and in another thread it says what to write."""
    broker = MemoryBroker()
    emitter = Emitter(broker)
    with pytest.raises(UsageError, match="async with"):
        await emitter.publish("t.a")
    async with receiving(broker) as got:
        for n in range(2):
            async with emitter:
                await emitter.publish("t.a", n)
                with pytest.raises(UsageError, match="already"):
                    await emitter.__aenter__()
        assert await got.data(2) == [0, 1]
    with pytest.raises(UsageError, match="async with"):
        await emitter.publish("t.a")


@pytest.mark.parametrize("given", [None, "memory:", "http://a", 3])
@pytest.mark.parametrize("kind", [Emitter, SyncEmitter])
def test_an_emitter_needs_a_broker_that_reaches_something(kind: Any, given: Any) -> None:
    """What is no broker, or one that nobody shares, is refused when the emitter is made."""
    with pytest.raises(UsageError):
        kind(given)


def test_a_broker_in_memory_is_not_for_threads() -> None:
    """A SyncEmitter refuses it, and names what to use."""
    with pytest.raises(UsageError, match="publish_threadsafe"):
        SyncEmitter(MemoryBroker())


async def test_many_tasks_share_a_link(server: Server) -> None:
    """What tasks publish at once on a new emitter arrives once, by one dial."""
    async with receiving_from(server) as got, Emitter(server.url) as emitter:
        async with create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(emitter.publish, "t.a", n)
        assert sorted(await got(50)) == [*range(50)]


@asynccontextmanager
async def receiving_from(server: Server) -> AsyncIterator[Callable[[int], Any]]:
    """Give a function that returns the data of so many events; the bus runs on asyncio."""
    with BusThread(server.url) as bus:

        async def take(count: int) -> list[Any]:
            data: list[Any] = await in_thread(bus.take, count)
            return data

        yield take


async def test_what_a_broker_cannot_take_raises(
    start_server: StartServer,
) -> None:
    """While the broker is gone every call raises, and the first one after it is back arrives."""
    server = start_server("redis7")
    async with Emitter(server.url) as emitter:
        await emitter.publish("t.a", 0)
        server.kill()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await emitter.publish("t.a", 1)
        server.start()
        async with receiving_from(server) as got:
            await emitter.publish("t.a", 2)
            assert await got(1) == [2]


# --- without an event loop -------------------------------------------------------------------


def test_a_script_publishes(server: Server, bus: BusThread) -> None:
    """Every verb works without an event loop, in order, and errors are raised at the caller."""
    with SyncEmitter(server.url) as emitter:
        emitter.publish("t.a", 1, event="paid")
        with emitter.batch() as batch:
            batch.publish("t.a", 2)
            batch.publish("t.b", 3)
        emitter.send("t.a", 0, to="ann")
        emitter.broadcast(0)
        emitter.disconnect(ConnectionId("x"))
        emitter.revoke("ann", "t.a")
        emitter.publish("t.a", 4)
        with pytest.raises(InvalidChannel):
            emitter.publish("t..a")
        assert bus.take(4) == [1, 2, 3, 4]
    with pytest.raises(UsageError, match="closed"):
        emitter.publish("t.a")
    emitter.close()


def test_a_script_publishes_what_is_kept(server: Server) -> None:
    """Its families have what it publishes kept, and a repetition told apart; others are not."""
    with SyncEmitter(server.url) as emitter:
        emitter.family("kept.*", history=History(size=10))
        first = emitter.publish("kept.a", 1, idempotency_key="once")
        again = emitter.publish("kept.a", 1, idempotency_key="once")
        second = emitter.publish("kept.a", 2)
        assert emitter.publish("live.a", 1).position is None
        assert first.position is not None
        assert second.position is not None
        assert (first.repeated, again.repeated) == (False, True)
        assert again.position == first.position
        assert second.position.offset > first.position.offset
        with pytest.raises(UsageError, match="idempotency_key needs history"):
            emitter.publish("live.a", 1, idempotency_key="once")
        with pytest.raises(UsageError, match="before the emitter is used"):
            emitter.family("late.*", history=History())


def test_a_script_passes_the_context_of_its_span_on(server: Server) -> None:
    """It goes through a real broker and its history; whoever reads it later can link to it."""
    provider = TracerProvider(shutdown_on_exit=False)
    tracing, tracer = OpenTelemetry(provider), provider.get_tracer("test")
    with SyncEmitter(server.url, tracing=tracing) as emitter:
        emitter.family("kept.*", history=History())
        with tracer.start_as_current_span("job") as job:
            emitter.publish("kept.traced", 1)

    async def read() -> Event[Any]:
        bus = Bus(broker=broker_of(server.url))
        bus.family("kept.*", history=History())
        async with bus:
            return (await bus.history("kept.traced", limit=1)).events[0]

    (link,) = links_to(anyio.run(read))
    assert link.context.trace_id == job.get_span_context().trace_id


def test_threads_share_an_emitter(server: Server, bus: BusThread) -> None:
    """Each thread's publications arrive in its order, each once, by one link."""
    with SyncEmitter(server.url) as emitter, ThreadPoolExecutor(8) as pool:

        def work(name: int) -> None:
            for n in range(20):
                emitter.publish("t.a", [name, n])

        for done in [pool.submit(work, name) for name in range(8)]:
            done.result(30)
        data = bus.take(160)
    assert bus.is_quiet()
    for name in range(8):
        assert [n for who, n in data if who == name] == [*range(20)]


def test_a_lost_broker_raises_and_comes_back(start_server: StartServer) -> None:
    """Without a broker a call raises at once, and works again when that is back."""
    server = start_server("nats2.15")
    with SyncEmitter(server.url) as emitter:
        emitter.publish("t.a", 0)
        server.kill()
        with pytest.raises(BrokerUnavailable):
            emitter.publish("t.a", 1)
        server.start()
        with BusThread(server.url) as bus:
            emitter.publish("t.a", 2)
            assert bus.take(1) == [2]


def test_a_timeout_is_told_and_bounded() -> None:
    """A broker that says nothing costs the caller its timeout, and no more at the end."""
    with black_hole() as url:
        emitter = SyncEmitter(url)
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            emitter.publish("t.a", 1, timeout=0.2)
        assert caught.value.may_have_arrived
        emitter.close()
        assert time.monotonic() - begun < 2.9
    with pytest.raises(UsageError, match="timeout"):
        SyncEmitter(url).publish("t.a", timeout=0)


def run(code: str, *arguments: str, timeout: float = 30) -> str:
    """Run a script to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_script_may_end_right_after(server: Server, bus: BusThread) -> None:
    """Nothing is lost when the process ends after the call, also from a handler at its exit."""
    code = """
import atexit, sys
from wsbus.emitter import SyncEmitter
emitter = SyncEmitter(sys.argv[1])
atexit.register(lambda: emitter.publish("t.a", 2))
emitter.publish("t.a", 1)
"""
    run(code, server.url)
    assert bus.take(2) == [1, 2]


def test_a_black_hole_does_not_hold_the_exit() -> None:
    """A process whose broker says nothing ends within 2 s of its last line."""
    code = """
import sys, threading, time
from wsbus.emitter import SyncEmitter
from wsbus.core.errors import BrokerUnavailable, TransportClosed
emitter = SyncEmitter(sys.argv[1])
try:
    emitter.publish("t.a", 1, timeout=0.2)
except BrokerUnavailable:
    print(time.time())
"""
    with black_hole() as url:
        last = float(run(code, url))
    assert time.time() - last < 2.9


FORKED = """
import os, sys, threading
from wsbus.emitter import SyncEmitter

emitter = SyncEmitter(sys.argv[1])
emitter.publish("t.a", "parent before")
with emitter._lock:  # As if another thread were starting it.
    pid = os.fork()
if pid == 0:
    emitter.publish("t.a", "child")
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
emitter.publish("t.a", "parent after")
"""


def test_a_forked_child_has_a_link_of_its_own(server: Server, bus: BusThread) -> None:
    """After a fork parent and child both publish, whatever the parent's threads held."""
    run(FORKED, server.url)
    assert bus.take(3) == ["parent before", "child", "parent after"]


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_pool_of_forked_workers_publishes(server: Server, bus: BusThread) -> None:
    """A prefork pool, as Celery has, publishes from an emitter of the module that was used."""
    code = """
import multiprocessing, sys
from wsbus.emitter import SyncEmitter

emitter = SyncEmitter(sys.argv[1])

def task(n):
    emitter.publish("t.a", n)
    return n

if __name__ == "__main__":
    emitter.publish("t.a", -1)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert sorted(pool.map(task, range(30), chunksize=1)) == [*range(30)]
"""
    run(code, server.url)
    assert sorted(bus.take(31)) == [*range(-1, 30)]


def test_an_interrupt_does_not_wedge_it(start_server: StartServer) -> None:
    """Ctrl-C ends a call that waits; after that the emitter works, and the process ends."""
    code = """
import sys
from wsbus.emitter import SyncEmitter
emitter = SyncEmitter(sys.argv[1])
emitter.publish("t.a", 0)
print("ready", flush=True)
sys.stdin.readline()
try:
    print("waits", flush=True)
    emitter.publish("t.a", 1, timeout=20)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
emitter.publish("t.a", 2)
print("done", flush=True)
"""
    server = start_server("redis7")
    with subprocess.Popen(
        [sys.executable, "-c", code, server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        server.freeze()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        server.thaw()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        assert process.wait(10) == 0


def test_an_emitter_that_is_dropped_ends_its_thread(server: Server) -> None:
    """Without references to it, its thread and its link go."""
    emitter = SyncEmitter(server.url)
    emitter.publish("t.a")
    thread = next(each for each in threading.enumerate() if each.name == "wsbus-emitter")
    del emitter
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
