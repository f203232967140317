"""Nodes over one board that keeps history, their subscribers, and the laws of what these get.

The laws are those of the reference: "The position says where the subscription stands before the
replay that follows", an event comes once and in the order of offsets, and whoever does not get
everything is told by a gap, or by ``recovered: false``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from anyio import CancelScope, create_task_group, current_time, sleep
from anyio.abc import TaskGroup
from trio.testing import MockClock

from tests.server.clients import UNLIMITED
from tests.server.switchboard import Board, Switch
from wsbus import BrokerUnavailable, Bus, Endpoint, Grants, Handshake, History, Identity, Position
from wsbus.core.instant import Instant
from wsbus.core.patterns import parse_pattern
from wsbus.endpoint import Admission
from wsbus.testing import DirectMemoryTransport, MemoryTransport

__all__ = ["CHANNELS", "DENIED", "NODES", "World", "in_virtual_time"]

NODES = 2
CHANNELS = ("kept.a", "kept.b", "kept.c.d")
DENIED = "kept.b"
"""What clients with the name ``shy`` may not receive."""


def clock() -> Instant:
    return Instant(current_time(), 1e9 + current_time())


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    if token is None:
        return None
    deny = [DENIED] if token == "shy" else []
    return Identity(token, Grants.of(admin=True, subscribe=["*"], deny_subscribe=deny))


@dataclass(eq=False)
class Story:
    """What a subscriber of one name was told, in order."""

    name: str
    denied: tuple[str, ...] = ()
    told: list[tuple[Any, ...]] = field(default_factory=list)
    is_over: bool = False
    """Whether it has ended before everything was well again."""

    def start(self, position: Position | None, *, is_new: bool) -> None:
        """Stand at a position: that of an answer. New: what was before it does not count."""
        self.told.append(("start", position, is_new))

    def event(self, channel: str, position: Position | None) -> None:
        self.told.append(("event", channel, position, current_time()))

    def gap(self, channels: list[str] | None) -> None:
        self.told.append(("gap", channels, current_time()))

    def check(self, truth: dict[str, list[tuple[int, str]]]) -> None:
        """Compare with what the store has kept: by epoch, each offset and its channel."""
        pattern = parse_pattern(self.name)
        at: Position | None = None
        excused: set[str] | None = set()  # None: all channels.
        excused_at = -1.0
        for what, *more in self.told:
            if what == "start":
                position, is_new = more
                if position is not None and (is_new or at is None):
                    at, excused = position, set()
            elif what == "gap":
                channels, excused_at = more
                named = None if channels is None else {*channels}
                excused = None if excused is None or named is None else excused | named
            else:
                channel, position, moment = more
                assert pattern.matches(channel), self
                assert channel not in self.denied, f"{self} got what it may not receive"
                if position is None:
                    continue
                assert at is not None, f"{self} has an event before it stands anywhere"
                if position.epoch == at.epoch:
                    assert position.offset > at.offset, f"{self}: {position} comes after {at}"
                    self._check_hole(truth, at, position.offset, excused)
                else:
                    assert excused is None, f"{self}: a new epoch at {position} was not told"
                at = position
                if moment > excused_at:
                    excused = set()
        if at is not None and not self.is_over:
            self._check_hole(truth, at, 1 << 62, excused)

    def _check_hole(
        self,
        truth: dict[str, list[tuple[int, str]]],
        at: Position,
        end: int,
        excused: set[str] | None,
    ) -> None:
        pattern = parse_pattern(self.name)
        for offset, channel in truth.get(at.epoch, ()):
            if not at.offset < offset < end or not pattern.matches(channel):
                continue
            if channel in self.denied or excused is None or channel in excused:
                continue
            raise AssertionError(f"{self} was not told of {channel} {offset} after {at}")


class World:
    """Nodes, subscribers and publishers."""

    def __init__(self, tasks: TaskGroup, size: int) -> None:
        self.tasks = tasks
        self.board = Board()
        self.switches = [Switch(self.board) for _ in range(NODES)]
        self.buses = [Bus(broker=switch, clock=clock) for switch in self.switches]
        self.doors: list[Endpoint] = []
        for bus in self.buses:
            bus.family("kept.*", history=History(size=size))
            self.doors.append(
                bus.endpoint(authenticator=judge, query_token="token", limits=UNLIMITED)
            )
        self.stories: list[Story] = []
        self.scopes: list[CancelScope] = []
        self.clients: list[WireClient] = []
        self.receipts: dict[str, Position] = {}
        self.refused: set[str] = set()
        self.published = 0

    # --- subscribers -------------------------------------------------------------------------

    def subscribe(self, node: int, name: str) -> None:
        """Subscribe inside a node."""
        scope = CancelScope()
        self.scopes.append(scope)
        self.tasks.start_soon(self._read, node, name, scope)

    async def _read(self, node: int, name: str, scope: CancelScope) -> None:
        story = Story(name)
        self.stories.append(story)
        try:
            with scope, suppress(BrokerUnavailable):
                async with self.buses[node].subscribe(name) as events:
                    story.start(events.position, is_new=True)
                    async for event in events:
                        if event.gap is not None:
                            channels = event.gap.channels
                            story.gap(None if channels is None else [*channels])
                        story.event(event.channel, event.position)
        finally:
            story.is_over = True

    def connect(self, node: int, token: str, names: list[str]) -> None:
        """Connect a client, which keeps coming back."""
        client = WireClient(self, node, token, names)
        self.clients.append(client)
        self.tasks.start_soon(client.run)

    # --- publishers --------------------------------------------------------------------------

    async def publish(self, node: int, channel: str, *, repeats: bool = False) -> None:
        """Publish; repeat it with the same key until the outcome is known, or not."""
        self.published += 1
        key = f"k{self.published}"
        for _ in range(20 if repeats else 1):
            try:
                receipt = await self.buses[node].publish(channel, key, idempotency_key=key)
            except BrokerUnavailable as exc:
                if not exc.may_have_arrived and not repeats:
                    self.refused.add(key)
                await sleep(1)
            else:
                assert receipt.position is not None
                self.receipts[key] = receipt.position
                return

    # --- the end -----------------------------------------------------------------------------

    async def settle(self) -> None:
        """Heal everything, and wait until every subscriber has been told the rest."""
        for switch in self.switches:
            switch.heal()
        await sleep(20)
        assert all(bus.healthy for bus in self.buses)
        for channel in CHANNELS:
            for node in range(NODES):
                self.tasks.start_soon(self.publish, node, channel)
        await sleep(10)

    def check(self) -> None:
        """Check every law."""
        truth: dict[str, list[tuple[int, str]]] = {}
        texts: list[str] = []
        for position, channel, text in self.board.kept:
            truth.setdefault(position.epoch, []).append((position.offset, channel))
            texts.append(text)
        positions = {text: position for position, _, text in self.board.kept}
        for key, position in self.receipts.items():
            assert positions[json.dumps(key)] == position or texts.count(json.dumps(key)) > 1
        for key in self.refused:
            assert json.dumps(key) not in texts, f"{key} was refused, and is published"
        for story in self.stories:
            story.check(truth)

    def check_nothing_is_left(self) -> None:
        """Without subscribers there is no member, and no stand-in."""
        for bus in self.buses:
            assert bus.statistics().patterns == 0


class WireClient:
    """A client of ``wsbus.v1`` that comes back with what it has got, as the reference says."""

    def __init__(self, world: World, node: int, token: str, names: list[str]) -> None:
        self.world = world
        self.node = node
        self.token = token
        self.scope = CancelScope()
        self.is_done = False
        denied = (DENIED,) if token == "shy" else ()
        self.stories = {name: Story(name, denied) for name in names}
        world.stories += self.stories.values()
        self.marks: dict[str, dict[str, Any]] = {}
        self.seen: set[Position] = set()
        """What it got over this connection."""

    def cut(self, node: int) -> None:
        """Lose the connection; come back at a node."""
        self.node = node
        self.scope.cancel()

    async def run(self) -> None:
        while not self.is_done:
            with CancelScope() as self.scope:
                await self._talk()
            await sleep(0.05)

    async def _talk(self) -> None:
        door = self.world.doors[self.node]
        self.seen = set()
        admission = await door.admit(Handshake(path="/ws", query_string=f"token={self.token}"))
        assert isinstance(admission, Admission)
        transport = DirectMemoryTransport() if self.token == "ada" else MemoryTransport()
        async with create_task_group() as tasks:
            tasks.start_soon(door.run, transport, admission)
            try:
                self._ask(transport, [*self.stories])
                while True:
                    frame = await transport.peer.receive()
                    assert isinstance(frame, str)
                    for line in frame.split("\n"):
                        self._hear(transport, json.loads(line))
            finally:
                transport.peer.close()

    def _ask(self, transport: MemoryTransport, names: list[str]) -> None:
        since = {name: self.marks[name] for name in names if name in self.marks}
        message = {"type": "subscribe", "channels": names}
        transport.peer.send(json.dumps(message | ({"since": since} if since else {})))

    def _hear(self, transport: MemoryTransport, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribed":
                self._stand(message["data"])
                rejected = [
                    each["channel"]
                    for each in message["data"].get("rejected", ())
                    if each["code"] == "UNAVAILABLE"
                ]
                if rejected:
                    self._ask(transport, rejected)
            case "gap":
                channels = message["data"].get("channels")
                named = None if channels is None else [each["channel"] for each in channels]
                for story in self.stories.values():
                    story.gap(named)
            case "event" if not message.get("latest") and "position" in message:
                self._take(message["channel"], message["position"])

    def _stand(self, answer: dict[str, Any]) -> None:
        for each in answer.get("positions", ()):
            name = each.pop("channel")
            is_recovered = each.pop("recovered", None)
            if is_recovered:
                assert each == self.marks[name], f"{name} was recovered from {each}"
            else:
                self.marks[name] = each
            self.stories[name].start(_position(each), is_new=not is_recovered)
            if is_recovered is False:  # A client tells that as a gap.
                self.stories[name].gap(None)

    def _take(self, channel: str, position: dict[str, Any]) -> None:
        """Take an event; "one that is not after the greatest mark is dropped" by a client."""
        position.pop("previous", None)
        there = _position(position)
        assert there not in self.seen, f"{channel} {there} came twice over one connection"
        self.seen.add(there)
        names = [name for name in self.stories if parse_pattern(name).matches(channel)]
        marks = [_position(self.marks[name]) for name in names if name in self.marks]
        if any(mark.epoch == there.epoch and mark.offset >= there.offset for mark in marks):
            return
        for name in names:
            if name in self.marks:
                self.stories[name].event(channel, there)
                self.marks[name] = position


def _position(given: dict[str, Any]) -> Position:
    return Position(given["epoch"], given["offset"], given.get("tag", ""))


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is left to do."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self._now = max(self._now, min(timer.when() for timer in timers))
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(
    scenario: Callable[[World], Awaitable[None]], *, backend: str = "trio", size: int = 50
) -> None:
    """Run a scenario on a loop whose clock jumps when nothing is left to do."""

    async def run() -> None:
        async with create_task_group() as tasks:
            world = World(tasks, size)
            async with AsyncExitStack() as stack:
                for bus in world.buses:
                    await stack.enter_async_context(bus)
                await scenario(world)
                for client in world.clients:
                    client.is_done = True
                    client.scope.cancel()
                for scope in world.scopes:
                    scope.cancel()
                await sleep(8)
                world.check_nothing_is_left()
            tasks.cancel_scope.cancel()

    if backend == "trio":
        trio.run(run, clock=MockClock(autojump_threshold=0))
    else:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(run())
