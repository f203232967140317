"""History in a file of SQLite: what a restart, a crash, and a file that was replaced leave."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from anyio import create_task_group, fail_after, get_cancelled_exc_class, sleep_forever, to_thread

from wsbus import BrokerUnavailable, Bus, History, Position, UsageError
from wsbus.brokers import MemoryBroker, _sqlite_file
from wsbus.core.history import HistoryRead, Stored
from wsbus.core.patterns import parse_pattern
from wsbus.testing.keepers import Keeper
from wsbus.testing.nodes import BrokerUnderTest

pytestmark = pytest.mark.anyio

REPOSITORY: Final = Path(__file__).parents[2]


class Case(BrokerUnderTest):
    """A file, and links to it."""

    def __init__(self, directory: Path) -> None:
        self.path: Final = directory / "bus.db"
        super().__init__(lambda: MemoryBroker(self.path))

    @asynccontextmanager
    async def keeper(self, broker: MemoryBroker | None = None) -> AsyncIterator[Keeper]:
        """Dial a link, through a broker of its own if none is given."""
        async with self.join(broker) as node:
            yield Keeper(node)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


async def test_a_restart_keeps_everything(case: Case) -> None:
    """After a restart epoch, offsets, publications and idempotency keys are there."""
    async with case.keeper() as keeper:
        first = await keeper.store([keeper.entry("a", n, key=f"k{n}") for n in range(5)])
        await keeper.store([keeper.entry("b")])
        head = await keeper.link.head()
    async with case.keeper() as keeper:
        assert await keeper.link.head() == head
        page = await keeper.ask("a", after=first[1].position)
        assert page.is_complete
        assert [each.position for each in page.publications] == [e.position for e in first[2:]]
        [again, new] = await keeper.store([keeper.entry("a", 9, key="k3"), keeper.entry("a", 10)])
        assert again == (first[3].position, True)
        assert (new.position.epoch, new.position.offset) == (head.epoch, head.offset + 1)
        page = await keeper.ask("a", after=first[4].position)
        [publication] = page.publications
        assert page.is_complete
        assert publication.previous == Position(head.epoch, first[4].position.offset)


async def test_a_subscriber_goes_on_after_a_restart(case: Case) -> None:
    """A subscription from a position of an earlier run gets the rest, and what follows."""
    receipts, came = [], list[str]()
    for texts in (["a", "b", "c"], ["d"]):
        bus = Bus(broker=MemoryBroker(case.path))
        bus.family("kept.*", history=History())
        async with bus:
            receipts += [await bus.publish("kept.x", text) for text in texts]
            if texts == ["d"]:
                with fail_after(10):
                    async with bus.subscribe("kept.*", since=receipts[0].position) as events:
                        await bus.publish("kept.y", "e")
                        came = [(await anext(events)).data for _ in range(4)]
    assert came == ["b", "c", "d", "e"]


async def test_sizes_hold_over_a_restart(case: Case) -> None:
    """What a channel has too much of is dropped, also if an earlier run stored it."""
    history = History(size=4)
    async with case.keeper() as keeper:
        stored = await keeper.store([keeper.entry("a", n, history) for n in range(6)])
    async with case.keeper() as keeper:
        stored = [*stored, *await keeper.store([keeper.entry("a", 7, history)])]
        page = await keeper.ask("a")
        assert [p.position for p in page.publications] == [e.position for e in stored[-4:]]
        assert (await keeper.ask("a", after=stored[2].position)).is_complete
        assert not (await keeper.ask("a", after=stored[1].position)).is_complete


async def test_a_copy_of_a_backup_is_noticed(case: Case, tmp_path: Path) -> None:
    """Positions that a copy does not have are none, also once it has given their offsets anew."""
    copy = tmp_path / "copy"
    async with case.keeper() as keeper:
        [kept] = await keeper.store([keeper.entry("a")])
    shutil.copy(case.path, copy)
    async with case.keeper() as keeper:
        lost = await keeper.store([keeper.entry("a", n) for n in range(3)])
    shutil.copy(copy, case.path)
    async with case.keeper() as keeper:
        for _ in range(4):
            for each in lost:
                page = await keeper.ask("a", after=each.position)
                assert not page.is_complete
            assert (await keeper.ask("a", after=kept.position)).is_complete
            await keeper.store([keeper.entry("a")])


async def test_a_copy_under_a_running_broker_gets_a_new_epoch(case: Case, tmp_path: Path) -> None:
    """A file that was replaced fails the link; what the next one finds has a new epoch."""
    copy, broker = tmp_path / "copy", MemoryBroker(case.path)
    async with case.keeper(broker) as keeper:
        [first] = await keeper.store([keeper.entry("a")])
    shutil.copy(case.path, copy)

    async def replace() -> None:
        async with case.keeper(broker) as keeper:
            await keeper.store([keeper.entry("a")])
            copy.replace(case.path)
            await keeper.link.head()

    with pytest.raises(BrokerUnavailable, match="was replaced"):
        await replace()
    async with case.keeper(broker) as keeper:
        head = await keeper.link.head()
        assert head.epoch != first.position.epoch
        page = await keeper.ask("a")
        assert [each.position for each in page.publications] == [
            Position(head.epoch, first.position.offset, first.position.tag)
        ]


async def test_a_file_has_one_broker(case: Case, tmp_path: Path) -> None:
    """Another broker, by whatever name of the file, is refused, and the first one goes on."""
    link = tmp_path / "link.db"
    link.symlink_to(case.path)
    async with case.keeper() as keeper:
        with pytest.raises(UsageError, match="is open already"):
            async with MemoryBroker(link).connect(lambda _: None):
                pass
        await keeper.store([keeper.entry("a")])
    async with MemoryBroker(link).connect(lambda _: None):
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"no database" * 1000), "is no database, or is damaged"),
        (lambda path: path.mkdir(), "cannot be opened and written"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE x (y);"), "something else"),
    ],
    ids=["text", "directory", "stranger"],
)
async def test_a_file_of_something_else_fails_the_start(
    case: Case, make: Callable[[Path], object], words: str
) -> None:
    """A bus does not start with it, and the error says why."""
    make(case.path)
    bus = Bus(broker=MemoryBroker(case.path))
    with pytest.raises(UsageError, match=words):
        async with bus:
            pass


async def test_a_newer_format_fails_the_start(case: Case) -> None:
    """A file that another version of wsbus wrote is left as it is."""
    async with case.keeper() as keeper:
        await keeper.store([keeper.entry("a")])
    with sqlite3.connect(case.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UsageError, match="has the format 99"):
        async with case.keeper():
            pass


async def test_a_directory_that_is_not_there(case: Case, tmp_path: Path) -> None:
    """It is an error of the start, in words."""
    with pytest.raises(UsageError, match="its directory must be there"):
        async with MemoryBroker(tmp_path / "no" / "bus.db").connect(lambda _: None):
            pass


@pytest.mark.parametrize("path", ["", b"bus.db", 7, "a\0b"])
def test_a_path_that_is_none(path: object) -> None:
    """It is refused when the broker is made."""
    with pytest.raises(UsageError, match="path is that of a file"):
        MemoryBroker(path)  # type: ignore[arg-type]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow above a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_ends_the_links(case: Case) -> None:
    """What cannot be written is refused, both links end, and a new one has what was confirmed."""
    broker = MemoryBroker(case.path)
    ended: list[BrokerUnavailable | None] = []

    async def other() -> None:
        try:
            async with broker.connect(lambda _: None):
                await sleep_forever()
        except BrokerUnavailable as exc:
            ended.append(exc)
        except get_cancelled_exc_class():
            ended.append(None)
            raise

    stored: list[Stored] = []

    async def fill() -> None:
        async with case.keeper(broker) as keeper:
            stored.extend(await keeper.store([keeper.entry("a")]))
            with full_disk(1 << 19):
                while True:
                    stored.extend(await keeper.store([keeper.entry("a", "x" * 50_000)]))

    with fail_after(60):
        async with create_task_group() as tasks:
            tasks.start_soon(other)
            with pytest.raises(BrokerUnavailable):
                await fill()
        [failure] = ended
        assert isinstance(failure, BrokerUnavailable)
        async with case.keeper(broker) as keeper:
            page = await keeper.ask("a")
            offsets = [e.position.offset for e in stored]
            assert [p.position.offset for p in page.publications if p.position][
                : len(offsets)
            ] == offsets
            await keeper.store([keeper.entry("a")])


async def test_the_file_is_bounded(case: Case) -> None:
    """Above max_bytes what was published longest ago is dropped, and it is not said to be there."""
    broker = MemoryBroker(case.path, max_bytes=1 << 20)
    async with case.keeper(broker) as keeper:
        first = await keeper.store([keeper.entry("a", "x" * 1000)])
        for _ in range(40):
            await keeper.store([keeper.entry("b", "x" * 1000) for _ in range(100)])
        last = await keeper.store([keeper.entry("b")])
        assert not (await keeper.ask("a", after=Position(last[0].position.epoch, 0))).is_complete
        page = await keeper.ask("*", after=first[0].position, is_from_end=True)
        assert not page.is_complete
        assert page.publications[-1].position == last[0].position
    assert case.path.stat().st_size < 2 << 20


async def test_channels_are_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels above the bound are forgotten, and what they had is not said to be complete."""
    monkeypatch.setattr(_sqlite_file, "MAX_CHANNELS", 3)
    async with case.keeper() as keeper:
        stored = await keeper.store([keeper.entry("a", n) for n in range(3)])
        await keeper.store([keeper.entry(name) for name in "bcd"])
        assert not (await keeper.ask("a")).publications
        assert not (await keeper.ask("a", after=stored[0].position)).is_complete
        new = await keeper.store([keeper.entry("a", 4)])
        page = await keeper.ask("a", after=stored[0].position)
        assert [p.position for p in page.publications] == [new[0].position]
        assert not page.is_complete
        assert (await keeper.ask("a", after=stored[2].position)).is_complete


def run_until_killed(path: Path, start: int, lines: int) -> list[tuple[int, int, Position]]:
    """Publish in a process of its own, and kill it after so many lines."""
    command = [sys.executable, "-m", "tests.brokers.kept_publisher", str(path), str(start)]
    acknowledged = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break
            lane, number, epoch, offset, tag = line.split()
            acknowledged.append((int(lane), int(number), Position(epoch, int(offset), tag)))
            if len(acknowledged) == lines:
                process.send_signal(signal.SIGKILL)
    return acknowledged


async def test_a_killed_process_loses_nothing_that_was_acknowledged(case: Case) -> None:
    """Every acknowledged publication is there, offsets go on, the epoch stays, nothing is twice."""
    acknowledged = []
    for run in range(3):
        acknowledged += await to_thread.run_sync(run_until_killed, case.path, run * 1_000_000, 300)
    broker = MemoryBroker(case.path)
    async with broker.connect(lambda _: None) as link:
        read = HistoryRead(parse_pattern("kept.*"), limit=1_000_000)
        [page] = await link.read([read])  # type: ignore[attr-defined]
    assert page.is_complete
    assert not page.has_more
    there = {each.position: (each.channel, each.data) for each in page.publications}
    for lane, number, position in acknowledged:
        assert there[position] == (f"kept.{lane}", str(number).encode())
    offsets = [each.position.offset for each in page.publications if each.position]
    assert offsets == [*range(1, len(offsets) + 1)]
    assert {each.position.epoch for each in page.publications if each.position} == {page.head.epoch}
    for lane in range(8):
        numbers = [int(d) for channel, d in there.values() if channel == f"kept.{lane}"]
        assert all(one < other for one, other in pairwise(numbers))
