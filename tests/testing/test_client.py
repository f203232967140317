"""The client in memory: everything that the client over a socket does, with nothing in between."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import Event, create_task_group, fail_after, wait_all_tasks_blocked

from wsbus import (
    Bus,
    CommandError,
    Connection,
    Grants,
    Handshake,
    History,
    Identity,
    Limits,
    Presence,
    Stream,
    Unauthenticated,
    UsageError,
)
from wsbus.client import Changes, Closed, Connected, ConnectError, Reconnecting, Retry
from wsbus.client import Unauthenticated as Refused
from wsbus.testing import MemoryNetwork, client, expect

EVERYTHING = Grants.of(subscribe=["*"], publish=["*"], command=["*"], history=["*"], presence=["*"])
QUICK = Retry(base=0.001, cap=0.001)


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for the name of its bearer."""
    if token is None:
        return None
    if token == "bad":
        raise Unauthenticated("nobody knows this token")
    grants = Grants.of(subscribe=["*"], publish=["chat.*"], command=["*"])
    return Identity(token, grants)


def shop() -> Bus:
    """Return a bus with something of everything."""
    bus = Bus()
    bus.family("kept.*", history=History(size=10))
    bus.family("room.*", presence=Presence())
    bus.family("answer.*", stream=Stream())

    @bus.command("add")
    def add(a: int, b: int) -> int:
        return a + b

    @bus.command("whoami")
    def whoami(connection: Connection) -> list[Any]:
        shaken = connection.handshake
        assert connection.identity is not None
        return [connection.identity.subject, shaken.path, shaken.query("q"), dict(shaken.headers)]

    return bus


async def changed_to(changes: Changes, kind: type[Any]) -> Any:
    """Wait for a change of a type."""
    with fail_after(10):
        async for change in changes:  # It begins with the present one.
            if isinstance(change, kind):
                return change
    raise AssertionError("the client has ended")


@pytest.mark.parametrize("protocol", ["wsbus.v1", "wsbus.v1.msgpack", "zigquant-v2"])
async def test_every_dialect_is_spoken(protocol: str) -> None:
    """Events, commands and refusals pass in text and in binary."""
    bus = shop()
    endpoint = bus.endpoint(protocols=[protocol])
    async with bus, client(bus, endpoint=endpoint, protocol=protocol) as c:
        async with c.subscribe("prices.*") as events:
            await bus.publish("prices.BTC", {"last": 1.5}, event="tick")
            event = await expect(events).receive({"last": 1.5}, channel="prices.BTC", event="tick")
            assert event.gap is None
            await expect(events).nothing()
        assert await c.command("add", {"a": 2, "b": 3}, returns=int) == 5
        with pytest.raises(CommandError, match="UNKNOWN"):
            await c.command("subtract")


async def test_publish_history_presence_and_streams() -> None:
    """What else a client can do, it can do here."""
    bus = shop()
    free = bus.endpoint(anonymous=EVERYTHING)
    async with bus, client(bus, endpoint=free) as ann, client(bus, endpoint=free) as ben:
        async with ben.subscribe("kept.a") as events:
            receipt = await ann.publish("kept.a", 1)
            assert receipt.local_matched == 1
            await expect(events).receive(1)
        page = await ann.history("kept.a")
        assert [event.data for event in page.events] == [1]

        async with ann.watch_presence("room.1") as watch, ben.subscribe("room.1"):
            with fail_after(10):
                while not (change := await anext(watch)).joined:
                    assert change.count == 0
            assert [each.id for each in change.joined] == [ben.connection_id]

        async with bus.stream("answer.1") as writer:
            await writer.append("Hel")
            await writer.append("lo")
        parts = [part async for part in ann.stream("answer.1")]
        assert parts[-1].value == "Hello"


async def test_the_handshake_is_judged() -> None:
    """Path, query, headers and token reach the endpoint; a refusal is the client's error."""
    bus = shop()
    door = bus.endpoint(authenticator=judge, origins=["https://example.org"])
    async with bus:
        headers = {"X-Shop": "7"}
        async with client(bus, endpoint=door, token="ann", path="/a%20b?q=1", headers=headers) as c:
            subject, path, query, shown = await c.command("whoami")
            assert (subject, path, query, shown["x-shop"]) == ("ann", "/a b", "1", "7")
            with pytest.raises(CommandError, match="FORBIDDEN"):
                await c.publish("prices.BTC", 1)
        with pytest.raises(Refused, match="nobody knows"):
            async with client(bus, endpoint=door, token="bad", token_in="header"):
                pass
        with pytest.raises(ConnectError, match="origin"):
            async with client(bus, endpoint=door, token="ann", headers={"Origin": "https://x"}):
                pass


async def test_an_identity_needs_no_token() -> None:
    """It is what a framework has found out, so the authenticator is not asked."""
    bus = shop()
    door = bus.endpoint(authenticator=judge)
    async with bus, client(bus, endpoint=door, identity=Identity("eve", Grants.open())) as c:
        assert c.subject == "eve"


async def test_a_bus_that_does_not_run_is_said_so() -> None:
    """The error is that of a server which is not ready."""
    with pytest.raises(ConnectError, match="503"):
        async with client(Bus()):
            pass


async def test_the_servers_side_has_ended_when_the_client_has() -> None:
    """After the block the hook was called, with the client's close code."""
    bus = shop()
    ended: list[int | None] = []
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    async with bus:
        async with client(bus) as c:
            assert [info.connection_id for info in bus.connections()] == [c.connection_id]
        assert ended == [1000]
        assert bus.connections() == []


async def test_a_message_that_is_too_large_ends_the_connection() -> None:
    """The limit is the endpoint's, as it is behind a server library."""
    bus = shop()
    door = bus.endpoint(limits=Limits(max_message_bytes=2000))
    async with bus, client(bus, endpoint=door, retry=QUICK) as c:
        changes = c.changes()
        assert c._driver._wire is not None
        c._driver._wire.send(b"x" * 2001)
        lost = await changed_to(changes, Reconnecting)
        assert "too big" in str(lost.error)


async def test_a_network_that_is_cut_is_reconnected() -> None:
    """The client comes again once the network is there, and says what it may have missed."""
    bus = shop()
    network = MemoryNetwork()
    ended: list[int | None] = []
    bus.on_disconnect(lambda connection: ended.append(connection.close_code))
    async with bus, client(bus, network=network, retry=QUICK) as c:
        changes = c.changes()
        async with c.subscribe("a") as events, c.subscribe("kept.*") as kept:
            network.cut()
            await changed_to(changes, Reconnecting)
            await bus.publish("kept.b", 1)
            network.restore()
            await changed_to(changes, Connected)
            await expect(kept).receive(1)
            await bus.publish("a", 2)
            event = await expect(events).receive(2)
            assert event.gap is not None
    assert network.dialled >= 2
    assert ended == [1006, 1000]


async def test_while_a_network_is_cut_nobody_gets_in() -> None:
    """The first connection of a client fails as where nothing listens."""
    network = MemoryNetwork()
    network.cut()
    async with shop() as bus:
        with pytest.raises(ConnectError, match="nothing listens"):
            async with client(bus, network=network):
                pass


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_network_that_is_cut_breaks_a_handshake_too(is_back: bool) -> None:
    """Whoever is just let in is not connected; the server keeps nothing of it."""
    network, asked, goes_on = MemoryNetwork(), Event(), Event()

    async def think(token: str | None, handshake: Handshake) -> Identity:
        asked.set()
        await goes_on.wait()
        return Identity("ann", EVERYTHING)

    bus = Bus()
    endpoint = bus.endpoint(authenticator=think)

    async def connect() -> None:
        with pytest.raises(ConnectError, match="nothing listens"):
            async with client(bus, endpoint=endpoint, network=network, retry=Retry(attempts=0)):
                pass

    async with bus:
        async with create_task_group() as tasks:
            tasks.start_soon(connect)
            await asked.wait()
            network.cut()
            if is_back:
                network.restore()
            goes_on.set()
        assert endpoint.places.taken == 0
        assert bus.statistics().connections_ever == 0


async def test_a_network_that_is_frozen_holds_the_answer_to_a_handshake() -> None:
    """The client waits for it, and is connected once it comes."""
    network, asked, goes_on, is_in = MemoryNetwork(), Event(), Event(), Event()

    async def think(token: str | None, handshake: Handshake) -> Identity:
        asked.set()
        await goes_on.wait()
        return Identity("ann", EVERYTHING)

    bus = Bus()
    endpoint = bus.endpoint(authenticator=think)

    async def connect() -> None:
        async with client(bus, endpoint=endpoint, network=network):
            is_in.set()

    async with bus, create_task_group() as tasks:
        tasks.start_soon(connect)
        await asked.wait()
        network.freeze()
        goes_on.set()
        await wait_all_tasks_blocked()
        assert not is_in.is_set()
        network.restore()
        await is_in.wait()


@pytest.mark.parametrize("options", [{"endpoint": "/ws"}, {"network": True}])
def test_a_wrong_argument_of_a_client_is_refused(options: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(UsageError, match=next(iter(options))):
        client(Bus(), **options)


async def test_a_frozen_network_holds_everything() -> None:
    """Both ways nothing arrives, until it does, in order."""
    bus = shop()
    network = MemoryNetwork()
    async with bus, client(bus, network=network) as c, c.subscribe("a") as events:
        network.freeze()
        await bus.publish("a", 1)
        await bus.publish("a", 2)
        with pytest.raises(CommandError, match="TIMEOUT"):
            await c.command("add", {"a": 1, "b": 1}, timeout=0.01)
        network.restore()
        await expect(events).receive_all(1, 2)
        assert await c.command("add", {"a": 1, "b": 1}) == 2


async def test_a_client_that_is_closed_while_the_network_is_frozen_ends() -> None:
    """The close frame arrives nowhere, so the client waits for ``close_timeout`` only."""
    bus = shop()
    network = MemoryNetwork()
    async with bus:
        with fail_after(5):
            async with client(bus, network=network, close_timeout=0.01) as c:
                changes = c.changes()
                network.freeze()
        assert (await changed_to(changes, Closed)).error is None
