"""The protocol's page, typed: connecting, messages, channels, security and limits."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.request import ProxyHandler, build_opener

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from examples.zigquant import make_bus
from tests.examples.peer import Server, everywhere, token

GRID_STATUS: Final = {
    "id": "probe",
    "current_price": 95000.5,
    "position": 0.003,
    "active_buy_orders": 3,
    "active_sell_orders": 2,
    "realized_pnl": 12.34,
    "unrealized_pnl": 5.67,
}
GRID_ORDER: Final = {
    "grid_id": "probe",
    "level": 2,
    "side": "buy",
    "price": 94000.0,
    "amount": 0.001,
}
HEALTH: Final = {"status": "ok", "uptime": -1, "grids": 0, "strategys": 0, "backtests": 0}

# --- the page of what it declares ---------------------------------------------------------------


async def test_the_catalogue_lists_every_channel_and_command(server: Server) -> None:
    """Servers with pages show what the bus declares; ``websockets`` has none."""
    url = server.url.replace("ws://", "http://").removesuffix("/ws") + "/catalogue/asyncapi.json"
    if server.name == "websockets":
        assert await server.refusal(path="/catalogue/") == 404
        return
    opened = await asyncio.to_thread(build_opener(ProxyHandler({})).open, url)
    with opened:
        shown = msgspec.json.decode(opened.read())
    declared = make_bus()
    channels = {channel["address"] for channel in shown["channels"].values()}
    assert {channel.template for channel in declared.channels} <= channels
    assert shown["info"]["title"] == "ZigQuant"
    assert "system.kill_switch" in str(shown["operations"])


# --- connecting -------------------------------------------------------------------------------


async def test_the_flow_of_the_page_word_for_word(server: Server) -> None:
    """Without a token in the query: auth, subscribe, then events; frames as the page has them."""
    async with server.connect() as peer:
        await peer.say(f'{{"type":"auth","token":"{token()}"}}')
        result = await peer.next()
        assert result["type"] == "auth_result"
        assert result["success"] is True
        assert list(result) == ["type", "success", "timestamp", "data"]
        assert result["data"]["subject"] == "u1"
        assert 290_000 < result["data"]["expires_at"] - result["timestamp"] <= 300_000

        await peer.say(
            '{"type":"subscribe","channels":["grid.grid_abc123.*","system.health","system.log"]}'
        )
        assert await peer.text() == (
            '{"type":"subscribed","timestamp":…,"data":{"channels":["grid.grid_abc123.*",'
            '"system.health","system.log"],"active_subscriptions":3}}'
        )
        event = await peer.next()
        assert list(event) == ["type", "channel", "event", "timestamp", "data"]

        await peer.say(
            '{"type":"unsubscribe","channels":["grid.grid_abc123.*","never.subscribed",'
            '"system.log","system.health"]}'
        )
        assert (await peer.hear("unsubscribed"))["data"] == {
            "channels": ["grid.grid_abc123.*", "never.subscribed", "system.log", "system.health"],
            "active_subscriptions": 0,
        }


async def test_ping_and_pong_word_for_word(server: Server) -> None:
    """A ping is answered by a pong with the server's time; a pong by nothing."""
    async with server.connect(token()) as peer:
        await peer.say('{"type":"pong","timestamp":1703836800000}')
        await peer.say('{"type":"ping","timestamp":1703836800000}')
        assert await peer.text() == '{"type":"pong","timestamp":…}'


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ((), None),
        (("zigquant-v2",), "zigquant-v2"),
        (("soap", "zigquant-v2"), "zigquant-v2"),
        (("wsbus.v1", "zigquant-v2"), "wsbus.v1"),
    ],
)
async def test_the_subprotocol_is_echoed_only_when_offered(
    server: Server, offered: tuple[str, ...], echoed: str | None
) -> None:
    """Who offers nothing speaks zigquant-v2, and gets no such header."""
    async with server.connect(token(), subprotocols=offered) as peer:
        assert peer.socket.subprotocol == echoed
        if echoed == "wsbus.v1":
            assert (await peer.next())["type"] == "connected"
        assert await peer.is_alive()


async def test_only_unknown_subprotocols_are_refused(server: Server) -> None:
    """HTTP 400, or 403 where the server can do no other."""
    assert await server.refusal(token(), subprotocols=("soap", "wamp")) in {400, 403}


@pytest.mark.parametrize("origin", ["null", "http://localhost:3000", "https://evil.example"])
async def test_any_origin_may_connect(server: Server, origin: str) -> None:
    """The endpoint goes by tokens, not cookies, so that any page may connect."""
    async with server.connect(token(), origin=origin) as peer:
        assert await peer.is_alive()


async def test_other_paths_are_not_the_bus(server: Server) -> None:
    """Only /ws is: other paths are refused."""
    assert await server.refusal(token(), path="/") in {403, 404}
    assert await server.refusal(token(), path="/ws/x") in {403, 404}


# --- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        token(-10),
        token(secret="another-secret-that-is-32-bytes-long"),
        token(sub=7),
        token(subscribe="grid.*"),
        token(subscribe=["grid..*"]),
        token(admin="yes"),
    ],
    ids=["empty", "nonsense", "expired", "forged", "sub", "no list", "no pattern", "no bool"],
)
async def test_an_invalid_query_token_refuses_the_handshake(server: Server, bad: str) -> None:
    """HTTP 401 where the server can, else closed at once with 4500."""
    assert await server.refusal(bad) in {401, 4500}


async def test_a_failed_auth_is_told_and_closed(server: Server) -> None:
    """`auth_result` says so, then 4500."""
    async with server.connect() as peer:
        await peer.say('{"type":"auth","token":"nonsense"}')
        result = await peer.next()
        assert list(result) == ["type", "success", "timestamp", "error"]
        assert result["success"] is False
        assert result["error"]["code"] == "UNAUTHENTICATED"
        assert await peer.close_code() == 4500


async def test_nothing_is_done_before_auth(server: Server) -> None:
    """Anything else is answered UNAUTHENTICATED, a command with an id by a response."""
    async with server.connect() as peer:
        for message in (
            '{"type":"ping"}',
            '{"type":"subscribe","channels":["system.log"]}',
            '{"type":"command","action":"grid.start"}',
            '{"type":"nope"}',
            "not json",
        ):
            await peer.say(message)
            answer = await peer.next()
            assert answer["type"] == "error"
            assert answer["error"]["code"] == "UNAUTHENTICATED"
        assert (await peer.command("grid.start"))["code"] == "UNAUTHENTICATED"
        await peer.ask({"type": "auth", "token": token()}, "auth_result")
        assert await peer.is_alive()


async def test_a_query_token_needs_no_auth_and_may_be_refreshed(server: Server) -> None:
    """A valid one alone authenticates, silently; `auth` besides answers with the new expiry."""
    async with server.connect(token(100)) as peer:
        assert await peer.is_alive()
        assert len(peer.heard) == 1
        answer = await peer.ask({"type": "auth", "id": "a1", "token": token(900)}, "auth_result")
        assert answer["id"] == "a1"
        assert answer["data"]["expires_at"] - answer["timestamp"] > 800_000


async def test_a_failed_refresh_leaves_the_old_token_in_force(server: Server) -> None:
    """It is told, and the connection goes on, even with another subject's valid token."""
    async with server.connect(token()) as peer:
        for bad in ("nonsense", token(sub="somebody else")):
            answer = await peer.ask({"type": "auth", "token": bad}, "auth_result")
            assert answer["success"] is False
        assert (await peer.subscribe("*"))["active_subscriptions"] == 1


@everywhere
async def test_a_refresh_that_takes_grants_away_unsubscribes(server: Server) -> None:
    """The subscriptions it no longer covers are dropped, and named in an `unsubscribed`."""
    async with server.connect(token()) as peer:
        await peer.subscribe("grid.*", "system.log", "*")
        await peer.say({"type": "auth", "token": token(subscribe=["system.*"])})
        await peer.hear("auth_result", success=True)
        assert (await peer.hear("unsubscribed"))["data"] == {
            "channels": ["grid.*", "*"],
            "active_subscriptions": 1,
        }
        heard = len(peer.heard)
        await peer.event("system.log", "info")
        events = [m["channel"] for m in peer.heard[heard:] if m["type"] == "event"]
        assert set(events) == {"system.log"}


@everywhere
async def test_an_expired_token_closes_the_connection(server: Server) -> None:
    """4401 when it expires, also when a refresh failed; a good refresh outlives it."""
    async with (
        server.connect(token(2)) as silent,
        server.connect(token(2)) as failed,
        server.connect(token(2)) as refreshed,
    ):
        await failed.ask({"type": "auth", "token": "nonsense"}, "auth_result")
        await refreshed.ask({"type": "auth", "token": token()}, "auth_result")
        assert await silent.close_code() == 4401
        assert await failed.close_code() == 4401
        assert await refreshed.is_alive()


# --- channels and permissions -----------------------------------------------------------------


async def test_what_does_not_fit_its_channel_is_refused(server: Server) -> None:
    """Channels have types: what a client publishes there is checked, and the place is named."""
    async with server.connect(token(), subprotocols=("wsbus.v1",)) as publisher:
        wrong = {**GRID_STATUS, "current_price": "high"}
        for event, data, word in [("update", wrong, "$.data.current_price"), ("odd", 1, "update")]:
            said = {"type": "publish", "channel": "grid.abc.status", "event": event, "data": data}
            await publisher.say({**said, "id": event})
            answer = await publisher.hear("response", id=event)
            assert answer["error"]["code"] == "VALIDATION_ERROR"
            assert word in answer["error"]["message"]


@pytest.mark.parametrize(
    ("pattern", "channel", "other"),
    [
        ("grid.*", "grid.abc.status", "grids.abc"),
        ("grid.*", "grid.def.order", "system.grid"),
        ("grid.abc.*", "grid.abc.order", "grid.def.order"),
        ("grid.*.status", "grid.def.status", "grid.def.order"),
        ("grid.*.status", "grid.abc.status", "grid.a.b.status"),
        ("*", "one.two.three", None),
        ("*", "system", None),
        ("system.health", "system.health", "system.healthy"),
    ],
)
async def test_the_wildcard_table(
    server: Server, pattern: str, channel: str, other: str | None
) -> None:
    """A last `*` stands for one or more segments, any other for exactly one."""
    samples: dict[str, tuple[str, object]] = {
        "grid.def.status": ("update", GRID_STATUS),
        "grid.abc.status": ("update", GRID_STATUS),
        "grid.abc.order": ("placed", GRID_ORDER),
        "grid.def.order": ("placed", GRID_ORDER),
        "system.health": ("update", HEALTH),
    }
    async with (
        server.connect(token()) as peer,
        server.connect(token(), subprotocols=("wsbus.v1",)) as publisher,
    ):
        assert (await peer.subscribe(pattern))["channels"] == [pattern]
        names = [channel] if other is None else [other, channel]
        for name in names:
            event, data = samples.get(name, ("probe", 1))
            said = {"type": "publish", "channel": name, "event": event, "data": data}
            await publisher.say({**said, "id": name})
            assert (await publisher.hear("response", id=name))["success"] is True
        event, data = samples.get(channel, ("probe", 1))
        heard = await peer.hear("event", event=event, data=data)
        assert heard["channel"] == channel
        assert not any(other == message.get("channel", "") for message in peer.heard)


async def test_overlapping_patterns_deliver_once(server: Server) -> None:
    """A subscriber whose patterns overlap gets each event once."""
    async with (
        server.connect(token()) as peer,
        server.connect(token(), subprotocols=("wsbus.v1",)) as publisher,
    ):
        await peer.subscribe("probe.*", "probe.a.*", "probe.*.b", "probe.a.b", "*", "probe.a.b")
        for data in (1, 2):
            await publisher.say({"type": "publish", "channel": "probe.a.b", "data": data})
        await peer.hear("event", channel="probe.a.b", data=2)
        probes = [m["data"] for m in peer.heard if m.get("channel") == "probe.a.b"]
        assert probes == [1, 2]


async def test_subscriptions_need_a_grant_that_covers_them(server: Server) -> None:
    """Accepted in order, refused in `rejected`; `*` needs an administrator, granted or not."""
    async with server.connect(token(subscribe=["*"])) as peer:
        answer = await peer.subscribe("grid.*", "*", "system.log", "a..b", "grid.*")
        assert answer["channels"] == ["grid.*", "system.log", "grid.*"]
        assert answer["active_subscriptions"] == 2
        assert [(r["channel"], r["code"]) for r in answer["rejected"]] == [
            ("*", "FORBIDDEN"),
            ("a..b", "INVALID_CHANNEL"),
        ]
        assert list(answer["rejected"][0]) == ["channel", "code", "message"]
    async with server.connect(token(subscribe=["grid.a.*"])) as peer:
        answer = await peer.subscribe("grid.*", "grid.*.status", "grid.a.*", "grid.a.x.*", "grid.a")
        assert answer["channels"] == ["grid.a.*", "grid.a.x.*"]
        assert {r["code"] for r in answer["rejected"]} == {"FORBIDDEN"}


async def test_plus_is_no_wildcard_of_this_dialect(server: Server) -> None:
    """The page's table is all there is."""
    async with server.connect(token()) as peer:
        answer = await peer.subscribe("grid.abc.+")
        assert answer["channels"] == []
        assert answer["rejected"][0]["code"] == "INVALID_CHANNEL"


async def test_commands_need_their_grant_even_from_administrators(server: Server) -> None:
    """FORBIDDEN comes before UNKNOWN_ACTION, and that before VALIDATION_ERROR."""
    async with server.connect(token(admin=True, command=["grid.*"])) as peer:
        assert (await peer.command("backtest.run"))["code"] == "FORBIDDEN"
        assert (await peer.command("no.such"))["code"] == "FORBIDDEN"
        assert (await peer.command("grid.nope"))["code"] == "UNKNOWN_ACTION"
        error = await peer.command(
            "grid.start", pair="A-B", upper_price=2, lower_price=1, grid_count="x"
        )
        assert error["code"] == "VALIDATION_ERROR"
        assert "$.params.grid_count" in error["message"]
        assert (await peer.command("grid.start"))["code"] == "VALIDATION_ERROR"


# --- limits -----------------------------------------------------------------------------------


async def test_fifty_subscriptions_and_no_more(server: Server) -> None:
    """The 51st is TOO_MANY_SUBSCRIPTIONS, so are 250 of 300 in one request; room can be made."""
    channels = [f"probe.c{i}" for i in range(300)]
    async with server.connect(token()) as peer:
        answer = await peer.subscribe(*channels)
        assert answer["channels"] == channels[:50]
        assert answer["active_subscriptions"] == 50
        assert [r["channel"] for r in answer["rejected"]] == channels[50:]
        assert {r["code"] for r in answer["rejected"]} == {"TOO_MANY_SUBSCRIPTIONS"}
        again = await peer.subscribe("probe.c0", "probe.c50")
        assert again["channels"] == ["probe.c0"]
        assert again["rejected"][0]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        await peer.ask({"type": "unsubscribe", "channels": ["probe.c0"]}, "unsubscribed")
        assert (await peer.subscribe("probe.c50"))["active_subscriptions"] == 50


async def test_the_eleventh_command_in_a_second_is_refused(server: Server) -> None:
    """By a response with RATE_LIMITED; it is not acted on."""
    async with server.connect(token()) as peer:
        for i in range(11):
            await peer.say({"type": "command", "id": f"c{i}", "action": "grid.stop", "params": {}})
        answers = [await peer.hear("response", id=f"c{i}") for i in range(11)]
        codes = [answer["error"]["code"] for answer in answers]
        assert codes == ["VALIDATION_ERROR"] * 10 + ["RATE_LIMITED"]


async def test_the_hundred_and_first_message_is_refused(server: Server) -> None:
    """Pings count, too; each excess one has its own RATE_LIMITED, a command's as a response."""
    async with server.connect(token()) as peer:
        for i in range(300):  # More than a slow machine needs to be over the rate at the end.
            await peer.say({"type": "ping", "id": str(i)})
        await peer.say({"type": "command", "id": "c", "action": "grid.stop", "params": {}})
        answers = [await peer.next() for _ in range(301)]
        assert [answer["id"] for answer in answers] == [*map(str, range(300)), "c"]
        assert {answer["type"] for answer in answers[:100]} == {"pong"}
        refused = [a for a in answers[100:] if a["type"] in {"error", "response"}]
        assert len(refused) >= 20  # a token comes back every 10 ms
        assert {a["error"]["code"] for a in refused[:-1]} == {"RATE_LIMITED"}
        assert answers[-1]["type"] == "response"
        # On a machine that is slow enough the last one has a token.
        assert answers[-1]["error"]["code"] in {"RATE_LIMITED", "VALIDATION_ERROR"}


async def test_a_closed_connection_does_not_disturb_the_server(server: Server) -> None:
    """A client that leaves in the middle of things takes nobody along."""
    async with server.connect(token()) as peer:
        await peer.subscribe("*")
        await peer.say({"type": "command", "id": "x", "action": "backtest.run"})
        await peer.socket.close()
        with pytest.raises(ConnectionClosed):
            await peer.is_alive()
    async with server.connect(token()) as peer:
        assert await peer.is_alive()
