"""Streams under cuts and kills: ``python -m tests.benchmarks.streams [--broker NAME] [--runs N]``.

Two processes relay what a third one produces. Each run is one stream with three readers: one is
there before it begins, the others come late. Their connections are reset again and again, and go on
at either process; the processes are killed with SIGKILL in turn, and started again. In every tenth
run the producer is a process of its own that is killed, too: its readers must learn that it failed.

The figures: runs in which a reader has lost or doubled anything, or has not learned the end once.
On a busy machine a producer may get no time for longer than it may be silent. It then counts as
gone, and its readers must have one text, and learn that it failed, as if it were killed. Nor could
a run get anywhere if faults came faster than the machine connects again: after most cuts the next
one waits until the reader is back, and a process is killed only if a run has ended since the last
kill.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import anyio
from anyio import create_task_group, fail_after, sleep, to_thread
from anyio.abc import SocketAttribute, TaskGroup

from tests.brokers.servers import KINDS, Server
from tests.client.servers import Proxy
from wsbus import Bus, Grants, Limits, Stream
from wsbus.adapters.websockets import serve
from wsbus.brokers import MemoryBroker, broker_of
from wsbus.client import Change, ClientStream, Connected, Retry, StreamFailed, connect

HOST: Final = "127.0.0.1"
TOGETHER: Final = 6
"""Runs at a time."""
RUN_SECONDS: Final = 300.0
SOON: Final = Retry(base=0.05, cap=0.2, first=True)
READERS: Final = 3
GONE: Final = "failed the producer is gone"


class Outcome(NamedTuple):
    """What became of one run."""

    wrong: int
    """Readers whose text or end is not right."""
    cuts: int
    is_starved: bool = False
    """Whether the producer had no time to say that it was there."""


def new_bus(url: str) -> Bus:
    """Return a bus that joins the others."""
    path = url.removeprefix("file:")
    bus = Bus(broker=broker_of(url) if path == url else MemoryBroker(path))
    bus.family("answers.*", stream=Stream())
    return bus


async def relay(url: str, port: int) -> None:
    """Relay streams to clients, in a process of its own."""
    bus = new_bus(url)
    limits = Limits(messages_per_second=None)
    endpoint = bus.endpoint(anonymous=Grants.of(subscribe=["answers.*"]), limits=limits)
    async with bus, serve(endpoint, HOST, port) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await anyio.sleep_forever()


async def produce(url: str, channel: str) -> None:
    """Append without end, in a process that is killed, and print what the store has taken."""
    async with new_bus(url) as bus, bus.stream(channel) as s:
        for number in range(1_000_000):
            await s.append(f"{number} ")
            print(number, flush=True)
            await sleep(0.01)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a process of this module."""
    command = [sys.executable, "-m", "tests.benchmarks.streams", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


class Relay:
    """A process that relays; it may be killed, and is started again on its port."""

    def __init__(self, url: str) -> None:
        self._url: Final = url
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = start("--relay", self._url, str(self.port))
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """Kill it without a warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@asynccontextmanager
async def network(port: int) -> AsyncIterator[tuple[Proxy, TaskGroup]]:
    """Give a network of one reader, which can fail, and tasks that end with it."""
    listener = await anyio.create_tcp_listener(local_host=HOST)
    async with listener, create_task_group() as tasks:
        try:
            proxy = Proxy(tasks, port)
            proxy.port = listener.extra(SocketAttribute.local_port)
            tasks.start_soon(listener.serve, proxy.handle)
            yield proxy, tasks
        finally:
            tasks.cancel_scope.cancel()


class Back:
    """Notes that a client is connected again."""

    def __init__(self, last: list[Change]) -> None:
        self.event = anyio.Event()
        self._last: Final = last

    def __call__(self, change: Change) -> None:
        """Take a change of the client's state."""
        self._last[:] = [*self._last[-3:], change]
        if isinstance(change, Connected):
            self.event.set()


class Readers:
    """The readers of one stream, and what they got."""

    def __init__(self, channel: str, relays: list[Relay], chance: random.Random) -> None:
        self.texts: list[str] = [""] * READERS
        self.ends: list[str | None] = [None] * READERS
        self.cuts = 0
        self.changes: list[list[Change]] = [[] for _ in range(READERS)]
        """The last ones of each reader's connection."""
        self._channel: Final = channel
        self._relays: Final = relays
        self._chance: Final = chance
        self.here = anyio.Event()

    async def run(self) -> None:
        """Read until all have the end."""
        try:
            async with create_task_group() as tasks:
                for number in range(READERS):
                    tasks.start_soon(self._read, number)
        finally:
            if None in self.ends:
                sizes = [len(text) for text in self.texts]
                print(self._channel, sizes, self.ends, self.cuts, file=sys.stderr)
                print(self.changes, file=sys.stderr)

    async def _read(self, number: int) -> None:
        port = self._chance.choice(self._relays).port
        async with network(port) as (proxy, tasks):
            back = Back(self.changes[number])
            tasks.start_soon(self._harm, proxy, back)
            if number:
                await sleep(self._chance.random() * 1.5)
            async with connect(proxy.url, retry=SOON, on_change=back) as client:
                await self._iterate(client.stream(self._channel, timeout=RUN_SECONDS), number)

    async def _iterate(self, stream: ClientStream, number: int) -> None:
        async with stream:
            self.here.set()
            try:
                async for part in stream:
                    self.texts[number] += part.delta
                self.ends[number] = f"ended {stream.result}"
            except StreamFailed as exc:
                self.ends[number] = f"failed {exc}"

    async def _harm(self, proxy: Proxy, back: Back) -> None:
        while True:
            if self._chance.random() < 0.8:  # Else a cut may come before it has connected again.
                await back.event.wait()
            back.event = anyio.Event()
            await sleep(self._chance.uniform(0.2, 2.0))
            proxy.target = self._chance.choice(self._relays).port
            with suppress(OSError):  # One of them is closed already.
                proxy.cut()
            self.cuts += 1


async def whole_run(bus: Bus, relays: list[Relay], number: int, chance: random.Random) -> Outcome:
    """One stream of a producer that lives."""
    channel = f"answers.{number}"
    readers = Readers(channel, relays, chance)
    is_starved, text = False, ""
    async with create_task_group() as tasks:
        tasks.start_soon(readers.run)
        await readers.here.wait()
        try:
            async with bus.stream(channel) as s:
                most = chance.choice([30, 30, 30, 300])
                for token in range(chance.randrange(10, most)):
                    text += f"{token} "
                    await s.append(f"{token} ")
                    if chance.random() < 0.3:
                        await sleep(0.005)
                s.result = number
        except StreamFailed:
            is_starved = True
    if is_starved:
        right = [text.startswith(each) and each == readers.texts[0] for each in readers.texts]
        ended = [end == GONE for end in readers.ends]
    else:
        right = [each == text for each in readers.texts]
        ended = [end == f"ended {number}" for end in readers.ends]
    wrong = READERS - sum(map(all, zip(right, ended, strict=True)))
    return Outcome(wrong, readers.cuts, is_starved)


async def killed_run(url: str, relays: list[Relay], number: int, chance: random.Random) -> Outcome:
    """One stream of a producer that is killed."""
    channel = f"answers.{number}"
    readers = Readers(channel, relays, chance)
    process = start("--produce", url, channel)
    assert process.stdout is not None
    taken = -1
    async with create_task_group() as tasks:
        tasks.start_soon(readers.run)
        try:
            while taken < chance.randrange(20, 200):
                taken = int(await to_thread.run_sync(process.stdout.readline))
        finally:
            process.kill()
        rest = await to_thread.run_sync(process.stdout.read)
        lines = [int(line) for line in rest.split("\n")[:-1]]
        taken = lines[-1] if lines else taken
        process.wait()
        process.stdout.close()
    least = "".join(f"{token} " for token in range(taken + 1))
    most = least + f"{taken + 1} "
    right = [text in {least, most} for text in readers.texts]
    same = len(set(readers.texts)) == 1
    ended = [end == GONE for end in readers.ends]
    wrong = READERS - sum(map(all, zip(right, ended, strict=True)))
    return Outcome(wrong if same else READERS, readers.cuts)


async def run_all(  # noqa: C901  # one stage
    url: str, runs: int, *, kills: bool, seed: int
) -> dict[str, Any]:
    """Make all runs; return the figures."""
    chance = random.Random(seed)
    relays = [Relay(url), Relay(url)]
    outcomes: list[Outcome] = []
    late = killed = 0
    ended = [anyio.Event()]  # Set by each run.
    numbers = iter(range(runs))
    began = time.monotonic()

    async def harm() -> None:
        nonlocal killed
        while True:
            for each in relays:
                ended[0] = anyio.Event()
                await sleep(6.0)  # Longer than a producer may be silent.
                await ended[0].wait()
                each.kill()
                killed += 1
                await to_thread.run_sync(each.begin)

    async def work(bus: Bus) -> None:
        nonlocal late
        for number in numbers:
            try:
                with fail_after(RUN_SECONDS):
                    if kills and number % 10 == 9:
                        outcomes.append(await killed_run(url, relays, number, chance))
                    else:
                        outcomes.append(await whole_run(bus, relays, number, chance))
            except TimeoutError:
                late += 1
                print(f"run {number} has not ended", file=sys.stderr)
            ended[0].set()
            if len(outcomes) % 50 == 0:
                wrong = sum(bool(outcome.wrong) for outcome in outcomes)
                print(f"{len(outcomes)} runs, {wrong} wrong, {late} late", file=sys.stderr)

    for each in relays:
        await to_thread.run_sync(each.begin)
    try:
        async with new_bus(url) as bus, create_task_group() as hazards:
            if kills:
                hazards.start_soon(harm)
            async with create_task_group() as tasks:
                for _ in range(min(TOGETHER, runs)):
                    tasks.start_soon(work, bus)
            hazards.cancel_scope.cancel()
    finally:
        for each in relays:
            with suppress(AssertionError):
                each.kill()
    return {
        "runs": len(outcomes) + late,
        "wrong": sum(bool(outcome.wrong) for outcome in outcomes) + late,
        "readers": READERS * len(outcomes),
        "cuts": sum(outcome.cuts for outcome in outcomes),
        "producers starved": sum(outcome.is_starved for outcome in outcomes),
        "relays killed": killed,
        "producers killed": runs // 10 if kills else 0,
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    """Read the arguments, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=[*KINDS], default="redis7")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--relay", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--produce", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.relay:
        anyio.run(relay, given.relay[0], int(given.relay[1]))
    elif given.produce:
        anyio.run(produce, *given.produce)
    else:
        with Server(KINDS[given.broker]) as server:

            async def run() -> None:
                print(await run_all(server.url, given.runs, kills=True, seed=given.seed))

            anyio.run(run)


if __name__ == "__main__":
    main()
