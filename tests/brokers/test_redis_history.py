"""History on Redis and Valkey, against real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Final

import pytest
from anyio import (
    CancelScope,
    create_task_group,
    fail_after,
    get_running_tasks,
    sleep_forever,
)
from anyio.lowlevel import checkpoint
from redis import Redis

from tests.brokers.servers import REDIS, Server
from tests.brokers.test_redis import GUIDE
from tests.brokers.test_redis_groups import QUIET, ask, until
from wsbus import Bus
from wsbus.brokers import RedisBroker
from wsbus.brokers._redis_dial import HISTORY_RIGHTS, RIGHTS
from wsbus.brokers._redis_history import position_in
from wsbus.brokers._redis_scripts import HEAD, MAX_CHANNELS, MAX_TURNS, READ, STORE
from wsbus.core.errors import BrokerUnavailable
from wsbus.core.events import Position
from wsbus.core.families import History
from wsbus.core.history import HistoryPage
from wsbus.testing.keepers import Keeper
from wsbus.testing.nodes import BrokerUnderTest

StartServer = Callable[..., Server]

SHORT: Final = History(size=3, ttl=20)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """redis-py runs on asyncio only."""
    return request.param


class Case(BrokerUnderTest):
    """A server of its own prefix, and links to it."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.server: Final = server
        self.prefix: Final = prefix
        super().__init__(lambda: RedisBroker(server.url, prefix=prefix))

    @asynccontextmanager
    async def keeper(self, broker: RedisBroker | None = None) -> AsyncIterator[Keeper]:
        """Dial a link, through a broker of its own if none is given."""
        async with self.join(broker) as node:
            yield Keeper(node)

    def key(self, name: str) -> str:
        """Return the full name of a key."""
        return f"{self.prefix}:{{0}}:{name}"

    def list_of(self, name: str) -> str:
        """Return the key of what a channel keeps."""
        return self.key(f"h:{self.base}.{name}")

    def ask(self, *words: str | bytes | int) -> Any:
        """Send a command."""
        with Redis(host="127.0.0.1", port=self.server.port) as client:
            return client.execute_command(*words)


@pytest.fixture
def case(redis_server: Server, request: pytest.FixtureRequest) -> Case:
    """Give a prefix of this test on each server; both are shared."""
    return Case(redis_server, re.sub("[^a-z_]+", ".", request.node.originalname))


def offsets(page: HistoryPage) -> list[int]:
    """Return the offsets of an answer."""
    return [each.position.offset for each in page.publications if each.position is not None]


def fill(case: Case, name: str, count: int, offset: float = 0) -> None:
    """Add so many others to an index."""
    words = [text for n in range(count) for text in (str(offset), f"{offset}-{n}")]
    case.ask("ZADD", case.key(name), *words)


async def stored(keeper: Keeper, *names: str) -> list[Position]:
    """Store something on channels, in one turn, and return the positions."""
    outcomes = await keeper.store([keeper.entry(name) for name in names])
    return [outcome.position for outcome in outcomes]


async def test_a_store_that_was_emptied_gets_a_new_epoch(start_server: StartServer) -> None:
    """After FLUSHALL no old position is taken for one of the store, whoever comes first."""
    case = Case(start_server("redis7"), "wsbus")
    async with case.keeper() as one, case.keeper() as two:
        for is_asked_first in (True, False):
            [old] = await stored(one, "a")
            case.ask("FLUSHALL")
            if is_asked_first:
                assert (await two.link.head()).epoch != old.epoch
            [new] = await stored(two, "b")
            assert new.epoch != old.epoch
            assert (await one.link.head()).epoch == new.epoch
            page = await one.ask("*", after=old)
            assert (page.is_complete, offsets(page)) == (False, [new.offset])


async def test_a_server_that_forgets_all_gets_a_new_epoch(start_server: StartServer) -> None:
    """A server that was killed and keeps nothing on its disk is a new store."""
    case = Case(start_server("redis7"), "wsbus")
    broker = RedisBroker(case.server.url)
    with suppress(BrokerUnavailable):
        async with case.keeper(broker) as one:
            [old] = await stored(one, "a")
            case.server.kill()
            await sleep_forever()
    case.server.start()
    async with case.keeper(broker) as one:
        head = await one.link.head()
        assert head.epoch != old.epoch
        assert (await one.ask("a", after=old)).is_complete is False
        [new] = await stored(one, "a")
        assert new.epoch == head.epoch


@asynccontextmanager
async def failed_over(
    start_server: StartServer, kind: str, *, is_reused: bool
) -> AsyncIterator[tuple[Case, list[RedisBroker], list[Position]]]:
    """Give a store whose replica has taken over without the last three positions.

    One of two brokers has stored these, the other one's link was brought them. If they are reused,
    a third one has stored three others at the replica.
    """
    primary = start_server(kind, *QUIET)
    replica = start_server(kind, *QUIET, "--replicaof", "127.0.0.1", str(primary.port))
    case = Case(primary, "wsbus")
    brokers = [RedisBroker(primary.url) for _ in range(2)]
    with suppress(BrokerUnavailable):
        async with case.keeper(brokers[0]) as one, case.keeper(brokers[1]) as two:
            await two.node.follow(case.below())
            kept = await stored(one, "a", "b")
            await two.link.head()
            until(lambda: ask(replica, "HGET", case.key("history"), "offset") == "2")
            ask(replica, "REPLICAOF", "NO", "ONE")
            lost = await stored(one, "a", "c", "a")
            await two.node.gets(5)
            primary.kill()
            await sleep_forever()
    ask(replica, "CONFIG", "SET", "port", str(primary.port))
    if is_reused:
        async with case.keeper() as three:
            assert [p.offset for p in await stored(three, "a", "b", "a")] == [3, 4, 5]
    yield case, brokers, [*kept, *lost]


@pytest.mark.parametrize("kind", REDIS)
async def test_positions_that_were_given_away_twice(start_server: StartServer, kind: str) -> None:
    """After a failover, a position that was lost is none, though its offset is there again."""
    failover = failed_over(start_server, kind, is_reused=True)
    async with failover as (case, _, positions), case.keeper() as one:
        for position in positions[:2]:
            page = await one.ask("*", after=position)
            assert page.is_complete
            assert offsets(page) == [*range(position.offset + 1, 6)]
        for position in positions[2:]:
            for name in ("a", "*"):
                page = await one.ask(name, after=position)
                assert not page.is_complete
                assert page.head.epoch == position.epoch
        await stored(one, *"abc" * 3)
        assert not (await one.ask("*", after=positions[3])).is_complete


@pytest.mark.parametrize("is_reused", [False, True])
@pytest.mark.parametrize("who", [0, 1])
async def test_a_replica_that_lacks_the_end_gets_a_new_epoch(
    start_server: StartServer, who: int, is_reused: bool
) -> None:
    """A link whose broker has seen more than a store has, or other tags, gives it a new epoch.

    It may have stored it, or only have been brought it.
    """
    failover = failed_over(start_server, "redis7", is_reused=is_reused)
    async with (
        failover as (case, brokers, positions),
        case.keeper(brokers[who]) as one,
        case.keeper(brokers[1 - who]) as two,
    ):
        head = await one.link.head()
        assert head.epoch != positions[0].epoch
        assert head.offset == 0
        assert await two.link.head() == await one.link.head() == head
        assert not (await one.ask("*", after=positions[0])).is_complete
        [new] = await stored(two, "a")
        assert new == (await one.link.head())


async def test_two_links_that_notice_at_once_agree(start_server: StartServer) -> None:
    """However many links notice it, a store gets one new epoch."""
    failover = failed_over(start_server, "redis7", is_reused=True)
    async with (
        failover as (case, brokers, positions),
        case.keeper(brokers[0]) as one,
        case.keeper(brokers[1]) as two,
    ):
        heads: list[Position] = []

        async def ask_head(keeper: Keeper) -> None:
            heads.append(await keeper.link.head())

        async with create_task_group() as tasks:
            for keeper in (one, two, one, two):
                tasks.start_soon(ask_head, keeper)
        assert len({head.epoch for head in heads} - {positions[0].epoch}) == 1
        assert len({head.epoch for head in heads}) == 1


async def test_a_tag_is_forgotten_last(case: Case) -> None:
    """A position older than all turns that are remembered is taken as it is."""
    async with case.keeper() as one:
        first, second = await stored(one, "a"), await stored(one, "b")
        stranger = Position(first[0].epoch, 1, "stranger")
        assert not (await one.ask("*", after=stranger)).is_complete
        *_, last = await stored(one, *["c"] * 70)
        fill(case, "turns", MAX_TURNS, 2)
        await stored(one, *["c"] * 70)  # The index is cut now and then.
        assert case.ask("ZCARD", case.key("turns")) == MAX_TURNS
        for known in (first[0], stranger):
            assert (await one.ask("a", after=known)).is_complete
        for known in (second[0], last):
            assert (await one.ask("b", after=known)).is_complete
        unknown = Position(last.epoch, last.offset, "stranger")
        assert not (await one.ask("b", after=unknown)).is_complete


async def test_a_server_that_has_forgotten_the_scripts_learns_them(case: Case) -> None:
    """SCRIPT FLUSH costs a repetition, and nothing is stored or published twice."""
    async with case.keeper() as one:
        await one.node.follow(case.below())
        for call in (one.link.head, lambda: one.ask("*"), lambda: stored(one, "a", "b")):
            case.ask("SCRIPT", "FLUSH")
            await call()
        page = await one.ask("*")
        assert len(page.publications) == 2
        await one.node.settle(one.node)
        assert [item.offset for item in one.node.kept] == offsets(page)


async def test_a_replica_stores_nothing(start_server: StartServer) -> None:
    """A server that may not write refuses a turn: nothing of it is kept or published."""
    case = Case(start_server("redis7"), "wsbus")

    async def store() -> None:
        async with case.keeper() as one:
            await stored(one, "a")
            case.ask("REPLICAOF", "127.0.0.1", "1")
            await stored(one, "a")

    with pytest.raises(BrokerUnavailable, match="it is a replica"):
        await store()
    case.ask("REPLICAOF", "NO", "ONE")
    async with case.keeper() as one:
        assert len((await one.ask("a")).publications) == 1


GARBAGE: Final = (b"", b"x", b"\xff" * 200, b"\x99\xa1k" + b"\xc0" * 60)


async def test_entries_of_others_are_skipped(case: Case) -> None:
    """What someone else has put into a list is not read, and the answer is not complete."""
    async with case.keeper() as one:
        first, second = await stored(one, "a", "b")
        for n, garbage in enumerate(GARBAGE):
            for name in "ab":
                case.ask("RPUSH" if n % 2 else "LPUSH", case.list_of(name), garbage)
        third, *_ = await stored(one, "a")
        assert [(await one.ask(name)).is_complete for name in "ab*"] == [False] * 3
        # Entries whose end is as it should be, but not what it belongs to.
        [entry] = case.ask("LRANGE", case.list_of("b"), 2, 2)
        case.ask("RPUSH", case.list_of("b"), b"\x00" + entry[1:])
        case.ask("RPUSH", case.list_of("a"), entry)
        for name in ("a", "b", "*"):
            page = await one.ask(name)
            wanted = {"a": [first, third], "b": [second]}.get(name, [first, second, third])
            assert offsets(page) == [position.offset for position in wanted]
            assert not page.is_complete
        page = await one.ask("a", newest=1, is_from_end=True, limit=1)
        assert offsets(page) in ([], [third.offset])
        assert not page.is_complete
        page = await one.ask("a", after=third)
        assert offsets(page) == []


@pytest.mark.parametrize("name", ["h:", "k:"])
async def test_keys_of_another_type_are_overwritten(case: Case, name: str) -> None:
    """Where someone else has put something else, it gives way to what is stored."""
    async with case.keeper() as one:
        await stored(one, "a")
        for key in (case.list_of("a"), case.key(f"k:{case.base} key")):
            case.ask("DEL", key)
            case.ask("HSET", key, "x", "y")
        assert not (await one.ask("a")).is_complete
        [outcome] = await one.store([one.entry("a", key="key")])
        assert not outcome.is_repeated
        assert offsets(await one.ask("a")) == [outcome.position.offset]
        [outcome] = await one.store([one.entry("a", key="key")])
        assert outcome.is_repeated


@pytest.mark.parametrize("name", ["history", "channels", "turns"])
async def test_a_store_without_its_indexes_is_a_new_one(case: Case, name: str) -> None:
    """If a part of the state was evicted, nothing old is read, and nothing is called complete."""
    async with case.keeper() as one:
        [old, _] = await stored(one, "a", "b")
        case.ask("DEL", case.key(name))
        page = await one.ask("a")
        assert page.head.epoch != old.epoch
        assert offsets(page) == []
        assert not (await one.ask("a", after=old)).is_complete
        [new] = await stored(one, "a")
        assert offsets(await one.ask("*")) == [new.offset]


async def test_a_list_that_was_evicted_is_missed(case: Case) -> None:
    """A channel whose list is gone is not complete, until something new follows a position."""
    async with case.keeper() as one:
        before = await one.link.head()
        [position] = await stored(one, "a")
        case.ask("DEL", case.list_of("a"))
        assert not (await one.ask("a", after=before)).is_complete
        assert (await one.ask("a", after=position)).is_complete
        [new] = await stored(one, "a")
        assert case.ask("PTTL", case.list_of("a")) > 0
        page = await one.ask("a", after=position)
        assert (page.is_complete, offsets(page)) == (True, [new.offset])


async def test_everything_that_grows_has_an_end(case: Case) -> None:
    """Lists and idempotency keys expire; a list is at most an eighth longer than its size."""
    async with case.keeper() as one:
        for size in (1, 3, 16):
            history = History(size=size, ttl=20)
            name = f"s{size}"
            for _ in range(3 * size):
                await one.store([one.entry(name, history=history)])
                assert case.ask("LLEN", case.list_of(name)) <= size + size // 8
            assert 20_000 < case.ask("PTTL", case.list_of(name)) <= 30_000
            assert len((await one.ask(name)).publications) == size
        await one.store([one.entry("a", key="key", history=SHORT)])
        assert 110_000 < case.ask("PTTL", case.key(f"k:{case.base} key")) <= 120_000


async def test_the_index_of_channels_is_bounded(case: Case) -> None:
    """Above a bound, the channels that were published on longest ago are forgotten.

    What is not known of them is not called complete.
    """
    async with case.keeper() as one:
        start = await one.link.head()
        [old] = await stored(one, "old")
        [middle] = await stored(one, "middle")
        fill(case, "channels", MAX_CHANNELS - 2, middle.offset)
        [new] = await stored(one, "new")
        assert case.ask("ZCARD", case.key("channels")) == MAX_CHANNELS
        assert case.ask("HGET", case.key("history"), "floor") == b"%d" % old.offset
        assert offsets(await one.ask("old")) == []
        for name in ("old", "*", "never"):
            assert not (await one.ask(name, after=start)).is_complete
            assert (await one.ask(name, after=old)).is_complete
        assert (await one.ask("middle", after=start)).is_complete
        [again] = await stored(one, "old")
        page = await one.ask("old")
        assert offsets(page) == [again.offset]
        assert page.publications[0].previous is None
        assert again.offset > new.offset


async def test_a_channel_with_one_entry_is_small(case: Case) -> None:
    """The latest value of 200 bytes of each of many channels takes less than 900 bytes."""
    channels = 2_000
    async with case.keeper() as one:
        latest = History(size=1)
        for _ in range(2):
            await one.store([one.entry(f"c{n}", "x" * 198, latest) for n in range(channels)])
        # Not the memory of the server: links of other tests come and go in it.
        keys = case.ask("KEYS", case.key("*"))
        assert len(keys) > channels
        with Redis(host="127.0.0.1", port=case.server.port).pipeline() as asked:
            for key in keys:
                asked.memory_usage(key, samples=0)
            assert sum(asked.execute()) / channels < 900


async def test_calls_of_several_tasks_do_not_disturb_each_other(case: Case) -> None:
    """While one task stores, others read, ask for the head and follow."""
    async with case.keeper() as one:

        async def store_all() -> None:
            for n in range(100):
                await stored(one, "a", f"b{n}")
            tasks.cancel_scope.cancel()

        async def repeat(call: Callable[[], Any]) -> None:
            while True:
                await call()

        with fail_after(20):
            async with create_task_group() as tasks:
                tasks.start_soon(store_all)
                tasks.start_soon(repeat, one.link.head)
                tasks.start_soon(repeat, lambda: one.ask("*", limit=1000))
                tasks.start_soon(repeat, lambda: one.node.follow(case.exact("x")))
    async with case.keeper() as one:
        assert len((await one.ask("*")).publications) == 200


async def test_a_read_that_is_given_up_leaves_the_link(case: Case) -> None:
    """Cancelled at whatever it awaits, a read harms no other call, and leaves no task behind."""
    before = {task.id for task in get_running_tasks()}
    async with case.keeper() as one:
        [position] = await stored(one, "a")
        for turns in range(40):
            with CancelScope() as scope:
                async with create_task_group() as tasks:
                    tasks.start_soon(one.link.head)
                    tasks.start_soon(one.ask, "*")
                    for _ in range(turns):
                        await checkpoint()
                    scope.cancel()
            assert offsets(await one.ask("a")) == [position.offset]
        with CancelScope() as scope:
            async with create_task_group() as tasks:
                tasks.start_soon(one.ask, "*")
                await checkpoint()
                scope.cancel()
    with fail_after(10):
        while {task.id for task in get_running_tasks()} - before:
            await checkpoint()


async def test_the_end_of_a_message_names_its_position(case: Case) -> None:
    """What a link remembers of a message is the position of its last entry."""
    messages: list[bytes] = []
    async with RedisBroker(case.server.url, prefix=case.prefix).connect(messages.append) as link:
        await link.follow([case.below()])
        async with case.keeper() as one:
            await one.node.say(case.exact("a"), "x" * 100)
            positions = await stored(one, "a", "b")
        with fail_after(10):
            while len(messages) < 2:
                await checkpoint()
    assert [position_in(message) for message in messages] == [None, positions[-1]]
    for other in (b"", b"x", b"\xce" * 5, bytes(200), b"\xa8" * 200):
        assert position_in(other) is None


async def test_subscribers_learn_that_a_store_was_emptied(start_server: StartServer) -> None:
    """What is published after FLUSHALL comes behind a gap, on each node."""
    server = start_server("redis7")
    near, far = (Bus(broker=RedisBroker(server.url)) for _ in range(2))
    for bus in (near, far):
        bus.family("kept.*", history=History())
    async with near, far, near.subscribe("kept.a") as one, far.subscribe("kept.*") as two:
        streams = [aiter(one), aiter(two)]
        with fail_after(20):
            await near.publish("kept.a", "before")
            assert [(await anext(each)).gap for each in streams] == [None, None]
            ask(server, "FLUSHALL")
            await far.publish("kept.a", "after")
            for each in streams:
                event = await anext(each)
                assert (event.data, event.gap is not None) == ("after", True)


async def test_subscribers_learn_that_a_store_lacks_its_end(start_server: StartServer) -> None:
    """After a failover to a replica without the end, what is new comes behind a gap."""
    primary = start_server("redis7", *QUIET)
    replica = start_server("redis7", *QUIET, "--replicaof", "127.0.0.1", str(primary.port))
    near, far = (Bus(broker=RedisBroker(primary.url)) for _ in range(2))
    for bus in (near, far):
        bus.family("kept.*", history=History())
    async with near, far, near.subscribe("kept.a") as one, far.subscribe("kept.*") as two:
        streams = [aiter(one), aiter(two)]
        with fail_after(20):
            await near.publish("kept.a", 0)
            until(lambda: ask(replica, "HGET", "wsbus:{0}:history", "offset") == "1")
            ask(replica, "REPLICAOF", "NO", "ONE")
            for n in (1, 2, 3):
                await near.publish("kept.a", n)
            for each in streams:
                assert [(await anext(each)).data for _ in range(4)] == [0, 1, 2, 3]
            primary.kill()
            ask(replica, "CONFIG", "SET", "port", str(primary.port))
            async with create_task_group() as tasks:
                tasks.start_soon(publish_always, far)
                for each in streams:
                    event = await anext(each)
                    assert event.gap is not None
                    assert str(event.data).startswith("after")
                    later = await anext(each)
                    assert later.gap is None
                    assert event.position is not None
                    assert later.position is not None
                    assert later.position.epoch == event.position.epoch
                tasks.cancel_scope.cancel()


async def publish_always(bus: Bus) -> None:
    """Publish, and again, whenever there is a broker."""
    for n in count():
        with suppress(BrokerUnavailable):
            await bus.publish("kept.a", f"after {n}")
        await checkpoint()


def history_rights() -> list[str]:
    """Return the words of the second line that the guide prints."""
    lines = re.findall(r"^ACL SETUSER wsbus .*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines][1]


def user(case: Case, *, without: str = "") -> RedisBroker:
    """Make a user with the rights of the guide, and return a broker of it."""
    lines = re.findall(r"^ACL SETUSER wsbus .*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        words = [word for word in shlex.split(line) if word != without]
        case.ask(*[word.replace("wsbus", case.prefix) for word in words])
    return RedisBroker(
        f"redis://{case.prefix}:secret@127.0.0.1:{case.server.port}", prefix=case.prefix
    )


async def use(case: Case, broker: RedisBroker) -> None:
    """Use every command that scripts use."""
    async with case.keeper(broker) as one:
        await one.node.follow(case.below())
        [before] = await stored(one, "a")
        one_only = History(size=1)
        await one.store([one.entry(f"s{n}", key="k", history=one_only) for n in range(70)])
        await one.store([one.entry("s1", history=one_only) for _ in range(2)])
        await one.link.head()
        assert (await one.ask("s0", after=before)).is_complete
        for key, count in (("channels", MAX_CHANNELS), ("turns", MAX_TURNS)):
            fill(case, key, count)
        await stored(one, *"b" * 64)
        await one.ask("*", after=Position(before.epoch, 1, "other"))


async def test_the_documented_rights_are_enough(case: Case) -> None:
    """A user with the rights of the guide stores and reads; the code names the same."""
    assert " ".join(history_rights()).endswith(HISTORY_RIGHTS)
    case.ask("SCRIPT", "FLUSH")
    await use(case, user(case))


def test_no_documented_right_is_too_much() -> None:
    """The rights are those of the commands of the scripts, and of the commands that run them."""
    text = "".join(script.load[2].decode() for script in (HEAD, READ, STORE))
    used = {found.lower() for found in re.findall(r"call\('([A-Z]+)'", text)}
    used = {f"+{word}" for word in used} - {*RIGHTS.split(), "+pubsub"}
    assert {*HISTORY_RIGHTS.split()} == {"+evalsha", "+script|load", "+pubsub|numsub", *used}


@pytest.mark.parametrize("right", ["+evalsha", "+script|load", "+rpush", "+pubsub|numsub"])
async def test_a_right_that_is_missing_is_named(case: Case, right: str) -> None:
    """Without one of them the link ends, and the reason names what a user needs."""
    case.ask("SCRIPT", "FLUSH")

    async def store() -> None:
        async with case.keeper(user(case, without=right)) as one:
            await stored(one, "a")

    with pytest.raises(BrokerUnavailable, match=r"it refuses: .*\+evalsha") as caught:
        await store()
    assert "secret" not in str(caught.value)
