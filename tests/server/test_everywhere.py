"""The verbs of a bus reach every node, or their name says that they are local."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

import pytest
from anyio import fail_after

from tests.server.clients import UNLIMITED, Client, connecting, judge
from wsbus import BrokerUnavailable, Bus, ConnectionId, Endpoint, TransportClosed
from wsbus.broker import Link, Receive
from wsbus.brokers import MemoryBroker
from wsbus.bus import host_of


class Pair(NamedTuple):
    """Two nodes, with clients of both; ada has a connection to each."""

    here: Bus
    there: Bus
    ada: Client
    """Connected here."""
    other_ada: Client
    """Connected there."""
    bob: Client
    """Connected there."""


def way_in(bus: Bus) -> Endpoint:
    """Return the endpoint of a node."""
    return bus.endpoint(
        authenticator=judge, query_token="token", limits=UNLIMITED, broadcast="everyone"
    )


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Run two nodes that share a broker."""
    broker = MemoryBroker()
    here, there = Bus(broker=broker), Bus(broker=broker)
    ends = way_in(here), way_in(there)
    async with here, there, connecting(ends[0]) as meet, connecting(ends[1]) as join:
        with fail_after(10):
            ada, other_ada, bob = await meet("ada"), await join("ada"), await join("bob")
            for client in (ada, other_ada, bob):
                await client.subscribe("news")
            yield Pair(here, there, ada, other_ada, bob)


async def heard(client: Client) -> object:
    """Return the data of the client's next event."""
    return (await client.hear("event"))["data"]


async def test_publications_and_broadcasts_reach_all_nodes() -> None:
    """What is published at one node, by the application or a client, is heard at both, once."""
    async with pair() as nodes:
        clients = (nodes.ada, nodes.other_ada, nodes.bob)
        await nodes.here.publish("news", 1)
        assert [await heard(client) for client in clients] == [1, 1, 1]
        nodes.ada.say("publish", channel="news", data=2)
        assert [await heard(client) for client in clients] == [2, 2, 2]
        await nodes.there.broadcast(3)
        assert [await heard(client) for client in clients] == [3, 3, 3]


async def test_an_identity_is_found_on_all_nodes() -> None:
    """``send`` and ``revoke`` by a subject concern its connections wherever they are."""
    async with pair() as nodes:
        receipt = await nodes.here.send("mail", 1, to="ada")
        assert (receipt.local_matched, await heard(nodes.ada), await heard(nodes.other_ada)) == (
            1, 1, 1,
        )  # fmt: skip
        assert nodes.here.revoke("ada", "news") == 1
        assert (await nodes.other_ada.hear("unsubscribed"))["data"]["channels"] == ["news"]
        await nodes.there.publish("news", 2)
        await nodes.there.send("mail", 3, to="ada")
        assert (await heard(nodes.bob), await heard(nodes.other_ada)) == (2, 3)


async def test_a_connection_is_found_by_its_id() -> None:
    """``ConnectionId`` names a connection of another node, in each argument that takes one."""
    async with pair() as nodes:
        bob = ConnectionId(nodes.bob.id)
        await nodes.here.publish("news", 1, exclude=bob)
        await nodes.here.publish("news", 2, exclude=[bob, nodes.ada.connection])
        await nodes.here.send("mail", 3, to=bob)
        await nodes.here.publish("news", 4, exclude="ada")
        assert [await heard(nodes.bob) for _ in range(2)] == [3, 4]
        assert [await heard(nodes.other_ada) for _ in range(2)] == [1, 2]
        assert await heard(nodes.ada) == 1

        assert nodes.here.disconnect(bob, code=4001, reason="enough") == 0
        with pytest.raises(TransportClosed) as end:
            await nodes.bob.hear("event")
        assert (end.value.code, end.value.reason) == (4001, "enough")


async def test_an_identity_is_disconnected_on_all_nodes() -> None:
    """Each node ends the connections of the subject that it has, and no others."""
    async with pair() as nodes:
        assert nodes.there.disconnect("ada", code=4002) == 1
        for client in (nodes.ada, nodes.other_ada):
            with pytest.raises(TransportClosed) as end:
                await client.hear("event")
            assert end.value.code == 4002
        await nodes.here.publish("news", 1)
        assert await heard(nodes.bob) == 1


async def test_local_names_see_this_node_only() -> None:
    """``local_subscribers`` and the counts of a receipt are of one process; ``nodes`` of all."""
    async with pair() as nodes:
        assert nodes.here.local_subscribers("news") == [nodes.ada.connection]
        assert (await nodes.here.publish("news", 1)).local_matched == 1
        assert [node.is_self for node in nodes.here.nodes()] == [True, False]
        assert {node.id for node in nodes.here.nodes()} == {n.id for n in nodes.there.nodes()}


async def test_what_cannot_be_read_is_a_gap() -> None:
    """A message that a node cannot read may have been a publication: its subscribers learn so."""
    async with pair() as nodes:
        relay = host_of(nodes.there).services.relay
        assert relay is not None
        relay.inbox.receive(b"\x09 of a version that is far ahead")
        for client in (nodes.other_ada, nodes.bob):
            assert (await client.hear("gap"))["data"] == {"lost": None, "cause": "broker"}


async def test_orders_fail_loudly_without_a_link() -> None:
    """Without a broker to take them, verbs do their work here and raise."""

    class Nowhere:
        address = "nowhere:"
        is_there: bool = False

        @asynccontextmanager
        async def connect(self, receive: Receive) -> AsyncIterator[Link]:
            if not self.is_there:
                raise BrokerUnavailable("it is not there")
            yield cast("Link", None)

    bus = Bus(broker=Nowhere())
    async with bus, connecting(way_in(bus)) as connect:
        ada = await connect("ada")
        ada.say("publish", channel="news", data=1, id="p")
        with fail_after(5):
            answer = await ada.hear("error", "response")
        assert (answer["id"], answer["error"]["code"]) == ("p", "UNAVAILABLE")
        ada.say("publish", channel="news", data=1)
        with fail_after(5):
            assert (await ada.hear("error"))["error"]["code"] == "UNAVAILABLE"
        for call in (
            lambda: bus.publish_soon("news", 1),
            lambda: bus.send_soon("mail", 1, to="ada"),
            lambda: bus.revoke("ada", "news"),
            lambda: bus.disconnect("ada"),
        ):
            with pytest.raises(BrokerUnavailable, match="it is not there"):
                call()
        with pytest.raises(BrokerUnavailable):
            await bus.publish("news", 1)
        assert bus.is_running
        assert not bus.healthy
