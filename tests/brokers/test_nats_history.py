"""History on JetStream, against real servers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from anyio import create_task_group, fail_after, sleep_forever
from nats.aio.client import Client

from tests.brokers.servers import NATS, Server, Servers
from wsbus import Bus
from wsbus.brokers import NatsBroker, _nats_stream
from wsbus.brokers._nats_history import StreamLimits
from wsbus.brokers._nats_stream import NatsStream, why_no_history
from wsbus.core.errors import BrokerUnavailable, UsageError
from wsbus.core.events import Position
from wsbus.core.families import History
from wsbus.core.history import Stored
from wsbus.testing.keepers import Keeper
from wsbus.testing.nodes import BrokerUnderTest

StartServer = Callable[..., Server]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """nats-py runs on asyncio only."""
    return request.param


def case_on(server: Server, prefix: str = "history") -> BrokerUnderTest:
    """Return a set of links to a server."""
    return BrokerUnderTest(lambda: NatsBroker(server.url, prefix=prefix))


async def streams(server: Server) -> list[str]:
    """Return the names of all streams of a server."""
    client = Client()
    await client.connect(server.url)
    found = [each.config.name or "" for each in await client.jetstream().streams_info()]
    await client.close()
    return found


async def delete_streams(server: Server) -> None:
    """Delete all streams of a server."""
    client = Client()
    await client.connect(server.url)
    for each in await client.jetstream().streams_info():
        await client.jetstream().delete_stream(each.config.name or "")
    await client.close()


@pytest.mark.parametrize("kind", NATS)
async def test_old_servers_are_refused_where_history_is_kept(kind: str, servers: Servers) -> None:
    """A bus with history does not start on an old server, and says which one is needed."""
    server = servers.of(kind)
    bus = Bus(broker=NatsBroker(server.url, prefix="refused"))
    bus.family("a.*", history=History())
    if kind == "nats2.15":
        async with bus:
            receipt = await bus.publish("a.b", 1)
            assert receipt.position == await bus.position("a.b")
        return
    with pytest.raises(UsageError, match=r"nats-server 2\.9\.\d+, and history needs 2\.11"):
        async with bus:
            pass
    async with Bus(broker=NatsBroker(server.url, prefix="refused")) as live:
        await live.publish("a.b", 1)


def test_what_a_server_needs_for_history() -> None:
    """Versions are compared as numbers, and JetStream has to run."""
    assert why_no_history("2.11.0", has_jetstream=True) is None
    assert why_no_history("3.0.0-RC.1", has_jetstream=True) is None
    assert "2.10.25" in (why_no_history("2.10.25", has_jetstream=True) or "")
    assert "-js" in (why_no_history("2.15.1", has_jetstream=False) or "")
    assert why_no_history("", has_jetstream=True)


async def test_what_was_acknowledged_survives_a_killed_server(start_server: StartServer) -> None:
    """After ``kill -9`` everything that was acknowledged is there, at its position."""
    server = start_server("nats2.15")
    case = case_on(server)
    stored: list[Stored] = []
    with suppress(BrokerUnavailable):
        async with case.join() as node:
            one = Keeper(node)
            for number in range(50):
                stored += await one.store([one.entry("a", number), one.entry("b", number)])
            server.kill()
            with fail_after(10):
                await sleep_forever()
    server.start()
    async with case.join() as node:
        page = await Keeper(node).ask("*", after=Position(stored[0].position.epoch, 0))
        assert [each.position for each in page.publications] == [each.position for each in stored]
        assert page.is_complete
        assert page.head == stored[-1].position


async def test_a_stream_that_was_deleted_is_never_taken_for_the_new_one(
    start_server: StartServer,
) -> None:
    """A link goes on after its stream was deleted: with another epoch, and incomplete answers."""
    server = start_server("nats2.15")
    case = case_on(server)
    async with case.join() as node:
        one = Keeper(node)
        await node.follow(case.below())
        [old] = await one.store([one.entry("a")])
        await one.gets([old])
        await delete_streams(server)
        [new] = await one.store([one.entry("a")])
        await one.gets([new])
        assert new.position.offset == old.position.offset
        assert new.position.epoch != old.position.epoch
        page = await one.ask("a", after=old.position)
        assert not page.is_complete
        assert [each.position for each in page.publications] == [new.position]
        await delete_streams(server)
        head = await one.link.head()
        assert head.offset == 0
        assert head.epoch not in {old.position.epoch, new.position.epoch}
        assert not (await one.ask("a", after=new.position)).is_complete


async def test_links_that_begin_at_once_make_one_stream(start_server: StartServer) -> None:
    """However many links store first, they store in one stream, with one sequence."""
    server, offsets = start_server("nats2.15"), []
    case = case_on(server, "a.b")

    async def store_one() -> None:
        async with case.join() as node:
            one = Keeper(node)
            [stored] = await one.store([one.entry("a")])
            offsets.append(stored.position)

    with fail_after(30):
        async with create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(store_one)
    assert sorted(each.offset for each in offsets) == [*range(1, 9)]
    assert len({each.epoch for each in offsets}) == 1
    assert len(await streams(server)) == 1


@pytest.mark.parametrize(("seconds", "is_taken"), [(60.0, True), (0.0, False)])
async def test_the_choice_of_a_link_that_was_lost(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, seconds: float, is_taken: bool
) -> None:
    """Others make the stream that it meant to; long after, it may have been made and deleted."""
    monkeypatch.setattr(_nats_stream, "_CHOICE_SECONDS", seconds)
    server = start_server("nats2.15")
    client = Client()
    await client.connect(server.url)
    await client.jetstream().add_stream(
        name="a_b-first", subjects=["a.b.first"], metadata={"epoch": "0123456789abcdef"}
    )
    async with case_on(server, "a.b").join() as node:
        one = Keeper(node)
        [stored] = await one.store([one.entry("a")])
    await client.close()

    assert stored.position is not None
    assert (stored.position.epoch == "0123456789abcdef") is is_taken
    assert await streams(server) == [f"a_b-{stored.position.epoch}"]


async def test_of_two_streams_the_one_that_was_written_to_answers() -> None:
    """A server that made two at once has both answer; the other one's position means nothing."""

    class Connection:
        def wait_for(self, _answer: object, _seconds: float) -> None:
            """The test itself answers."""

    stream = NatsStream(cast("Any", Connection()), "wsbus", str)
    number, answer = stream._expect_one("wsbus-1")
    for data in (b'{"stream":"wsbus-2","seq":1}', b'{"stream":"wsbus-1","seq":7}'):
        stream.answered(b"wsbus.i.%d" % number, data, None)

    assert await answer == (b'{"stream":"wsbus-1","seq":7}', None)


async def test_purged_channels_are_missing(start_server: StartServer) -> None:
    """What an operator has purged, with the sequence going on, makes answers incomplete."""
    server = start_server("nats2.15")
    case = case_on(server)
    async with case.join() as node:
        one = Keeper(node)
        [first] = await one.store([one.entry("a")])
        await one.store([one.entry("a"), one.entry("a")])
        client = Client()
        await client.connect(server.url)
        [name] = await streams(server)
        await client.jetstream().purge_stream(name)
        await client.close()
        page = await one.ask("a", after=first.position)
        assert page.publications == ()
        assert not page.is_complete


def test_limits_only_grow() -> None:
    """A stream that keeps more, or has no limit, stays as it is."""
    narrow, wide = StreamLimits(10, 10).config("n", "p"), StreamLimits(200, 7200).config("n", "p")
    assert StreamLimits(10, 10).widened(wide) is None
    assert StreamLimits(200, 7200).widened(narrow) == wide
    assert (
        StreamLimits(200, 7200).widened(wide | {"max_msgs_per_subject": -1, "max_age": 0}) is None
    )
    assert StreamLimits(200, 10).widened(narrow) == narrow | {"max_msgs_per_subject": 201}
