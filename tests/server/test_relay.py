"""The relay: several buses over one broker whose links fail, in virtual time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from anyio import CancelScope, create_task_group, current_time, sleep
from anyio.abc import TaskGroup
from hypothesis import given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.server.switchboard import Board, Switch
from wsbus import Bus
from wsbus.core.errors import BrokerUnavailable
from wsbus.core.feeds import ALL_NODES, feed_of
from wsbus.core.instant import Instant
from wsbus.core.patterns import parse_pattern

NODES = 3
CHANNELS = ("a.b", "a.c", "a.b.c", "d")
PATTERNS = ("a.b", "a.*", "a.+", "*", "a.b.*", "d", "+.b")


def clock() -> Instant:
    return Instant(current_time(), 1e9 + current_time())


@dataclass(eq=False)
class Said:
    """A publication: its place in the order of its node, and whether it was acknowledged."""

    number: int
    began: int
    acknowledged: int | None = None


@dataclass(eq=False)
class Reader:
    """A subscription inside a node, and what it got: numbers by node and channel, and gaps."""

    node: int
    pattern: str
    scope: CancelScope = field(default_factory=CancelScope)
    confirmed: int | None = None
    ended: int | None = None
    log: list[tuple[int, str, int] | None] = field(default_factory=list)


class World:
    """Buses over one board, and a record of all that happened; moments are counted, not timed."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.tasks = tasks
        board = Board()
        self.switches = [Switch(board) for _ in range(NODES)]
        self.buses = [Bus(broker=switch, clock=clock) for switch in self.switches]
        self.said: dict[tuple[int, str], list[Said]] = defaultdict(list)
        self.readers: list[Reader] = []
        self._moments = 0

    def moment(self) -> int:
        self._moments += 1
        return self._moments

    def subscribe(self, node: int, pattern: str) -> Reader:
        reader = Reader(node, pattern)
        self.readers.append(reader)
        self.tasks.start_soon(self._read, reader)
        return reader

    async def _read(self, reader: Reader) -> None:
        try:
            with reader.scope, suppress(BrokerUnavailable):
                async with self.buses[reader.node].subscribe(reader.pattern) as events:
                    reader.confirmed = self.moment()
                    async for event in events:
                        if event.gap is not None:
                            reader.log.append(None)
                        node, number = event.data
                        reader.log.append((node, event.channel, number))
        finally:
            reader.ended = self.moment()

    def publish_soon(self, node: int, channel: str) -> None:
        with suppress(BrokerUnavailable):
            self.buses[node].publish_soon(channel, [node, self._new(node, channel).number])

    async def publish(self, node: int, channel: str) -> None:
        item = self._new(node, channel)
        with suppress(BrokerUnavailable):
            await self.buses[node].publish(channel, [node, item.number])
            item.acknowledged = self.moment()

    def _new(self, node: int, channel: str) -> Said:
        said = self.said[node, channel]
        item = Said(len(said), self.moment())
        said.append(item)
        return item

    async def settle(self) -> None:
        """Heal everything, wait until the nodes have found each other, and say a last word."""
        for switch in self.switches:
            switch.heal()
        await sleep(12)
        assert all(bus.healthy for bus in self.buses)
        for node in range(NODES):
            for channel in CHANNELS:
                self.tasks.start_soon(self.publish, node, channel)
        await sleep(5)

    def check(self) -> None:
        for reader in self.readers:
            for (node, channel), said in self.said.items():
                if parse_pattern(reader.pattern).matches(channel):
                    self._check(reader, node, channel, said)

    def _check(self, reader: Reader, node: int, channel: str, said: list[Said]) -> None:
        """Whatever was acknowledged while it was confirmed came once, in order, or a gap says so.

        The gap stands at the place of what is missing.
        """
        came: list[int] = []
        gap_after: set[int] = set()  # Gaps, as how many had come.
        for entry in reader.log:
            if entry is None:
                gap_after.add(len(came))
            elif entry[:2] == (node, channel):
                came.append(entry[2])
        assert came == sorted(set(came)), f"{reader} got {node} {channel} as {came}"
        if reader.confirmed is None:
            return
        for item in said:
            is_held = item.began > reader.confirmed and item.acknowledged is not None
            if not is_held or item.number in came:
                continue
            assert item.acknowledged is not None
            if reader.ended is not None and item.acknowledged >= reader.ended:
                continue
            place = sum(number < item.number for number in came)
            is_excused = place in gap_after or (reader.ended is not None and place == len(came))
            assert is_excused, f"{reader} lost {node} {channel} {item}"
            assert node != reader.node, f"{reader} lost what its own node published"

    def check_interest(self) -> None:
        """Each node follows what its readers want, and nothing else."""
        for node, switch in enumerate(self.switches):
            wanted = {
                feed_of(parse_pattern(r.pattern)) for r in self.readers if self.is_open(r, node)
            }
            widest = {
                feed
                for feed in wanted
                if not any(o != feed and o[0] == "~" and feed[1:].startswith(o[1:]) for o in wanted)
            }
            assert switch.link is not None
            assert switch.link.followed == widest | {ALL_NODES}

    @staticmethod
    def is_open(reader: Reader, node: int) -> bool:
        return reader.node == node and reader.confirmed is not None and reader.ended is None


def in_virtual_time(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on trio, whose clock jumps when nothing is left to do."""

    async def run() -> None:
        async with create_task_group() as tasks:
            world = World(tasks)
            async with world.buses[0], world.buses[1], world.buses[2]:
                await scenario(world)
                for reader in world.readers:
                    reader.scope.cancel()
            tasks.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))


nodes = st.integers(0, NODES - 1)
waits = st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.1, 4.0, 7.0])
steps = st.one_of(
    st.tuples(st.just("subscribe"), nodes, st.sampled_from(PATTERNS)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 20), st.none()),
    st.tuples(st.sampled_from(["publish", "publish", "soon"]), nodes, st.sampled_from(CHANNELS)),
    st.tuples(st.just("burst"), nodes, st.integers(1, 12)),
    st.tuples(st.sampled_from(["lose", "release"]), nodes, st.none()),
    st.tuples(st.sampled_from(["refuse", "dead", "freeze"]), nodes, st.booleans()),
    st.tuples(st.just("slow"), nodes, st.sampled_from([0.0, 0.002, 0.2, 1.0, 4.0])),
    st.tuples(st.just("late"), nodes, st.sampled_from([0.0, 0.01, 0.4])),
    st.tuples(st.just("wait"), waits, st.none()),
)


async def perform(  # noqa: C901, PLR0912  # a case for each step
    world: World, step: tuple[str, Any, Any]
) -> None:
    match step:
        case "subscribe", node, pattern:
            world.subscribe(node, pattern)
        case "unsubscribe", index, _:
            if world.readers:
                world.readers[index % len(world.readers)].scope.cancel()
        case "publish", node, channel:
            world.tasks.start_soon(world.publish, node, channel)
        case "soon", node, channel:
            world.publish_soon(node, channel)
        case "burst", node, count:
            for number in range(count):
                world.tasks.start_soon(world.publish, node, CHANNELS[number % len(CHANNELS)])
                await sleep(0.001)
        case "lose", node, _:
            world.switches[node].lose()
        case "release", node, _:
            world.switches[node].release()
        case "refuse", node, value:
            world.switches[node].refuses = value
        case "dead", node, value:
            world.switches[node].is_dead = value
        case "freeze", node, value:
            world.switches[node].is_frozen = value
        case "slow", node, seconds:
            world.switches[node].seconds = seconds
        case "late", node, seconds:
            world.switches[node].latency = seconds
        case "wait", seconds, _:
            await sleep(seconds)


@settings(max_examples=settings().max_examples // 2)
@given(st.lists(steps, min_size=5, max_size=40))
def test_nothing_is_lost_without_a_gap(script: list[tuple[str, Any, Any]]) -> None:
    """Whatever fails: all that is acknowledged comes once and in order, or a gap stands there.

    Once all is well again, each node follows what its members want, and everything comes.
    """

    async def scenario(world: World) -> None:
        for step in script:
            await perform(world, step)
        await world.settle()
        note(str([switch.calls for switch in world.switches]))
        world.check()
        world.check_interest()

    in_virtual_time(scenario)


def test_what_is_wanted_while_a_link_is_dialled() -> None:
    """A pattern that comes while the link follows the others is followed before it counts."""

    async def scenario(world: World) -> None:
        switch = world.switches[0]
        switch.seconds = 0.5
        switch.lose()
        await sleep(0.8)
        assert switch.calls[-1].startswith("follow")
        reader = world.subscribe(0, "d")
        await sleep(4)
        assert reader.confirmed is not None
        await world.publish(1, "d")
        await world.settle()
        world.check()
        world.check_interest()

    in_virtual_time(scenario)


def test_what_is_wanted_again_while_it_is_given_up() -> None:
    """A pattern that comes back while the broker is about to forget it is followed anew."""

    async def scenario(world: World) -> None:
        switch = world.switches[0]
        first = world.subscribe(0, "d")
        await sleep(0.1)
        switch.seconds = 1.0
        first.scope.cancel()
        await sleep(2.5)  # It lingers for a second; then the broker takes two.
        assert "unfollow =d" in switch.calls
        again = world.subscribe(0, "d")
        await sleep(0.1)
        await world.publish(1, "d")
        await sleep(3)
        assert again.confirmed is not None
        await world.settle()
        world.check()
        world.check_interest()

    in_virtual_time(scenario)


def test_a_node_gets_what_its_members_want() -> None:
    """A node without members gets beacons only; one with a channel gets that channel besides."""

    async def scenario(world: World) -> None:
        world.subscribe(1, "a.b")
        world.subscribe(2, "a.b.*")
        await sleep(0.1)
        for _ in range(10):
            for channel in CHANNELS:
                await world.publish(0, channel)
        brought = [switch.brought for switch in world.switches]
        assert {*brought[0]} == {ALL_NODES}
        assert brought[1] - Counter({ALL_NODES: 99}) == {"=a.b": 10}
        assert brought[2] - Counter({ALL_NODES: 99}) == {"~a.b.": 10}

    in_virtual_time(scenario)


def test_a_link_that_is_silent_is_noticed() -> None:
    """A dead subscription, a frozen broker: within 6 s the node is not healthy, and says a gap."""

    async def scenario(world: World) -> None:
        for fault in ("is_dead", "is_frozen"):
            reader = world.subscribe(0, "d")
            await sleep(10)
            setattr(world.switches[0], fault, True)
            world.switches[0].refuses = True
            health = [world.buses[0].healthy]
            await sleep(6)
            health.append(world.buses[0].healthy)
            world.switches[0].heal()
            await sleep(6)
            health.append(world.buses[0].healthy)
            assert health == [True, False, True]
            await world.publish(1, "d")
            await sleep(1)
            assert reader.log[-2] is None

    in_virtual_time(scenario)


def test_what_a_new_link_brings_comes_behind_the_gap() -> None:
    """The gap stands where publications are missing, not behind those that a new link brings."""

    async def scenario(world: World) -> None:
        switch = world.switches[0]
        reader = world.subscribe(0, "d")
        await sleep(0.1)
        await world.publish(1, "d")
        switch.seconds = 0.5
        switch.lose()
        for _ in range(20):
            await world.publish(1, "d")
            await sleep(0.1)
        assert switch.link is not None
        await world.settle()
        world.check()
        assert reader.log.count(None) == 1

    in_virtual_time(scenario)


def test_what_was_held_up_does_not_break_the_order() -> None:
    """A turn that was on a link which is given up may come, but not behind later ones."""

    async def scenario(world: World) -> None:
        switch = world.switches[1]
        reader = world.subscribe(0, "d")
        await sleep(0.1)
        switch.is_frozen = True
        world.tasks.start_soon(world.publish, 1, "d")
        await sleep(6)
        switch.is_frozen = False
        await sleep(6)
        await world.publish(1, "d")
        await sleep(0.1)
        assert switch.held_up
        switch.release()
        await world.settle()
        world.check()
        assert [entry for entry in reader.log if entry][:1] == [(1, "d", 1)]

    in_virtual_time(scenario)
