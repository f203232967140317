from __future__ import annotations

import os
import platform
import sys
from socket import gethostname
from typing import Any

import pytest
from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint

from tests.console.operators import TOKEN, Operator, operators
from tests.server.clients import connecting, judge
from wsbus import Bus, Grants, Handshake, Identity, Limits, __version__
from wsbus.brokers import MemoryBroker
from wsbus.bus import host_of
from wsbus.console import Console, losses, observation, sampling, tap
from wsbus.console.samples import ENDED_ROWS, ROWS, Query

SMALL = Limits(queue_messages=3)


def named(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for a name, whatever it holds."""
    return None if token is None else Identity(token, Grants.of(admin=True))


# --- connections ------------------------------------------------------------------------------


async def test_the_slowest_connection_comes_first() -> None:
    """Who does not read stands above who does, with what waits and what was lost."""
    bus = Bus()
    entry = bus.endpoint(authenticator=judge, query_token="token", limits=SMALL)
    async with (
        bus,
        connecting(entry) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        for name in ("ada", "grace", "ken"):
            client = await connect(name, client=("192.0.2.1", 5000), path=f"/ws/{name}")
            await client.subscribe("grid.*", f"user.{name}")
            if name == "grace":
                client.peer.stop_reading()
        for i in range(5):
            await bus.publish("grid.a", i)
        operator = await sign_in()
        sample = await operator.see(view="connections")
        first, second, third = sample["rows"]
        overview = await operator.see()

        assert [row["subject"] for row in (first, second, third)] == ["grace", "ada", "ken"]
        assert (first["queued"], first["dropped"], first["is_blocked"]) == (3, 2, True)
        assert first["queued_bytes"] > 0
        assert "queued" not in second
        assert (second["sent"], second["received"], second["patterns"]) == (5, 1, 2)
        assert second["some_patterns"] == ["grid.*", "user.ada"]
        assert (second["client"], second["path"]) == ("192.0.2.1:5000", "/ws/ada")
        assert (sample["total"], sample["found"]) == (3, 3)
        assert sample["totals"]["queued"] == 3
        assert overview["rows"][0]["subject"] == "grace"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ADA", ["ada"]),
        ("/ws/ken", ["ken"]),
        ("192.0.2.7", ["grace"]),
        ("user.ken", ["ken"]),
        ("  grid ", ["ada", "grace", "ken"]),
        ("wsbus.v1", ["ada", "grace", "ken"]),
        ("nobody", []),
    ],
)
async def test_connections_are_found_by_all_that_a_row_shows(text: str, found: list[str]) -> None:
    """Identity, path, address, patterns and protocol are searched, whatever the case."""
    bus = Bus()
    async with (
        bus,
        connecting(bus.endpoint(authenticator=judge, query_token="token")) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        for i, name in enumerate(("ada", "grace", "ken")):
            client = await connect(name, client=(f"192.0.2.{6 + i}", 5000), path=f"/ws/{name}")
            await client.subscribe("grid.*", f"user.{name}")
        operator = await sign_in()
        await operator.watch(view="connections", find=text)
        sample = await operator.hear_of("sample")

        assert sorted(row["subject"] for row in sample["rows"]) == found
        assert (sample["total"], sample["found"]) == (3, len(found))


@pytest.mark.parametrize(
    ("sort", "first"),
    [("newest", "u149"), ("oldest", "u0"), ("sent", "u7"), ("received", "u8"), ("dropped", "u9")],
)
async def test_a_list_is_cut_after_it_is_sorted(sort: str, first: str) -> None:
    """Of many connections the first hundred in the order wanted are told, and how many exist."""
    bus = Bus()
    entry = bus.endpoint(authenticator=judge, query_token="token", limits=SMALL)
    async with (
        bus,
        connecting(entry) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        clients = [await connect(f"u{i}") for i in range(150)]
        await clients[7].subscribe("often")
        await clients[9].subscribe("big")
        clients[9].peer.stop_reading()
        for _ in range(4):
            await bus.publish("often", 1)
        for _ in range(9):
            await bus.publish("big", 1)
        for _ in range(5):
            assert await clients[8].is_refused("none")
        operator = await sign_in()
        sample = await operator.see(view="connections", sort=sort)

        assert len(sample["rows"]) == ROWS
        assert (sample["total"], sample["found"]) == (150, 150)
        assert sample["rows"][0]["subject"] == first


async def test_an_order_that_a_list_has_not_is_refused() -> None:
    """What cannot be sorted by, or looked at, is told in words; what was looked at goes on."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        operator = await sign_in()
        await operator.see()
        refusals = [
            await operator.is_refused("console.watch", view="connections", sort="weight"),
            await operator.is_refused("console.watch", view="secrets"),
            await operator.is_refused("console.watch", find="x" * 101),
        ]

        assert refusals == ["VALIDATION_ERROR"] * 3
        assert (await operator.hear_of("sample"))["view"] == "overview"


async def test_names_that_no_text_can_carry_harm_nobody() -> None:
    """A path that is not Unicode, and names as long as they like, are shown as well as can be."""
    bus = Bus()
    entry = bus.endpoint(authenticator=named, name_connection=lambda handshake: "i" * 300)
    async with (
        bus,
        connecting(entry) as connect,
        operators(Console(bus, token=TOKEN, allow_changes=True)) as sign_in,
    ):
        client = await connect(path="/ws/\udc80")
        client.say("auth", token="x" * 5000)
        await client.hear("auth_result")
        operator = await sign_in()
        (row,) = (await operator.see(view="connections", find=""))["rows"]
        which = {"connection_id": row["id"], "connected_at": row["connected_at"]}

        assert (row["path"], row["id"], row["subject"]) == ("/ws/\ufffd", "i" * 200, "x" * 200)
        assert (await operator.command("console.disconnect", **which))["success"]


async def test_connections_are_sorted_by_identity() -> None:
    """By name, those without an identity stand first, then the alphabet decides."""
    bus = Bus()
    async with (
        bus,
        connecting(bus.endpoint(authenticator=judge, query_token="token")) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        for name in ("ken", "ada", None, "grace", "ad"):
            await connect(name)
        operator = await sign_in()
        sample = await operator.see(view="connections", sort="name")

        named_so = [row.get("subject") for row in sample["rows"]]
        assert named_so == [None, "ad", "ada", "grace", "ken"]


async def test_who_has_ended_is_told_with_the_reason() -> None:
    """Connections that end while a console is open are listed, the newest first, a few of them."""
    bus = Bus()
    entry = bus.endpoint(authenticator=judge, query_token="token", limits=SMALL)
    async with bus, connecting(entry) as connect:
        (await connect("before")).peer.close()
        async with operators(Console(bus, token=TOKEN)) as sign_in:
            operator = await sign_in()
            assert "ended" not in await operator.see()
            slow = await connect("slow")
            await slow.subscribe("grid.*")
            slow.peer.stop_reading()
            for i in range(5):
                await bus.publish("grid.a", i)
            slow.connection.disconnect(4999, "told to go")
            slow.peer.read_on()
            await slow.peer.wait_closed()
            (row,) = await ended(operator, 1)
            await connect(None)
            for i in range(2 * ENDED_ROWS):
                (await connect(f"u{i}")).peer.close()
            rows = await ended(operator, ENDED_ROWS)
        observers = host_of(bus).services.registry.observers

    assert (row["subject"], row["id"], row["path"]) == ("slow", slow.id, "/ws")
    assert (row["code"], row["reason"], row["dropped"]) == (4999, "told to go", 2)
    assert row["connected_at"] <= row["ended_at"]
    assert len(rows) == ENDED_ROWS
    assert observers == []


async def test_who_has_lost_publications_is_told_with_the_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loss while a console is open is listed: who, how many, where; earlier ones are not."""
    monkeypatch.setattr(losses, "LOSS_ROWS", 2)
    bus = Bus()
    entry = bus.endpoint(authenticator=judge, query_token="token", limits=SMALL)
    async with (
        bus,
        connecting(entry) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        for name in ("ada", "grace", "ken"):
            client = await connect(name)
            await client.subscribe(f"{name}.*", "all.*")
            client.peer.stop_reading()
        for i in range(4):
            await bus.publish("ada.a", i)
        operator = await sign_in()
        assert "losses" not in await operator.see()
        for channel in ("grace.a", "grace.a", "grace.b", "grace.c", "grace.d", "grace.e"):
            await bus.publish(channel, 0)
        (row,) = await lost(operator, "grace")
        await bus.publish("ada.b", 0)
        await lost(operator, "ada")
        for _ in range(5):
            await bus.publish("ken.a", 0)
        rows = await lost(operator, "ken")

    assert (row["subject"], row["lost"], row["channels"]) == ("grace", 3, ["grace.a", "grace.b"])
    assert row["since"] == row["at"] > row["connected_at"]
    assert [(row["subject"], row["lost"]) for row in rows] == [("ken", 2), ("ada", 1)]


async def test_losses_of_one_connection_share_a_row_and_name_some_channels() -> None:
    """Losses of one connection in one minute are added up; a few of their channels are named."""
    bus = Bus()
    entry = bus.endpoint(limits=SMALL)
    async with (
        bus,
        connecting(entry) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        client = await connect(None)
        await client.subscribe("grid.*")
        client.peer.stop_reading()
        operator = await sign_in()
        await operator.see()
        for name in ("a", "b", "c", "d", "e", "f", "g"):
            await bus.publish(f"grid.{name}", 0)
        (first,) = await lost(operator, client.id)
        await bus.publish("grid.h", 0)
        while (later := (await lost(operator, client.id))[0])["lost"] == first["lost"]:
            pass

    assert (first["lost"], later["lost"]) == (4, 5)
    assert later["since"] == first["since"] < later["at"]
    assert later["channels"] == ["grid.a", "grid.b", "grid.c"]
    assert later["has_more"]


async def lost(operator: Operator, name: str) -> list[dict[str, Any]]:
    """Return the losses, once the latest is of this subject or connection."""
    while True:
        found: list[dict[str, Any]] = (await operator.see()).get("losses", [])
        if found and name in (found[0].get("subject"), found[0]["id"]):
            return found


async def ended(operator: Operator, many: int) -> list[dict[str, Any]]:
    """Return the connections that have ended, once there are so many."""
    while len(rows := (await operator.see()).get("ended", [])) < many:
        pass
    found: list[dict[str, Any]] = rows
    return found


async def test_the_process_is_named() -> None:
    """A sample says which process and which run of the bus it is of."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        sample = await (await sign_in()).see()
        node = host_of(bus).services.post.node
    process = sample["process"]

    assert sample["node"] == node
    assert (process["wsbus"], process["pid"]) == (__version__, os.getpid())
    assert (process["python"], process["host"]) == (platform.python_version(), gethostname())
    assert 0 < process["seconds"] < 24 * 3600
    if sys.platform == "linux":
        assert 1 << 20 < process["memory"] < 1 << 40


# --- patterns and channels ----------------------------------------------------------------------


async def test_patterns_are_told_with_their_subscribers() -> None:
    """Each pattern stands in the list once, the one with most subscribers first."""
    bus = Bus()
    async with (
        bus,
        connecting(bus.default_endpoint) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        for i in range(3):
            client = await connect()
            await client.subscribe("grid.*", *(["Prices.BTC", "*"] if i else []))
        operator = await sign_in()
        everything = await operator.see(view="subscribed")
        by_name = await operator.see(view="subscribed", sort="name", find="r")

        assert {(r["pattern"], r["subscribers"]) for r in everything["rows"]} == {
            ("grid.*", 3),
            ("Prices.BTC", 2),
            ("*", 2),
        }
        assert everything["rows"][0]["pattern"] == "grid.*"
        assert [row["pattern"] for row in by_name["rows"]] == ["Prices.BTC", "grid.*"]


async def test_channels_are_told_with_what_is_published() -> None:
    """Channels show from their first publication on, subscribed or not."""
    bus = Bus()
    async with (
        bus,
        connecting(bus.default_endpoint) as connect,
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        client = await connect()
        await client.subscribe("grid.*")
        await bus.publish("grid.before", 1)
        operator = await sign_in()
        assert (await operator.see(view="published"))["rows"] == []
        for _ in range(3):
            await bus.publish("grid.a", "xyz", event="update")
        await bus.publish("unheard", 1)
        await bus.send("direct", 1, to=client.connection)
        sample = await operator.hear_of("sample")
        while sample["total"] < 3:
            sample = await operator.hear_of("sample")
        rows = {row["channel"]: row for row in sample["rows"]}

        assert sample["rows"][0]["channel"] == "grid.a"
        assert set(rows) == {"grid.a", "unheard", "direct"}
        assert (rows["grid.a"]["count"], rows["grid.a"]["size"]) == (3, 15)
        assert (rows["grid.a"]["event"], rows["grid.a"]["subscribers"]) == ("update", 1)
        assert (rows["unheard"]["subscribers"], rows["direct"]["subscribers"]) == (0, 1)
        assert rows["grid.a"]["rate"] > rows["unheard"]["rate"] > 0


async def test_publications_are_told_apart_only_while_somebody_looks() -> None:
    """The hub is tapped from the first console that shows channels to the last."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        hub = host_of(bus).services.hub
        first, second = await sign_in(), await sign_in()
        tapped = []
        for operator, wanted in (
            (first, {"view": "overview"}),
            (first, {"view": "published"}),
            (second, {"tail": "a.*"}),
            (first, {"view": "connections"}),
            (second, {}),
        ):
            await operator.watch(**wanted)
            tapped.append(bool(hub.taps))

        assert tapped == [False, True, True, True, False]


# --- what it costs ----------------------------------------------------------------------------


async def test_a_walk_lets_everybody_have_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk over many things gives the loop a turn after each few hundred of them."""
    monkeypatch.setattr(sampling, "CHUNK", 10)
    counted = tap.ChannelTap()
    bus = Bus()
    async with bus:
        counted.open(host_of(bus).services.hub, 0.0)
        for i in range(200):
            bus.publish_soon(f"c.{i}")
        turns = 0
        done = Event()

        async def take_turns() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await checkpoint()

        async with create_task_group() as tasks:
            tasks.start_soon(take_turns)
            query = Query("published", "name")
            found = await sampling.answer(query, host_of(bus).services, counted, sampling.Effort())
            done.set()
        counted.close()

        assert turns >= 200 / 10 - 1
        assert [row.channel for row in found.rows[:3]] == ["c.0", "c.1", "c.10"]  # type: ignore[union-attr]


async def test_samples_become_rarer_when_they_are_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a processor that samples may take is bounded."""
    monkeypatch.setattr(observation, "MAX_SHARE", 1e-3)
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        operator = await sign_in()
        first = await operator.see()
        second = await operator.hear_of("sample")

        assert first["cost"] == 0
        assert second["interval"] > observation.SAMPLE_SECONDS
        assert second["interval"] == pytest.approx(second["cost"] / 1e-3)
        assert second["clock"] - first["clock"] > second["interval"] / 2


async def test_consoles_that_look_at_the_same_share_a_walk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten consoles on one list cost one walk."""
    walks = 0
    answer = sampling.answer

    async def counted(*arguments: object) -> sampling.Found:
        nonlocal walks
        walks += 1
        return await answer(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(observation, "answer", counted)
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        everyone = [await sign_in() for _ in range(10)]
        for operator in everyone:
            await operator.watch(view="connections")
        while (sample := await everyone[0].hear_of("sample"))["consoles"] < 10:
            pass
        before = walks
        sample = await everyone[0].hear_of("sample")

        assert sample["consoles"] == 10
        assert walks - before <= 2


# --- the broker -------------------------------------------------------------------------------


async def test_the_overview_has_the_nodes_and_what_is_followed() -> None:
    """This node comes first; the consoles' own bus is none of them."""
    broker = MemoryBroker()
    bus, other = Bus(broker=broker), Bus(broker=broker)
    async with (
        bus,
        other,
        bus.subscribe("grid.a"),
        bus.subscribe("prices.*"),
        operators(Console(bus, token=TOKEN)) as sign_in,
    ):
        operator = await sign_in()
        sample = await operator.see()
        while len(sample["nodes"]) < 2:
            sample = await operator.see()
        link = sample["totals"]["broker"]
        assert [node["is_self"] for node in sample["nodes"]] == [True, False]
        assert [node["pid"] for node in sample["nodes"]] == [os.getpid()] * 2
        assert sample["feeds"] == ["grid.a", "prices.*"]
        assert (link["address"], link["is_up"], link["nodes"]) == ("memory:", True, 2)
        assert "nodes" not in await operator.see(view="connections")


async def test_without_a_broker_there_are_no_nodes() -> None:
    """A sample then says nothing of any."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        sample = await (await sign_in()).see()
        assert sample["totals"]["broker"] is None
        assert not {"nodes", "feeds"} & set(sample)
