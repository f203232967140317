"""One fault, one broker: two nodes under load, each behind a proxy, with every id checked.

Node A publishes on four channels; at node B one client has all of them by a wildcard, another has
one by its name. Each publication that A's publisher saw acknowledged must reach them once and in
order, or a gap must stand at its place; one that was refused for certain must not arrive.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

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
from wsbus import Admission, Bus, Endpoint, Handshake, History, Limits
from wsbus.brokers import broker_of
from wsbus.core.errors import BrokerUnavailable, TransportClosed
from wsbus.server import relay
from wsbus.testing import FaultProxy, MemoryTransport
from wsbus.testing.memory import MemoryPeer

__all__ = [
    "CHANNELS",
    "FAULTS",
    "PACE",
    "Load",
    "Log",
    "Outcome",
    "judge",
    "overflow_arguments",
    "run",
    "shortened",
    "under_load",
]

CHANNELS: Final = ("load.0", "load.1", "load.2", "load.3")
BACK_CHANNELS: Final = ("back.0", "back.1", "back.2", "back.3")
PACE: Final = 0.004
"""Seconds between two publications on a channel: a thousand a second on all of them."""

Log: TypeAlias = list[tuple[str, int] | None]
"""What a client got, in order: channel and number of each event; None is a gap."""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of the publications of one run, as all clients saw them."""

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
    """That all clients got."""
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

    def __init__(
        self,
        server: Server,
        proxies: tuple[FaultProxy, FaultProxy],
        chance: random.Random,
        load: Load,
    ) -> None:
        self.server: Final = server
        self.proxies: Final = proxies
        self.chance: Final = chance
        self.load: Final = load

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
    stage.load.data = "x" * round(1_000_000 * stage.load.pace)  # 4 MB a second.
    stage.proxies[1].trickle(50_000)
    await sleep(1.2)
    stage.load.data = "x" * 100
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
    """A client of a node, and what it got."""

    def __init__(self, peer: MemoryPeer, pattern: str, channels: tuple[str, ...]) -> None:
        self.pattern = pattern
        self.channels = channels
        self.log: Log = []
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


class Load:
    """A publisher: numbers on each of its channels, at a fixed pace.

    Args:
        publish: Publishes data on a channel.
        channels: The channels.
        pace: Seconds between two publications on one of them.
    """

    def __init__(
        self,
        publish: Callable[[str, Any], Awaitable[object]],
        channels: tuple[str, ...] = CHANNELS,
        pace: float = PACE,
    ) -> None:
        self._publish = publish
        self.pace: Final = pace
        self.outcomes: dict[str, list[bool | None]] = {channel: [] for channel in channels}
        """For each publication: acknowledged, refused (False), or not known (None)."""
        self.data = "x" * 100
        """What each publication carries."""
        self.is_over = False

    async def run(self) -> None:
        """Publish until :attr:`is_over`."""
        async with create_task_group() as tasks:
            for channel in self.outcomes:
                tasks.start_soon(self._run, channel)

    async def _run(self, channel: str) -> None:
        outcomes, pace = self.outcomes[channel], self.pace
        due = current_time()
        while not self.is_over:
            data = {"n": len(outcomes), "pad": self.data}
            outcomes.append(None)
            try:
                await self._publish(channel, data)
                outcomes[-1] = True
            except BrokerUnavailable as exc:
                if not exc.may_have_arrived:
                    outcomes[-1] = False
            due = max(due + pace, current_time() - 20 * pace)
            await sleep(max(due - current_time(), 0))

    async def finish(self, is_heard: Callable[[], bool]) -> None:
        """Publish a last word on each channel, again and again until it was heard.

        A busy machine may lose a link once more.
        """
        while not is_heard():
            with contextlib.suppress(BrokerUnavailable):
                for channel in self.outcomes:
                    await self._publish(channel, {"n": None})
            await sleep(0.02)


async def run(
    server: Server, fault: str, seed: int, *, pace: float = PACE, keeps: bool = False
) -> Outcome:
    """Run one fault on a server that is up, and is left up; see :func:`shortened`.

    Args:
        server: The broker.
        fault: The name of the fault.
        seed: Chooses its details.
        pace: See :class:`Load`.
        keeps: Whether the channels have history.
    """
    async with FaultProxy(*server.address) as to_a, FaultProxy(*server.address) as to_b:
        chance = random.Random(seed)
        a, b = [f"{server.kind.scheme}://127.0.0.1:{proxy.port}" for proxy in (to_a, to_b)]

        async def act(load: Load) -> None:
            await sleep(chance.uniform(0.0, 0.2))
            await FAULTS[fault](Stage(server, (to_a, to_b), chance, load))

        return await under_load((a, b), act, pace=pace, keeps=keeps)


async def under_load(
    urls: tuple[str, str],
    act: Callable[[Load], Awaitable[None]],
    *,
    pace: float = PACE,
    is_mutual: bool = False,
    keeps: bool = False,
    seconds: float = 20,
) -> Outcome:
    """Publish at node A, and see what becomes of it at node B while something happens.

    Args:
        urls: The broker of A, and of B.
        act: Has it happen, and returns when it is over; it gets the publisher.
        pace: See :class:`Load`.
        is_mutual: Whether B publishes as well, and A has clients.
        keeps: Whether the channels have history.
        seconds: The most that all of it takes.
    """
    outcome = Outcome()
    a, b = buses = [Bus(broker=broker_of(url)) for url in urls]
    if keeps:
        for bus in buses:
            bus.family("load.*", history=History(size=20_000))
            bus.family("back.*", history=History(size=20_000))
    loads = [Load(a.publish, pace=pace)]
    if is_mutual:
        loads.append(Load(b.publish, BACK_CHANNELS, pace))
    async with create_task_group() as tasks:
        roomy = Limits(queue_messages=200_000, queue_bytes=1 << 30)
        receivers = [bus.endpoint(limits=roomy) for bus in (b, a)]
        async with a, b:
            with fail_after(seconds):
                clients = [
                    await _join(receiver, load, tasks)
                    for receiver, load in zip(receivers, loads, strict=False)
                ]
                await _drive(act, buses, loads, clients, tasks, outcome)
        tasks.cancel_scope.cancel()
    for load, found in zip(loads, clients, strict=True):
        judge(load, [(client.log, client.channels) for client in found], outcome)
    return outcome


async def _join(endpoint: Endpoint, load: Load, tasks: TaskGroup) -> list[_Client]:
    """Subscribe one client to all channels of a load, and one to a single one."""
    channels = tuple(load.outcomes)
    stem = channels[0].partition(".")[0]
    clients = []
    for pattern, its in ((f"{stem}.*", channels), (channels[1], channels[1:2])):
        transport = MemoryTransport()
        admission = await endpoint.admit(Handshake(path="/ws"))
        assert isinstance(admission, Admission)
        tasks.start_soon(endpoint.run, transport, admission)
        client = _Client(transport.peer, pattern, its)
        tasks.start_soon(client.run)
        await client.subscribed.wait()
        clients.append(client)
    return clients


async def _drive(
    act: Callable[[Load], Awaitable[None]],
    buses: Sequence[Bus],
    loads: Sequence[Load],
    clients: Sequence[Sequence[_Client]],
    tasks: TaskGroup,
    outcome: Outcome,
) -> None:
    async with create_task_group() as publishers:
        for load in loads:
            publishers.start_soon(load.run)
        await sleep(0.2)  # There is traffic before.
        began = current_time()

        async def watch() -> None:
            while all(bus.healthy for bus in buses):  # noqa: ASYNC110  # as a probe does
                await sleep(0.002)
            outcome.noticed = current_time() - began

        tasks.start_soon(watch)
        await act(loads[0])
        over = current_time()
        await _healthy(buses)
        outcome.back = current_time() - over
        # A link that has not noticed yet does so within a probe: then both are back.
        await sleep(0.2 if outcome.noticed is not None else 1.2)
        await _healthy(buses)
        for load in loads:
            load.is_over = True
    for load, found in zip(loads, clients, strict=True):
        await load.finish(lambda found=found: all(client.done.is_set() for client in found))  # type: ignore[misc]


async def _healthy(buses: Sequence[Bus]) -> None:
    while not all(bus.healthy for bus in buses):  # noqa: ASYNC110  # as an operator's probe does
        await sleep(0.002)


def judge(load: Load, heard: Sequence[tuple[Log, Sequence[str]]], outcome: Outcome) -> None:
    """Add to an outcome what became of a load.

    Args:
        load: It has ended.
        heard: What each client got, and the channels that it has had since before the load began.
        outcome: Where to.
    """
    every = [each for outcomes in load.outcomes.values() for each in outcomes]
    outcome.published += len(every)
    outcome.acknowledged += every.count(True)
    outcome.refused += every.count(False)
    outcome.uncertain += every.count(None)
    for log, channels in heard:
        outcome.gaps += log.count(None)
        for channel in channels:
            _judge_channel(log, channel, load.outcomes[channel], outcome)


def _judge_channel(log: Log, channel: str, outcomes: list[bool | None], outcome: Outcome) -> None:
    came: list[int] = []
    gaps: set[int] = set()  # How many had come before each.
    for entry in log:
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
