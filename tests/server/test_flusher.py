from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import pytest
from anyio import Event, WouldBlock, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from wsbus.core.channels import parse_channel
from wsbus.core.errors import TransportClosed
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.instant import Instant
from wsbus.core.member import Member, Standing
from wsbus.core.messages import Gap, Publication, Request, ServerMessage
from wsbus.core.outlet import Outlet, Owed
from wsbus.core.overflow import Overflow
from wsbus.core.pacing import (
    CATCH_UP_SECONDS,
    FLUSH_BYTES,
    FLUSH_COUNT,
    MAX_JOIN_BYTES,
    PACE_SECONDS,
)
from wsbus.core.patterns import parse_pattern
from wsbus.core.protocol import WireProtocol
from wsbus.core.queue import MessageQueue
from wsbus.server.flusher import Flusher
from wsbus.server.outlet import SocketOutlet
from wsbus.server.runner import Runner

CHANNEL: Final = parse_channel("a")
EVERYTHING: Final = parse_pattern("*")
START: Final = Instant(100.0, 0.0)


class Dialect(WireProtocol):
    """Says publications as their data, and gaps if it has a word for them."""

    name = "test"

    def __init__(self, *, joins: bool = False, has_gaps: bool = True) -> None:
        self.joins = joins
        self.has_gaps = has_gaps

    def decode(self, frame: str | bytes) -> Iterable[Request]:
        return ()

    def encode(self, reply: ServerMessage, at: Instant) -> Frame | None:
        assert isinstance(reply, Gap)
        assert reply.lost is not None
        return Frame(b"gap %d" % reply.lost) if self.has_gaps else None

    def encode_publication(self, publication: Publication) -> Frame:
        return Frame(publication.data)


PLAIN: Final = Dialect()


def frames_in(wire: bytes) -> list[str]:
    """Read RFC 6455 frames as a client does."""
    texts = []
    while wire:
        assert wire[0] == 0x81
        size, at = wire[1], 2
        if size == 126:
            size, at = int.from_bytes(wire[2:4]), 4
        elif size == 127:
            size, at = int.from_bytes(wire[2:10]), 10
        texts.append(wire[at : at + size].decode())
        wire = wire[at + size :]
    return texts


class Wire:
    """What all transports here have in common: a peer that reads, or does not."""

    def __init__(self, *, budget: int | None = None) -> None:
        self.got: list[str] = []
        self.error: Exception | None = None
        self.budget = budget
        """Writes until it blocks by itself, once."""
        self._open = Event()
        self._open.set()

    def block(self) -> None:
        if self._open.is_set():
            self._open = Event()

    def spend(self) -> None:
        if self.budget == 0:
            self.budget = None
            self.block()
        if self.budget is not None:
            self.budget -= 1

    def unblock(self) -> None:
        self._open.set()

    def fail(self, error: Exception) -> None:
        """Fail from now on, also whoever waits."""
        self.error = error
        self._open.set()

    async def ready(self) -> None:
        while not self._open.is_set():
            await self._open.wait()
        if self.error is not None:
            raise self.error

    async def receive(self) -> str | bytes:
        raise AssertionError("nobody reads here")

    async def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...


class Direct(Wire):
    """Writes without waiting."""

    def __init__(self, *, budget: int | None = None) -> None:
        super().__init__(budget=budget)
        self.writes: list[bytes] = []
        self.backlog = 0
        self.on_write: Callable[[], None] | None = None

    def write_now(self, wire: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.spend()
        if not self._open.is_set():
            raise WouldBlock
        self.writes.append(wire)
        self.got += frames_in(wire)
        if self.on_write is not None:
            on_write, self.on_write = self.on_write, None
            on_write()

    async def wait_writable(self) -> None:
        await self.ready()

    def unsent(self) -> int:
        return self.backlog

    async def send(self, frames: Sequence[Frame]) -> None:
        raise AssertionError("what can write now is not awaited")


class Awaited(Wire):
    """Can only be awaited, like plain ASGI; takes a turn of the loop even with room."""

    def __init__(self, *, budget: int | None = None) -> None:
        super().__init__(budget=budget)
        self.is_sending = False

    async def send(self, frames: Sequence[Frame]) -> None:
        assert not self.is_sending, "two tasks send at a time"
        self.is_sending = True
        try:
            await checkpoint()
            self.spend()
            for frame in frames:
                await self.ready()
                self.got.append(frame.text)
        finally:
            self.is_sending = False


KINDS: Final[list[type[Direct | Awaited]]] = [Direct, Awaited]
kinds = pytest.mark.parametrize("kind", KINDS)


class Rig:
    """A hub with a flusher that runs, and a clock that is set by hand."""

    def __init__(self, runner: Runner) -> None:
        self.now = START
        self.hub = Hub()
        self.flusher = Flusher(self.hub, runner, lambda: self.now)
        self.outlets: dict[Member, SocketOutlet] = {}
        self.failed: list[tuple[Member, bool]] = []
        self.overflowed: list[Member] = []
        self.on_failure: Callable[[Member], None] = lambda member: None
        self.on_overflow: Callable[[Member], None] = lambda member: None

    def connect(
        self,
        transport: Direct | Awaited,
        dialect: Dialect = PLAIN,
        room: int = 1000,
        overflow: Overflow = Overflow.DROP_OLDEST,
    ) -> Member:
        """Attach a member that is subscribed to everything."""
        rig = self

        class Owner:
            id = "7"

            def describe(self) -> str:
                return "the connection 7"

            def write_failed(self, *, is_closed: bool) -> None:
                rig.failed.append((member, is_closed))
                rig.on_failure(member)

            def queue_overflowed(self) -> None:
                rig.overflowed.append(member)
                rig.on_overflow(member)

        outlet = SocketOutlet(transport, Owner(), 5.0, self.flusher.log)
        member = Member(
            dialect,
            MessageQueue(room, 1 << 30),
            outlet,
            overflow=overflow,
            form=outlet.form,
        )
        self.outlets[member] = outlet
        self.hub.attach(member)
        self.hub.join(member, EVERYTHING)
        return member

    def publish(self, *texts: str, channel: str = "a") -> None:
        """Publish without waiting, as ``publish_soon`` does."""
        for text in texts:
            self.hub.publish(Publication(parse_channel(channel), "e", text.encode(), 0.0))
            self.flusher.soon()

    def send(self, member: Member, text: str) -> None:
        self.flusher.send(member, Frame(text.encode()))

    def check_sums(self) -> None:
        """What matched is accounted for."""
        s = self.hub.statistics()
        assert self.hub.owed == 0
        assert s.matched == s.sent + s.dropped + s.refused + s.discarded + s.queued


@asynccontextmanager
async def rigged() -> AsyncIterator[Rig]:
    is_done = False
    async with anyio.create_task_group() as tasks:
        rig = Rig(Runner(tasks))
        tasks.start_soon(rig.flusher.run)
        yield rig
        await wait_all_tasks_blocked()
        rig.check_sums()
        is_done = True
        tasks.cancel_scope.cancel()
    assert is_done, "the task group was cancelled, and swallowed the rest of the test"


def texts(count: int, size: int = 0, start: int = 0) -> list[str]:
    return [str(n).ljust(size, ".") for n in range(start, start + count)]


# --- once per turn -------------------------------------------------------------------------------


async def test_many_publications_are_one_flush_and_one_write() -> None:
    """What is published in a turn of the loop is joined, for each member."""
    async with rigged() as rig:
        wires = [Direct() for _ in range(3)]
        for wire in wires:
            rig.connect(wire)
        rig.publish(*texts(50))
        assert [wire.got for wire in wires] == [[], [], []]
        await wait_all_tasks_blocked()

        assert rig.flusher.flushes == 1
        assert all(len(wire.writes) == 1 and wire.got == texts(50) for wire in wires)
        assert wires[0].writes[0] is wires[1].writes[0] is wires[2].writes[0]


async def test_an_idle_flusher_does_nothing() -> None:
    """A flush is somebody's publication, or reply, or loss."""
    async with rigged() as rig:
        rig.connect(Direct())
        await wait_all_tasks_blocked()

        assert rig.flusher.flushes == 0


@pytest.mark.parametrize("size", [1, FLUSH_BYTES // 8])
async def test_who_cannot_wait_flushes_when_much_is_owed(size: int) -> None:
    """64 publications, or 256 KiB, are written at once; the log does not grow further."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire)
        count = min(FLUSH_COUNT, FLUSH_BYTES // size)
        rig.publish(*texts(count - 1, size))
        assert wire.got == []
        rig.publish("last".ljust(size))

        assert len(wire.got) == count
        rig.publish(*texts(1000, 1))
        assert rig.hub.owed < FLUSH_COUNT


@pytest.mark.parametrize("joins", [False, True])
async def test_writes_are_joined_up_to_64_kib(*, joins: bool) -> None:
    """More is several writes, in order; a frame that is larger goes alone."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire, Dialect(joins=joins))
        said = [*texts(13, 7000), "large".ljust(MAX_JOIN_BYTES + 1), *texts(11, 7000, 13)]
        rig.publish(*said)
        await wait_all_tasks_blocked()

        sizes = [sum(map(len, frames_in(written))) for written in wire.writes]
        assert [line for frame in wire.got for line in frame.split("\n")] == said
        assert [size for size in sizes if size > MAX_JOIN_BYTES] == [MAX_JOIN_BYTES + 1]
        assert len(sizes) == 5
        assert len(wire.got) == (5 if joins else 25)


@kinds
async def test_a_dialect_that_joins_gets_lines(kind: type[Direct | Awaited]) -> None:
    """One frame for a turn, newlines between the messages; also out of a queue."""
    async with rigged() as rig:
        wire = kind()
        rig.connect(wire, Dialect(joins=True))
        rig.publish("1", "2")
        await wait_all_tasks_blocked()
        wire.block()
        rig.publish("3")
        await wait_all_tasks_blocked()
        rig.publish("4", "5")
        await wait_all_tasks_blocked()
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got[0] == "1\n2"
        assert "\n".join(wire.got) == "1\n2\n3\n4\n5"


# --- the law of the tight publisher --------------------------------------------------------------


@kinds
@pytest.mark.parametrize("size", [0, 10_000])
async def test_a_tight_loop_loses_nothing_for_readers_that_keep_up(
    kind: type[Direct | Awaited], size: int
) -> None:
    """A publisher that waits a flush when told to fills no queue, and still joins."""
    async with rigged() as rig:
        wires = [kind() for _ in range(3)]
        members = [rig.connect(wire) for wire in wires]
        said = texts(3000 if not size else 300, size)
        for text in said:
            rig.hub.publish(Publication(CHANNEL, "e", text.encode(), 0.0))
            assert rig.hub.owed <= FLUSH_COUNT
            if rig.flusher.is_overdue:
                await rig.flusher.flushed()
            else:
                rig.flusher.soon()
        await wait_all_tasks_blocked()

        assert all(wire.got == said for wire in wires)
        assert all(member.queue.dropped == 0 for member in members)
        assert rig.flusher.flushes < len(said) / (20 if not size else 10)


@kinds
async def test_a_publisher_waits_for_a_reader_that_drains(kind: type[Direct | Awaited]) -> None:
    """A reader that takes what it is given, but not at once, loses nothing of a tight loop."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = kind()
        member = rig.connect(wire, room=100)
        said = texts(2000)

        async def read() -> None:
            while True:  # Blocks after each write, and is ready again some turns later.
                wire.budget = 1
                for _ in range(3):
                    await checkpoint()
                wire.unblock()

        tasks.start_soon(read)
        for text in said:
            rig.hub.publish(Publication(CHANNEL, "e", text.encode(), 0.0))
            if rig.flusher.is_overdue:
                await rig.flusher.flushed()
        await rig.flusher.flushed()
        with anyio.fail_after(10):
            while len(wire.got) < len(said):
                await checkpoint()
        tasks.cancel_scope.cancel()

    assert wire.got == said
    assert member.queue.dropped == 0


@kinds
async def test_a_publisher_does_not_wait_for_a_reader_that_takes_nothing(
    kind: type[Direct | Awaited],
) -> None:
    """It costs one wait of a quarter of a second, and not one at each flush."""
    async with rigged() as rig:
        stuck, other = kind(), kind()
        rig.connect(stuck)
        rig.connect(other)
        stuck.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        rig.publish("2")
        waited = []
        for n in range(5):
            rig.publish(str(n))
            started = anyio.current_time()
            await rig.flusher.flushed()
            waited.append(anyio.current_time() - started >= PACE_SECONDS)
        stuck.unblock()

        assert waited == [True, False, False, False, False]


async def test_a_publisher_waits_for_a_slow_reader_for_a_bounded_time() -> None:
    """A reader that takes a little now and then is not waited for until it has caught up."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = Direct()
        member = rig.connect(wire)

        async def dribble() -> None:
            while True:
                wire.budget = 1
                wire.unblock()
                await anyio.sleep(PACE_SECONDS / 5)

        wire.block()
        for text in texts(100, MAX_JOIN_BYTES):
            rig.publish(text)
            rig.flusher.flush()
        tasks.start_soon(dribble)
        with anyio.fail_after(30 * CATCH_UP_SECONDS):
            while rig.flusher._behind():
                await rig.flusher.drained()

        assert not member.queue.is_empty
        assert member.outlet.moves > 1
        wire.budget = None
        wire.unblock()
        tasks.cancel_scope.cancel()


async def test_who_waits_for_a_flush_is_let_go_by_any() -> None:
    """Also by one that somebody else brings about, and by the end of the flusher."""
    async with anyio.create_task_group() as tasks:
        rig = Rig(Runner(tasks))
        done: list[int] = []

        async def wait(n: int) -> None:
            await rig.flusher.flushed()
            done.append(n)

        tasks.start_soon(wait, 1)
        await wait_all_tasks_blocked()
        rig.flusher.flush()
        await wait_all_tasks_blocked()
        assert done == [1]

        tasks.start_soon(wait, 2)
        await wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await rig.flusher.run()
        await wait_all_tasks_blocked()
        assert done == [1, 2]
        tasks.cancel_scope.cancel()


# --- control frames ------------------------------------------------------------------------------


async def test_a_reply_is_written_at_once_if_nothing_is_owed() -> None:
    """A pong does not wait for the turn to end."""
    async with rigged() as rig:
        wire = Direct()
        member = rig.connect(wire)
        rig.send(member, "pong")

        assert wire.got == ["pong"]
        assert member.message_count == 0


@kinds
async def test_replies_keep_their_place(kind: type[Direct | Awaited]) -> None:
    """Behind what was published before them, before what was published after them."""
    async with rigged() as rig:
        wire, other = kind(), kind()
        member = rig.connect(wire)
        rig.connect(other)
        rig.send(member, "r1")
        rig.publish("1")
        rig.send(member, "r2")
        rig.publish("2")
        rig.send(member, "r3")
        await wait_all_tasks_blocked()
        wire.block()
        rig.send(member, "r4")
        rig.publish("3")
        await wait_all_tasks_blocked()
        rig.send(member, "r5")
        rig.publish("4")
        await wait_all_tasks_blocked()
        assert other.got == ["1", "2", "3", "4"]
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got == ["r1", "1", "r2", "2", "r3", "r4", "3", "r5", "4"]
        assert member.message_count == 4


async def test_a_reply_that_cannot_be_written_waits() -> None:
    """The member is blocked by it, and what comes later queues behind it."""
    async with rigged() as rig:
        wire = Direct()
        member = rig.connect(wire)
        wire.block()
        rig.send(member, "r1")
        assert rig.hub.waiting == {member}
        rig.publish("1")
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got == ["r1", "1"]
        assert rig.hub.waiting == set()


async def test_a_reply_in_the_middle_of_a_flush_overtakes_nothing() -> None:
    """The log is empty then, but not everybody has been written to."""
    async with rigged() as rig:
        bad, good = Direct(), Direct()
        rig.connect(bad)
        member = rig.connect(good)
        bad.fail(OSError())
        rig.on_failure = lambda _: rig.send(member, "reply")
        rig.publish("1")
        await wait_all_tasks_blocked()

        assert good.got == ["1", "reply"]


@pytest.mark.parametrize("is_stuck", [False, True])
async def test_a_flush_within_a_flush_overtakes_nothing(*, is_stuck: bool) -> None:
    """Whatever a callback publishes comes after what is being written, also for who blocks then."""
    async with rigged() as rig:
        bad, good = Direct(), Direct()
        member = rig.connect(bad)
        rig.connect(good)

        def publish(failed: Member) -> None:
            rig.on_failure = lambda _: None
            rig.hub.leave(member, EVERYTHING)
            rig.publish("2", "3")
            rig.flusher.flush()

        rig.on_failure = publish
        bad.fail(OSError())
        if is_stuck:
            good.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        good.unblock()
        await wait_all_tasks_blocked()

        assert good.got == ["1", "2", "3"]


# --- members that are blocked --------------------------------------------------------------------


@kinds
async def test_a_peer_that_does_not_read_delays_nobody(kind: type[Direct | Awaited]) -> None:
    """It gets everything in order when it reads again, and is written to directly then."""
    async with rigged() as rig:
        slow, fast = kind(), kind()
        member = rig.connect(slow)
        rig.connect(fast)
        slow.block()
        for n in range(0, 30, 10):
            rig.publish(*texts(10, start=n))
            await wait_all_tasks_blocked()
        assert fast.got == texts(30)
        assert slow.got == []
        assert rig.hub.waiting == {member}
        slow.unblock()
        await wait_all_tasks_blocked()

        assert slow.got == texts(30)
        assert rig.hub.waiting == set()
        assert member.message_count == 30
        rig.publish("30")
        await wait_all_tasks_blocked()
        assert slow.got == fast.got == texts(31)


async def test_who_is_blocked_in_the_middle_of_a_join_loses_nothing_and_gets_nothing_twice() -> (
    None
):
    """What was written counts as written, the rest waits."""
    for budget in range(4):
        async with rigged() as rig:
            wire = Direct(budget=budget)
            member = rig.connect(wire)
            rig.publish(*texts(24, 7000))
            await wait_all_tasks_blocked()
            assert wire.got == texts(min(24, 9 * budget), 7000)
            assert member.message_count == len(wire.got)
            wire.unblock()
            await wait_all_tasks_blocked()

            assert wire.got == texts(24, 7000)
            assert member.message_count == 24


async def test_what_waited_is_written_in_joins_of_64_kib() -> None:
    """Whatever the queue holds, the bound on a write stays."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire)
        wire.block()
        rig.publish(*texts(100, 7000))
        wire.unblock()
        await wait_all_tasks_blocked()

        sizes = [sum(map(len, frames_in(written))) for written in wire.writes]
        assert wire.got == texts(100, 7000)
        assert sizes == [63_000] * 11 + [7000]


@kinds
@pytest.mark.parametrize("has_gaps", [True, False])
async def test_what_was_lost_is_told_before_what_follows(
    kind: type[Direct | Awaited], *, has_gaps: bool
) -> None:
    """The gap stands before what is left, behind earlier replies; some dialects have no word."""
    async with rigged() as rig:
        wire = kind()
        member = rig.connect(wire, Dialect(has_gaps=has_gaps), room=3)
        wire.block()
        rig.publish("0")
        await wait_all_tasks_blocked()
        rig.send(member, "reply")
        rig.publish(*texts(10, start=1))
        await wait_all_tasks_blocked()
        wire.unblock()
        await wait_all_tasks_blocked()

        # One that is awaited had taken "0"; for the other it was the first to be dropped.
        lost = "gap 8" if kind is Direct else "gap 7"
        told = [lost] if has_gaps else []
        assert wire.got in (
            ["0", "reply", *told, "8", "9", "10"],
            [*told, "reply", "8", "9", "10"],
        )
        assert ("0" in wire.got) == (kind is Awaited)
        assert member.queue.dropped == int(lost[4:])


@pytest.mark.parametrize("has_gaps", [True, False])
async def test_a_loss_at_the_end_is_told_too(*, has_gaps: bool) -> None:
    """Though nothing follows it; the member is ready again either way."""
    async with rigged() as rig:
        wire = Direct()
        member = rig.connect(
            wire, Dialect(has_gaps=has_gaps), room=1, overflow=Overflow.DROP_NEWEST
        )
        wire.block()
        rig.publish("1", "2", "3")
        await wait_all_tasks_blocked()
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got == (["1", "gap 2"] if has_gaps else ["1"])
        assert member.standing is Standing.READY


async def test_sending_in_flight_is_never_overtaken() -> None:
    """While one send is awaited everything else queues, and no second send begins."""
    async with rigged() as rig:
        wire = Awaited()
        member = rig.connect(wire)
        for n in range(200):
            if n % 3:
                rig.publish(str(n))
            else:
                rig.send(member, str(n))
            if n % 7 == 0:
                wire.block()
            if n % 11 == 0:
                wire.unblock()
            if n % 2:
                await checkpoint()
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got == texts(200)
        assert member.standing is Standing.READY


@kinds
async def test_relief_comes_with_every_write(kind: type[Direct | Awaited]) -> None:
    """Whoever waits until a client has taken something is let go when it has."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = kind()
        member = rig.connect(wire)
        relieved: list[int] = []

        async def wait() -> None:
            await rig.outlets[member].relief()
            relieved.append(1)

        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        for _ in range(2):
            tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        assert relieved == []
        wire.unblock()
        await wait_all_tasks_blocked()

        assert relieved == [1, 1]


@kinds
async def test_some_relief_comes_before_all_is_written(kind: type[Direct | Awaited]) -> None:
    """The first write lets go, though the next one blocks again."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = kind()
        member = rig.connect(wire)
        wire.block()
        for text in texts(2, MAX_JOIN_BYTES):
            rig.publish(text)
            await wait_all_tasks_blocked()
        relieved = Event()

        async def wait() -> None:
            await rig.outlets[member].relief()
            relieved.set()

        tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        # The send that is awaited has begun already.
        wire.budget = 1 if kind is Direct else 0
        wire.unblock()
        await wait_all_tasks_blocked()
        assert rig.hub.waiting == {member}
        assert relieved.is_set()
        wire.unblock()


async def test_relief_comes_with_readiness() -> None:
    """Also if there is nothing to write any more."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = Direct()
        member = rig.connect(wire)
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        tasks.start_soon(rig.outlets[member].relief)
        await wait_all_tasks_blocked()
        member.queue.clear()
        wire.unblock()


@kinds
async def test_relief_comes_with_the_end(kind: type[Direct | Awaited]) -> None:
    """Nobody waits for a connection that has failed."""
    async with rigged() as rig, anyio.create_task_group() as tasks:
        wire = kind()
        member = rig.connect(wire)
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        tasks.start_soon(rig.outlets[member].relief)
        await wait_all_tasks_blocked()
        wire.fail(TransportClosed())


async def test_overflow_is_told_once_the_writes_are_done() -> None:
    """The callback may flush, send and detach; the outer flush does the work."""
    async with rigged() as rig:
        slow, fast = Direct(), Direct()
        member = rig.connect(slow, room=2, overflow=Overflow.CLOSE)
        other = rig.connect(fast)

        def close(member: Member) -> None:
            rig.send(other, "last word")
            rig.flusher.flush()
            rig.hub.detach(member, [EVERYTHING])

        rig.on_overflow = close
        slow.block()
        rig.publish("1", "2", "3", "4")
        await wait_all_tasks_blocked()

        assert set(rig.overflowed) == {member}
        assert fast.got[:5] == ["1", "2", "3", "4", "last word"]
        assert slow.got == []
        slow.unblock()
        await wait_all_tasks_blocked()
        assert slow.got == []


async def test_members_without_a_transport_are_woken() -> None:
    """Somebody in the process reads the queue itself."""

    class Reader(Outlet):
        receiver = None
        wakes = 0

        def wake(self) -> None:
            self.wakes += 1

        def overflow(self, queue: MessageQueue[Owed], now: float) -> None: ...

    async with rigged() as rig:
        reader = Reader()
        member = Member(None, MessageQueue(), reader)
        rig.hub.attach(member)
        rig.hub.join(member, EVERYTHING)
        wire = Direct()
        rig.connect(wire)
        rig.publish("1", "2")
        await wait_all_tasks_blocked()

        assert reader.wakes == 1
        taken = [item.publication for item in member.take(100).items]
        assert [each.data for each in taken if each is not None] == [b"1", b"2"]
        assert wire.got == ["1", "2"]
        rig.flusher.expire(START.later(1000).monotonic)
        rig.flusher.forgive(1.0)


async def test_what_is_owed_by_the_flush_before_release_is_written_first() -> None:
    """A member is ready again only when the flush of what is in the log left it owing nothing."""
    async with rigged() as rig:
        wire, bad = Direct(), Direct()
        member = rig.connect(wire)
        rig.connect(bad)
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        bad.fail(OSError())
        rig.on_failure = lambda _: rig.send(member, "reply")
        # Published while the queue is drained: the log is not empty when the member is released.
        wire.on_write = lambda: rig.publish("2")
        wire.unblock()
        await wait_all_tasks_blocked()

        assert wire.got == ["1", "2", "reply"]
        assert rig.hub.waiting == set()


# --- the write deadline --------------------------------------------------------------------------


@kinds
async def test_who_takes_nothing_for_the_write_deadline_is_given_up(
    kind: type[Direct | Awaited],
) -> None:
    """After 5 s, not before; others and those who are not blocked are left alone."""
    async with rigged() as rig:
        wire = kind()
        member = rig.connect(wire)
        rig.connect(kind())
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        rig.flusher.expire(START.later(4.9).monotonic)
        assert rig.failed == []
        rig.flusher.expire(START.later(5).monotonic)

        assert rig.failed == [(member, False)]
        assert rig.flusher.failures == 1
        # Until its reader has ended it may be found again; it is one loss all the same.
        rig.flusher.expire(START.later(6).monotonic)
        assert rig.flusher.failures == 1


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the log of the flusher: levels and lines."""
    records = [record for record in caplog.records if record.name == "wsbus.flusher"]
    return [(record.levelname, record.getMessage()) for record in records]


async def test_the_log_names_whoever_lost_something_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One WARNING tells who lost how much; further losses of a minute are told together."""
    caplog.set_level("INFO", "wsbus")
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire, room=10)
        wire.block()
        wire.backlog = 1 << 40

        def lose(count: int, second: float) -> None:
            rig.publish(*texts(count))
            rig.flusher.flush()
            wire.backlog -= 1  # It is slow, not stuck.
            rig.now = START.later(second)
            rig.flusher.expire(rig.now.monotonic)

        lose(10, 1)
        assert said(caplog) == []
        lose(7, 2)
        lose(5, 3)
        lose(5, 61)
        lose(1, 62)
        lose(0, 121)

    who = "the connection 7 reads too slowly:"
    assert said(caplog) == [
        ("WARNING", f"{who} 7 publications were lost"),
        ("WARNING", f"{who} 11 publications were lost"),
    ]


async def test_a_loss_that_the_client_is_told_of_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if it caught up before anybody looked at the time."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire, room=10)
        wire.block()
        rig.publish(*texts(13))
        await wait_all_tasks_blocked()
        wire.unblock()
        await wait_all_tasks_blocked()

    assert said(caplog) == [
        ("WARNING", "the connection 7 reads too slowly: 3 publications were lost")
    ]


@pytest.mark.parametrize("has_lost", [True, False])
async def test_the_log_names_whoever_is_aborted(
    has_lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As a WARNING, once, with what is lost; at INFO if that is no publication."""
    caplog.set_level("INFO", "wsbus")
    async with rigged() as rig:
        wire = Direct()
        member = rig.connect(wire, room=10)
        wire.block()
        if has_lost:
            rig.publish(*texts(12))
        else:
            rig.send(member, "pong")
        rig.flusher.flush()
        for second in (5, 6):
            rig.flusher.expire(START.later(second).monotonic)

    lost, left = (2, 10) if has_lost else (0, 0)
    what = f"it took nothing for 5 s; {lost} publications were lost, and {left} wait"
    level = "WARNING" if has_lost else "INFO"
    assert said(caplog) == [(level, f"the connection 7 is aborted: {what}")]


async def test_the_log_names_whoever_is_closed_as_too_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, whatever is published until it is gone."""
    async with rigged() as rig:
        wire = Direct()

        def clear(member: Member) -> None:
            member.queue.clear()

        rig.on_overflow = clear
        rig.connect(wire, room=10, overflow=Overflow.CLOSE)
        wire.block()
        rig.publish(*texts(13))
        await wait_all_tasks_blocked()

    what = "it reads too slowly, and 10 publications wait"
    assert said(caplog) == [("WARNING", f"the connection 7 is closed: {what}")]


async def test_progress_below_the_queue_counts() -> None:
    """A slow peer is not a stuck one: what the operating system takes is progress."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire)
        wire.block()
        wire.backlog = 3000
        rig.publish("1")
        await wait_all_tasks_blocked()
        for second in range(1, 60, 3):
            wire.backlog -= 100
            rig.flusher.expire(START.later(second).monotonic)
        assert rig.failed == []
        rig.flusher.expire(START.later(58 + 5).monotonic)

        assert len(rig.failed) == 1


async def test_every_awaited_send_is_progress() -> None:
    """The first one, too: the deadline is for one send, not for all that is owed."""
    async with rigged() as rig:
        wire = Awaited(budget=1)
        rig.connect(wire)
        wire.block()
        for text in ("1", "2"):
            rig.publish(text)
            await wait_all_tasks_blocked()
        rig.now = START.later(4)
        wire.unblock()
        await wait_all_tasks_blocked()
        assert wire.got == ["1"]
        rig.flusher.expire(START.later(8.9).monotonic)
        assert rig.failed == []
        rig.flusher.expire(START.later(9).monotonic)

        assert len(rig.failed) == 1


async def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    """Nobody is aborted for a pause of the server's own."""
    async with rigged() as rig:
        wire = Direct()
        rig.connect(wire)
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        rig.flusher.forgive(60.0)
        rig.flusher.expire(START.later(64).monotonic)
        assert rig.failed == []
        rig.flusher.forgive(0.0)
        rig.flusher.expire(START.later(65).monotonic)

        assert len(rig.failed) == 1


# --- failures ------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("error", "is_closed", "is_logged"),
    [
        (TransportClosed(), True, False),
        (ConnectionResetError(), False, False),
        (RuntimeError("a fault of the adapter"), False, True),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("waits", [False, True])
async def test_a_failing_write_costs_its_own_member_only(
    kind: type[Direct | Awaited],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
    *,
    is_closed: bool,
    is_logged: bool,
    waits: bool,
) -> None:
    """Everybody else gets everything; only a fault nobody expects is logged as an error."""
    async with rigged() as rig:
        wires = [kind() for _ in range(4)]
        members = [rig.connect(wire) for wire in wires]
        bad, member = wires[1], members[1]
        if waits:
            bad.block()
            rig.publish("0")
            await wait_all_tasks_blocked()
        bad.fail(error)
        await wait_all_tasks_blocked()
        for text in ("1", "2"):
            rig.publish(text)
            await wait_all_tasks_blocked()
        rig.send(member, "reply")
        await wait_all_tasks_blocked()

        assert all(m is member for m, _ in rig.failed)
        assert {closed for _, closed in rig.failed} == {is_closed}
        expected = ["0", "1", "2"] if waits else ["1", "2"]
        assert [wire.got for wire in wires] == [expected, [], expected, expected]
        assert rig.flusher.failures == (0 if is_closed else 1)
        rig.hub.detach(member, [EVERYTHING])
        rig.publish("3")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == is_logged


@kinds
async def test_nothing_is_written_to_who_is_gone(kind: type[Direct | Awaited]) -> None:
    """A member that was detached in the same turn, or while it waited, gets no more."""
    async with rigged() as rig:
        early, late = kind(), kind()
        first, second = rig.connect(early), rig.connect(late)
        late.block()
        rig.publish("1")
        rig.hub.detach(first, [EVERYTHING])
        await wait_all_tasks_blocked()
        rig.publish("2")
        await wait_all_tasks_blocked()
        rig.hub.detach(second, [EVERYTHING])
        late.unblock()
        await wait_all_tasks_blocked()
        rig.send(first, "reply")

        assert early.got == []
        assert "2" not in late.got
        assert rig.failed == []


async def test_a_failure_of_who_is_gone_is_nobodys() -> None:
    """It is not counted, and its callbacks are not called."""
    async with rigged() as rig:
        wire = Direct()
        member = rig.connect(wire)
        wire.block()
        rig.publish("1")
        await wait_all_tasks_blocked()
        rig.hub.detach(member, [EVERYTHING])
        wire.fail(OSError())
        await wait_all_tasks_blocked()

        assert rig.failed == []
        assert rig.flusher.failures == 0


# --- all at once ---------------------------------------------------------------------------------


class Scenario:
    """Members of every kind, and what each is to get."""

    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self.rig = rig
        self.wires = [kind() for kind in KINDS for _ in range(3)]
        dialects = [PLAIN, Dialect(joins=True)]
        self.members = [rig.connect(wire, chance.choice(dialects)) for wire in self.wires]
        self.due: list[list[str]] = [[] for _ in self.wires]

    async def do(self, what: str, which: int, text: str) -> None:
        member, wire, owed = self.members[which], self.wires[which], self.due[which]
        match what:
            case "publish":
                for each in self.due:
                    each.append(text)
                self.rig.publish(text)
            case "publish to":
                owed.append(text)
                publication = Publication(CHANNEL, "e", text.encode(), 0.0)
                self.rig.hub.publish_to([member], publication)
                self.rig.flusher.soon()
            case "send":
                owed.append(text)
                self.rig.send(member, text)
            case "block":
                wire.block()
            case "unblock":
                wire.unblock()
            case _:
                await checkpoint()


@pytest.mark.parametrize("seed", range(10))
async def test_everybody_gets_what_it_is_owed_once_and_in_order(seed: int) -> None:
    """Whoever is blocked when, by whatever transport, in whatever turn it was published."""
    chance = random.Random(seed)
    deeds = ["publish"] * 4 + ["publish to", "send", "block", "unblock", "unblock", "turn", "turn"]
    async with rigged() as rig:
        scenario = Scenario(rig, chance)
        for n in range(400):
            text = str(n).ljust(chance.choice([4, 4, 4, 30_000]), ".")
            await scenario.do(chance.choice(deeds), chance.randrange(6), text)
        for wire in scenario.wires:
            wire.unblock()
        await wait_all_tasks_blocked()

        for wire, owed in zip(scenario.wires, scenario.due, strict=True):
            assert [line for frame in wire.got for line in frame.split("\n")] == owed
        assert rig.hub.waiting == set()
