"""Presence: who is on a channel, and what changes, on one node and on two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from anyio import fail_after

from tests.server.clients import UNLIMITED, Client, Connect, connecting, judge
from wsbus import Bus, Endpoint, Grants, Identity, Limits, Occupant, Presence, UsageError
from wsbus.brokers import MemoryBroker
from wsbus.bus import host_of
from wsbus.core.envelope import Attended, Beacon
from wsbus.core.presence import Attendance, ChannelNews, News
from wsbus.server import directory
from wsbus.server.directory import Directory

pytestmark = pytest.mark.anyio


class Stage(NamedTuple):
    """A node, its endpoint, and the way to connect."""

    bus: Bus
    endpoint: Endpoint
    connect: Connect


@asynccontextmanager
async def stage(
    broker: MemoryBroker | None = None, most: int = 1000, **options: Any
) -> AsyncIterator[Stage]:
    """Run a node whose channels below ``chat`` show presence."""
    bus = Bus(broker=broker)
    bus.family("chat.*", presence=Presence(max_members=most))
    options = {"authenticator": judge, "query_token": "token", "limits": UNLIMITED, **options}
    endpoint = bus.endpoint(**options)
    async with bus, connecting(endpoint) as connect:
        with fail_after(10):
            yield Stage(bus, endpoint, connect)


async def look(client: Client, channel: str, **fields: Any) -> dict[str, Any]:
    """Ask who is on a channel; return the answer."""
    client.say("presence", id="look", channel=channel, **fields)
    answer = await client.hear("presence", "error")
    found: dict[str, Any] = answer.get("data") or answer["error"]
    return found


async def change(client: Client) -> tuple[list[str], list[str], int]:
    """Return the subjects of the next change, and the count."""
    data = (await client.hear("presence_changed"))["data"]
    joined, left = ([each["subject"] for each in data.get(k, ())] for k in ("joined", "left"))
    return joined, left, data["count"]


def allowing(*presence: str) -> Any:
    """Return an authenticator that grants presence."""

    def judge_presence(token: str | None, handshake: object) -> Any:
        identity = judge(token, handshake)  # type: ignore[arg-type]  # it does not look at it
        if identity is None:
            return None
        return Identity(identity.subject, Grants.of(subscribe=["*"], presence=presence))

    return judge_presence


async def test_a_watcher_learns_of_joins_and_leaves_once() -> None:
    """The answer says who is there, changes follow; a pattern watches, and is not there."""
    async with stage(authenticator=allowing("chat.*")) as at:
        ada, bob = await at.connect("ada"), await at.connect("bob")
        await ada.subscribe("chat.*", "chat.room")
        there = await look(bob, "chat.room", watch=True)
        assert there["watching"]
        if there["count"] == 0:  # The watchers were not told of her yet.
            assert await change(bob) == (["ada"], [], 1)
        await bob.subscribe("chat.room")
        assert await change(bob) == (["bob"], [], 2)
        ada.say("unsubscribe", channels=["chat.room"])
        assert await change(bob) == ([], ["ada"], 1)
        assert [each.subject for each in at.bus.presence("chat.room")] == ["bob"]
        assert (await look(bob, "chat.room"))["members"] == [{"id": bob.id, "subject": "bob"}]


async def test_a_connection_that_ends_leaves_all_its_channels() -> None:
    """However it ends; and it watches no more."""
    async with stage(authenticator=allowing("chat.*")) as at:
        ada, bob = await at.connect("ada"), await at.connect("bob")
        await look(bob, "chat.a", watch=True)
        await ada.subscribe("chat.a")
        assert await change(bob) == (["ada"], [], 1)
        await look(ada, "chat.a", watch=True)
        ada.peer.close()
        assert await change(bob) == ([], ["ada"], 0)
        assert at.bus.presence("chat.a") == []


async def test_who_comes_and_goes_in_between_is_not_mentioned() -> None:
    """Changes are told together; what cancels out is left out."""
    async with stage(authenticator=allowing("chat.*")) as at:
        ada, bob, eve = [await at.connect(name) for name in ("ada", "bob", "eve")]
        await look(bob, "chat.a", watch=True)
        await eve.subscribe("chat.a")
        await ada.subscribe("chat.a")
        eve.say("unsubscribe", channels=["chat.a"])
        assert await change(bob) == (["ada"], [], 1)


async def test_a_replaced_connection_is_not_taken_for_gone() -> None:
    """The older connection of a name leaves after the newer one is there."""

    def name(_: object) -> str:
        return "tab"

    options = {"authenticator": allowing("chat.*"), "name_connection": name}
    async with stage(**options) as at, connecting(at.bus.endpoint(anonymous=Grants.open())) as meet:
        watcher = await meet()
        await look(watcher, "chat.a", watch=True)
        first = await at.connect("ada")
        await first.subscribe("chat.a")
        assert await change(watcher) == (["ada"], [], 1)
        second = await at.connect("ada")
        await second.subscribe("chat.a")
        await second.subscribe("chat.b")
        assert [each.subject for each in at.bus.presence("chat.a")] == ["ada"]
        assert at.bus.presence("chat.a") == [Occupant("tab", "ada")]


async def test_presence_needs_a_grant_and_a_family() -> None:
    """Each refusal says why, and the connection lives on."""
    async with stage(authenticator=allowing("chat.open")) as at:
        ada = await at.connect("ada")
        assert (await look(ada, "chat.room"))["code"] == "FORBIDDEN"
        assert (await look(ada, "chat.*"))["code"] == "INVALID_CHANNEL"
        assert (await look(ada, "chat.open"))["count"] == 0
    async with stage(authenticator=allowing("*")) as at:
        ada = await at.connect("ada")
        assert (await look(ada, "news"))["code"] == "NO_PRESENCE"
        with pytest.raises(UsageError, match="does not say which"):
            at.bus.presence("news")


async def test_a_refresh_that_takes_the_grant_away_ends_the_watch() -> None:
    """The client learns of it."""

    def by_token(token: str | None, _: object) -> Any:
        presence = ["chat.*"] if token == "ada" else []
        grants = Grants.of(subscribe=["*"], presence=presence)
        return None if token is None else Identity("ada", grants)

    async with stage(authenticator=by_token) as at:
        ada = await at.connect("ada")
        assert (await look(ada, "chat.a", watch=True))["watching"]
        ada.say("auth", token="less")
        notice = await ada.hear("presence_changed")
        assert notice["data"]["watching"] is False
        assert (await look(ada, "chat.a"))["code"] == "FORBIDDEN"


async def test_only_so_many_are_named_and_watched() -> None:
    """Above the bound of the family only their number is told."""
    limits = Limits(messages_per_second=None, max_subscriptions=2)
    async with stage(most=1, authenticator=allowing("chat.*"), limits=limits) as at:
        ada, bob, eve = [await at.connect(name) for name in ("ada", "bob", "eve")]
        await look(bob, "chat.a", watch=True)
        await look(bob, "chat.b", watch=True)
        assert (await look(bob, "chat.c", watch=True))["code"] == "TOO_MANY_SUBSCRIPTIONS"
        await ada.subscribe("chat.a")
        assert await change(bob) == (["ada"], [], 1)
        await eve.subscribe("chat.a")
        assert await change(bob) == ([], [], 2)
        there = await look(bob, "chat.a", watch=False)
        assert (there["count"], len(there["members"]), there["watching"]) == (2, 1, False)
        assert (await look(bob, "chat.c", watch=True))["watching"]


async def test_all_nodes_know_who_is_there() -> None:
    """One that starts later, too; a node that ends takes its connections with it."""
    broker, options = MemoryBroker(), {"authenticator": allowing("chat.*")}
    async with stage(broker, **options) as here:
        ada, bob = await here.connect("ada"), await here.connect("bob")
        await ada.subscribe("chat.a")
        await look(bob, "chat.a", watch=True)
        if not here.bus.presence("chat.a"):
            await change(bob)
        async with stage(broker, **options) as there:
            eve = await there.connect("eve")
            if (await look(eve, "chat.a", watch=True))["count"] == 0:
                assert await change(eve) == (["ada"], [], 1)
            await eve.subscribe("chat.a")
            assert await change(eve) == (["eve"], [], 2)
            while (joined := await change(bob))[0] != ["eve"]:
                assert joined == (["ada"], [], 1)
        assert await change(bob) == ([], ["eve"], 1)


def test_a_wrong_setting_is_refused() -> None:
    """When it is made."""
    with pytest.raises(UsageError, match="max_members is 1 to"):
        Presence(max_members=0)
    with pytest.raises(UsageError, match=r"presence is Presence\(\)"):
        Bus().family("chat.*", presence=True)  # type: ignore[arg-type]  # it is wrong


def test_what_other_nodes_say_is_bounded() -> None:
    """A broker may bring news of any number of nodes and connections; this node keeps a place."""
    attendance = Attendance("here", max_nodes=2, max_occupants=3)

    def hear(node: str, number: int, *ids: str, left: tuple[str, ...] = ()) -> bool:
        joined = tuple(Occupant(each) for each in ids)
        news = ChannelNews("chat.a", joined, left)
        return attendance.hear(node, News(number, (news,), is_whole=number == 1))

    def present() -> list[str]:
        return [each.id for each in attendance.present("chat.a")]

    assert hear("one", 1, "a", "b")
    assert hear("two", 1, "c", "d")
    assert hear("three", 1, "e")
    assert present() == ["a", "b", "c"]
    assert hear("two", 2, "c", "f", left=("c", "c", "x"))
    assert present() == ["a", "b", "c"]
    attendance.join("chat.a", Occupant("own"), object())
    assert present() == ["a", "b", "c", "own"]
    attendance.forget("one")
    assert hear("three", 1, "e", "g", "h")
    assert present() == ["c", "own", "e", "g"]


def test_beacons_of_other_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes beyond the bound are not noted, and those that are noted stay."""
    monkeypatch.setattr(directory, "MAX_NODES", 2)
    gone: list[str] = []
    nodes = Directory("here", gone.append, lambda _: None)
    beacon = Beacon(1, "host", 1, 0, 0.0)
    assert [nodes.note(name, beacon, 0.0) for name in ("a", "b", "c", "a")] == [
        True,
        True,
        False,
        False,
    ]
    assert {node.id for node in nodes.nodes(beacon, 0.0)} == {"here", "a", "b"}
    assert not nodes.note("a", msgspec.structs.replace(beacon, is_leaving=True), 0.0)
    assert gone == ["a"]
    assert nodes.note("c", beacon, 0.0)


def test_nodes_that_never_send_a_beacon_make_room() -> None:
    """One is kept until the second look, since its beacon may be on its way; then it is gone."""
    attendance = Attendance("here", max_nodes=2)

    def hear(node: str) -> None:
        news = ChannelNews("chat.a", (Occupant(f"of {node}"),))
        attendance.hear(node, News(1, (news,), is_whole=True))

    def present() -> list[str]:
        return [each.id for each in attendance.present("chat.a")]

    nodes = Directory("here", attendance.forget, attendance.expire)
    beacon = Beacon(1, "host", 1, 0, 0.0)
    hear("real")
    hear("false")
    hear("late")
    assert present() == ["of real", "of false"]
    nodes.expire(0.0)
    nodes.note("real", beacon, 0.0)
    nodes.note("late", beacon, 0.0)
    assert present() == ["of real", "of false"]
    nodes.expire(2.0)
    assert present() == ["of real"]
    hear("late")
    hear("false")  # Beyond the bound.
    assert present() == ["of real", "of late"]
    nodes.expire(4.0)
    nodes.expire(6.0)
    assert present() == ["of real", "of late"]
    nodes.expire(6.1)
    assert present() == []


async def test_a_node_that_never_sends_a_beacon_is_no_ghost() -> None:
    """What it said of its connections goes, and the watchers of others learn it."""
    broker, options = MemoryBroker(), {"authenticator": allowing("chat.*")}
    async with stage(broker, **options) as at:
        bob = await at.connect("bob")
        await look(bob, "chat.a", watch=True)
        attendances = host_of(at.bus).services.attendances
        news = ChannelNews("chat.a", (Occupant("c1", "eve"),))
        attendances.hear(Attended(1, (news,), is_whole=True), "never")
        assert await change(bob) == (["eve"], [], 1)
        attendances.expire({"other"})
        attendances.expire({"other"})
        assert await change(bob) == ([], ["eve"], 0)


async def test_news_of_channels_without_presence_are_left_out() -> None:
    """Another process may have declared other families, and a broker may bring anything."""
    async with stage() as at:
        attendances = host_of(at.bus).services.attendances
        news = [
            ChannelNews(name, (Occupant("c1", "eve"),))
            for name in ("chat.a", "news", "", "chat..b")
        ]
        attendances.hear(Attended(1, tuple(news), is_whole=True), "other")
        assert at.bus.presence("chat.a") == [Occupant("c1", "eve")]
        for name in ("news", "", "chat..b"):
            assert attendances.present(name) == []
        attendances.forget("other")
        assert at.bus.presence("chat.a") == []
