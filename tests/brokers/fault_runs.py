"""One fault, one broker: two nodes under load, each behind a proxy, with every id checked.

Node A publishes on four channels; at node B one client has all of them by a wildcard, another has
one by its name. Each publication that A's publisher saw acknowledged must reach them once and in
order, or a gap must stand at its place; one that was refused for certain must not arrive.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import msgspec
from anyio import (
    Event,
    create_task_group,
    current_time,
    fail_after,
    sleep,
    to_thread,
)
from anyio.abc import TaskGroup

from tests.brokers.servers import KINDS, Server
from wsbus import Admission, Bus, Endpoint, Handshake, Limits
from wsbus.brokers import broker_of
from wsbus.core.errors import BrokerUnavailable, TransportClosed
from wsbus.server import relay
from wsbus.testing import FaultProxy, MemoryTransport
from wsbus.testing.memory import MemoryPeer

__all__ = ["FAULTS", "Outcome", "overflow_arguments", "run", "shortened"]

CHANNELS: Final = ("load.0", "load.1", "load.2", "load.3")
PACE: Final = 0.004
"""Seconds between two publications on a channel: a thousand a second on all of them."""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of the publications of one run, as both clients of B saw them."""

    published: int = 0
    acknowledged: int = 0
    refused: int = 0
    """No other node can have got them."""
    uncertain: int = 0
    """The link was lost after they were sent."""
    arrived: int = 0
    told: int = 0
    """Acknowledged and missing, with a gap at their place."""
    silent: int = 0
    """Acknowledged and missing, without one."""
    doubled: int = 0
    late: int = 0
    """Arrived behind a later one."""
    smuggled: int = 0
    """Arrived although they were refused."""
    gaps: int = 0
    """That both clients got."""
    noticed: float | None = None
    """Seconds from the fault until a node said that it is not healthy; None: none ever did."""
    back: float = 0.0
    """Seconds from the end of the fault until both nodes were healthy."""

    places: list[str] = []
    """Where a publication came late or twice: the numbers around it."""

    @property
    def wrong(self) -> int:
        """Publications that broke a promise."""
        return self.silent + self.doubled + self.late + self.smuggled


class Stage:
    """What a fault acts on."""

    def __init__(self, server: Server, proxies: tuple[FaultProxy, FaultProxy], seed: int) -> None:
        self.server: Final = server
        self.proxies: Final = proxies
        self.chance: Final = random.Random(seed)
        self.data: str = "x" * 100
        """What each publication carries."""

    def some(self) -> list[FaultProxy]:
        """Return the proxies of A, of B, or of both."""
        return self.chance.choice([[self.proxies[0]], [self.proxies[1]], [*self.proxies]])


async def killed(stage: Stage) -> None:
    """The broker dies, and is there again after half a second or more."""
    stage.server.kill()
    await sleep(stage.chance.uniform(0.5, 1.0))
    await to_thread.run_sync(stage.server.start)


async def restarted(stage: Stage) -> None:
    """The broker ends as its operators end it, and is started at once."""
    await to_thread.run_sync(stage.server.restart)


async def reset(stage: Stage) -> None:
    """The network breaks the connections of one node, or of both; twice, at some distance."""
    for _ in range(2):
        for proxy in stage.some():
            proxy.reset()
        await sleep(stage.chance.uniform(0.0, 0.3))


async def black_hole(stage: Stage) -> None:
    """The connections stay open, and nothing moves; new ones pass, or do not either."""
    proxies, is_new = stage.some(), stage.chance.random() < 0.5
    for proxy in proxies:
        proxy.black_hole(new=is_new)
    await sleep(stage.chance.uniform(1.0, 1.4))
    for proxy in proxies:
        proxy.heal()


async def frozen(stage: Stage) -> None:
    """The broker is stopped, and goes on after a while."""
    await to_thread.run_sync(stage.server.freeze)
    await sleep(stage.chance.uniform(1.0, 1.4))
    stage.server.thaw()


async def half_dead(stage: Stage) -> None:
    """One connection of a node is dead: with Redis its subscriptions, and not its commands."""
    proxy = stage.chance.choice(stage.proxies)
    stage.chance.choice(proxy.connections).black_hole()
    await sleep(1.2)


async def overflow(stage: Stage) -> None:
    """B reads far less than is published, until the broker cuts it off, or its beacon is late."""
    stage.data = "x" * 4_000
    stage.proxies[1].trickle(50_000)
    await sleep(1.2)
    stage.data = "x" * 100
    stage.proxies[1].heal()


FAULTS: Final[dict[str, Callable[[Stage], Awaitable[None]]]] = {
    fault.__name__: fault
    for fault in (killed, restarted, reset, black_hole, frozen, half_dead, overflow)
}


def overflow_arguments(kind: str) -> list[str]:
    """Return arguments with which a broker bounds what may wait for a reader."""
    if KINDS[kind].scheme == "redis":
        return ["--client-output-buffer-limit", "pubsub 1mb 1mb 1"]
    return []


@contextlib.contextmanager
def shortened(probe: float = 0.3, call: float = 0.6) -> Iterator[None]:
    """Have relays notice sooner, so that a run takes seconds: the ways are the same."""
    changes = {"PROBE_SECONDS": probe, "CALL_SECONDS": call, "_BACKOFF": (0.02, 0.2)}
    before = {name: getattr(relay, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(relay, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(relay, name, value)


class _Client:
    """A client of node B: what it got, by channel; None is a gap."""

    def __init__(self, peer: MemoryPeer, pattern: str, channels: tuple[str, ...]) -> None:
        self.pattern = pattern
        self.channels = channels
        self.log: list[tuple[str, int] | None] = []
        self.subscribed = Event()
        self.finished: set[str] = set()
        self.done = Event()
        self._peer = peer

    async def run(self) -> None:
        self._peer.send(
            msgspec.json.encode({"type": "subscribe", "channels": [self.pattern]}).decode()
        )
        with contextlib.suppress(TransportClosed):  # At the end.
            while True:
                frame = await self._peer.receive()
                assert isinstance(frame, str)
                for line in frame.split("\n"):
                    self._take(msgspec.json.decode(line))

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribed":
                self.subscribed.set()
            case "gap":
                assert message["data"]["cause"] == "broker", message
                self.log.append(None)
            case "event":
                number = message["data"]["n"]
                if number is None:
                    self.finished.add(message["channel"])
                    if self.finished == {*self.channels}:
                        self.done.set()
                else:
                    self.log.append((message["channel"], number))


class _Load:
    """The publisher at node A."""

    def __init__(self, bus: Bus, stage: Stage) -> None:
        self._bus = bus
        self._stage = stage
        self.outcomes: dict[str, list[bool | None]] = {channel: [] for channel in CHANNELS}
        """For each publication: acknowledged, refused (False), or not known (None)."""
        self.is_over = False

    async def run(self, channel: str, finished: Callable[[], None]) -> None:
        outcomes = self.outcomes[channel]
        due = current_time()
        while not self.is_over:
            data = {"n": len(outcomes), "pad": self._stage.data}
            outcomes.append(None)
            try:
                await self._bus.publish(channel, data)
                outcomes[-1] = True
            except BrokerUnavailable as exc:
                if not exc.may_have_arrived:
                    outcomes[-1] = False
            due = max(due + PACE, current_time() - 20 * PACE)
            await sleep(max(due - current_time(), 0))
        finished()


async def run(server: Server, fault: str, seed: int) -> Outcome:
    """Run one fault on a server that is up, and is left up; see :func:`shortened`."""
    outcome = Outcome()
    async with (
        FaultProxy(*server.address) as to_a,
        FaultProxy(*server.address) as to_b,
        create_task_group() as tasks,
    ):
        stage = Stage(server, (to_a, to_b), seed)
        a, b = [
            Bus(broker=broker_of(f"{server.kind.scheme}://127.0.0.1:{proxy.port}"))
            for proxy in stage.proxies
        ]
        endpoint = b.endpoint(limits=Limits(queue_messages=200_000, queue_bytes=1 << 30))
        async with a, b:
            load = _Load(a, stage)
            async with _clients(endpoint, tasks) as clients:
                with fail_after(20):
                    await _drive(FAULTS[fault], stage, (a, b), load, clients, tasks, outcome)
        tasks.cancel_scope.cancel()
    _judge(load, clients, outcome)
    return outcome


@asynccontextmanager
async def _clients(endpoint: Endpoint, tasks: TaskGroup) -> AsyncIterator[list[_Client]]:
    clients, peers = [], []
    for pattern, channels in (("load.*", CHANNELS), (CHANNELS[1], CHANNELS[1:2])):
        transport = MemoryTransport()
        admission = await endpoint.admit(Handshake(path="/ws"))
        assert isinstance(admission, Admission)
        tasks.start_soon(endpoint.run, transport, admission)
        client = _Client(transport.peer, pattern, channels)
        tasks.start_soon(client.run)
        await client.subscribed.wait()
        clients.append(client)
        peers.append(transport.peer)
    yield clients


async def _drive(
    fault: Callable[[Stage], Awaitable[None]],
    stage: Stage,
    buses: tuple[Bus, Bus],
    load: _Load,
    clients: list[_Client],
    tasks: TaskGroup,
    outcome: Outcome,
) -> None:
    finished = [Event() for _ in CHANNELS]
    for channel, event in zip(CHANNELS, finished, strict=True):
        tasks.start_soon(load.run, channel, event.set)
    await sleep(stage.chance.uniform(0.2, 0.4))
    began = current_time()

    async def watch() -> None:
        while all(bus.healthy for bus in buses):  # noqa: ASYNC110  # as an operator's probe does
            await sleep(0.002)
        outcome.noticed = current_time() - began

    tasks.start_soon(watch)
    await fault(stage)
    over = current_time()
    await _healthy(buses)
    outcome.back = current_time() - over
    # A link that has not noticed yet does so within a probe: then both are back.
    await sleep(0.2 if outcome.noticed is not None else 1.2)
    await _healthy(buses)
    load.is_over = True
    for event in finished:
        await event.wait()
    # A busy machine may lose the link once more: a last word is repeated until it was heard.
    while not all(client.done.is_set() for client in clients):
        with contextlib.suppress(BrokerUnavailable):
            for channel in CHANNELS:
                await buses[0].publish(channel, {"n": None})
        await sleep(0.02)


async def _healthy(buses: tuple[Bus, Bus]) -> None:
    while not all(bus.healthy for bus in buses):  # noqa: ASYNC110  # as an operator's probe does
        await sleep(0.002)


def _judge(load: _Load, clients: list[_Client], outcome: Outcome) -> None:
    every = [each for outcomes in load.outcomes.values() for each in outcomes]
    outcome.published = len(every)
    outcome.acknowledged, outcome.refused = every.count(True), every.count(False)
    outcome.uncertain = every.count(None)
    for client in clients:
        outcome.gaps += client.log.count(None)
        for channel in client.channels:
            _judge_channel(client, channel, load.outcomes[channel], outcome)


def _judge_channel(
    client: _Client, channel: str, outcomes: list[bool | None], outcome: Outcome
) -> None:
    came: list[int] = []
    gaps: set[int] = set()  # How many had come before each.
    for entry in client.log:
        if entry is None:
            gaps.add(len(came))
        elif entry[0] == channel:
            came.append(entry[1])
    held = {*came}
    outcome.arrived += len(came)
    outcome.doubled += len(came) - len(held)
    outcome.smuggled += sum(outcomes[number] is False for number in held)
    for place, (one, other) in enumerate(pairwise(came)):
        if other <= one:
            outcome.late += other < one
            around = came[max(place - 3, 0) : place + 5]
            outcome.places.append(f"{channel} {around}: {outcomes[other]}")
    place = 0
    for number, result in enumerate(outcomes):
        if number in held:
            place += 1
        elif result is True and place in gaps:
            outcome.told += 1
        elif result is True:
            outcome.silent += 1
            outcome.places.append(f"{channel} {number} of {len(outcomes)}, gaps {sorted(gaps)}")
